"""The experiments of the AGI-Net paper as data: cells of each table, and what the paper printed.

A cell is a name and the settings in which it differs from a base configuration. A table makes its
cells from the base, because how many stages there are follows from the widths. Numbers printed in
the paper (arXiv 2411.14684) are of 2-D slices; its tables 3, 4 and 6 and figure 3 are images in the
copy that was read, so that only what the text says of them stands here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synth3d.cohort import Modality
from synth3d.errors import InputError
from synth3d.settings import flatten, to_plain
from synth3d.training import RunConfig, read_recipe

Overrides = Mapping[str, Any]

IXI, BRATS = "IXI T1,T2→PD", "BraTS T1,T2→FLAIR"

RESUNET: Overrides = {"model.name": "resunet"}
AGI: Overrides = {"model.name": "agi-net", "model.module": "cagr"}
ALIGNED: Overrides = {"misalign": {}}

SHIFTS = tuple(0.5 * i for i in range(7))
ANGLES = tuple(2.5 * i for i in range(7))

SCHEDULE = ("adversarial_start", "critic_width", "critic_layers")
"""What a framework swap keeps of the base's critic; the weights of the losses are each paper's."""


@dataclass(frozen=True)
class Printed:
    """What the paper prints: PSNR in dB, SSIM in per cent, MAE × 100; ``gain`` is PSNR − baseline.

    ``mark`` is ``≈`` for a number that only follows from others in the text, ``†`` for one whose
    generator the paper does not name.
    """

    psnr: float | None = None
    ssim: float | None = None
    mae: float | None = None
    gain: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Cell:
    """One row of a table.

    Attributes:
        name: Unique in its table.
        overrides: Dotted setting → value, over the base configuration.
        testing: The same, on top, when the finished run is tested.
        against: The cell it is compared with; empty for a baseline.
        series: For a curve, which line the cell is a point of.
        level: For a curve, how far along.
        printed: Task → what the paper prints.
        dims: Where the cell exists.
    """

    name: str
    overrides: Overrides
    testing: Overrides = field(default_factory=dict)
    against: str = ""
    series: str = ""
    level: float = 0.0
    printed: Mapping[str, Printed] = field(default_factory=dict)
    dims: tuple[int, ...] = (2, 3)


@dataclass(frozen=True)
class Choices:
    """What the user chooses about misalignment: see ``MisalignConfig``.

    Attributes:
        move: The source that is moved.
        draw: ``fixed_magnitude`` or ``uniform_box``.
        retrain: Whether a curve trains each level (train-and-test) or only tests it.
    """

    move: Modality
    draw: str = "fixed_magnitude"
    retrain: bool = False


@dataclass(frozen=True)
class Table:
    """One experiment.

    Attributes:
        title: One line.
        cells: Makes the cells for a base configuration.
        defaults: Settings under the user's own.
        axis: For a curve, the label of its levels with their unit.
        notes: What a reader must know.
    """

    title: str
    cells: Callable[[RunConfig, Choices], Sequence[Cell]]
    defaults: Overrides = field(default_factory=dict)
    axis: str = ""
    notes: tuple[str, ...] = ()


PLAIN, BEST = Printed(34.38, 96.34, 1.01), Printed(34.96, 96.62, 0.97, 0.58)
"""The paper's main result on IXI: pix2pix's own generator, and AGI-Net in its place."""


def _components(base: RunConfig, choices: Choices) -> list[Cell]:
    def part(module: str) -> Overrides:
        return {"model.name": "agi-net", "model.module": module}

    text = {IXI: Printed(34.85, gain=0.47, mark="≈")}
    return [
        Cell("conv", RESUNET, printed={IXI: PLAIN}),
        Cell("gr", part("gr"), against="conv", printed=text),
        Cell("ca", part("ca"), against="conv"),
        Cell("cagr", AGI, against="conv", printed={IXI: BEST}),
    ]


GROUPS = {1: (34.76, 96.49), 2: (34.85, 96.55), 4: (34.93, 96.60), 8: (34.96, 96.62),
          16: (34.88, 96.60)}  # fmt: skip
STAGES = (34.62, 34.73, 34.80, 34.93, 34.96, 34.93, 34.92)


def _groups(base: RunConfig, choices: Choices) -> list[Cell]:
    cells = [Cell("conv", RESUNET, printed={IXI: Printed(34.38, 96.34)})]
    for n, (psnr, ssim) in GROUPS.items():
        if all(width % n == 0 for width in base.model.widths):
            printed = {IXI: Printed(psnr, ssim, gain=round(psnr - 34.38, 2))}
            cells.append(Cell(f"n{n}", {**AGI, "model.groups": n}, {}, "conv", printed=printed))
    return cells


def _stages(base: RunConfig, choices: Choices) -> list[Cell]:
    levels = len(base.model.widths) - 1
    downs = [f"down{i + 1}" for i in range(levels)]
    names = [*downs, "body", *(name.replace("down", "up") for name in downs)]
    cells = [Cell("0-none", RESUNET, printed={IXI: Printed(34.38)})]
    for count, name in enumerate(names, start=1):
        printed = {}
        if len(names) == len(STAGES):
            psnr = STAGES[count - 1]
            printed = {IXI: Printed(psnr, gain=round(psnr - 34.38, 2))}
        overrides = {**AGI, "model.stages": count}
        cells.append(Cell(f"{count}-{name}", overrides, {}, "0-none", printed=printed))
    return cells


def _convolutions(base: RunConfig, choices: Choices) -> list[Cell]:
    moved = {"misalign": _misaligned(choices, shift=3.0)}
    cells = []
    for suffix, place in (("aligned", ALIGNED), ("shifted", moved)):
        std = f"std-{suffix}"
        plain = {IXI: PLAIN} if suffix == "aligned" else {}
        ours = BEST if suffix == "aligned" else Printed(gain=1.49)
        cells += [
            Cell(std, {**RESUNET, **place}, printed=plain),
            Cell(f"deform-{suffix}", {"model.name": "deform-resunet", **place}, {}, std),
            Cell(f"arc-{suffix}", {"model.name": "arc-resunet", **place}, {}, std, dims=(2,)),
            Cell(f"cagr-{suffix}", {**AGI, **place}, {}, std, printed={IXI: ours}),
        ]
    return cells


# Table 1 (IXI, T1,T2→PD) and table 2 (BraTS, T1,T2→FLAIR): the methods as the paper ran them.
METHODS = {
    "pix2pix": ((34.38, 96.34, 1.01), (24.06, 89.18, 2.37), ""),
    "pgan": ((33.74, 95.33, 1.10), (23.28, 88.08, 2.64), "†"),
    "mmgan": ((33.71, 95.04, 1.12), (23.39, 88.14, 2.54), "†"),
    "medsynth": ((34.25, 95.94, 1.03), (24.00, 89.06, 2.40), "†"),
    "ddpm": ((32.24, 94.77, 1.35), (20.14, 84.97, 4.18), "†"),
    "iddpm": ((32.47, 94.35, 1.28), (21.91, 83.11, 3.22), "†"),
}


def _frameworks(base: RunConfig, choices: Choices) -> list[Cell]:
    train = to_plain(base)["train"]
    tables = {name: table for name, table in train.items() if isinstance(table, dict)}
    critic = tables[train["framework"]]
    cells = []
    for name, table in tables.items():
        swap: dict[str, Any] = {"train.framework": name}
        for key in SCHEDULE:
            if key in critic and key in table:
                swap[f"train.{name}.{key}"] = getattr(base.train.options, key)
        printed: dict[str, Printed] = {}
        if name in METHODS:
            ixi, brats, mark = METHODS[name]
            printed = {IXI: Printed(*ixi, mark=mark), BRATS: Printed(*brats, mark=mark)}
        ours = {IXI: BEST, BRATS: Printed(24.54, 89.80, 2.22, 0.48)} if name == "pix2pix" else {}
        cells.append(Cell(f"{name}-resunet", {**RESUNET, **swap}, printed=printed))
        cells.append(Cell(f"{name}-agi-net", {**AGI, **swap}, {}, f"{name}-resunet", printed=ours))
    return cells


def _misaligned(choices: Choices, **how: float) -> dict[str, Any]:
    return {"source": choices.move, "draw": choices.draw, **how}


def _curve(kind: str, levels: Sequence[float]) -> Callable[[RunConfig, Choices], list[Cell]]:
    """Cells of ResUNet and AGI-Net with ``kind`` of the misalignment at each level."""

    def cells(base: RunConfig, choices: Choices) -> list[Cell]:
        found = []
        for level in levels:
            there = {"misalign": _misaligned(choices, **{kind: level})} if level else ALIGNED
            train, test = (there, {}) if choices.retrain else (ALIGNED, there)
            plain = f"resunet-{level:g}"
            pairs = ((plain, RESUNET, ""), (f"agi-net-{level:g}", AGI, plain))
            for name, model, against in pairs:
                series = name.removesuffix(f"-{level:g}")
                found.append(Cell(name, {**model, **train}, test, against, series, level))
        return found

    return cells


_MOVED = (
    "Only one source is moved, linearly interpolated, by a draw of its own for every case (the "
    "same for all cells and seeds when testing; a fresh one each time a case is read when "
    "training). Whether the paper's shifts were drawn or fixed, and whether its models were "
    "trained with them, is not printed."
)

TABLES: dict[str, Table] = {
    "components": Table(
        "Parts of the CAGR module",
        _components,
        notes=(
            "Paper: table 3, of whose numbers the text gives two; 34.85 is 34.38 + 0.47. It has no "
            "row with attention alone.",
        ),
    ),
    "groups": Table("Groups of channels", _groups, notes=("Paper: table 5.",)),
    "stages": Table(
        "Stages with CAGR, counted from the first",
        _stages,
        notes=("Paper: table 7; printed for three halvings, which makes seven stages.",),
    ),
    "convolutions": Table(
        "Kinds of convolution, aligned and with one source 3 voxels away",
        _convolutions,
        notes=(
            "Paper: table 1, and of table 4 the one number in the text, 1.49 dB (its reference is "
            "presumably the plain convolution). All kinds stand in the same places. ARC is "
            "published in 2-D only.",
            _MOVED,
        ),
    ),
    "frameworks": Table(
        "AGI-Net in place of ResUNet in every framework",
        _frameworks,
        defaults={
            "train.ddpm.sampling_steps": 50,
            "train.ddpm.validation_steps": 5,
            "train.iddpm.sampling_steps": 50,
            "train.iddpm.validation_steps": 5,
        },
        notes=(
            "Paper: tables 1 and 2. † the paper's row for that method, whose generator it does not "
            "name; of the swap itself (table 6) only pix2pix is known.",
            "Weights of the losses are each framework's own; size and start of the critic are the "
            "recipe's. Diffusions are sampled in 50 steps unless --set says otherwise.",
        ),
    ),
    "translation": Table(
        "One source shifted, 0 to 3 voxels",
        _curve("shift", SHIFTS),
        axis="shift of one source (voxels)",
        notes=("Paper: figure 3, whose values are not in the text.", _MOVED),
    ),
    "rotation": Table(
        "One source rotated, 0 to 15 degrees",
        _curve("rotate", ANGLES),
        axis="rotation of one source (degrees)",
        notes=("Not in the paper.", _MOVED),
    ),
    "elastic": Table(
        "One source deformed elastically, 0 to 3 voxels",
        _curve("elastic", SHIFTS),
        axis="elastic displacement of one source (voxels, at the strongest control point)",
        notes=("Not in the paper.", _MOVED),
    ),
}


def find_table(name: str) -> tuple[str, Table]:
    """A shipped table by name, or one from a ``.toml`` file.

    The file has ``title``, ``baseline`` (a cell's name) and a table ``cells`` of settings per cell,
    as in ``[cells.open] model.attn_init = "open"``.

    Returns:
        (short name, table).

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
    settings = {baseline: cells[baseline]} | cells

    def made(base: RunConfig, choices: Choices) -> list[Cell]:
        return [
            Cell(each, flatten(changes), {}, "" if each == baseline else baseline)
            for each, changes in settings.items()
        ]

    notes = tuple(str(note) for note in value.get("notes", ()))
    return path.stem, Table(str(value.get("title", path.stem)), made, notes=notes)
