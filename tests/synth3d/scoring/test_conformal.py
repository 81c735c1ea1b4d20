"""Split conformal prediction over patients: worked examples, laws, coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth3d.scoring.conformal import (
    Calibration,
    calibrate,
    conformal_quantile,
    covered,
    fewest_patients,
    patientwise_quantiles,
)

LEVELS = (0.8, 0.9)


def patientwise_quantile(patients, level):
    return patientwise_quantiles(patients, [level])[0]


numbers = st.floats(0, 1e6, allow_nan=False, width=32)
cohorts = st.lists(st.lists(numbers, min_size=1, max_size=6), min_size=1, max_size=14)


@pytest.mark.parametrize(
    ("level", "expected"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99), (0.01, 1)]
)
def test_how_many_patients_a_level_needs(level, expected):
    assert fewest_patients(level) == expected
    scores = np.arange(expected, dtype=float)
    assert conformal_quantile(scores, level) == pytest.approx(
        scores[math.ceil((expected + 1) * level - 1e-9) - 1]
    )
    assert conformal_quantile(scores[1:], level) == math.inf


def test_the_quantile_by_hand():
    """Of nine patients at 0.8 the eighth smallest; at 0.9 the largest."""
    scores = [5, 1, 9, 3, 7, 2, 8, 4, 6]
    assert conformal_quantile(scores, 0.8) == 8
    assert conformal_quantile(scores, 0.9) == 9


def test_each_patient_weighs_the_same():
    """Three of four patients have small scores, the fourth a thousand large ones.

    Of the weight 1/5 each the small ones make 3/5, so 0.6 is reached by them and 0.61 is not.
    """
    patients = [np.ones(1), np.ones(3), np.full(2, 2.0), np.full(1000, 7.0)]
    assert patientwise_quantile(patients, 0.4) == 1
    assert patientwise_quantile(patients, 0.6) == 2
    assert patientwise_quantile(patients, 0.61) == 7
    assert patientwise_quantile(patients, 0.8) == 7
    assert patientwise_quantile(patients, 0.81) == math.inf


@given(cohorts, st.floats(0.05, 0.95))
def test_it_is_the_smallest_score_that_reaches_the_level(lists, level):
    patients = [np.asarray(each) for each in lists]
    found = patientwise_quantile(patients, level)

    def reached(limit):
        return sum(np.mean(scores <= limit) for scores in patients) / (len(patients) + 1)

    if math.isinf(found):
        assert len(patients) / (len(patients) + 1) < level
        return
    assert found in np.concatenate(patients)
    assert reached(found) >= level - 1e-9
    assert reached(np.nextafter(found, -1)) < level + 1e-9


@given(cohorts, st.randoms())
def test_neither_order_nor_repetition_of_voxels_matters(lists, random):
    patients = [np.asarray(each) for each in lists]
    mixed = [np.asarray(random.sample(each, len(each)) * 2) for each in lists]
    random.shuffle(mixed)
    assert patientwise_quantile(mixed, 0.7) == patientwise_quantile(patients, 0.7)


@given(cohorts)
def test_a_higher_level_reaches_at_least_as_far(lists):
    patients = [np.asarray(each) for each in lists]
    found = [patientwise_quantile(patients, level) for level in (0.5, 0.8, 0.9)]
    assert found == sorted(found)


@given(st.lists(st.lists(numbers, min_size=1, max_size=5), min_size=9, max_size=12),
       st.floats(0.1, 1000))  # fmt: skip
def test_units_do_not_matter(lists, factor):
    """Errors, spreads and floor in other units give intervals that reach as far."""
    spreads = [np.asarray(each) for each in lists]
    errors = [spread[::-1] + 1 for spread in spreads]
    plain = calibrate(errors, spreads, LEVELS, 0.5)
    scaled = calibrate(
        [e * factor for e in errors], [s * factor for s in spreads], LEVELS, 0.5 * factor
    )
    for level in LEVELS:
        wide = plain.half_width(spreads[0], level)
        np.testing.assert_allclose(
            scaled.half_width(spreads[0] * factor, level), factor * wide, rtol=1e-6
        )


@pytest.mark.parametrize("ill", [0.0, 0.2])
def test_new_patients_are_covered_as_promised(ill):
    """Patients differ in how wrong their pictures are, and voxels of one patient are alike.

    200 repetitions of 19 + 1 patients: the share of covered voxels is the level, up to one part in
    n + 1 above it, and three standard errors.
    """
    draws = np.random.default_rng(0)
    shares = {level: [] for level in LEVELS}
    for _ in range(200):
        spreads = [draws.gamma(2, 1, draws.integers(5, 60)) for _ in range(20)]
        errors = [np.abs(draws.laplace(0, draws.gamma(3, 0.5), s.shape)) * s for s in spreads]
        tumours = [draws.random(s.shape) < ill for s in spreads]
        found = calibrate(errors[1:], spreads[1:], LEVELS, 0.01, tumours[1:])
        for level in LEVELS:
            shares[level].append(covered(errors[0], found.half_width(spreads[0], level)))
    for level, values in shares.items():
        slack = 3 * np.std(values) / np.sqrt(len(values))
        assert level - slack <= np.mean(values) <= level + 1 / 20 + slack


def test_the_tumour_is_covered_as_the_brain_is():
    """A twentieth of the voxels are tumour with twice the spread and four times the error.

    In proportion to the spread intervals leave much of it out; by its square they do not. The same
    the other way round, where the spread is too large there.
    """
    draws = np.random.default_rng(1)
    for times, power in ((4, 2), (1, 0), (2, 1)):
        cases = []
        for _ in range(120):
            tumour = draws.random(400) < 0.05
            spread = np.where(tumour, 2.0, 1.0)
            error = np.abs(draws.normal(0, np.where(tumour, times, 1.0)))
            cases.append((error, spread, tumour))
        errors, spreads, tumours = zip(*cases[:60], strict=True)
        shares = {}
        for told in (tumours, ()):
            found = calibrate(errors, spreads, LEVELS, 0.01, told)
            assert found.powers == (pytest.approx((power, power), abs=0.25) if told else (1, 1))
            wide = [(e, found.half_width(s, 0.9), t) for e, s, t in cases[60:]]
            shares[bool(told)] = [
                np.mean([covered(e, w) for e, w, _ in wide]),
                np.mean([covered(e[t], w[t]) for e, w, t in wide]),
            ]
        assert shares[True] == pytest.approx([0.9, 0.9], abs=0.03)
        if times == 4:
            assert shares[False][1] < 0.7


def test_what_cannot_be_calibrated_is_refused():
    spreads = [np.ones(3)] * 8
    with pytest.raises(ValueError, match=r"level 0.9 needs 9 patients, got 8"):
        calibrate(spreads, spreads, LEVELS, 0.1)
    with pytest.raises(ValueError, match="has no score"):
        patientwise_quantile([np.ones(2), np.ones(0)], 0.5)
    with pytest.raises(ValueError, match="no number"):
        patientwise_quantile([np.ones(2), np.full(1, np.nan)], 0.5)
    found = Calibration((0.9,), 0.1, (1.0,), (2.0,))
    np.testing.assert_allclose(found.half_width(np.array([0.0, 0.4]), 0.9), [0.2, 1.0])
    with pytest.raises(ValueError, match=r"not for 0.8"):
        found.half_width(np.ones(2), 0.8)
    with pytest.raises(ValueError, match="one quantile for each"):
        Calibration(LEVELS, 0.1, (1.0, 1.0), (2.0,))
    for floor, power in ((0.0, 1.0), (0.1, -1.0)):
        with pytest.raises(ValueError, match="no negative power"):
            Calibration((0.9,), floor, (power,), (2.0,))
    with pytest.raises(ValueError, match=r"in \(0, 1\)"):
        fewest_patients(1.0)
