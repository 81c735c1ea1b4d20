"""Means and ratios of means with intervals, over patients and the trainings that scored them.

An interval holds the values that a test of its level does not refuse. The test of "top is θ times
bottom" looks at the mean of top − θ · bottom:

* its standard error is that of patients crossed with trainings, both drawn at random, with
  Satterthwaite's degrees of freedom; or of patients alone, where the statement is about these
  trainings. What was itself trained several times has its replicates as a third random factor, and
  patients of one centre are alike as far as they are, if centres are known;
* its t value is transformed so that skewness, a few patients who lose much, is taken out (Hall
  1992, "On the removal of skewness by transformation", eq. 2), and then held against Student's; no
  end lies farther out than :data:`FARTHEST` times Student's, since the skewness of six patients is
  hardly known.

For a ratio this is Fieller's interval but for the transformation: unbounded where the denominator
may be 0. Nothing is drawn, so an interval has no seed, and cases, trainings and arms that share
what they share cancel in differences. What it holds is measured by ``scripts/coverage``.
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

FEWEST_CENTRES = 3
"""From so many on centres are drawn at random; fewer are as given."""

FARTHEST = 1.5
"""How far out skewness may move an end, as a multiple of Student's."""

Over = Literal["patients", "trainings", "folds"]
"""What is drawn at random: patients alone, for these trainings; or trainings, too, which score all
patients; or folds, whose trainings score the patients of that fold alone."""


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


def clusters_by_patient(patients: Sequence[str], centres: Sequence[str]) -> dict[str, str]:
    """Where each patient was examined, by name in alphabetical order; in two, ``north+south``.

    Args:
        patients: Of each case.
        centres: Of each case, its centre or its fold.
    """
    found: dict[str, set[str]] = {name: set() for name in sorted({*patients})}
    for name, centre in zip(patients, centres, strict=True):
        found[name].add(centre)
    return {name: "+".join(sorted(where)) for name, where in found.items()}


class Crossed:
    """Patients crossed with trainings, for all arms and scores of an experiment.

    All cases of a patient are one unit. ``trainings`` are how many each case was scored with, of a
    segmenter or a synthesiser; from :data:`FEWEST_TRAININGS` on they are drawn at random, too,
    unless ``over`` says ``patients``. Values may have replicates beside: trainings of what was
    scored, each of them scored with all ``trainings``. The same holds for these. ``centres``, of
    each case or of none, are where its patient was examined; a patient of two is of both together.

    ``over`` ``folds`` is of a cross-validation: ``centres`` are then the folds, and each has
    trainings of its own, which count as their mean. From :data:`FEWEST_CENTRES` folds on these are
    drawn at random with all that was trained for them; below, the statement is about these.

    Raises:
        ValueError: There are no cases or trainings, or other centres than cases.
    """

    def __init__(
        self,
        patients: Sequence[str],
        trainings: int = 1,
        over: Over = "trainings",
        centres: Sequence[str] = (),
    ) -> None:
        if not len(patients) or trainings < 1:
            raise ValueError(f"expected cases and trainings, got {len(patients)} and {trainings}")
        names, owner = np.unique(np.asarray(patients), return_inverse=True)
        self.cases, self.patients, self.trainings = len(owner), len(names), trainings
        self._these = over != "trainings"
        if len(centres) not in (0, len(owner)):
            raise ValueError(f"expected a centre for each case, got {len(centres)}")
        told = [*clusters_by_patient(patients, centres or [""] * len(owner)).values()]
        self._centres = np.unique(told, return_inverse=True)[1]
        enough = trainings >= FEWEST_TRAININGS
        if over == "folds":
            enough = len({*told}) >= FEWEST_CENTRES
        self.over: Over = over if enough else "patients"
        self._member = np.zeros((self.patients, self.cases))
        self._member[owner, np.arange(self.cases)] = 1

    def mean(
        self,
        values: np.ndarray,
        confidence: float = CONFIDENCE,
        less: np.ndarray | None = None,
    ) -> Estimate:
        """Mean of ``values``, less that of ``less``; what is NaN is left out.

        Both are (cases,), (cases, trainings) or (cases, trainings, replicates), each with
        replicates of its own, which are independent of the other's. Numbers of cases that differ
        from patient to patient are taken as given.
        """
        terms = [(first := self._table(values), np.ones_like(first))]
        if less is not None:
            terms.append((-(other := self._table(less)), np.zeros_like(other)))
        return self._estimate(terms, confidence, _of_mean)

    def ratio(
        self, top: np.ndarray, bottom: np.ndarray, confidence: float = CONFIDENCE
    ) -> Estimate:
        """sum(top) / sum(bottom) with its interval, infinite where ``bottom`` may be 0.

        One patient has no interval: its ends are the value itself.

        Both are (cases,), (cases, trainings) or (cases, trainings, replicates); what is NaN in
        either is left out of both.

        Raises:
            ValueError: Other cases or trainings, or the sum of ``bottom`` is 0.
        """
        both = np.broadcast_arrays(self._table(top), self._table(bottom))
        return self._estimate([(both[0], both[1])], confidence, _of_ratio)

    def _estimate(
        self, terms: list[tuple[np.ndarray, np.ndarray]], confidence: float, ends: "Ends"
    ) -> Estimate:
        """Patients, trainings and replicates of which nothing is known are none."""
        sums = self._sums(terms)
        above, below = sums.above, sums.below
        if not below.sum():
            raise ValueError("expected a denominator other than 0")
        value = float(above.sum() / below.sum())
        if len(above) < 2:
            return Estimate(value, value, value)
        error, freedom = sums.error(value)
        size = np.abs(above).max() + abs(value) * np.abs(below).max()
        if error <= 1e-12 * size:
            return Estimate(value, value, value, freedom)
        low, high = ends(value, sums, (1 + confidence) / 2)
        return Estimate(value, low, high, freedom)

    def _sums(self, terms: list[tuple[np.ndarray, np.ndarray]]) -> "_Sums":
        known = [~(np.isnan(top) | np.isnan(bottom)) for top, bottom in terms]
        if len(known) > 1:  # a difference needs the case on both sides, in all replicates
            joint = np.logical_and.reduce([each.all(2) for each in known])[..., None]
            known = [np.broadcast_to(joint, each.shape) for each in known]
        count = self._by_patient(known[0]).sum(2)
        if not count.any():
            raise ValueError("expected a denominator other than 0")
        there = np.ix_(count.any(1), count.any(0))
        fixed = self.over != "trainings" or len(there[1][0]) < FEWEST_TRAININGS
        above, below, apart = [], [], []
        for pair, is_known in zip(terms, known, strict=True):
            own = [self._by_patient(np.where(is_known, each, 0))[there] for each in pair]
            if fixed:
                own = [each.mean(1, keepdims=True) for each in own]
            above.append(own[0].mean(2))
            below.append(own[1].mean(2))
            trained = is_known.any((0, 1))
            if trained.sum() >= FEWEST_TRAININGS and not self._these:
                apart.append((own[0][..., trained], own[1][..., trained]))
        centres = self._centres[there[0][:, 0]]
        return _Sums(np.sum(above, 0), np.sum(below, 0), tuple(apart), centres)

    def _by_patient(self, values: np.ndarray) -> np.ndarray:
        """Sums of (cases, trainings, replicates) over the cases of a patient."""
        return np.tensordot(self._member, values, 1)

    def _table(self, values: np.ndarray) -> np.ndarray:
        """(cases, trainings, replicates)."""
        table = np.asarray(values, float)
        table = table[:, None] if table.ndim == 1 else table
        table = table[..., None] if table.ndim == 2 else table
        if table.ndim != 3 or table.shape[:2] != (self.cases, self.trainings):
            raise ValueError(
                f"expected {self.cases} cases x {self.trainings} trainings, got shape "
                f"{table.shape[:2]}"
            )
        return table


@dataclass(frozen=True)
class _Sums:
    """Sums over the cases of a patient, of what is above and below the bar of a ratio.

    ``above`` and ``below`` are (patients, trainings), means over replicates; ``apart`` has both
    (patients, trainings, replicates) for each side of a difference whose replicates are drawn;
    ``centres`` tells the centre of each patient.
    """

    above: np.ndarray
    below: np.ndarray
    apart: tuple[tuple[np.ndarray, np.ndarray], ...]
    centres: np.ndarray

    def rest(self, theta: float) -> np.ndarray:
        """What is above less ``theta`` times what is below, (patients, trainings)."""
        return self.above - theta * self.below

    def error(self, theta: float) -> tuple[float, float]:
        """Standard error of the mean of :meth:`rest`, and its degrees of freedom."""
        apart = [top - theta * low for top, low in self.apart]
        return standard_error(self.rest(theta), apart, self.centres)


Ends = Callable[[float, _Sums, float], tuple[float, float]]
"""(value, sums, the share that the upper end is asked for)."""


def _of_mean(value: float, sums: _Sums, tail: float) -> tuple[float, float]:
    error, freedom = sums.error(value)
    skewness = skewness_of_mean(sums.rest(value), error)
    quantile = float(stdtrit(freedom, tail))
    most = FARTHEST * quantile
    ends = (np.clip(untransformed(q, skewness), -most, most) for q in (quantile, -quantile))
    low, high = (float(value - t * error / sums.below.mean()) for t in ends)
    return low, high


def _of_ratio(value: float, sums: _Sums, tail: float) -> tuple[float, float]:
    def refused(theta: float) -> float:
        """Above 1 where the test refuses θ as too small, below −1 where as too large."""
        rest = sums.rest(theta)
        error, freedom = sums.error(theta)
        t = float(np.clip(rest.mean() / max(error, 1e-300), -1e9, 1e9))
        without = transformed(t, skewness_of_mean(rest, error))
        bounded = max(without, t / FARTHEST) if t > 0 else min(without, t / FARTHEST)
        return bounded / float(stdtrit(freedom, tail))

    step = sums.error(value)[0] / abs(float(sums.below.mean()))
    sign = 1 if sums.below.mean() > 0 else -1
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


def standard_error(
    values: np.ndarray,
    replicates: Sequence[np.ndarray] = (),
    centres: np.ndarray | None = None,
) -> tuple[float, float]:
    """Standard error of the mean of patients crossed with trainings, and its degrees of freedom.

    Mean squares of the two-way layout with both factors random and one value per cell (Searle,
    Casella, McCulloch 1992, §4.3): the variance of the mean is (MS_patients + MS_trainings -
    MS_rest) / (n s), where patients count for at least what chance, MS_rest, makes of them, and
    trainings for what they are above it, e. Degrees of freedom after Satterthwaite 1946, but e's
    share is e · MS_trainings / (s - 1), which ends with e and not with a jump. ``values`` are
    (patients, trainings), at least two patients.

    Each of ``replicates`` (patients, trainings, replicates) is a further factor: what its mean
    over ``replicates`` has added to ``values``. It counts for what replicates are above chance.
    ``centres`` (patients,) are numbers; of three and more the patients of one are a cluster.
    """
    count, seeds = values.shape
    patients, trainings, chance = mean_squares(values)
    excess, patients = max(trainings - chance, 0.0), max(patients, chance)
    square = patients + excess
    parts = patients**2 / (count - 1) + excess * trainings / max(seeds - 1, 1)
    for each in replicates:
        made = each.shape[2]
        between, above = (part / made for part in replicate_squares(each))
        square, parts = square + above, parts + above * between / (made - 1)
    if centres is not None and FEWEST_CENTRES <= len({*centres.tolist()}) < count:
        above, between = (seeds * part for part in centre_squares(values.mean(1), centres))
        square, parts = square + above, parts + above * between / (len({*centres.tolist()}) - 1)
    return float(np.sqrt(square / values.size)), square**2 / parts if parts > 0 else count - 1.0


def centre_squares(values: np.ndarray, centres: np.ndarray) -> tuple[float, float]:
    """What it adds to the mean square of patients that those of one centre are alike.

    And the same as if chance were nothing.

    Of one value a patient (n,), fewer centres than patients. By the mean squares of the one-way
    layout with unequal numbers m of patients (Searle, Casella, McCulloch 1992, §3.6): the mean of
    patients varies by the variance v between centres times Σ m² / n, of which their mean square has
    v (n - Σ m² / n) / (n - 1) already. Nothing where centres are no farther apart than chance.
    """
    sizes = np.bincount(centres, minlength=centres.max() + 1).astype(float)
    sums = np.bincount(centres, values, minlength=len(sizes))
    sizes, sums = sizes[sizes > 0], sums[sizes > 0]
    total, squares = sizes.sum(), (sizes**2).sum() / sizes.sum()
    between = float((sizes * (sums / sizes - values.mean()) ** 2).sum()) / (len(sizes) - 1)
    within = float((values**2).sum() - (sums**2 / sizes).sum()) / (total - len(sizes))
    share = (squares - (total - squares) / (total - 1)) * (len(sizes) - 1) / (total - squares)
    return float(share * max(between - within, 0.0)), float(share * between)


def replicate_squares(values: np.ndarray) -> tuple[float, float]:
    """Mean square of replicates, and what of it they are above chance, at least 0.

    Of the three-way layout (patients, trainings, replicates) with all factors random and one value
    per cell, at least two patients and replicates: MS_r - MS_pr - MS_sr + MS_psr, whose expectation
    is n s times the variance between replicates (Searle, Casella, McCulloch 1992, §5.2).
    """
    count, seeds, _ = values.shape
    _, between, with_patients = (seeds * each for each in mean_squares(values.mean(1)))
    if seeds == 1:
        return between, max(between - with_patients, 0.0)
    with_trainings = count * mean_squares(values.mean(0))[2]
    averages = [values.mean(axis, keepdims=True) for axis in (0, 1, 2)]
    pairs = [values.mean(axes, keepdims=True) for axes in ((0, 1), (0, 2), (1, 2))]
    rest = values - sum(averages) + sum(pairs) - values.mean()
    freedom = np.prod([size - 1 for size in values.shape])
    chance = float((rest**2).sum()) / float(freedom)
    return between, max(between - with_patients - with_trainings + chance, 0.0)


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
