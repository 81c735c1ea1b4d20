"""From the flags of ``synth3d train`` to a run: cohort, split, resolved settings, folder."""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth3d.cohort import (
    ALL_MODALITIES,
    Case,
    Modality,
    Splits,
    find_cases,
    make_splits,
    parse_modality,
    read_splits,
)
from synth3d.config import RunConfig, check_keys, sources_for
from synth3d.errors import InputError
from synth3d.files import read_json, read_object
from synth3d.machine import keep_memory, pick_device
from synth3d.settings import flatten, override, parse, parse_assignment, read_recipe, to_plain

PHANTOM_CASES, PHANTOM_SIZE, PHANTOM_SEED = 24, 64, 0
"""The embedded cohort; ``synth3d phantom`` has the same defaults."""


@dataclass(frozen=True)
class TrainRequest:
    """A run to be trained; the fields are the flags of ``synth3d train``."""

    data: Path | None = None
    splits: Path | None = None
    dim: str | None = None
    plane: str | None = None
    target: str | None = None
    sources: str | None = None
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
    dry_run: bool = False


def find_cohort(
    data: Path | None, splits: Path | None, work: Path
) -> tuple[Path, list[Case], Splits]:
    """The cohort folder, its cases and the split by patient; phantoms when ``data`` is None.

    The first line printed says when phantoms are used. Without a splits file the split is
    drawn from the patients' names with a fixed seed.

    Raises:
        InputError: Folder or splits file cannot be used.
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
    return folder, cases, read_splits(splits, cases) if splits else make_splits(cases)


def resolve(args: TrainRequest | argparse.Namespace, device: str) -> RunConfig:
    """Defaults ← recipe ← flags ← ``--set``.

    A recipe's bfloat16 becomes float32 where ``device`` would emulate it. Who asks for it by a
    flag, or with a saved configuration (.json), gets it.

    Raises:
        InputError: An unknown key or name, a wrong type, or values that do not fit.
    """
    recipe = args.recipe or default_recipe(args.data, device, args.dim)
    values: dict[str, Any] = read_recipe(recipe)
    if _in_bfloat16(values) and not recipe.endswith(".json"):
        from synth3d.machine import suited

        override(values, "train.precision", suited("bf16", device))
    flags = {
        "dim": int(args.dim[0]) if args.dim else None,
        "data.plane": args.plane,
        "model.name": args.model,
        "model.widths": args.widths,
        "model.groups": args.groups,
        "data.patch": args.patch,
        "data.batch": args.batch,
        "train.framework": args.framework,
        "train.steps": args.steps,
        "train.seed": args.seed,
        "train.threads": args.threads,
        "train.precision": args.precision,
    }
    for key, value in flags.items():
        if value is not None:
            override(values, key, value)
    if args.patch:
        override(values, "data.overlap", tuple(side // 4 * 2 for side in args.patch))
    if args.target:
        targets = [parse_modality(name.strip()) for name in args.target.split(",")]
        override(values, "sources", _others(values, targets))
        override(values, "targets", targets)
    if args.sources:
        override(values, "sources", [parse_modality(name) for name in args.sources.split(",")])
    for text in args.assign:
        override(values, *parse_assignment(text))
    if isinstance(train := values.get("train", {}), dict) and not train.get("threads"):
        override(values, "train.threads", os.cpu_count() or 1)
    return parse(RunConfig, values)


def _in_bfloat16(values: dict[str, Any]) -> bool:
    train = values.get("train")
    return isinstance(train, dict) and train.get("precision") == "bf16"


def _others(values: dict[str, Any], targets: Sequence[Modality]) -> list[Modality]:
    """What ``targets`` are to be made from: the recipe's other sequences, if it has them too.

    A recipe for T1, T2 and PD gives T2 and PD for T1; a target that a recipe does not have is
    made from whatever such cohorts have (:func:`synth3d.config.run.sources_for`).
    """
    named = [*values.get("sources", ()), *values.get("targets", ())]
    known = [parse_modality(name) for name in named if isinstance(name, str)]
    ordered: list[Modality] = [name for name in ALL_MODALITIES if name in known]
    if not set(targets) <= set(ordered):
        ordered = list(sources_for(targets[0]))
    return [name for name in ordered if name not in targets]


def default_recipe(data: Path | None, device: str, dim: str | None = None) -> str:
    """``phantom`` without data, else ``gpu`` or ``cpu`` for what the machine has; ``-2d`` of it."""
    name = "gpu" if device.startswith("cuda") else "cpu"
    if data is None:
        name = "phantom"
    return f"{name}-2d" if dim == "2d" else name


def run_name(config: RunConfig, folder: Path, splits: Splits) -> str:
    """``t2f-agi-net-<cohort>-<hash>``: the same command always means the same folder."""
    identity = [to_plain(config), str(folder.resolve()), splits.train, splits.val, splits.test]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return f"{'-'.join(config.targets)}-{config.model.name}-{folder.resolve().name}-{digest}"


def check_same_run(run: Path, config: RunConfig, folder: Path, splits: Splits) -> None:
    """Refuse to go on with a folder that another configuration, cohort or split began.

    Going on with another split would mix its test cases into what the weights have seen.

    Raises:
        InputError: Something differs; the message names the keys.
    """
    if not (run / "config.json").exists():
        return
    before, now = flatten(read_object(run / "config.json")), flatten(to_plain(config))
    if (run / "cohort.json").exists():
        cohort = {side: list(getattr(splits, side)) for side in ("train", "val", "test")}
        now |= flatten(cohort | {"data_folder": str(folder.resolve())}, "cohort")
        before |= flatten(read_object(run / "cohort.json"), "cohort")
    differ = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if differ:
        raise InputError(
            f"the run {run} was begun with other settings ({', '.join(differ)}); "
            "choose another --name or give the settings it had"
        )


def check_buildable(config: RunConfig) -> None:
    """Build the networks without memory, so that misfits are told before any data are read.

    Raises:
        InputError: An unknown model or framework, or parts that do not fit.
    """
    import torch

    from synth3d.frameworks import build

    with torch.device("meta"):
        build(config)


def train_command(args: argparse.Namespace) -> int:
    """``synth3d train``."""
    device = pick_device(args.device)
    config = resolve(args, device)
    check_keys((parse_assignment(text)[0] for text in args.assign), config.train.framework)
    check_buildable(config)
    if args.dry_run and args.data is None:
        print(json.dumps(to_plain(config), indent=2))
        return 0
    folder, cases, splits = find_cohort(args.data, args.splits, args.work)
    print(f"recipe: {args.recipe or default_recipe(args.data, device, args.dim)}")
    run = args.work / "runs" / (args.name or run_name(config, folder, splits))
    print(
        f"{len(splits.train)} training, {len(splits.val)} validation, "
        f"{len(splits.test)} test cases (never trained on)"
    )
    if args.dry_run:
        print(json.dumps(to_plain(config), indent=2))
        print(f"would train in {run} on {device}")
        return 0
    check_same_run(run, config, folder, splits)
    if (run / "done.json").exists():
        from synth3d.training.run_folder import read_done

        read_done(run)
        print(f"already trained: {run}")
        return 0
    import torch

    from synth3d.training.loop import train

    keep_memory()
    torch.set_num_threads(config.train.threads)
    what = f"{config.data.plane} slices" if config.dim == 2 else "volumes"
    how = f"in {config.train.precision} on {device}"
    print(f"training {config.model.name} on {what} {how}: {run}")
    train(config, cases, splits, folder, run, device)
    done = read_json(run / "done.json")
    scores = "  ".join(f"{name} {value:.4g}" for name, value in done["validation"].items())
    print(f"finished: {run}  (validation in the brain: {scores})")
    print(f"pictures: {run / 'curves.png'}  {run / 'contact.png'}")
    return 0
