"""Tables of FGDL (Feng et al. 2024): labels that lie out of place, and sequences that are poor.

The paper's own numbers, and its generator of elastic misalignment, are not at hand.
"""

from typing import Any

from synth3d.data import MisalignConfig, lengths
from synth3d.errors import InputError
from synth3d.experiments.asking import Question
from synth3d.experiments.cell import (
    AGI,
    ALIGNED,
    RESUNET,
    Cell,
    Choices,
    Overrides,
    in_framework,
)
from synth3d.training import RunConfig

STRENGTHS = {"none": 0.0, "low": 2.0, "mid": 4.0, "high": 8.0}
"""Displacements in voxels of the strongest control point of a label's elastic field."""
RATIOS = (2, 4, 8, 16, 32)
PARTS: dict[str, Overrides] = {
    "no-distinction": {"train.fgdl.distinction": "none"},
    "no-modulation": {"train.fgdl.modulate": False},
    "no-alignment": {"train.fgdl.align": "none"},
    "no-critic": {"train.fgdl.adversarial_weight": 0.0},
}
"""What the branch that restores can do without."""


def misaligned_labels(base: RunConfig, choices: Choices) -> list[Cell]:
    """Ways to learn from labels out of place, each trained at every strength."""
    fgdl = {**RESUNET, **in_framework(base, "fgdl")}
    rows: dict[str, tuple[str, Overrides]] = {
        "l1": ("", {**RESUNET, "train.framework": "l1"}),
        "pix2pix": ("l1", {**RESUNET, **in_framework(base, "pix2pix")}),
        "agi-net": ("l1", {**AGI, "train.framework": "l1"}),
        "fgdl-uncorrected": ("l1", {**fgdl, "train.fgdl.correct": False}),
        "fgdl": ("fgdl-uncorrected", fgdl),
    }
    cells = []
    for strength, elastic in STRENGTHS.items():
        place = {"misalign": _astray(choices, elastic)} if elastic else ALIGNED
        for series, (baseline, settings) in rows.items():
            against = f"{baseline}-{strength}" if baseline else ""
            name = f"{series}-{strength}"
            cells.append(Cell(name, {**settings, **place}, {}, against, series, elastic))
    return cells


def strengths_told(base: RunConfig, choices: Choices) -> str:
    """How far the labels of the training lie from their place, for the head of the table."""
    mean, longest = lengths(MisalignConfig(**_astray(choices, 1.0)), base.dim)
    told = [
        f"{name} {by * mean:.1f} and {by * longest:.1f}" for name, by in STRENGTHS.items() if by
    ]
    return (
        f"training labels of {choices.move} displaced by, in voxels on average and at most: "
        f"{', '.join(told)}"
    )


def _astray(choices: Choices, elastic: float) -> dict[str, Any]:
    how = {"draw": choices.draw, "when": "train"}
    return {"source": choices.move, "elastic": elastic, **how}


def restored(base: RunConfig, choices: Choices) -> list[Cell]:
    """The branch that restores, whole and without each part, at every ratio that fits.

    Beside it the generator with the poor sequence as one more input, by L1, for the same steps. And
    last the synthesis alone, which has nothing of the poor sequence.
    """
    if len(base.targets) != 1:
        raise InputError(
            f"this table restores one sequence; give one --target, not {', '.join(base.targets)}"
        )
    (poor,) = base.targets
    others = [name for name in base.sources if name != poor]
    whole = {**RESUNET, **in_framework(base, "fgdl")}
    without = {"targets": [poor], "sources": others, "degrade": {}}
    synthesis = Cell("synthesis-inf", {**whole, **without}, series="synthesis")
    whole |= _own_stage(base)
    cells = []
    fitting = [by for by in RATIOS if by.bit_length() <= len(base.model.widths)]
    for by in fitting:
        ratio = [1, by, by] if base.dim == 2 else [by, 1, 1]
        there = {
            "targets": [poor],
            "sources": [*others, poor],
            "degrade": {"source": poor, "ratio": ratio},
        }
        rows: dict[str, tuple[str, Overrides, Question]] = {
            "linear": ("", {}, Question(way="interpolated")),
            "input": ("linear", {"train.framework": "l1"}, Question()),
            "sr": ("input", {}, Question()),
            **{name: ("sr", changes, Question()) for name, changes in PARTS.items()},
        }
        for series, (baseline, changes, asking) in rows.items():
            against = f"{baseline}-{by}" if baseline else ""
            settings = {**whole, **there, **changes}
            name = f"{series}-{by}"
            cells.append(Cell(name, settings, {}, against, series, by, asking=asking))
    return [*cells, synthesis]


def _own_stage(base: RunConfig) -> Overrides:
    """The critic's start as a share of a stage, where the base has a single one."""
    options = base.train.options
    start = getattr(options, "adversarial_start", 0)
    if not start or base.train.framework == "fgdl":
        return {}
    share = min(base.train.fgdl.pretrain, 1 - base.train.fgdl.pretrain)
    return {"train.fgdl.adversarial_start": round(start * share)}
