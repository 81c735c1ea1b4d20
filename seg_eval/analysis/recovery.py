"""How much of what is lost with a missing sequence an arm brings back, and how surely.

Pure functions on scores (cases, seeds), of the arm also (cases, seeds, replicates). The recovery is
a ratio of means, not a mean of ratios: per-case losses near zero would explode. It is never
clipped.

Arms of the frozen segmenter share its training of the same seed with ``full`` and the floor, which
is ``zero`` where a sequence is missing and ``degraded`` where it has thick slices. An
arm with a training of its own (specialist, dropout, retrained) has another network under the same
seed number; it is paired by that number all the same, which is right for its uncertainty, since
the differences of independent trainings are independent from one number to the next.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from synth3d.scoring import Crossed, Estimate

SMALLEST_GAP = 0.02
"""A mean loss of Dice below this is no measurable loss: the ratio would be noise."""

NoRatio = Literal["small_gap", "one_patient", "gap_may_be_zero"]
"""Why there is no ratio: the gap is below the smallest; one patient has no interval; the interval
of the gap contains 0."""


@dataclass(frozen=True)
class Recovery:
    """What one arm brings back in one region.

    Attributes:
        arm: Mean score of this arm.
        gap: What the floor costs, ``full - floor``.
        gain: What the arm brings, ``arm - floor``.
        loss: What stays lost, ``full - arm``.
        ratio: ``gain / gap``, or None where it is not defined; may lie outside [0, 1].
        reason: Why the ratio is not defined, else None.
        per_seed: The ratio of each seed alone, None where that seed's gap is too small.
        per_replicate: The ratio of each training of the arm alone, None where there is no gap.
        patients: How many patients they come from.
    """

    arm: float
    gap: Estimate
    gain: Estimate
    loss: Estimate
    ratio: Estimate | None
    reason: NoRatio | None
    per_seed: tuple[float | None, ...]
    per_replicate: tuple[float | None, ...]
    patients: int


def recovery(
    full: np.ndarray,
    floor: np.ndarray,
    arm: np.ndarray,
    crossed: Crossed,
) -> Recovery:
    """(mean arm - mean floor) / (mean full - mean floor) over the same cases and seeds.

    The ratio is given only where there is a loss to win back: the mean gap is at least
    :data:`SMALLEST_GAP` and its 95 % interval lies above 0.

    Args:
        full: (cases, seeds): every sequence real.
        floor: The same, with the sequence blanked or degraded.
        arm: The same, with the sequence replaced by this arm; or (cases, seeds, replicates).
        crossed: These cases and seeds.

    Raises:
        ValueError: Other cases or seeds than those of ``crossed``.
    """
    full, floor, arm = (each[..., None] if each.ndim == 2 else each for each in (full, floor, arm))
    # A difference needs the case in all three, and in every replicate.
    known = np.logical_not(np.isnan(full + floor + arm).any(2))
    gaps, gains, losses = (
        np.where(np.expand_dims(known, 2), difference, np.nan)
        for difference in (full - floor, arm - floor, full - arm)
    )
    gap, gain, loss = (crossed.mean(values) for values in (gaps, gains, losses))
    reason = _why_not(gap, crossed.patients)
    return Recovery(
        arm=float(arm[known].mean()),
        gap=gap,
        gain=gain,
        loss=loss,
        ratio=None if reason else crossed.ratio(gains, gaps),
        reason=reason,
        per_seed=tuple(_one(gains[:, s], gaps[:, s]) for s in range(gains.shape[1])),
        per_replicate=tuple(_one(gains[..., r], gaps[..., 0]) for r in range(gains.shape[2])),
        patients=crossed.patients,
    )


def _one(gains: np.ndarray, gaps: np.ndarray) -> float | None:
    """The ratio of one training alone."""
    lost, won = gaps[~np.isnan(gaps)], gains[~np.isnan(gains)]
    if not len(lost) or lost.mean() < SMALLEST_GAP:
        return None
    return float(won.mean() / lost.mean())


def _why_not(gap: Estimate, patients: int) -> NoRatio | None:
    if gap.value < SMALLEST_GAP:
        return "small_gap"
    if patients < 2:
        return "one_patient"
    return "gap_may_be_zero" if gap.low <= 0 else None
