"""Means and ratios of means with intervals from a bootstrap over patients and seeds of trainings.

Each draw takes patients with replacement and seeds with replacement, and the same draws serve
every arm and score of an experiment, so whatever cases, trainings or arms share cancels in
differences. A plain percentile interval is too narrow for few patients and few seeds, and lags
behind where a few patients lose much. So its percentiles are moved:

* outwards, as in the expanded percentile interval (Hesterberg 2015, "What teachers should know
  about the bootstrap", §5.3): the factor is the unbiased standard error of patients crossed with
  seeds over the bootstrap's own spread, the quantile Student's with Satterthwaite's degrees of
  freedom. With one seed these are sqrt(n / (n - 1)) and n - 1;
* towards the long tail, by the acceleration a of BCa (Efron 1987), a sixth of the estimate's
  skewness, taken for the bias constant z0 too, which it equals for a mean.

The ends stay values that were drawn, so the recovery of ``full`` is exactly 1 and of ``zero`` 0.
What this brings is measured in ``tests/seg_eval/test_coverage.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

CONFIDENCE = 0.95

RESAMPLES = 10_000

FEW_CASES = 15
"""Below this many cases an interval is still too narrow."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval (95 % unless said otherwise)."""

    value: float
    low: float
    high: float


class PairedBootstrap:
    """One set of draws for all arms and scores of an experiment.

    All cases of a patient are drawn together; seeds are how many trainings each case was scored
    with, of a segmenter or a synthesiser.
    """

    def __init__(
        self, patients: Sequence[str], seeds: int = 1, resamples: int = RESAMPLES, seed: int = 0
    ) -> None:
        if not len(patients) or seeds < 1:
            raise ValueError(f"expected cases and seeds, got {len(patients)} and {seeds}")
        names, owner = np.unique(np.asarray(patients), return_inverse=True)
        self.cases, self.patients, self.seeds = len(owner), len(names), seeds
        self._member = np.zeros((self.patients, self.cases))
        self._member[owner, np.arange(self.cases)] = 1
        generator = np.random.default_rng(seed)
        even = np.full(self.patients, 1 / self.patients)
        self._patient_draws = generator.multinomial(self.patients, even, resamples).astype(float)
        seed_draws = generator.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
        self._seed_draws = seed_draws.astype(float)

    def mean(self, values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
        """Mean of ``values`` (cases,) or (cases, seeds), without NaN; else as :meth:`ratio`."""
        table = self._table(values)
        return self.ratio(table, np.where(np.isnan(table), np.nan, 1.0), confidence)

    def ratio(
        self, top: np.ndarray, bottom: np.ndarray, confidence: float = CONFIDENCE
    ) -> Estimate:
        """sum(top) / sum(bottom) with its interval.

        A draw in which ``bottom`` does not come out above 0 counts as unboundedly good or bad,
        never as missing. One patient and one seed have no interval: its ends are the value itself.

        Both are (cases,) or (cases, seeds); what is NaN in either is left out of both.

        Raises:
            ValueError: Other cases or seeds than were drawn, or the sum of ``bottom`` is 0.
        """
        numerator, denominator = self._table(top), self._table(bottom)
        known = ~(np.isnan(numerator) | np.isnan(denominator))
        above = self._member @ np.where(known, numerator, 0)
        below = self._member @ np.where(known, denominator, 0)
        if not below.sum():
            raise ValueError("expected a denominator other than 0")
        value = float(above.sum() / below.sum())
        drawn_above, drawn_below = self._draw(above), self._draw(below)
        endless = np.where(drawn_above >= 0, np.inf, -np.inf)
        drawn = np.divide(drawn_above, drawn_below, out=endless, where=drawn_below > 0)
        influence = (above - value * below) / below.mean()
        spread = float(np.std(drawn_above - value * drawn_below) / below.mean())
        ends = quantiles(influence, spread, confidence)
        low, high = np.quantile(drawn, ends, method="closest_observation")
        return Estimate(value, float(low), float(high))

    def _table(self, values: np.ndarray) -> np.ndarray:
        table = np.asarray(values, float)
        table = table[:, None] if table.ndim == 1 else table
        if table.shape != (self.cases, self.seeds):
            raise ValueError(
                f"expected {self.cases} cases x {self.seeds} seeds, got shape {table.shape}"
            )
        return table

    def _draw(self, totals: np.ndarray) -> np.ndarray:
        """(patients, seeds) -> (resamples,): the mean over patients and seeds of each draw."""
        by_seed = self._patient_draws @ totals
        return (by_seed * self._seed_draws).sum(1) / (self.patients * self.seeds)


def quantiles(influence: np.ndarray, spread: float, confidence: float) -> np.ndarray:
    """Which quantiles of the draws are the ends of the interval, as shares of 1.

    ``influence`` (patients, seeds) is what each adds to the estimate, around 0, and ``spread`` the
    standard deviation of the draws, to first order.
    """
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if len(influence) < 2 or spread <= 1e-12 * (1 + np.abs(influence).max()):
        return tails
    error, freedom = standard_error(influence)
    wide = stdtrit(freedom, tails) * error / spread
    third_moment = float((influence.mean(1) ** 3).sum()) / len(influence) ** 3
    acceleration = third_moment / (6 * error**3)
    shifted = acceleration + wide
    return ndtr(acceleration + shifted / np.maximum(1 - acceleration * shifted, 0.05))


def standard_error(values: np.ndarray) -> tuple[float, float]:
    """Standard error of the mean of patients crossed with seeds, and its degrees of freedom.

    Mean squares of the two-way layout with both factors random and one value per cell (Searle,
    Casella, McCulloch 1992, §4.3): the variance of the mean is (MS_patients + MS_seeds -
    MS_rest) / (n s). Where seeds differ no more than chance makes them, their part is left out,
    and patients count for at least what chance gives them. Degrees of freedom after
    Satterthwaite 1946. ``values`` are (patients, seeds), at least two patients.
    """
    count, seeds = values.shape
    by_patient, by_seed, centre = values.mean(1), values.mean(0), values.mean()
    patients = seeds * float(((by_patient - centre) ** 2).sum()) / (count - 1)
    cells = count * seeds
    if seeds > 1:
        trainings = count * float(((by_seed - centre) ** 2).sum()) / (seeds - 1)
        rest = values - by_patient[:, None] - by_seed + centre
        chance = float((rest**2).sum()) / ((count - 1) * (seeds - 1))
        if trainings > chance:
            square = patients + trainings - chance
            parts = patients**2 / (count - 1) + trainings**2 / (seeds - 1)
            parts += chance**2 / ((count - 1) * (seeds - 1))
            return float(np.sqrt(square / cells)), square**2 / parts
        patients = max(patients, chance)  # what is expected of it even if patients are all alike
    return float(np.sqrt(patients / cells)), count - 1.0
