"""A row of a table of experiments: what it is, and the settings that many have."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from synth3d.cohort import Modality
from synth3d.experiments.asking import Question
from synth3d.settings import to_plain
from synth3d.training import RunConfig

Overrides = Mapping[str, Any]

RESUNET: Overrides = {"model.name": "resunet"}
AGI: Overrides = {"model.name": "agi-net", "model.module": "cagr"}
ALIGNED: Overrides = {"misalign": {}}

SCHEDULE = ("adversarial_start", "critic_width", "critic_layers")
"""What a framework swap keeps of the base's critic; the weights of the losses are each paper's."""


@dataclass(frozen=True)
class Printed:
    """What the paper prints, in its own units; ``gain`` is PSNR − baseline.

    ``above`` and ``below`` are the PSNR where TSEM exceeds its 99th percentile, and elsewhere.
    ``mark`` is ``≈`` for a number that only follows from others in the text, ``†`` for one whose
    generator the paper does not name.
    """

    psnr: float | None = None
    ssim: float | None = None
    mae: float | None = None
    lpips: float | None = None
    above: float | None = None
    below: float | None = None
    gain: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Cell:
    """One row of a table: ``overrides`` (dotted setting → value) over the base configuration.

    ``testing`` lies on top when the finished run is tested. ``against`` is the cell it is compared
    with, empty for a baseline. On a curve it is a point of the line ``series`` at ``level``.
    ``printed`` is task → what the paper prints; ``dims`` is where the cell exists; ``asking`` is
    how the finished run is asked.
    """

    name: str
    overrides: Overrides
    testing: Overrides = field(default_factory=dict)
    against: str = ""
    series: str = ""
    level: float = 0.0
    printed: Mapping[str, Printed] = field(default_factory=dict)
    dims: tuple[int, ...] = (2, 3)
    asking: Question = field(default_factory=Question)


@dataclass(frozen=True)
class Choices:
    """What the user chooses about misalignment: which sequence is moved, and how it is drawn.

    ``retrain``: a curve trains each level (train-and-test) instead of only testing it.
    """

    move: Modality
    draw: str = "fixed_magnitude"
    retrain: bool = False


Maker = Callable[[RunConfig, Choices], Sequence[Cell]]
"""Makes the cells of a table for a base configuration."""


def in_framework(base: RunConfig, name: str) -> Overrides:
    """The framework ``name`` with its own losses and as large and late a critic as the base's."""
    tables = to_plain(base)["train"]
    own, known = tables[name], tables[base.train.framework]
    swap: dict[str, Any] = {"train.framework": name}
    for key in SCHEDULE:
        if key in known and key in own:
            swap[f"train.{name}.{key}"] = getattr(base.train.options, key)
    return swap
