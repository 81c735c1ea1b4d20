"""Claims about bootstrap means over patients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth3d.bootstrap import interval, resampled_means


def test_all_cases_of_a_patient_are_drawn_together():
    columns = np.array([[0.0], [0.0], [3.0]])
    drawn = resampled_means(columns, ["a", "a", "b"], resamples=500)[:, 0]
    # a twice, a and b (0 + 0 + 3) / 3, b twice
    assert set(np.round(drawn, 12)) == {0.0, 1.0, 3.0}
    assert np.mean(drawn == 1.0) == pytest.approx(0.5, abs=0.08)


def test_columns_of_a_case_stay_together():
    values = np.random.default_rng(0).random(20)
    drawn = resampled_means(np.column_stack([values, values + 1]), list("abcdefghijklmnopqrst"))
    assert drawn[:, 1] - drawn[:, 0] == pytest.approx(1)


def test_agrees_with_the_theory_of_the_mean():
    values = np.random.default_rng(1).standard_normal(60)
    drawn = resampled_means(values[:, None], [str(i) for i in range(60)])[:, 0]
    low, high = interval(drawn)
    half = 1.96 * values.std() / np.sqrt(60)
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_an_interval_lies_within_the_values(values):
    drawn = resampled_means(np.array(values)[:, None], [str(i) for i in range(len(values))], 200)
    low, high = interval(drawn[:, 0])
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_the_same_seed_draws_the_same():
    values, patients = np.arange(5.0)[:, None], list("abcde")
    assert np.array_equal(resampled_means(values, patients), resampled_means(values, patients))
    assert not np.array_equal(
        resampled_means(values, patients), resampled_means(values, patients, seed=1)
    )


def test_refuses_nothing():
    with pytest.raises(ValueError, match="one patient per case, got 0 for 0"):
        resampled_means(np.zeros((0, 1)), [])
    with pytest.raises(ValueError, match="one patient per case, got 1 for 2"):
        resampled_means(np.zeros((2, 1)), ["a"])
    with pytest.raises(ValueError, match="no draws"):
        interval(np.zeros(0))
