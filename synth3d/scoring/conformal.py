"""Intervals that hold for new patients, from the errors in others: split conformal prediction.

Voxels of one patient are alike, so they are not exchangeable with those of another; patients are,
as long as the new one comes from where those of the calibration come from. What is guaranteed is
therefore about a new patient: a voxel drawn at random of a patient drawn at random lies in its
interval with at least the probability asked for (hierarchical conformal prediction, Lee, Barber &
Willett 2024; the pooled distribution functions of Dunn, Wasserman & Ramdas 2023). Each patient
weighs the same, however many voxels it has. The rival, a quantile of each patient's own quantile,
promises that nine patients of ten have nine voxels of ten covered, and so covers far more than
nine of ten on average.

A score is |error| / (spread + floor), and an interval reaches its quantile times (spread + floor)
to both sides. A spread that is too small where errors are large would leave the tumour, a few
voxels among many, uncovered; so there is a quantile for each range of the spread, and each of them
keeps the promise by itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def fewest_patients(level: float) -> int:
    """How many patients a finite interval of ``level``, in (0, 1), needs: level ≤ n / (n + 1)."""
    if not 0 < level < 1:
        raise ValueError(f"a level is a share in (0, 1), got {level}")
    return max(1, math.ceil(level / (1 - level) - 1e-9))


def conformal_quantile(scores: Sequence[float] | np.ndarray, level: float) -> float:
    """The ⌈(n + 1) level⌉-th smallest of n scores, one a patient; infinite where there is none.

    A new patient's score is at most that with probability ``level`` at least (Vovk et al. 2005).
    """
    return patientwise_quantile([np.asarray([score]) for score in np.asarray(scores)], level)


def patientwise_quantile(patients: Sequence[np.ndarray], level: float) -> float:
    """The smallest t with Σ_k F_k(t) / (n + 1) ≥ ``level``; infinite where there is none.

    F_k is the distribution function of the scores of patient k; each has one score at the least.

    Args:
        patients: Scores of each patient, a list of any length, finite and of any order.
        level: In (0, 1).

    Raises:
        ValueError: A patient without scores, or a score that is no number.
    """
    if any(not len(scores) for scores in patients):
        raise ValueError("a patient has no score")
    if len(patients) < fewest_patients(level):
        return math.inf
    values = np.concatenate(patients).astype(np.float64)
    if np.isnan(values).any():
        raise ValueError("a score is no number")
    shares = np.concatenate([np.full(len(scores), 1 / len(scores)) for scores in patients])
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(shares[order])
    # Sums of n · (1 / n) are 1 up to rounding: a rank that is reached exactly must count.
    at = int(np.searchsorted(reached, level * (len(patients) + 1) - 1e-9))
    return float(values[order[min(at, len(values) - 1)]])


@dataclass(frozen=True)
class Calibration:
    """How far intervals reach, in shares of the spread.

    Attributes:
        levels: Of the intervals, each in (0, 1).
        floor: Added to each spread: pictures that all agree may all be wrong.
        edges: Where one range of spread + floor ends and the next begins, ascending; none for one.
        quantiles: For each level one for each range, as many as edges and one more.
    """

    levels: tuple[float, ...]
    floor: float
    edges: tuple[float, ...]
    quantiles: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        wide = [len(row) == len(self.edges) + 1 for row in self.quantiles]
        if len(wide) != len(self.levels) or not all(wide):
            raise ValueError("a calibration has one quantile for each level and range of spread")
        if list(self.edges) != sorted({*self.edges}):
            raise ValueError(f"ranges of spread must ascend, got {self.edges}")

    def half_width(self, spread: np.ndarray, level: float) -> np.ndarray:
        """How far the interval of ``level`` reaches to either side: float64, of ``spread``'s shape.

        Raises:
            ValueError: It was calibrated for other levels.
        """
        if level not in self.levels:
            raise ValueError(f"calibrated for {self.levels}, not for {level}")
        row = np.asarray(self.quantiles[self.levels.index(level)])
        wide = np.asarray(spread, np.float64) + self.floor
        return row[np.searchsorted(self.edges, wide, side="right")] * wide


def calibrate(
    errors: Sequence[np.ndarray],
    spreads: Sequence[np.ndarray],
    levels: Sequence[float],
    floor: float,
    ranges: int = 1,
) -> Calibration:
    """The calibration by patients, of whom the errors are known.

    The ranges are such that each has as many voxels, patients alike, and enough patients for the
    highest level; so there may be fewer than asked for. They follow from the spreads alone.

    Args:
        errors: For each patient |real − synthetic| of its voxels, a list of any length.
        spreads: The same voxels' spread, in the same units, not negative.
        levels: As in :class:`Calibration`.
        floor: The same, above 0.
        ranges: How many ranges of spread at the most.

    Raises:
        ValueError: Too few patients for the highest level (:func:`fewest_patients`), or one
            without voxels.
    """
    need = fewest_patients(max(levels))
    if len(errors) < need:
        raise ValueError(f"level {max(levels)} needs {need} patients, got {len(errors)}")
    wide = [np.asarray(spread, np.float64) + floor for spread in spreads]
    scores = [np.asarray(error, np.float64) / w for error, w in zip(errors, wide, strict=True)]
    edges = _edges(wide, ranges, need)
    at = [np.searchsorted(edges, w, side="right") for w in wide]
    parts = [
        [own for s, a in zip(scores, at, strict=True) if len(own := s[a == number])]
        for number in range(len(edges) + 1)
    ]
    rows = (tuple(patientwise_quantile(part, level) for part in parts) for level in levels)
    return Calibration(tuple(levels), floor, edges, tuple(rows))


def covered(error: np.ndarray, half_width: np.ndarray) -> float:
    """The share of voxels whose absolute ``error`` is within ``half_width``; NaN without any."""
    return float(np.mean(error <= half_width)) if np.size(error) else math.nan


def _edges(wide: Sequence[np.ndarray], ranges: int, need: int) -> tuple[float, ...]:
    """Where ranges end: the quantiles of all patients alike that leave ``need`` in each range."""
    values = np.concatenate(wide)
    shares = np.concatenate([np.full(len(w), 1 / len(w)) for w in wide])
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(shares[order]) / len(wide)
    wanted = np.arange(1, ranges) / ranges
    found = np.unique(values[order[np.searchsorted(reached, wanted - 1e-9)]])
    edges = [float(edge) for edge in found if edge > values.min()]

    def patients(low: float, high: float) -> int:
        return sum(bool(((w >= low) & (w < high)).any()) for w in wide)

    kept: list[float] = []
    for edge in edges:
        if patients(kept[-1] if kept else -math.inf, edge) >= need:
            kept.append(edge)
    while kept and patients(kept[-1], math.inf) < need:
        kept.pop()
    return tuple(kept)
