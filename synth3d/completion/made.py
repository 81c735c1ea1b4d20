"""What a maker makes of one sequence of a case."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synth3d.images import Scale

if TYPE_CHECKING:
    from synth3d.inference import RoutedGroup


@dataclass(frozen=True)
class Members:
    """Of which pictures of a run the mean is taken: of every draw each mirror image.

    Attributes:
        seed: Decides all randomness; the same seed gives the same picture.
        draws: How many a random run draws, of seeds that follow from ``seed``.
        mirror: One of :data:`synth3d.images.MIRRORS`, or empty for the case as it is.
        uncertain: Whether the error that a run itself expects counts in the spread, as well.
    """

    seed: int = 0
    draws: int = 1
    mirror: str = ""
    uncertain: bool = False

    @property
    def seeds(self) -> list[int]:
        """One for each draw."""
        more = np.random.SeedSequence(self.seed).generate_state(self.draws - 1)
        return [self.seed, *map(int, more)]


@dataclass(frozen=True, eq=False)
class Pictures:
    """One sequence of one case as a run made it, every picture by itself.

    Attributes:
        volumes: (D, H, W) float32 in scanner units, one at least.
        scale: What the network's 0 and 1 became in all of them.
        scale_from: As :class:`Made` has it; and
        restored: likewise.
        brain: (D, H, W) bool, where something was made.
        deviation: (D, H, W) float32 standard deviation of the error that the run itself expects, in
            scanner units; None where it says nothing of it, or was not asked.
    """

    volumes: Sequence[np.ndarray]
    scale: Scale
    scale_from: str
    restored: Mapping[str, Any] = field(default_factory=dict)
    brain: np.ndarray | None = None
    deviation: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Made:
    """One sequence that a maker made of one case, on the case's own grid (D, H, W) = (z, y, x).

    Attributes:
        data: float32 in scanner units, the background outside the brain; the mean of several
            draws, mirror images and runs.
        like: The file, a sibling's, whose header and type it borrows.
        scale: What the network's 0 and 1 became; of several runs the mean.
        scale_from: ``training`` (the run's prior), ``siblings``, ``real``, or ``own`` where a poor
            picture of the sequence was restored.
        synthetic: False where the picture is a real one that was sent through.
        spread: float32 standard deviation over these pictures in scanner units, and of the errors
            that runs expect themselves; None for one without.
        interval: float32 half-width of the calibrated interval in scanner units; None without one.
        brain: bool, where something was made; None of a real picture.
        maps: Maps that explain it by name, float32 in the network's scale, never negative.
        routing: What steered the network in this case, the same for all that was made of it.
        restored: How thick the slices of the poor picture are, and for what the run was trained,
            plain values for the receipt; empty where there was none.
    """

    data: np.ndarray
    like: Path
    scale: Scale
    scale_from: str
    synthetic: bool = True
    spread: np.ndarray | None = None
    interval: np.ndarray | None = None
    brain: np.ndarray | None = None
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    routing: "Sequence[RoutedGroup]" = ()
    restored: Mapping[str, Any] = field(default_factory=dict)
