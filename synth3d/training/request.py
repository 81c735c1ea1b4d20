"""From what ``synth3d train`` is asked for to a run: cohort, split, resolved settings, folder."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synth3d.cohort import (
    ALL_MODALITIES,
    FEWEST,
    Case,
    Modality,
    Splits,
    doubtful_patients,
    find_cases,
    parse_modality,
    read_splits,
    refuse_twins,
    split_problems,
)
from synth3d.console import conclude
from synth3d.data import LIMIT_GB, Store, Task, check_workers
from synth3d.errors import InputError
from synth3d.machine import gpu_bytes, keep_memory, pick_device, refuse_depth, suited
from synth3d.settings import flatten, override, parse_assignment
from synth3d.training.config import (
    RunConfig,
    build_framework,
    check_keys,
    others_in,
    parse_thick,
    settle,
    split_for,
)
from synth3d.training.continuing import again, recipe_of, run_called, tell_growth
from synth3d.training.distributed import Ranks, joined, own_device, ranks_here
from synth3d.training.forecast import cases_ahead, phantoms_ahead, tell_plan
from synth3d.training.loop import Place, cases_read, train
from synth3d.training.recipes import read_recipe
from synth3d.training.run_folder import (
    Recipe,
    check_same_run,
    is_finished,
    leave_finished,
    read_done,
    run_name,
)
from synth3d.training.start import begun, check_given, coupled

PHANTOM_CASES, PHANTOM_SIZE, PHANTOM_SEED = 24, 64, 0
"""The embedded cohort; ``synth3d phantom`` has the same defaults."""
LEAST_FOR_GPU = 20 * 2**30
"""Bytes of a GPU's memory: cards of 24 GB have more, those sold with 20 GB a little less."""


@dataclass(frozen=True)
class TrainRequest:
    """What ``synth3d train`` is asked for; None leaves a setting to the recipe.

    Attributes:
        data: Cohort folder or table; None is the built-in phantoms.
        splits: JSON with train, val and test case names; None draws them by patient.
        labels: The label scheme of all cases, a key of ``synth3d.cohort.SCHEMES``; None lets each
            case tell.
        dim: ``2d`` or ``3d``.
        plane: ``axial``, ``coronal`` or ``sagittal``, for 2d.
        target: Sequences to make, comma-separated; or ``any``: one network makes whatever a case
            lacks.
        sources: Sequences to look at, comma-separated; None is the others. For ``any``: those that
            are looked at and made; None is those of a recipe for ``any``, else all that
            training cases have.
        degraded: A sequence that cases have with thick slices and that is to be restored, with how
            much larger its voxels are than those wanted, (z, y, x): ``flair=4,1,1``.
        recipe: A shipped name or a .toml or .json file; None suits data, device, its memory
            and ``dim``.
        model: A name in ``synth3d.models.GENERATORS``.
        framework: A name in ``synth3d.frameworks.FRAMEWORKS``.
        widths: Channels of the model's levels.
        groups: Of AGI-Net's channels.
        patch: Voxels, (z, y, x), or (row, column) for 2d.
        batch: Patches in a batch.
        steps: Of the training.
        seed: Of all randomness.
        threads: CPU threads; None is all cores.
        precision: ``fp32`` or ``bf16``.
        assign: Any further settings, each ``key=value``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        work: Where runs are kept.
        name: Of the run folder; None says what it is.
        continued: A run, by name or folder, to go on with as it was begun: nothing but ``steps``,
            which may grow, device and places can be given beside it.
        start: A finished run whose second stage this one is: of Seq2Seq or tsf, whose encoder and
            decoder the fusion begins from, or of fgdl, whose synthesis the branch stands beside.
        cache: Folder of prepared cases; None is ``cache`` in ``work``.
        cache_limit: Of that folder, in 10^9 bytes.
        dry_run: Print the settings and stop.
    """

    data: Path | None = None
    splits: Path | Splits | None = None
    labels: str | None = None
    dim: str | None = None
    plane: str | None = None
    target: str | None = None
    sources: str | None = None
    degraded: str | None = None
    recipe: str | None = None
    model: str | None = None
    framework: str | None = None
    widths: tuple[int, ...] | None = None
    groups: int | None = None
    patch: tuple[int, ...] | None = None
    batch: int | None = None
    steps: int | None = None
    seed: int | None = None
    threads: int | None = None
    precision: str | None = None
    assign: Sequence[str] = ()
    device: str = "auto"
    work: Path = Path("work")
    name: str | None = None
    continued: str | Path | None = None
    start: Path | None = None
    cache: Path | None = None
    cache_limit: float = LIMIT_GB
    dry_run: bool = False


def find_cohort(
    data: Path | None,
    splits: Path | Splits | None,
    work: Path,
    task: Task | None = None,
) -> tuple[Path, list[Case], Splits]:
    """The cohort folder, its cases and the split by patient; phantoms when ``data`` is None.

    The first line printed says when phantoms are used. Without a splits file the split is
    drawn from the patients' names with a fixed seed, among cases by which ``task`` is taught.
    """
    if data is None:
        folder = work / "phantom"
        print(
            f"No --data given: using the built-in phantom cohort in {folder} "
            f"({PHANTOM_CASES} synthetic brains of {PHANTOM_SIZE}³ voxels; no real patients)"
        )
        from synth3d.phantom import make_cohort

        make_cohort(folder, PHANTOM_CASES, PHANTOM_SIZE, PHANTOM_SEED)
    else:
        folder = data
    cases = find_cases(folder)
    for sentence in doubtful_patients({case.name: case.patient for case in cases}):
        print(f"note: {sentence}", file=sys.stderr)
    given = read_splits(splits, cases) if isinstance(splits, Path) else splits
    if given is not None and (problems := split_problems(given, cases)):
        raise InputError(f"the split does not fit the cases of {folder}: {'; '.join(problems)}")
    chosen = given or split_for(task, cases)
    if data is not None:  # no two phantoms are alike
        refuse_twins(cases, chosen)
    return folder, cases, chosen


def resolve(request: TrainRequest, device: str, held: Sequence[Modality] = ()) -> RunConfig:
    """Defaults ← recipe ← the request's own fields ← its ``assign``.

    A recipe's bfloat16 becomes float32 where ``device`` would emulate it. Who asks for it by
    name, or with a saved configuration (.json), gets it. ``held`` are the
    sequences of the training cases; as long as nobody knows them, mode ``any`` has BraTS's.

    Raises:
        InputError: An unknown key or name, a wrong type, or values that do not fit.
    """
    recipe = request.recipe or default_recipe(request.data, device, request.dim)
    values: dict[str, Any] = read_recipe(recipe)
    half = flatten(values).get("train.precision") == "bf16"
    if half and not recipe.endswith(".json"):
        override(values, "train.precision", suited("bf16", device))
    flags = {
        "dim": int(request.dim[0]) if request.dim else None,
        "data.plane": request.plane,
        "data.labels": request.labels,
        "model.name": request.model,
        "model.widths": request.widths,
        "model.groups": request.groups,
        "data.patch": request.patch,
        "data.batch": request.batch,
        "train.framework": request.framework,
        "train.steps": request.steps,
        "train.seed": request.seed,
        "train.threads": request.threads,
        "train.precision": request.precision,
    }
    for key, value in flags.items():
        if value is not None:
            override(values, key, value)
    if request.patch:
        override(values, "data.overlap", tuple(side // 8 * 2 for side in request.patch))
    _take_target(values, request)
    _take_degraded(values, request)
    given = [parse_assignment(text)[0] for text in request.assign]
    for text in request.assign:
        override(values, *parse_assignment(text))
    if not flatten(values).get("train.threads"):
        override(values, "train.threads", os.cpu_count() or 1)
    if values.get("mode") == "any":
        _take_one_list(values, held, given)
    return settle(values, given)


def _take_target(values: dict[str, Any], request: TrainRequest) -> None:
    """Into ``values``: the mode and both lists; those of a fixed recipe say nothing of any."""
    if request.target and request.target.strip().lower() == "any":
        if values.get("mode") != "any":
            values |= {"mode": "any", "sources": (), "targets": ()}
    elif request.target:
        targets: list[Modality] = [parse_modality(name) for name in request.target.split(",")]
        override(values, "mode", "fixed")
        override(values, "sources", others_in(values, targets))
        override(values, "targets", targets)
    if request.sources:
        override(values, "sources", [parse_modality(name) for name in request.sources.split(",")])
        if values.get("mode") == "any":
            values["targets"] = ()


def _take_degraded(values: dict[str, Any], request: TrainRequest) -> None:
    """Into ``values``: the sequence that is restored, as the last source and the only target."""
    if request.degraded is None:
        return
    poor, ratio = parse_thick(request.degraded)
    if request.target and not _is_just(request.target, poor):
        raise InputError(
            f"--degraded {request.degraded} makes {poor} of itself and the others, and --target "
            f"asks for {request.target}; leave --target away"
        )
    lists = others_in(values, [poor])
    if request.sources:
        lists = [n for n in map(parse_modality, request.sources.split(",")) if n != poor]
    changes = {"mode": "fixed", "sources": [*lists, poor], "targets": [poor]}
    for key, value in (changes | {"degrade.source": poor, "degrade.ratio": ratio}).items():
        override(values, key, value)


def _is_just(text: str, name: Modality) -> bool:
    return text.strip().lower() != "any" and [*map(parse_modality, text.split(","))] == [name]


def _take_one_list(values: dict[str, Any], held: Sequence[Modality], given: Sequence[str]) -> None:
    """Into ``values`` of mode any: the list that is there, or was ``given`` by itself, as both."""
    keys = ("sources", "targets")
    named = [key for key in keys if key in given] or [key for key in keys if values.get(key)]
    lists = [values[key] for key in named]
    if (
        len(lists) == 2
        and isinstance(lists[0], list | tuple)
        and isinstance(lists[1], list | tuple)
    ):
        one, other = (", ".join(map(str, each)) for each in lists)
        if {*map(_modality, lists[0])} != {*map(_modality, lists[1])}:
            raise InputError(
                f"mode any makes from one list whatever of it a case lacks, got sources {one} and "
                f"targets {other}; give sources alone"
            )
    values["sources"] = values["targets"] = (lists or [()])[0] or held or ALL_MODALITIES[:4]


def _modality(name: object) -> object:
    """What is no text is refused where it is parsed."""
    return parse_modality(name) if isinstance(name, str) else repr(name)


def default_recipe(data: Path | None, device: str, dim: str | None = None) -> str:
    """``phantom`` without data, else ``gpu``, ``gpu-8gb`` or ``cpu`` for what the machine has.

    With ``-2d`` for slices. ``gpu-8gb`` is for a GPU with less than ``LEAST_FOR_GPU`` bytes.
    """
    if data is None:
        name = "phantom"
    elif not device.startswith("cuda"):
        name = "cpu"
    else:
        name = "gpu" if gpu_bytes(device) >= LEAST_FOR_GPU else "gpu-8gb"
    return f"{name}-2d" if dim == "2d" else name


@dataclass(frozen=True)
class _Order:
    """What is trained, where, on what."""

    config: RunConfig
    cases: list[Case]
    splits: Splits
    folder: Path
    run: Path
    finished: bool = False
    recipe: Recipe | None = None


def train_run(request: TrainRequest) -> Path | None:
    """Train as ``request`` says, or go on with what a killed process left; tells what it does.

    Several processes that the environment names are one training
    (:mod:`synth3d.training.distributed`). Returns the finished run folder; None for a dry run, or
    where SIGTERM or SIGUSR1 asked to stop.

    Raises:
        InputError: The request, the cohort or the run folder cannot be used.
    """
    ranks = ranks_here()
    device = own_device(pick_device(request.device), ranks)
    with joined(ranks, device):
        order = ranks.once(lambda: _order(request, device, ranks))
        if order is None or order.finished:
            if order is not None and ranks.first:
                conclude(path=order.run, validation=read_done(order.run).get("validation", {}))
            return order and order.run
        keep_memory()
        torch.set_num_threads(max(1, order.config.train.threads // ranks.local_size))
        cache = Store(request.cache or request.work / "cache", request.cache_limit)
        config, cases, splits = order.config, order.cases, order.splits
        place = Place(device, cache, ranks)
        if train(config, cases, splits, order.folder, order.run, place, order.recipe) is None:
            return None
    if ranks.first:  # others need not see the folder
        done = read_done(order.run)
        scores = "  ".join(f"{name} {value:.4g}" for name, value in done["validation"].items())
        print(f"pictures: {order.run / 'curves.png'}  {order.run / 'contact.png'}")
        print(f"finished: {order.run}  (validation in the brain: {scores})")
        conclude(path=order.run, validation=done["validation"])
    return order.run


def _taught(cases: Sequence[Case], splits: Splits, mode: str) -> list[Modality]:
    """Sequences that mode any can learn: those that a training case has beside another."""
    learn = [case.images for case in cases if case.name in splits.train]
    taught = {name for images in learn if len(images) >= FEWEST for name in images}
    lone = sorted({name for images in learn for name in images} - taught)
    if mode == "any" and lone:
        print(f"left out, in no training case beside another sequence: {', '.join(lone)}")
    return [name for name in ALL_MODALITIES if name in taught]


def _order(request: TrainRequest, device: str, ranks: Ranks) -> _Order | None:
    """All that is decided before anything is read; None for a dry run."""
    request = again(request)
    config = resolve(request, device)
    given = [parse_assignment(text)[0] for text in request.assign]
    check_keys(given, config.train.framework)
    check_given(given, request.start)
    with torch.device("meta"):  # misfits are told before any data are read
        build_framework(config)
    if device == "cpu" and config.train.precision == "bf16" and config.dim == 3:
        refuse_depth(config.depths, config.data.patch)
    if config.data.batch % ranks.size:
        raise InputError(
            f"data.batch is {config.data.batch}, which {ranks.size} processes cannot share evenly; "
            f"give --batch a multiple of {ranks.size}, or start another number of processes"
        )
    recipe = request.recipe or default_recipe(request.data, device, request.dim)
    if request.dry_run and request.data is None and not (request.work / "phantom").is_dir():
        config = coupled(begun(config, request.start, request.steps))
        run = run_called(request, "NEW")
        ahead = phantoms_ahead(config, PHANTOM_CASES, PHANTOM_SIZE)
        tell_plan(config, recipe, device, run, ahead)
        return None
    named = None if request.name is None else run_called(request, "")
    finished = named is not None and (named / "done.json").exists()
    if not (request.dry_run or finished):
        check_workers(config.task, config.data)
    folder, cases, splits = find_cohort(request.data, request.splits, request.work, config.task)
    config = resolve(request, device, _taught(cases, splits, config.mode))
    config = coupled(begun(config, request.start, request.steps))
    own = run_called(request, run_name(config, folder, splits))
    run = Path(request.continued or own)
    if request.dry_run:
        tell_plan(config, recipe, device, run, cases_ahead(config, cases, splits))
        return None
    print(f"recipe: {recipe}")
    print(
        f"{len(splits.train)} training, {len(splits.val)} validation, "
        f"{len(splits.test)} test cases (never trained on)"
    )
    check_same_run(run, config, folder, splits, grows=request.continued is not None)
    if is_finished(run, config):
        leave_finished(run)
        print(f"already trained: {run}")
        return _Order(config, cases, splits, folder, run, finished=True)
    cases_read(config, cases, splits, aloud=False)  # headers, before anything is written
    if (run / "done.json").exists():
        tell_growth(run, config)
    what = f"{config.data.plane} slices" if config.dim == 2 else "volumes"
    how = f"in {config.train.precision} on {device}"
    how += f" by {ranks.size} processes" if ranks.size > 1 else ""
    print(f"training {config.model.name} on {what} {how}: {run}")
    recipe = None if request.continued else recipe_of(recipe, request, config)
    return _Order(config, cases, splits, folder, run, recipe=recipe)
