"""Tables of experiments: cells, and what their papers printed for them (``tables.toml``).

A cell is a name and the settings in which it differs from a base configuration. A table makes its
cells from the base, because how many stages there are follows from the widths.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synth3d.errors import InputError
from synth3d.experiments.asking import Question
from synth3d.experiments.cell import (
    AGI,
    ALIGNED,
    RESUNET,
    Cell,
    Choices,
    Maker,
    Overrides,
    Printed,
    in_framework,
)
from synth3d.experiments.fgdl import misaligned_labels, restored, strengths_told
from synth3d.frameworks import FRAMEWORKS
from synth3d.models import ResUNet
from synth3d.settings import flatten
from synth3d.training import RunConfig, read_recipe

TSF: Overrides = {"model.name": "tsf", "train.framework": "tsf"}

SHIFTS = tuple(0.5 * i for i in range(7))
ANGLES = tuple(2.5 * i for i in range(7))
INPUTS = (1, 2, 3)
"""Of four sequences, how many a network for any gap is shown."""


@dataclass(frozen=True)
class Table:
    """One experiment: ``defaults`` lie under the user's own settings, ``axis`` labels the levels
    of a curve, with their unit, and ``notes`` are what a reader must know.

    ``mode`` is that of all runs, ``recipes`` the base that is taken on a kind of device if none is
    given. ``paper`` is the convention of what is printed; ``alone`` are rows that only the paper
    has, name → task → numbers; ``apart`` says whether PSNR is shown above and below TSEM's 99th
    percentile, ``lpips`` whether LPIPS is taken where its weights are at hand.

    ``moved`` is which side of a run ``--move`` chooses from, ``sources`` or ``targets``, and
    ``retrained`` whether each level of the curve is trained whatever is asked; ``head`` tells what
    of the levels follows from the base.
    """

    title: str
    cells: Maker
    defaults: Overrides = field(default_factory=dict)
    axis: str = ""
    notes: tuple[str, ...] = ()
    mode: str = "fixed"
    recipes: Mapping[str, str] = field(default_factory=dict)
    paper: str = "paper-agi"
    alone: Mapping[str, Mapping[str, Printed]] = field(default_factory=dict)
    apart: bool = False
    lpips: bool = False
    moved: str = "sources"
    retrained: bool = False
    head: Callable[[RunConfig, Choices], str] | None = None


def _listed(cells: Mapping[str, Any], baseline: str) -> Maker:
    ordered = {baseline: cells[baseline], **cells}
    found = []
    for name, changes in ordered.items():
        settings = flatten({key: value for key, value in changes.items() if key != "asked"})
        asking = Question(way=changes.get("asked", "whole"))
        found.append(Cell(name, settings, {}, "" if name == baseline else baseline, asking=asking))
    return lambda base, choices: found


def _groups(base: RunConfig, choices: Choices) -> list[Cell]:
    fitting = [n for n in (1, 2, 4, 8, 16) if all(width % n == 0 for width in base.model.widths)]
    cells = [Cell(f"n{n}", {**AGI, "model.groups": n}, {}, "conv") for n in fitting]
    return [Cell("conv", RESUNET), *cells]


def _stages(base: RunConfig, choices: Choices) -> list[Cell]:
    levels = range(1, len(base.model.widths))
    names = [*(f"down{i}" for i in levels), "body", *(f"up{i}" for i in levels)]
    cells = [
        Cell(f"{count}-{name}", {**AGI, "model.stages": count}, {}, "0-none")
        for count, name in enumerate(names, start=1)
    ]
    return [Cell("0-none", RESUNET), *cells]


def _convolutions(base: RunConfig, choices: Choices) -> list[Cell]:
    moved = {"misalign": _misaligned(choices, shift=3.0)}
    cells = []
    for suffix, place in (("aligned", ALIGNED), ("shifted", moved)):
        std = f"std-{suffix}"
        cells += [
            Cell(std, {**RESUNET, **place}),
            Cell(f"deform-{suffix}", {"model.name": "deform-resunet", **place}, {}, std),
            Cell(f"arc-{suffix}", {"model.name": "arc-resunet", **place}, {}, std, dims=(2,)),
            Cell(f"cagr-{suffix}", {**AGI, **place}, {}, std),
        ]
    return cells


def _frameworks(base: RunConfig, choices: Choices) -> list[Cell]:
    cells = []
    for name, framework in FRAMEWORKS.items():
        if not framework.needs <= ResUNet.offers:
            continue
        swap = in_framework(base, name)
        cells.append(Cell(f"{name}-resunet", {**RESUNET, **swap}))
        cells.append(Cell(f"{name}-agi-net", {**AGI, **swap}, {}, f"{name}-resunet"))
    return cells


def _misaligned(choices: Choices, **how: float) -> dict[str, Any]:
    return {"source": choices.move, "draw": choices.draw, **how}


def _curve(kind: str, levels: Sequence[float]) -> Maker:
    """Cells of ResUNet and AGI-Net with ``kind`` of the misalignment at each level."""

    def cells(base: RunConfig, choices: Choices) -> list[Cell]:
        found = []
        for level in levels:
            there = {"misalign": _misaligned(choices, **{kind: level})} if level else ALIGNED
            train, test = (there, {}) if choices.retrain else (ALIGNED, there)
            for series, model, against in (
                ("resunet", RESUNET, ""), ("agi-net", AGI, f"resunet-{level:g}")
            ):  # fmt: skip
                name = f"{series}-{level:g}"
                found.append(Cell(name, {**model, **train}, test, against, series, level))
        return found

    return cells


def _asked(
    rows: Mapping[str, tuple[Overrides, Question]], baseline: str, inputs: int
) -> Iterator[Cell]:
    """A cell of each row, asked with so many inputs."""
    for name, (overrides, question) in rows.items():
        against = "" if name == baseline else f"{baseline}-{inputs}"
        asking = replace(question, inputs=inputs)
        yield Cell(f"{name}-{inputs}", overrides, {}, against, name, inputs, asking=asking)


WHOLE, AVERAGED = Question(), Question(way="averaged")
APART = Question(apart=True)


def _inputs(base: RunConfig, choices: Choices) -> list[Cell]:
    def rival(framework: str, model: Overrides = RESUNET) -> Overrides:
        return {**model, "train.framework": framework}

    always: dict[str, tuple[Overrides, Question]] = {
        "seq2seq": ({**TSF, "train.tsf.pretrain": 1.0}, WHOLE),
        "tsf-plain": (TSF, Question(way="plain")),
        "tsf": (TSF, APART),
        "mmgan": (rival("mmgan"), WHOLE),
        "pix2pix": (rival("pix2pix"), WHOLE),
        "agi-net": (rival("l1", AGI), WHOLE),
        "resunet": (rival("l1"), WHOLE),
    }
    several = {"tsf-averaged": (TSF, AVERAGED), "pix2pix-averaged": (rival("pix2pix"), AVERAGED)}
    found: list[Cell] = []
    for inputs in INPUTS:
        found += _asked(always | (several if inputs > 1 else {}), "seq2seq", inputs)
    return found


def _map(base: RunConfig, choices: Choices) -> list[Cell]:
    return [cell for inputs in INPUTS for cell in _asked({"tsf": (TSF, APART)}, "tsf", inputs)]


def _parts(base: RunConfig, choices: Choices) -> list[Cell]:
    fusions = {name: name for name in ("unmasked", "uniform", "codeless")}
    fusions["no-attention"] = "plain"
    rows: dict[str, tuple[Overrides, Question]] = {"tsf": (TSF, APART)}
    rows |= {name: ({**TSF, "model.fusion": kind}, WHOLE) for name, kind in fusions.items()}
    rows["unfrozen"] = ({**TSF, "train.tsf.frozen": False}, WHOLE)
    return [cell for inputs in INPUTS for cell in _asked(rows, "tsf", inputs)]


MAKERS: dict[str, Maker] = {
    "groups": _groups,
    "stages": _stages,
    "convolutions": _convolutions,
    "frameworks": _frameworks,
    "translation": _curve("shift", SHIFTS),
    "rotation": _curve("rotate", ANGLES),
    "elastic": _curve("elastic", SHIFTS),
    "tsf-inputs": _inputs,
    "tsf-map": _map,
    "tsf-parts": _parts,
    "fgdl-misalign": misaligned_labels,
    "fgdl-ratio": restored,
}
HEADS = {"fgdl-misalign": strengths_told}
FLAGS = ("mode", "recipes", "paper", "apart", "lpips", "moved", "retrained")
"""Of a table in ``tables.toml``, as :class:`Table` has them."""


def _shipped() -> dict[str, Table]:
    values = tomllib.loads(Path(__file__).with_name("tables.toml").read_text("utf-8"))
    moved = values.pop("moved")
    return {
        name: Table(
            value["title"],
            _with_printed(MAKERS.get(name) or _listed(value["cells"], value["baseline"]), value),
            flatten(value.get("defaults", {})),
            value.get("axis", ""),
            (*value["notes"], *[moved] * value.get("moves", False)),
            alone=_alone(value.get("printed_alone", {})),
            head=HEADS.get(name),
            **{key: value[key] for key in FLAGS if key in value},
        )
        for name, value in values.items()
    }


def _alone(tasks: Mapping[str, Any]) -> dict[str, dict[str, Printed]]:
    """Row → task → numbers, of rows that only a paper has."""
    found: dict[str, dict[str, Printed]] = {}
    for task, rows in tasks.items():
        for name, numbers in rows.items():
            found.setdefault(name, {})[task] = Printed(**numbers)
    return found


def _with_printed(make: Maker, value: Mapping[str, Any]) -> Maker:
    """Its cells, with what the paper prints; of a table with more or fewer, the baselines only."""
    known = value.get("printed", {})

    def cells(base: RunConfig, choices: Choices) -> list[Cell]:
        made = make(base, choices)
        papers = value.get("printed_cells", len(made)) == len(made)
        return [
            replace(cell, printed={
                task: Printed(**rows[cell.name]) for task, rows in known.items()
                if cell.name in rows and (papers or not cell.against)
            })
            for cell in made
        ]  # fmt: skip

    return cells


TABLES: dict[str, Table] = {
    **_shipped(),
}


def find_table(name: str) -> tuple[str, Table]:
    """A shipped table by name, or one from a ``.toml`` file, with its short name.

    The file has ``title``, ``baseline`` (a cell's name) and a table ``cells`` of settings per cell,
    as in ``[cells.open] model.attn_init = "open"``. ``asked = "mirrored"`` in a cell is no setting
    but the way in which its run, maybe another cell's as well, is asked.

    Raises:
        InputError: Unknown name, or a file that says something else.
    """
    if name in TABLES:
        return name, TABLES[name]
    path = Path(name)
    if path.suffix != ".toml":
        raise InputError(
            f"unknown table {name!r}; known: {', '.join(TABLES)}, or give a .toml file"
        )
    value = read_recipe(name)
    wrong = sorted(value.keys() - {"title", "baseline", "cells", "notes"})
    cells, baseline = value.get("cells"), str(value.get("baseline"))
    tables = isinstance(cells, dict) and all(isinstance(each, dict) for each in cells.values())
    if wrong or not isinstance(cells, dict) or not tables or baseline not in cells:
        raise InputError(
            f"{path}: expected title, baseline and [cells.NAME] tables of which baseline is one, "
            f"got {wrong or sorted(value)}"
        )
    notes = tuple(str(note) for note in value.get("notes", ()))
    title = str(value.get("title", path.stem))
    return path.stem, Table(title, _listed(cells, baseline), notes=notes)
