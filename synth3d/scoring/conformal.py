"""Intervals that hold for new patients, from the errors in others: split conformal prediction.

Voxels of one patient are alike, so they are not exchangeable with those of another; patients are,
as long as the new one comes from where those of the calibration come from. What is guaranteed is
therefore about a new patient: a voxel drawn at random of a patient drawn at random lies in its
interval with at least the probability asked for (hierarchical conformal prediction, Lee, Barber &
Willett 2024; the pooled distribution functions of Dunn, Wasserman & Ramdas 2023). Each patient
weighs the same, however many voxels it has. The rival, a quantile of each patient's own quantile,
promises that nine patients of ten have nine voxels of ten covered, and so covers far more than
nine of ten on average.

A score is |error| / (spread + floor) ^ power, and an interval reaches its quantile times that power
of the spread to both sides. A spread that is too small where errors are large would leave the
tumour, a few voxels among many, uncovered, and the promise would hold all the same. So the power
is the one, of a dozen, by which the tumours of these patients are covered as their brains are: 0
for intervals of one width, 1 for those in proportion to the spread, 2 where that is too timid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POWERS = tuple(float(power) for power in np.arange(0, 3.01, 0.25))
"""Of the spread, from which that of a calibration is chosen."""


def fewest_patients(level: float) -> int:
    """How many patients a finite interval of ``level``, in (0, 1), needs: level ≤ n / (n + 1)."""
    if not 0 < level < 1:
        raise ValueError(f"a level is a share in (0, 1), got {level}")
    return max(1, math.ceil(level / (1 - level) - 1e-9))


def conformal_quantile(scores: Sequence[float] | np.ndarray, level: float) -> float:
    """The ⌈(n + 1) level⌉-th smallest of n scores, one a patient; infinite where there is none.

    A new patient's score is at most that with probability ``level`` at least (Vovk et al. 2005).
    """
    return patientwise_quantiles([np.asarray([s]) for s in np.asarray(scores)], [level])[0]


def patientwise_quantiles(
    patients: Sequence[np.ndarray], levels: Sequence[float]
) -> tuple[float, ...]:
    """For each level the smallest t with Σ_k F_k(t) / (n + 1) ≥ level; infinite without one.

    F_k is the distribution function of the scores of patient k; each has one score at the least.

    Args:
        patients: Scores of each patient, a list of any length, finite and of any order.
        levels: In (0, 1).

    Raises:
        ValueError: A patient without scores, or a score that is no number.
    """
    if any(not len(scores) for scores in patients):
        raise ValueError("a patient has no score")
    values = np.concatenate([np.zeros(0), *patients]).astype(np.float64)
    if np.isnan(values).any():
        raise ValueError("a score is no number")
    shares = np.concatenate([np.zeros(0), *(np.full(len(s), 1 / len(s)) for s in patients)])
    order = np.argsort(values, kind="stable")
    reached, found = np.cumsum(shares[order]), []
    for level in levels:
        if len(patients) < fewest_patients(level):
            found.append(math.inf)
            continue
        # Sums of n · (1 / n) are 1 up to rounding: a rank that is reached exactly must count.
        at = int(np.searchsorted(reached, level * (len(patients) + 1) - 1e-9))
        found.append(float(values[order[min(at, len(values) - 1)]]))
    return tuple(found)


@dataclass(frozen=True)
class Calibration:
    """How far intervals reach, by the spread.

    Attributes:
        levels: Of the intervals, each in (0, 1).
        floor: Above 0, added to each spread: pictures that all agree may all be wrong.
        powers: Of spread + floor, one for each level, not negative.
        quantiles: Of the scores, one for each level.
    """

    levels: tuple[float, ...]
    floor: float
    powers: tuple[float, ...]
    quantiles: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.levels) == len(self.powers) == len(self.quantiles):
            raise ValueError("a calibration has one power and one quantile for each level")
        if not self.floor > 0 or min(self.powers, default=0) < 0:
            raise ValueError("a calibration has a floor above 0 and no negative power")

    def half_width(self, spread: np.ndarray, level: float) -> np.ndarray:
        """How far the interval of ``level`` reaches to either side: float64, of ``spread``'s shape.

        Raises:
            ValueError: It was calibrated for other levels.
        """
        if level not in self.levels:
            raise ValueError(f"calibrated for {self.levels}, not for {level}")
        at = self.levels.index(level)
        wide = np.asarray(spread, np.float64) + self.floor
        return self.quantiles[at] * wide ** self.powers[at]


def calibrate(
    errors: Sequence[np.ndarray],
    spreads: Sequence[np.ndarray],
    levels: Sequence[float],
    floor: float,
    tumours: Sequence[np.ndarray] = (),
) -> Calibration:
    """The calibration by patients, of whom the errors are known.

    The power is chosen on the same patients, one number for each level: so the promise holds up
    to what that number can follow of chance.

    Args:
        errors: For each patient |real − synthetic| of its voxels, a list of any length.
        spreads: The same voxels' spread, in the same units, not negative.
        levels: As in :class:`Calibration`.
        floor: The same.
        tumours: Which of these voxels are tumour, bool; some patients may have none. Where nobody
            has any, intervals are in proportion to the spread.

    Raises:
        ValueError: Too few patients for the highest level (:func:`fewest_patients`), or one
            without voxels.
    """
    need = fewest_patients(max(levels))
    if len(errors) < need:
        raise ValueError(f"level {max(levels)} needs {need} patients, got {len(errors)}")
    ill = [(e[t], s[t]) for e, s, t in zip(errors, spreads, tumours or (), strict=False) if t.any()]
    found = {}
    for power in POWERS if ill else (1.0,):
        scores = [e / (s + floor) ** power for e, s in zip(errors, spreads, strict=True)]
        quantiles = patientwise_quantiles(scores, levels)
        for level, quantile in zip(levels, quantiles, strict=True):
            shares = [covered(e, quantile * (s + floor) ** power) for e, s in ill]
            off = abs(float(np.mean(shares)) - level) if shares else 0.0
            found.setdefault(level, []).append((off, abs(power - 1), power, quantile))
    best = [min(found[level]) for level in levels]
    return Calibration(
        tuple(levels), floor, tuple(one[2] for one in best), tuple(one[3] for one in best)
    )


def covered(error: np.ndarray, half_width: np.ndarray) -> float:
    """The share of voxels whose absolute ``error`` is within ``half_width``; NaN without any."""
    return float(np.mean(error <= half_width)) if np.size(error) else math.nan
