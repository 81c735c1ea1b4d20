"""The model card: YAML that a model hub reads, then what a person must know before using it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth3d import __version__
from synth3d.export.contents import Contents
from synth3d.files import write_text

NOT_STATED = "not stated by who exported it"
SIMULATED = "simulated heads of synth3d phantom, no patient"

LIMITS = """\
- Synthetic images are estimates, not acquisitions; not for diagnosis, and not a medical device.
- A synthetic sequence holds nothing that its sources do not hold: a lesion, or an enhancement, that
  shows in the missing sequence alone is not in it, and structures that never were may be.
- Intensities are scanner-like, scaled as in the training cases; they are no measurement.
- Sources must lie on one grid and look like those it was trained on: orientation, voxel size, skull
  stripping, scanner.
- The scores are of validation cases, which training looked at to be judged, in the network's own
  scale: no promise for another hospital. Measure on your own cases (`synth3d score`,
  `seg_eval run`) before you rely on it.
"""


@dataclass(frozen=True)
class Named:
    """What only who exports a run can say; None is not stated."""

    license: str | None = None
    dataset: str | None = None
    author: str | None = None

    def trained_on(self, contents: Contents) -> str:
        """The training data in words."""
        simulated = contents.done.get("trained_on", {}).get("simulated", False)
        return self.dataset or (SIMULATED if simulated else NOT_STATED)


def write_card(contents: Contents, named: Named, path: Path) -> None:
    """README.md in the layout of a Hugging Face model."""
    write_text(path, f"---\n{_front(contents, named)}\n---\n\n{card_text(contents, named)}")


def card_text(contents: Contents, named: Named) -> str:
    """What it is, what it was trained on, how good it was, how it is used; Markdown."""
    config, done = contents.config, contents.done
    sources, targets = ", ".join(config.sources), ", ".join(config.targets)
    makes = f"the MRI sequence **{targets}** of a brain-tumour case from {sources}"
    judged = "first target"
    if config.mode == "any":
        makes = (
            f"whatever a brain-tumour case lacks of the MRI sequences **{targets}** from the rest"
        )
        judged = "each case with a gap of its own"
    restore = ""
    if poor := config.task.poor:
        ratio, beside = "x".join(map(str, config.task.ratio)), ", ".join(config.task.guides)
        makes = f"the MRI sequence **{targets}** of a brain-tumour case out of a scan of it"
        makes += f" with voxels {ratio} times as long, and out of {beside or 'nothing else'}"
        restore = f" --restore {poor[0]}"
    scores = "\n".join(f"| {name} | {value:.4g} |" for name, value in _scores(done).items())
    return f"""# {contents.name}

Makes {makes}: {config.model.name} with
{contents.parameters:,} parameters, {"2-D" if config.dim == 2 else "3-D"}, in tiles of
{_by(config.data.patch)} voxels; trained with `{config.train.framework}`, exported by synth3d
{__version__}.

## Trained on

| | |
|---|---|
| data | {named.trained_on(contents)} |
{_facts(done)}
## Scores

Validation inside the brain, {judged}, means over cases; PSNR and MAE for a range of 1.

| score | value |
|---|---|
{scores}

## Limits

{LIMITS}
## Use

```
synth3d complete --run THIS_FOLDER --data IN --out OUT{restore}
```

`IN` is a folder of cases named as in BraTS, IXI or BIDS. {_needs(contents)}

Licence of the weights: {named.license or NOT_STATED}. Author: {named.author or NOT_STATED}.
"""


def _front(contents: Contents, named: Named) -> str:
    """The YAML; every text is quoted as in JSON, which YAML reads."""
    config = contents.config
    lines = [f"license: {quoted(named.license or 'other')}"]
    if named.license is None:
        lines += ['license_name: "not-stated"']
    tags = ["medical-imaging", "mri", "brain-tumor", "image-synthesis", config.model.name]
    lines += [
        'library_name: "synth3d"',
        'pipeline_tag: "image-to-image"',
        "tags:",
        *(f"- {quoted(tag)}" for tag in tags),
        "metrics:",
        *(f"- {quoted(name)}" for name in _scores(contents.done)),
        "model-index:",
        f"- name: {quoted(contents.name)}",
        "  results:",
        "  - task:",
        '      type: "image-to-image"',
        f"      name: {quoted(config.words.replace('->', 'to'))}",
        "    dataset:",
        '      type: "private"',
        f"      name: {quoted(named.trained_on(contents))}",
        '      split: "validation"',
        "    metrics:",
    ]
    for name, value in _scores(contents.done).items():
        lines += [f"    - type: {quoted(name)}", f"      value: {value:.6g}"]
        lines += [f"      name: {quoted(f'{name} in the brain, range 1')}"]
    return "\n".join(lines)


def quoted(text: str) -> str:
    """``text`` as a string of JSON, and so of YAML."""
    return json.dumps(text, ensure_ascii=False)


def _scores(done: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in done.get("validation", {}).items()}


def _facts(done: Mapping[str, Any]) -> str:
    """Rows of the table: how many, in which orientations and voxel sizes, for how long."""
    counts = done.get("trained_on", {})
    cases = "not known"
    if counts:
        cases = _cases(counts)
    begun = {}
    if "begun_from" in counts:
        begun["begun from"] = "another run, trained on cases that are not known"
        if first := counts["begun_from"]:
            begun["begun from"] = f"a run trained on cases: {_cases(first)}"
    mm = ", ".join(_by(f"{edge:g}" for edge in one) for one in done.get("spacings_mm", []))
    rows = {
        "cases": cases,
        **begun,
        **_taught(done),
        "orientations": ", ".join(done.get("orientations", [])) or "not known",
        "voxels (mm)": mm or "not known",
        "steps": done.get("steps", "not known"),
    }
    return "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def _taught(done: Mapping[str, Any]) -> dict[str, str]:
    """By which segmenters, if any: they are no judges of it."""
    named = []
    for one in done.get("taught_by", ()):
        seed = "" if one["seed"] is None else f", seed {one['seed']}"
        named.append(f"{one['origin']}{seed} (checkpoint SHA-256 {one['checkpoint_sha256']})")
    if not named:
        return {}
    return {"coupled to": f"a segmenter, which must not judge it: {'; '.join(named)}"}


def _cases(counts: Mapping[str, Any]) -> str:
    """How many cases of how many patients, and how many for validation."""
    cases = f"{counts['training_cases']} of {counts['training_patients']} patients"
    return f"{cases}; {counts['validation_cases']} for validation"


def _needs(contents: Contents) -> str:
    if contents.config.mode == "any":
        if not contents.apart:
            return "A case may lack any of them, but not all."
        apart = ", nor ".join(f"{one} and {other}" for one, other in contents.apart)
        return (
            "A case may lack some of them, if it has one that training cases had beside each that "
            f"it lacks: no training case had both {apart}."
        )
    any_will_do = contents.config.data.source_dropout > 0
    if any_will_do:
        return "It was trained with missing sources, so a case may lack some of them."
    return "A case must have all of its sources."


def _by(numbers: Any) -> str:
    return " × ".join(map(str, numbers))
