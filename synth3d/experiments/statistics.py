"""Means over cases and seeds, and differences with an interval that knows of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synth3d.scoring import RESAMPLES, PairedBootstrap


@dataclass(frozen=True)
class Level:
    """One score of one cell.

    Attributes:
        mean: Over seeds of the mean over cases.
        sd: Standard deviation (n − 1) of those means over seeds; None for one seed.
    """

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """Cell minus baseline, paired by seed and case.

    Attributes:
        mean: Of all differences.
        low: Lower end of the 95 % interval.
        high: Upper end.
        positive: In how many seeds the mean difference is above 0.
        seeds: Of how many.
    """

    mean: float
    low: float
    high: float
    positive: int
    seeds: int


def level(scores: np.ndarray) -> Level:
    """Of ``scores`` (seeds, cases).

    Raises:
        ValueError: There are none.
    """
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"expected scores (seeds, cases), got {scores.shape}")
    means = scores.mean(1)
    return Level(float(means.mean()), float(means.std(ddof=1)) if len(means) > 1 else None)


def difference(
    scores: np.ndarray,
    baseline: np.ndarray,
    patients: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The paired difference with a bootstrap over patients and seeds.

    As :class:`synth3d.scoring.bootstrap.PairedBootstrap` draws them, each seed of the cell with
    the same
    seed of the baseline: what a seed does to the weights it does to all patients at once. With one
    seed only patients are drawn, and the interval speaks of that pair of runs alone. It is NaN
    where a difference is not finite.

    Args:
        scores: (seeds, cases).
        baseline: (seeds, cases), the same seeds and cases in the same order.
        patients: Of each case.
        resamples: How many draws.
        seed: Of the draws.

    Raises:
        ValueError: Shapes differ, or there is nothing.
    """
    if scores.shape != baseline.shape or scores.ndim != 2 or not scores.size:
        raise ValueError(f"expected equal (seeds, cases), got {scores.shape} and {baseline.shape}")
    gaps = scores - baseline
    seeds = len(gaps)
    positive = int((gaps.mean(1) > 0).sum())
    if not np.isfinite(gaps).all():
        return Difference(float(gaps.mean()), math.nan, math.nan, positive, seeds)
    found = PairedBootstrap(patients, seeds, resamples, seed).mean(gaps.T)
    return Difference(found.value, found.low, found.high, positive, seeds)
