"""Volumes as intervals, whom not to trust, and the curve of risk against coverage."""

import math

import numpy as np
import pytest

from seg_eval.analysis.uncertainty import BOUND, risk_coverage, tell_uncertainty
from seg_eval.scoring import Score


def score(case, arm, region="ET", dice=0.8, predicted=10.0, reference=10.0, seed=0, patient=None):
    return Score(
        case, patient or case, arm, seed, region, dice, None, None, None, None, 1, 1, 0, None, None,
        reference, predicted, predicted - reference, round(reference * 125), round(predicted * 125),
        1.0, "ours", 2.0,
    )  # fmt: skip


def cohort(draws, patients, sizes):
    """Predicted volumes are off by a factor whose log has the size of the case's uncertainty."""
    rows = []
    for number in range(patients):
        name, reference = f"case{number:03d}", draws.uniform(1, 60)
        off = math.exp(draws.normal(0, sizes[number]))
        predicted = max((reference + 1) * off - 1, 0)
        rows.append(score(name, "ours", predicted=predicted, reference=reference, dice=0.7))
        rows.append(score(name, "full", predicted=reference, reference=reference))
    return rows, {f"case{n:03d}": float(sizes[n]) for n in range(patients)}


def test_the_interval_by_hand():
    """Of five patients at 80 % the largest of the other four scores, times one's own uncertainty.

    Predicted 9, reference 4, 1, 0 ... with 1 mL more: ratios 2, 5, 10; in shares of the
    uncertainty 1 the scores are log 2, log 5, log 10, log 1.
    """
    references = {"a": 4.0, "b": 1.0, "c": 0.0, "d": 9.0, "e": 9.0}
    rows = [score(c, arm, predicted=9.0, reference=r) for c, r in references.items()
            for arm in ("ours", "full")]  # fmt: skip
    sizes = dict.fromkeys(references, 1.0) | {"e": 0.1}
    found = tell_uncertainty(rows, "ours", sizes)
    assert (found["level"], found["patients"]) == (0.8, 5)
    by_case = {row["case"]: row for row in found["volumes"]}
    # The largest of the others: log 10 for all but c, whose own it is; for c log 5.
    assert by_case["a"]["high_ml"] == pytest.approx(99)
    assert by_case["a"]["low_ml"] == pytest.approx(0)
    assert by_case["c"]["high_ml"] == pytest.approx(10 * 5 - 1)
    assert by_case["e"]["high_ml"] == pytest.approx(10 * 10**0.1 - 1)
    assert by_case["e"]["low_ml"] == pytest.approx(10 * 10**-0.1 - 1)
    assert found["coverage"]["ET"] == pytest.approx(0.8)  # all but c
    assert [by_case[c]["use"] for c in "abcde"] == [False] * 4 + [True]


def test_intervals_hold_for_new_patients_and_flags_follow_the_uncertainty():
    draws = np.random.default_rng(0)
    sizes = draws.choice([0.05, 0.6], 200)
    rows, told = cohort(draws, 200, sizes)
    found = tell_uncertainty(rows, "ours", told)
    assert found["level"] == 0.9
    assert found["coverage"]["ET"] == pytest.approx(0.9, abs=0.03)
    use = {row["case"]: row["use"] for row in found["volumes"]}
    assert all(use[case] == (size == 0.05) for case, size in told.items())
    widths = [row["high_ml"] - row["low_ml"] for row in found["volumes"]]
    assert np.mean(np.array(widths)[sizes == 0.6]) > 4 * np.mean(np.array(widths)[sizes == 0.05])
    for row in found["volumes"]:
        outside = (row["high_ml"] + 1) / (row["predicted_ml"] + 1) > BOUND
        assert outside != row["use"]


def test_a_patients_own_visits_tell_nothing_of_it():
    """The other visit of the same patient, equally wrong, is not asked."""
    rows, sizes = [], {}
    for number in range(6):
        for visit in "ab":
            name = f"p{number}{visit}"
            off = 100.0 if number == 0 else 10.0
            for arm in ("ours", "full"):
                rows.append(score(name, arm, predicted=off, patient=f"p{number}"))
            sizes[name] = 1.0
    found = tell_uncertainty(rows, "ours", sizes)
    row = next(row for row in found["volumes"] if row["case"] == "p0a")
    assert (row["low_ml"], row["high_ml"]) == (pytest.approx(100), pytest.approx(100))


def test_seeds_are_averaged_and_few_patients_tell_nothing():
    rows = [score(c, arm, predicted=p, seed=s) for c in "abcd" for arm in ("ours", "full")
            for s, p in enumerate((8.0, 12.0))]  # fmt: skip
    found = tell_uncertainty(rows, "ours", dict.fromkeys("abcd", 1.0))
    assert (found["level"], found["patients"], found["needed"]) == (None, 4, 5)
    assert {row["predicted_ml"] for row in found["volumes"]} == {10.0}
    assert {row["use"] for row in found["volumes"]} == {None}
    assert found["coverage"] == {"ET": None}
    with pytest.raises(ValueError, match="no scores of ours for z"):
        tell_uncertainty(rows, "ours", {"z": 1.0})


def test_the_curve_by_hand():
    """Sorted by uncertainty the losses are 0, 0.3, 0.1: means 0, 0.15, 0.4 / 3."""
    found = risk_coverage({"a": 0.3, "b": 0.0, "c": 0.1}, {"a": 2.0, "b": 1.0, "c": 3.0})
    assert found["cases"] == ["b", "a", "c"]
    np.testing.assert_allclose(found["kept"], [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(found["loss"], [0, 0.15, 0.4 / 3])
    assert found["area"] == pytest.approx((0.15 + 0.4 / 3) / 3)
    assert found["random"] == pytest.approx(0.4 / 3)
    assert found["best"] == pytest.approx((0 + 0.05 + 0.4 / 3) / 3)
    assert found["best"] <= found["area"]
    assert risk_coverage({}, {})["area"] is None
