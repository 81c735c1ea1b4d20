"""Runs that learn from what was trained before: from another run, or from a segmenter.

TSF-Seq2Seq's fusion begins with a run of Seq2Seq (``--from``); any may be coupled to a segmenter
(``train.coupling``). Neither may have seen who the run is chosen or tested on.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from synth3d.cohort import Case, Splits, patient_of
from synth3d.data import spacing_seen
from synth3d.errors import InputError
from synth3d.files import read_object
from synth3d.frameworks import TSF, Framework
from synth3d.images import grid, turn_to
from synth3d.losses import Exported, read_exported
from synth3d.settings import parse
from synth3d.training.config import RunConfig
from synth3d.training.run_folder import load_run, read_config

SHAPE = ("name", "widths", "blocks", "banks", "recurrent", "faithful")
"""Of the model: what encoder and decoder follow from."""
IMAGE = ("intensity", "common_grid", "plane", "slice_size")
"""Of the data: what an encoder sees of a case; the last two of slices alone."""


def begun(config: RunConfig, run: Path | None, steps: int | None) -> RunConfig:
    """``config`` as it is, or for the second stage alone with encoder and decoder of ``run``.

    Without ``steps`` that has as many as it would have of the whole training.

    Raises:
        InputError: ``run`` is no finished run of TSF-Seq2Seq, or one of other sequences, of
            another shape or of other images; ``config`` is of another framework; or without a run
            it would freeze an encoder that has never learnt, or have a stage without a step.
    """
    if run is None:
        _check_start(config)
        _check_stages(config)
        return config
    if config.train.framework != "tsf":
        raise InputError(
            f"--from is for train.framework=tsf, which learns in two stages, not "
            f"{config.train.framework}; leave it away, or use a recipe of tsf"
        )
    before = read_config(run)
    if before.train.framework != "tsf":
        raise InputError(
            f"--from takes a run of Seq2Seq or tsf, and {run} is one of {before.train.framework}; "
            "give another run"
        )
    if differ := [
        f"{key} {_plain(there)}, here {_plain(here)}"
        for key, there, here in _shapes(before, config)
        if there != here
    ]:
        raise InputError(
            f"the run {run} has other sequences, another shape or other images "
            f"({'; '.join(differ)}); give these settings to this run, too, or --from another one"
        )
    share, digest = 1 - config.train.options.pretrain, load_run(run).weights_sha256
    train = dataclasses.replace(
        config.train,
        start=str(run.resolve()),
        start_sha256=digest,
        steps=steps or max(1, round((share or 1) * config.train.steps)),
        tsf=dataclasses.replace(config.train.tsf, pretrain=0.0),
    )
    return dataclasses.replace(config, train=train)


def _shapes(before: RunConfig, now: RunConfig) -> list[tuple[str, object, object]]:
    """Name, value of the one and of the other of all that must be alike."""
    keys = [(key, before, now) for key in ("mode", "sources", "targets", "dim")]
    keys += [(key, before.model, now.model) for key in SHAPE]
    keys += [(key, before.data, now.data) for key in (IMAGE if now.dim == 2 else IMAGE[:2])]
    return [(key, getattr(one, key), getattr(other, key)) for key, one, other in keys]


def _plain(value: object) -> str:
    text = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text or "none"


def _check_start(config: RunConfig) -> None:
    """A run of which the configuration says that it was begun is one of tsf, and says from what."""
    train = config.train
    begun_from = bool(train.start), bool(train.start_sha256)
    if any(begun_from) and not (train.framework == "tsf" and all(begun_from)):
        raise InputError(
            "train.start is what --from writes for train.framework=tsf, with the hash of the "
            "weights; leave it away, and say --from RUN"
        )


def check_given(keys: Iterable[str], run: Path | None) -> None:
    """Refuse settings given one by one that are decided by whether a run is begun from another."""
    for key in keys:
        if key in ("train.start", "train.start_sha256"):
            raise InputError(f"{key} is not set by hand; say --from RUN")
        if key == "train.coupling.segmenter_sha256":
            raise InputError(f"{key} is not set by hand; say train.coupling.segmenter=FOLDER")
        if key == "train.tsf.pretrain" and run is not None:
            raise InputError(
                "train.tsf.pretrain has no effect with --from, which is the second stage alone; "
                "leave it away, and say with --steps how many it has"
            )


def _check_stages(config: RunConfig) -> None:
    """Neither stage of a training from scratch may be without a step, unless asked for."""
    train = config.train
    if train.framework != "tsf" or train.start:
        return
    share, steps = train.options.pretrain, train.steps
    if 0 < share < 1 and not 0 < (first := round(share * steps)) < steps:
        raise InputError(
            f"train.tsf.pretrain={share:g} of {steps} steps leaves {first} to Seq2Seq and "
            f"{steps - first} to the fusion; give more steps, or another share"
        )
    if share == 0 and train.options.frozen:
        raise InputError(
            "train.tsf.pretrain=0 would freeze an encoder that has learnt nothing; say with --from "
            "which run of Seq2Seq to begin from, or let it learn"
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
    assert isinstance(framework, TSF)
    framework.take_over(run.framework.generator)
