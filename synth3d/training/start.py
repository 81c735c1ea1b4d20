"""Runs that learn from what was trained before: from another run, or from a segmenter.

TSF-Seq2Seq's fusion begins from a run of Seq2Seq, FGDL's branch that restores a poor sequence from
a run of its synthesis (``--from``); any may be coupled to a segmenter (``train.coupling``). Neither
may have seen who the run is chosen or tested on.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth3d.cohort import Case, Splits, digest_of_names, patient_of
from synth3d.data import spacing_seen
from synth3d.errors import InputError
from synth3d.files import read_object, sha256
from synth3d.frameworks import Framework
from synth3d.images import grid, turn_to
from synth3d.losses import Exported, read_exported
from synth3d.models import options_of
from synth3d.settings import parse
from synth3d.training.config import RunConfig
from synth3d.training.run_folder import load_run, load_weights, read_config, read_done

IMAGE = ("intensity", "common_grid", "plane", "slice_size")
"""Of the data: what a first stage sees of a case; the last two of slices alone."""
INITIAL = {"attn_init", "scale_init", "residual_init", "checkpoint_routing"}
"""Of a model: what finished weights no longer depend on."""


@dataclass(frozen=True)
class _TwoStages:
    """How a framework of two stages is spoken of, and what both must have alike.

    ``pretrain``, the share of the first, is among the options of each.
    """

    takes: str
    first: str
    second: str
    learnt: str
    model: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


STAGED = {
    "tsf": _TwoStages(
        "a run of Seq2Seq or tsf", "Seq2Seq", "the fusion", "an encoder",
        ("widths", "blocks", "banks", "recurrent", "faithful"),
    ),
    "fgdl": _TwoStages(
        "a run of fgdl", "the synthesis", "the branch that restores", "a synthesis",
        options=("correct", "cap", "registration_width"),
    ),
}  # fmt: skip


def _staged(config: RunConfig) -> _TwoStages | None:
    """The two stages of a run's training, if it has two."""
    name = config.train.framework
    return None if name == "fgdl" and not config.task.poor else STAGED.get(name)


def begun(config: RunConfig, run: Path | None, steps: int | None) -> RunConfig:
    """``config`` as it is, or for the second stage alone with what ``run`` learnt in the first.

    Without ``steps`` that has as many as it would have of the whole training.

    Raises:
        InputError: ``run`` is no finished run of the same framework, or one of other sequences, of
            another shape or of other images; ``config`` is of a framework of one stage; or without
            a run it would freeze what has never learnt, or have a stage without a step.
    """
    if run is None:
        _check_start(config)
        _check_stages(config)
        return config
    name, staged = config.train.framework, _staged(config)
    if staged is None:
        raise InputError(
            f"--from is for training in two stages, train.framework=tsf, or fgdl where a sequence "
            f"is restored (--degraded), not for {config.words} by {name}; leave it away, or use "
            "one of these"
        )
    before = read_config(run)
    if before.train.framework != name:
        raise InputError(
            f"--from takes {staged.takes}, and {run} is one of {before.train.framework}; "
            "give another run"
        )
    if differ := [
        f"{key} {_plain(there)}, here {_plain(here)}"
        for key, there, here in _shapes(before, config, staged)
        if there != here
    ]:
        raise InputError(
            f"the run {run} has other sequences, another shape or other images "
            f"({'; '.join(differ)}); give these settings to this run, too, or --from another one"
        )
    share, digest = 1 - config.train.options.pretrain, load_run(run).weights_sha256
    if getattr(config.train.options, "correct", False):
        _beside(run, "registration")
    table = dataclasses.replace(getattr(config.train, name), pretrain=0.0)
    train = dataclasses.replace(
        config.train,
        start=str(run.resolve()),
        start_sha256=digest,
        steps=steps or max(1, round((share or 1) * config.train.steps)),
        **{name: table},
    )
    return dataclasses.replace(config, train=train)


def _shapes(
    before: RunConfig, now: RunConfig, staged: _TwoStages
) -> list[tuple[str, object, object]]:
    """Name, value of the one and of the other of all that must be alike."""
    keys = [(key, before, now) for key in ("mode", "targets", "dim")]
    of_model = before.model.__dataclass_fields__.keys() & options_of(before.model.name) - INITIAL
    model = staged.model or (*sorted(of_model), "centred")
    keys += [(key, before.model, now.model) for key in ("name", *model)]
    keys += [(key, before.data, now.data) for key in (IMAGE if now.dim == 2 else IMAGE[:2])]
    keys += [(key, before.train.options, now.train.options) for key in staged.options]
    found = [(key, getattr(one, key), getattr(other, key)) for key, one, other in keys]
    return [("sources", before.task.guides, now.task.guides), *found]


def _plain(value: object) -> str:
    text = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text or "none"


def _check_start(config: RunConfig) -> None:
    """A run of which the configuration says that it was begun has two stages, and from what."""
    train = config.train
    begun_from = bool(train.start), bool(train.start_sha256)
    if any(begun_from) and not (_staged(config) and all(begun_from)):
        raise InputError(
            "train.start is what --from writes for a training in two stages, with the hash of the "
            "weights; leave it away, and say --from RUN"
        )


def check_given(keys: Iterable[str], run: Path | None) -> None:
    """Refuse settings given one by one that are decided by whether a run is begun from another."""
    for key in keys:
        if key in ("train.start", "train.start_sha256"):
            raise InputError(f"{key} is not set by hand; say --from RUN")
        if key == "train.coupling.segmenter_sha256":
            raise InputError(f"{key} is not set by hand; say train.coupling.segmenter=FOLDER")
        if run is not None and key in [f"train.{name}.pretrain" for name in STAGED]:
            raise InputError(
                f"{key} has no effect with --from, which is the second stage alone; "
                "leave it away, and say with --steps how many it has"
            )


def _check_stages(config: RunConfig) -> None:
    """Neither stage of a training from scratch may be without a step, unless asked for."""
    train, staged = config.train, _staged(config)
    if staged is None or train.start:
        return
    share, steps, key = train.options.pretrain, train.steps, f"train.{train.framework}.pretrain"
    if 0 < share < 1 and not 0 < (first := round(share * steps)) < steps:
        raise InputError(
            f"{key}={share:g} of {steps} steps leaves {first} to {staged.first} and "
            f"{steps - first} to {staged.second}; give more steps, or another share"
        )
    if share == 0 and getattr(train.options, "frozen", True):
        raise InputError(
            f"{key}=0 would freeze {staged.learnt} that has learnt nothing; say with --from "
            f"which run of {staged.first} to begin from, or let it learn"
        )


def seen_before(run: Path) -> dict[str, list[str]]:
    """Names of the cases, ``train`` and ``val``, of ``run`` and all that it was begun from.

    Raises:
        InputError: A run of these does not say who it has seen, as an exported one.
    """
    path = run / "cohort.json"
    if not path.is_file():
        raise InputError(
            f"{run} does not say which cases it has seen, for it has no cohort.json; begin from "
            "the run folder that synth3d train left"
        )
    cohort, start = read_object(path, "train", "val"), read_config(run).train.start
    earlier = cohort.get("seen_before") or (seen_before(Path(start)) if start else {})
    sides = dict[str, tuple[str, ...]]
    now = parse(sides, {side: cohort[side] for side in ("train", "val")}, str(path))
    then = parse(sides, earlier, f"{path}: seen_before")
    return {side: list(dict.fromkeys((*now[side], *then.get(side, ())))) for side in now}


def refuse_seen(config: RunConfig, cases: Sequence[Case], splits: Splits) -> None:
    """Refuse to go on from a run that has seen who this one is to be tested or chosen on.

    That is a patient of the test cases among those trained or chosen on before, or one of the
    validation cases among those trained on.
    """
    if not config.train.start:
        return
    patients = {case.name: case.patient for case in cases}
    seen = seen_before(Path(config.train.start))
    trained = {patients.get(name, patient_of(name)) for name in seen["train"]}
    known = trained | {patients.get(name, patient_of(name)) for name in seen["val"]}
    for side, names, met in (("test", splits.test, known), ("validation", splits.val, trained)):
        if found := [name for name in names if patients[name] in met]:
            raise InputError(
                f"the run {config.train.start} has seen {side} cases of this split: "
                f"{', '.join(found)}; begin from a run of the same split, or choose another split"
            )


SAME_SPACING = 1e-3
"""Relative; nnU-Net resamples what differs by more than that along a side of a few hundred."""


def coupled(config: RunConfig) -> RunConfig:
    """``config`` with the place and the hash of the segmenter that it is coupled to, if any.

    Raises:
        InputError: It is not there, damaged, or another than ``config`` says by its hash.
    """
    told = config.train.coupling
    if not told.segmenter:
        return config
    folder, digest = Path(told.segmenter).expanduser().resolve(), told.segmenter_sha256
    about = read_exported(folder)
    if digest not in ("", about.weights_sha256):
        raise InputError(
            f"the segmenter {folder} is another than the one that this recipe names (its SHA-256 "
            "differs); restore it, or leave train.coupling.segmenter_sha256 away"
        )
    known = {"segmenter": str(folder), "segmenter_sha256": about.weights_sha256}
    told = dataclasses.replace(told, **known)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, coupling=told))


def segmenter_of(config: RunConfig) -> Exported | None:
    """What the export of the segmenter says that ``config`` is coupled to; None without one."""
    folder = config.train.coupling.segmenter
    return read_exported(Path(folder)) if folder else None


def refuse_coupled(
    config: RunConfig, cases: Sequence[Case], splits: Splits, aloud: bool = True
) -> None:
    """Refuse a segmenter that has seen others than the training cases, or has other voxels.

    Says, where ``aloud``, that it is not known whom it has seen.

    Raises:
        InputError: As said; the cases are named.
    """
    about = segmenter_of(config)
    if about is None:
        return
    folder = config.train.coupling.segmenter
    if about.cases is None and aloud:
        print(
            f"warning: the segmenter {folder} does not say which cases it was trained on; if test "
            "cases are among them, this run's scores are worth nothing"
        )
    if others := sorted({*(about.cases or ())} - {*splits.train}):
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise InputError(
            f"the segmenter {folder} was trained on others than this run's training cases: "
            f"{', '.join(others[:5])}{more}; couple to one of the same split, or choose its split"
        )
    for case in cases:
        if case.name not in splits.train or not (there := [*case.images.values()]):
            continue
        found = grid(there[0])
        spacing = spacing_seen(found, config.task, config.data)
        turned = config.dim == 2 and turn_to("axial", found.affine).axes != (0, 1, 2)
        same = all(
            abs(a / b - 1) <= SAME_SPACING for a, b in zip(spacing, about.spacing_mm, strict=True)
        )
        if turned or not same:
            mine, its = ("×".join(f"{mm:g}" for mm in one) for one in (spacing, about.spacing_mm))
            said = f"voxels of {mine} mm" if not same else "slices that do not lie first"
            raise InputError(
                f"case {case.name} has {said}, and the segmenter {folder} was trained on {its} mm; "
                "couple to one that was trained on such images"
            )


def coupled_to(config: RunConfig) -> list[dict[str, Any]]:
    """The segmenters that a run was taught by, and all runs that it was begun from: plain values.

    Of each the hashes of its weights and of its checkpoint, its seed and its training cases.
    """
    start, about = config.train.start, segmenter_of(config)
    path = Path(start) / "cohort.json"
    found = list(read_object(path).get("coupled", ())) if start and path.is_file() else []
    if about is not None:
        names = ("weights_sha256", "checkpoint_sha256", "seed", "cases", "origin")
        found.append({name: getattr(about, name) for name in names})
    return found


@dataclass(frozen=True)
class TaughtBy:
    """A segmenter that a run was coupled to, as whoever judges has to know it; no case is named.

    Attributes:
        weights_sha256: Of its export; ``checkpoint_sha256``, of nnU-Net's own file.
        seed: Of its training; ``cases_sha256`` (:func:`synth3d.cohort.digest_of_names`) of the
            cases that it was trained on. None where it does not say.
        origin: The name of its model folder.
    """

    weights_sha256: str
    checkpoint_sha256: str
    seed: int | None = None
    cases_sha256: str | None = None
    origin: str = ""


@dataclass(frozen=True)
class _Noted:
    """A segmenter in ``cohort.json``, as :func:`coupled_to` has it."""

    weights_sha256: str
    checkpoint_sha256: str
    seed: int | None = None
    cases: tuple[str, ...] | None = None
    origin: str = ""

    @property
    def plain(self) -> TaughtBy:
        digest = None if self.cases is None else digest_of_names(self.cases)
        return TaughtBy(self.weights_sha256, self.checkpoint_sha256, self.seed, digest, self.origin)


def taught_by(run: Path) -> tuple[TaughtBy, ...]:
    """The segmenters that a finished run, or one that was exported, was coupled to.

    Raises:
        InputError: What the run notes of them is damaged.
    """
    path, done = run / "cohort.json", run / "done.json"
    if not path.is_file():
        return parse(tuple[TaughtBy, ...], read_object(done).get("taught_by", ()), str(done))
    noted = parse(tuple[_Noted, ...], read_object(path).get("coupled", ()), f"{path}: coupled")
    return tuple(one.plain for one in noted)


def take_over(framework: Framework, config: RunConfig) -> None:
    """Fill ``framework`` with what the run that ``config`` begins from has learnt, if there is one.

    Raises:
        InputError: The run is not there or not what it was, or this one is not of tsf.
    """
    _check_start(config)
    if not config.train.start:
        return
    run = load_run(Path(config.train.start))
    if run.weights_sha256 != config.train.start_sha256:
        raise InputError(
            f"the run {run.folder} was trained anew since this one was begun from it; restore it, "
            "or choose another --name to start anew"
        )
    for name, module in framework.beside.items():
        load_weights(_beside(run.folder, name), module)
    framework.take_over(run.framework)


def _beside(run: Path, name: str) -> Path:
    """The file in which ``run`` keeps ``name`` beside its weights, as it was written.

    Raises:
        InputError: It is not there, or not as it was written.
    """
    file = run / f"{name}.safetensors"
    if not file.is_file():
        raise InputError(
            f"the run {run} has no {file.name}, which this one begins with, as one that was "
            "exported; begin from the run folder that synth3d train left"
        )
    if sha256(file) != read_done(run).get(f"{name}_sha256"):
        raise InputError(
            f"{file} is not the file this run wrote (its SHA-256 differs); restore it, or begin "
            "from another run"
        )
    return file
