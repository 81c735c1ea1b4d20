"""How much of the Dice lost with a missing sequence an arm brings back, and how surely.

Pure functions on per-case scores. The recovery is a ratio of means, not a mean of ratios:
per-case losses near zero would explode. Its interval is a bootstrap over patients in which
all arms are resampled together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synth3d.bootstrap import RESAMPLES, interval, resampled_means

SMALLEST_GAP = 0.02
"""A mean loss below this is no measurable loss: the ratio would be noise."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Recovery:
    """What one arm brings back in one region.

    Attributes:
        full: Mean Dice with every sequence real.
        zero: Mean Dice with the sequence blanked.
        arm: Mean Dice of this arm.
        gap: ``full - zero``.
        gain: ``arm - zero``.
        ratio: ``gain / gap``, or None where it is not defined; may lie outside [0, 1].
        reason: Why the ratio is not defined, else "".
        cases: How many cases were averaged.
        patients: How many patients they come from.
    """

    full: float
    zero: float
    arm: float
    gap: Estimate
    gain: Estimate
    ratio: Estimate | None
    reason: str
    cases: int
    patients: int


def recovery(
    full: Sequence[float],
    zero: Sequence[float],
    arm: Sequence[float],
    patients: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Recovery:
    """(mean arm - mean zero) / (mean full - mean zero) with a paired patient bootstrap.

    The ratio is given only where there is a loss to win back: the mean gap is at least
    :data:`SMALLEST_GAP` and its 95 % interval lies above 0.

    Args:
        full: Dice per case, every sequence real.
        zero: The same cases and segmenter, the sequence blanked.
        arm: The same cases and segmenter, the sequence replaced by this arm.
        patients: Patient of each case.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Raises:
        ValueError: No cases, or the lengths differ.
    """
    columns = np.column_stack([full, zero, arm]).astype(float)
    drawn = resampled_means(columns, patients, resamples, seed)
    ceiling, floor, mean = columns.mean(0).tolist()
    gaps, gains = drawn[:, 0] - drawn[:, 1], drawn[:, 2] - drawn[:, 1]
    gap, gain = _estimate(ceiling - floor, gaps), _estimate(mean - floor, gains)
    reason = _why_not(gap)
    ratio = None if reason else _estimate(gain.value / gap.value, _ratios(gains, gaps))
    counts = {"cases": len(columns), "patients": len(set(patients))}
    return Recovery(ceiling, floor, mean, gap, gain, ratio, reason, **counts)


def difference(
    first: Sequence[float],
    second: Sequence[float],
    patients: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean of ``first - second`` over paired cases, with its bootstrap interval.

    Raises:
        ValueError: No cases, or the lengths differ.
    """
    columns = np.column_stack([first, second]).astype(float)
    drawn = resampled_means(columns, patients, resamples, seed)
    return _estimate(float(np.mean(columns[:, 0] - columns[:, 1])), drawn[:, 0] - drawn[:, 1])


def _why_not(gap: Estimate) -> str:
    if gap.value < SMALLEST_GAP:
        return f"no measurable loss: the gap {gap.value:.3f} is below {SMALLEST_GAP}"
    if gap.low <= 0:
        return f"no measurable loss: the gap's interval [{gap.low:.3f}, {gap.high:.3f}] contains 0"
    return ""


def _ratios(gains: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """gains / gaps; a draw without a gap counts as unboundedly good or bad, never as missing."""
    endless = np.where(gains >= 0, np.inf, -np.inf)
    return np.divide(gains, gaps, out=endless, where=gaps > 0)


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    return Estimate(float(value), *interval(drawn))
