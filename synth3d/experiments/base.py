"""From the flags of ``synth3d ablate`` to what all cells share: settings, scores, scored cases."""

import argparse
from dataclasses import fields
from typing import Any

from synth3d.cohort import parse_modality
from synth3d.errors import InputError
from synth3d.experiments.plan import Cohort, normalised
from synth3d.experiments.tables import Choices, Table
from synth3d.machine import suited
from synth3d.scoring import CONVENTIONS
from synth3d.settings import flatten, override, parse_assignment, to_plain
from synth3d.training import (
    RunConfig,
    TrainRequest,
    default_recipe,
    find_cohort,
    read_recipe,
    resolve,
)


def base_values(
    args: argparse.Namespace, table: Table, device: str
) -> tuple[dict[str, Any], list[str]]:
    """The base as plain settings, and the keys that the user gave with ``--set``.

    Where bfloat16 is asked for by the recipe and this CPU has none, the base is in float32. The
    recipe's name is put into ``args``.

    Raises:
        InputError: The recipe or a flag cannot be used.
    """
    args.recipe = args.recipe or default_recipe(args.data, device, args.dim)
    known = {field.name for field in fields(TrainRequest)}
    request = TrainRequest(**{key: value for key, value in vars(args).items() if key in known})
    values = normalised(to_plain(resolve(request, device)))
    assigned = [parse_assignment(text)[0] for text in args.assign]
    if "train.precision" not in assigned:
        _avoid_emulation(values["train"], device)
    given = {*flatten(read_recipe(args.recipe)), *assigned}
    for key, value in table.defaults.items():
        if key not in given:
            override(values, key, value)
    return values, assigned


def _avoid_emulation(train: dict[str, Any], device: str) -> None:
    """Write float32 into the base where bfloat16 would be emulated, so that the report says it."""
    if device == "cpu" and suited(train["precision"], device) != train["precision"]:
        train["precision"] = "fp32"
        print("this CPU has no bfloat16: all runs in fp32 (--set train.precision=bf16 insists)")


def choose(args: argparse.Namespace, base: RunConfig) -> Choices:
    """What is moved, and how; T2 if it is a source, as in the paper.

    Raises:
        InputError: ``--move`` is no source.
    """
    move = parse_modality(args.move) if args.move else None
    if move is not None and move not in base.sources:
        raise InputError(f"--move {args.move}: the sources are {', '.join(base.sources)}")
    if move is None:
        move = "t2w" if "t2w" in base.sources else base.sources[-1]
    draw = {"fixed": "fixed_magnitude", "box": "uniform_box"}[args.draw]
    return Choices(move, draw, args.mode == "train-and-test")


def conventions_of(text: str | None, base: RunConfig) -> tuple[str, ...]:
    """Names of the conventions of the scores; the first leads and has a PSNR.

    Raises:
        InputError: Unknown, or without a PSNR.
    """
    default = ("ours", "paper-agi") if base.data.intensity == "median" else ("paper-agi", "ours")
    names = tuple(dict.fromkeys(text.split(","))) if text else default
    if unknown := [name for name in names if name not in CONVENTIONS]:
        raise InputError(
            f"no convention is called {unknown[0]}; there are {', '.join(CONVENTIONS)}"
        )
    if "psnr" not in CONVENTIONS[names[0]].scores:
        raise InputError(f"the first convention must have a PSNR, which {names[0]} has not")
    return names


def find_scored(args: argparse.Namespace) -> Cohort:
    """The cohort, phantoms without ``--data``, and the cases of ``--part``.

    Raises:
        InputError: Folder or split cannot be used, or the part is empty.
    """
    folder, cases, splits = find_cohort(args.data, args.splits, args.work)
    names = set(getattr(splits, args.part))
    scored = tuple(sorted((c for c in cases if c.name in names), key=lambda case: case.name))
    if not scored:
        raise InputError(f"the split has no {args.part} cases")
    return Cohort(folder, splits, args.part, scored, args.splits)
