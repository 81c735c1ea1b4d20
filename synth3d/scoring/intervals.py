"""Means and ratios of means with intervals, over patients and the trainings that scored them.

An interval holds the values that a test of its level does not refuse. The test of "top is θ times
bottom" looks at the mean of top − θ · bottom:

* its standard error is that of patients crossed with trainings, both drawn at random, with
  Satterthwaite's degrees of freedom; or of patients alone, where the statement is about these
  trainings;
* its t value is transformed so that skewness, a few patients who lose much, is taken out (Hall
  1992, "On the removal of skewness by transformation", eq. 2), and then held against Student's; no
  end lies farther out than :data:`FARTHEST` times Student's, since the skewness of six patients is
  hardly known.

For a ratio this is Fieller's interval but for the transformation: unbounded where the denominator
may be 0. Nothing is drawn, so an interval has no seed, and cases, trainings and arms that share
what they share cancel in differences. What it holds is measured by ``scripts/coverage.py``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

CONFIDENCE = 0.95

FEW_CASES = 15
"""Below this many patients an interval may be too narrow."""

FEWEST_TRAININGS = 3
"""From so many trainings on an interval may speak of trainings that were not made."""

FARTHEST = 1.5
"""How far out skewness may move an end, as a multiple of Student's."""

Over = Literal["patients", "trainings"]
"""What is drawn at random: patients alone, for these trainings; or trainings, too."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval (95 % unless said otherwise).

    ``freedom`` is the degrees of freedom of the Student's quantile that its ends were asked for;
    None where there is no interval, whose ends are then the value itself.
    """

    value: float
    low: float
    high: float
    freedom: float | None = None


class Crossed:
    """Patients crossed with trainings, for all arms and scores of an experiment.

    All cases of a patient are one unit. ``trainings`` are how many each case was scored with, of a
    segmenter or a synthesiser; from :data:`FEWEST_TRAININGS` on they are drawn at random, too,
    unless ``over`` says ``patients``.

    Raises:
        ValueError: There are no cases or trainings.
    """

    def __init__(
        self, patients: Sequence[str], trainings: int = 1, over: Over = "trainings"
    ) -> None:
        if not len(patients) or trainings < 1:
            raise ValueError(f"expected cases and trainings, got {len(patients)} and {trainings}")
        names, owner = np.unique(np.asarray(patients), return_inverse=True)
        self.cases, self.patients, self.trainings = len(owner), len(names), trainings
        self.over: Over = over if trainings >= FEWEST_TRAININGS else "patients"
        self._member = np.zeros((self.patients, self.cases))
        self._member[owner, np.arange(self.cases)] = 1

    def mean(self, values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
        """Mean of ``values`` (cases,) or (cases, trainings); what is NaN is left out.

        Numbers of cases that differ from patient to patient are taken as given.
        """
        table = self._table(values)
        return self._estimate(table, np.where(np.isnan(table), np.nan, 1.0), confidence, _of_mean)

    def ratio(
        self, top: np.ndarray, bottom: np.ndarray, confidence: float = CONFIDENCE
    ) -> Estimate:
        """sum(top) / sum(bottom) with its interval, infinite where ``bottom`` may be 0.

        One patient has no interval: its ends are the value itself.

        Both are (cases,) or (cases, trainings); what is NaN in either is left out of both.

        Raises:
            ValueError: Other cases or trainings, or the sum of ``bottom`` is 0.
        """
        return self._estimate(self._table(top), self._table(bottom), confidence, _of_ratio)

    def _estimate(
        self, top: np.ndarray, bottom: np.ndarray, confidence: float, ends: "Ends"
    ) -> Estimate:
        """Patients and trainings of which nothing is known are none."""
        known = ~(np.isnan(top) | np.isnan(bottom))
        above = self._member @ np.where(known, top, 0)
        below = self._member @ np.where(known, bottom, 0)
        if not below.sum():
            raise ValueError("expected a denominator other than 0")
        value = float(above.sum() / below.sum())
        count = self._member @ known
        there = np.ix_(count.any(1), count.any(0))
        above, below = above[there], below[there]
        if self.over == "patients" or above.shape[1] < FEWEST_TRAININGS:
            above, below = (each.mean(1, keepdims=True) for each in (above, below))
        if len(above) < 2:
            return Estimate(value, value, value)
        error, freedom = standard_error(above - value * below)
        size = np.abs(above).max() + abs(value) * np.abs(below).max()
        if error <= 1e-12 * size:
            return Estimate(value, value, value, freedom)
        low, high = ends(value, above, below, (1 + confidence) / 2)
        return Estimate(value, low, high, freedom)

    def _table(self, values: np.ndarray) -> np.ndarray:
        table = np.asarray(values, float)
        table = table[:, None] if table.ndim == 1 else table
        if table.shape != (self.cases, self.trainings):
            raise ValueError(
                f"expected {self.cases} cases x {self.trainings} trainings, got shape {table.shape}"
            )
        return table


Ends = Callable[[float, np.ndarray, np.ndarray, float], tuple[float, float]]
"""(value, above and below (patients, trainings), the share that the upper end is asked for)."""


def _of_mean(
    value: float, above: np.ndarray, below: np.ndarray, tail: float
) -> tuple[float, float]:
    rest = above - value * below
    error, freedom = standard_error(rest)
    skewness, quantile = skewness_of_mean(rest, error), float(stdtrit(freedom, tail))
    most = FARTHEST * quantile
    ends = (np.clip(untransformed(q, skewness), -most, most) for q in (quantile, -quantile))
    low, high = (float(value - t * error / below.mean()) for t in ends)
    return low, high


def _of_ratio(
    value: float, above: np.ndarray, below: np.ndarray, tail: float
) -> tuple[float, float]:
    def refused(theta: float) -> float:
        """Above 1 where the test refuses θ as too small, below −1 where as too large."""
        rest = above - theta * below
        error, freedom = standard_error(rest)
        t = float(np.clip(rest.mean() / max(error, 1e-300), -1e9, 1e9))
        without = transformed(t, skewness_of_mean(rest, error))
        bounded = max(without, t / FARTHEST) if t > 0 else min(without, t / FARTHEST)
        return bounded / float(stdtrit(freedom, tail))

    step = standard_error(above - value * below)[0] / abs(float(below.mean()))
    sign = 1 if below.mean() > 0 else -1
    low = _end(lambda theta: sign * refused(theta) - 1, value, -step)
    high = _end(lambda theta: -sign * refused(theta) - 1, value, step)
    return low, high


STRIDES = [*np.arange(1, 25) / 4, *(6 * 2.0 ** np.arange(1, 36))]
"""Standard errors at which a test is looked at: it may refuse a value and not one farther out."""


def _end(over: Callable[[float], float], start: float, step: float) -> float:
    """The last place from which on ``over`` is above 0, going by ``step``; infinite if none is."""
    places = [start, *(start + step * far for far in STRIDES)]
    inside = [i for i, theta in enumerate(places) if i == 0 or over(theta) <= 0][-1]
    if inside == len(places) - 1:
        return float(np.copysign(np.inf, step))
    found: Any = brentq(over, places[inside], places[inside + 1], xtol=abs(step) * 1e-7)
    return float(found)


def skewness_of_mean(values: np.ndarray, error: float) -> float:
    """Third central moment of the mean over its cubed standard error; (patients, trainings)."""
    by_patient = values.mean(1) - values.mean()
    return float((by_patient**3).sum()) / len(by_patient) ** 3 / max(error, 1e-100) ** 3


def transformed(t: float, skewness: float) -> float:
    """Hall's transformation of a t value: monotone, and without skewness to the order 1 / n."""
    return t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6


def untransformed(value: float, skewness: float) -> float:
    """The t whose transformation is ``value``."""
    if abs(skewness) < 1e-6:
        return value
    return 3 / skewness * (np.cbrt(1 + skewness * (value - skewness / 6)) - 1)


def standard_error(values: np.ndarray) -> tuple[float, float]:
    """Standard error of the mean of patients crossed with trainings, and its degrees of freedom.

    Mean squares of the two-way layout with both factors random and one value per cell (Searle,
    Casella, McCulloch 1992, §4.3): the variance of the mean is (MS_patients + MS_trainings -
    MS_rest) / (n s), where patients count for at least what chance, MS_rest, makes of them, and
    trainings for what they are above it, e. Degrees of freedom after Satterthwaite 1946, but e's
    share is e · MS_trainings / (s - 1), which ends with e and not with a jump. ``values`` are
    (patients, trainings), at least two patients.
    """
    count, seeds = values.shape
    patients, trainings, chance = mean_squares(values)
    excess, patients = max(trainings - chance, 0.0), max(patients, chance)
    square = patients + excess
    parts = patients**2 / (count - 1) + excess * trainings / max(seeds - 1, 1)
    return float(np.sqrt(square / values.size)), square**2 / parts if parts > 0 else count - 1.0


def mean_squares(values: np.ndarray) -> tuple[float, float, float]:
    """Of patients, of trainings and of the rest, of the two-way layout (patients, trainings).

    At least two patients; with one training the last two are 0.
    """
    count, seeds = values.shape
    by_patient, by_seed, centre = values.mean(1), values.mean(0), values.mean()
    patients = seeds * float(((by_patient - centre) ** 2).sum()) / (count - 1)
    if seeds == 1:
        return patients, 0.0, 0.0
    trainings = count * float(((by_seed - centre) ** 2).sum()) / (seeds - 1)
    rest = values - by_patient[:, None] - by_seed + centre
    return patients, trainings, float((rest**2).sum()) / ((count - 1) * (seeds - 1))
