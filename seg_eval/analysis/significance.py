"""Tests beside the intervals: Wilcoxon's signed ranks by patient, Holm's correction, and
non-inferiority against the real sequence.

A patient enters once, as the mean over its cases and over the segmenter's seeds: neither further
scans of a patient nor further trainings are further patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm, rankdata

from seg_eval.analysis.tables import known_mean
from synth3d.scoring import FEW_CASES, Crossed, Estimate

Alternative = Literal["greater", "two-sided"]

SIGNIFICANT = 0.05
MARGIN = 0.02
"""Mean Dice that may be lost against the real sequence and still be called not inferior."""

EXACT_UP_TO = 200
"""Patients with a difference; above, the normal approximation is as good."""


@dataclass(frozen=True)
class SignedRanks:
    """Outcome of one test of ``n`` patients, of whom ``ties`` did not differ.

    ``clusters`` flip their signs together: as many as patients, where these are independent. The
    statistic is the sum of the ranks of positive differences.
    """

    n: int
    clusters: int
    ties: int
    statistic: float
    p: float


def by_patient(values: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Mean of ``values`` (cases, seeds) over seeds, then over the cases of a patient.

    Patients come in alphabetical order; NaN is left out, and stands for one without any value.
    """
    per_case = known_mean(values, 1)
    owners = np.asarray(patients)
    return np.array([known_mean(per_case[owners == name], 0) for name in np.unique(owners)])


def signed_ranks(
    differences: np.ndarray, alternative: Alternative, clusters: Sequence[str] = ()
) -> SignedRanks:
    """Wilcoxon's signed-rank test of differences that are symmetric about 0 if nothing differs.

    Patients of one of ``clusters`` (patients,), a centre or a fold, are alike: their signs flip
    together (Rosner, Glynn, Lee 2006, without its large numbers: all flips are counted). With k
    clusters no p value is below 2^-k.

    Differences of 0 are ranked with the others and then left out (Pratt 1959), ties share their
    mean rank, and the distribution is counted over all sign flips given those ranks, so the p
    value is exact with ties and zeros too. Above :data:`EXACT_UP_TO` the normal approximation
    with continuity correction takes over. Differences are compared to 12 decimals.
    """
    rounded = np.round(differences, 12)
    differs = rounded != 0
    ranks = rankdata(np.abs(rounded))[differs]
    above = float(ranks[rounded[differs] > 0].sum())
    names = np.asarray(clusters) if len(clusters) else np.arange(len(rounded))
    alike = np.unique(names, return_inverse=True)[1]
    count = len({*alike.tolist()})
    net = np.bincount(alike[differs], ranks * np.sign(rounded[differs]), count)
    sums = np.abs(net[net != 0])
    tails = _exact_tails if len(sums) <= EXACT_UP_TO else _normal_tails
    at_least, at_most = tails(sums, float(net[net > 0].sum()))
    p = at_least if alternative == "greater" else min(1.0, 2 * min(at_least, at_most))
    return SignedRanks(len(rounded), count, int((~differs).sum()), above, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values of one family (Holm 1979), in the order given."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0) if len(p) else scaled
    return adjusted.tolist()


def non_inferiority(
    full: np.ndarray, arm: np.ndarray, crossed: Crossed, margin: float, regions: int = 1
) -> tuple[Estimate, bool | None]:
    """Whether an arm loses less than ``margin`` against the real sequence.

    Scores are (cases, seeds), of the arm also (cases, seeds, replicates).

    Returns:
        Mean of full - arm, whose ``high`` is its one-sided bound, at 95 % for all ``regions``
        together (Bonferroni); and whether that is below the margin. None where it cannot be told:
        with fewer than :data:`FEW_CASES` patients, for these trainings of the segmenter alone, or
        where the margin is in the interval.
    """
    loss = crossed.mean(full, confidence=1 - 2 * SIGNIFICANT / regions, less=arm)
    few = crossed.patients < FEW_CASES or crossed.over == "patients"
    if few or loss.low < margin <= loss.high:
        return loss, None
    return loss, bool(loss.high < margin)


def _exact_tails(ranks: np.ndarray, above: float) -> tuple[float, float]:
    """P(sum >= above) and P(sum <= above), over all signs of ``ranks``."""
    doubled = np.rint(2 * ranks).astype(int)  # mean ranks are halves
    chance = np.zeros(doubled.sum() + 1)
    chance[0] = 1.0
    for rank in doubled:
        flipped = np.zeros_like(chance)
        flipped[rank:] = chance[: len(chance) - rank]
        chance = (chance + flipped) / 2
    at = round(2 * above)
    return min(1.0, float(chance[at:].sum())), min(1.0, float(chance[: at + 1].sum()))


def _normal_tails(ranks: np.ndarray, above: float) -> tuple[float, float]:
    centre, spread = ranks.sum() / 2, np.sqrt((ranks**2).sum()) / 2
    at_least = norm.sf((above - centre - 0.5) / spread)
    return float(at_least), float(norm.cdf((above - centre + 0.5) / spread))
