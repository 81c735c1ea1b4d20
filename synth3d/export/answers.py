"""Exported runs at work inside other people's programs: a challenge's container, a MONAI bundle.

Both write a synthetic sequence as ``<case>-<sequence>.nii.gz`` and nothing else: whoever evaluates
a challenge takes every file in the output folder for a result.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from synth3d.cohort import MODALITIES, Case, Modality, find_cases
from synth3d.completion import Run, load_run
from synth3d.errors import InputError, run_guarded
from synth3d.files import atomic_path, make_folder, sweep

INPUT, OUTPUT = Path("/input"), Path("/output")
"""Where a BraTS container finds its cases and leaves its results (2025 and later)."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A sequence that a case lacks, and the run that makes it."""

    case: Case
    target: Modality
    run: Run


def write_answers(answers: Sequence[Answer], out: Path) -> list[Path]:
    """Make and write all ``answers``; the files.

    Raises:
        InputError: Some cannot be made; all are named, and nothing has been written. Or trouble
            that shows only in voxels (NaN, truncation): told at the end, the others are done.
    """
    problems = [
        f"case {one.case.name}: {trouble}"
        for one in answers
        for trouble in one.run.trouble(one.case, [one.target])
    ]
    if problems:
        raise InputError("; ".join(problems))
    make_folder(out)
    names = [f"{one.case.name}-{one.target}.nii.gz" for one in answers]
    sweep(out, set(names))  # of a container that was killed
    written, failed = [], []
    for one, name in zip(answers, names, strict=True):
        try:
            image = one.run.synthesize(one.case, [one.target])[one.target]
        except InputError as error:
            failed.append(str(error))
            continue
        with atomic_path(out / name) as temporary:
            image.to_filename(temporary)  # type: ignore[union-attr]
        written.append(out / name)
        print(f"{name} ({len(written)} of {len(answers)})")
    if failed:
        raise InputError(f"{len(failed)} of {len(answers)} could not be made: {'; '.join(failed)}")
    return written


def answer_brasyn(models: Path, words: Sequence[str]) -> int:
    """The entry point of the container: one sequence for each case, each of which lacks one.

    Args:
        models: A folder of exported runs.
        words: What stands behind the command: nothing, or the folders INPUT and OUTPUT.

    Returns the exit code: 0, or 2 and a sentence.
    """
    return run_guarded(lambda given: _answer_brasyn(models, given), list(words))


def _answer_brasyn(models: Path, words: Sequence[str]) -> int:
    if len(words) not in (0, 2):
        print("usage: main.py [INPUT OUTPUT]", file=sys.stderr)
        return 2
    data, out = (Path(word) for word in words) if words else (INPUT, OUTPUT)
    runs: dict[Modality, Run] = {}
    for folder in sorted(models.iterdir()):
        run = load_run(folder)
        runs |= dict.fromkeys(run.targets, run)
    answers, problems = [], []
    for case in find_cases(data):
        lacking = case.missing(MODALITIES)
        if len(lacking) != 1:
            what = " and ".join(lacking) or "none"
            problems.append(f"case {case.name} must lack one sequence and lacks {what}")
        elif lacking[0] not in runs:
            able = ", ".join(runs)
            problems.append(f"case {case.name} lacks {lacking[0]}; this container makes {able}")
        else:
            answers.append(Answer(case, lacking[0], runs[lacking[0]]))
    if problems:
        raise InputError("; ".join(problems))
    write_answers(answers, out)
    return 0


class BundleNetwork(nn.Module):
    """The network of a MONAI bundle, and the bundle's whole inference.

    Args:
        models: The bundle's folder ``models``, with weights and what belongs to them.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        InputError: The folder is not whole, or there is no such device.
    """

    def __init__(self, models: str, device: str = "auto") -> None:
        super().__init__()
        self._run = load_run(models, device)
        self.generator = self._run.generator

    def forward(self, image: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, S, D, H, W) to (B, T, D, H, W), or both without D, in the network's scale.

        What is made is what ``synth3d complete`` makes of such a tile. Sides are the training
        patch's: the routing pools over all it is fed.

        Args:
            image: Sources, 0 where there is none.
            present: (S,) or (B, S) bool, which sources the case has; those that it lacks are made
                by a run for any gap. None is all, and of a run for any gap those that are not 0
                everywhere in the sample: right of a volume that is one tile, but in a tile at the
                rim a source that the case has may be 0.
        """
        size, any_gap = image.shape[:2], self._run.config.mode == "any"
        if present is None:
            ones = torch.ones(size, dtype=torch.bool, device=image.device)
            present = (image != 0).flatten(2).any(2) if any_gap else ones
        present = present.to(image.device).expand(size)
        targets = len(self._run.targets)
        wanted = ~present if any_gap else present.new_ones((len(image), targets))
        return self._run.framework.synthesize(image, present, wanted)

    def complete(self, data: str, out: str) -> list[Path]:
        """Write, for each case under ``data``, what it lacks of the targets into ``out``.

        Raises:
            InputError: As :func:`write_answers`, or nothing is missing.
        """
        cases = find_cases(Path(data))
        answers = [Answer(c, t, self._run) for c in cases for t in c.missing(self._run.targets)]
        if not answers:
            targets = ", ".join(self._run.targets)
            raise InputError(f"no case under {data} lacks any of {targets}: nothing is missing")
        return write_answers(answers, Path(out))
