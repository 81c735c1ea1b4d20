import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synth3d.scoring.bootstrap import PairedBootstrap, quantiles, standard_error

FOUR = PairedBootstrap(["a", "b", "c", "d"])
QUICK = PairedBootstrap(["a", "b", "c", "d"], seeds=3, resamples=200)


def bootstrap(count, seeds=1, **more):
    return PairedBootstrap([f"{i:03d}" for i in range(count)], seeds, **more)


def test_it_is_a_ratio_of_means_not_a_mean_of_ratios():
    full, zero, arm = [0.9, 0.5], [0.1, 0.4], [0.5, 0.6]  # ratios 0.5 and 2
    ratio = FOUR.ratio(np.tile(np.subtract(arm, zero), 2), np.tile(np.subtract(full, zero), 2))
    assert ratio.value == pytest.approx(0.6 / 0.9)


def test_with_one_seed_the_draws_are_those_of_the_plain_bootstrap():
    generator = np.random.default_rng(0)
    values = generator.random(30)
    found = bootstrap(30).mean(values)
    draws = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), 10_000)
    plain = draws.astype(float) @ values / 30
    assert np.isclose(plain, found.low, rtol=1e-12).any()
    assert np.isclose(plain, found.high, rtol=1e-12).any()


def test_the_interval_is_as_wide_as_students_for_symmetric_values():
    values = np.concatenate([np.linspace(-1, 1, 12)])
    found = bootstrap(12, resamples=100_000).mean(values)
    half = 2.200985 * values.std(ddof=1) / np.sqrt(12)  # Student's quantile of 11 degrees
    assert found.high == pytest.approx(half, rel=0.03)
    assert found.low == pytest.approx(-half, rel=0.03)


def test_a_long_tail_draws_the_interval_after_it():
    values = np.random.default_rng(0).exponential(size=40)
    found = bootstrap(40).mean(values)
    assert found.high - found.value > 1.2 * (found.value - found.low)


def test_trainings_that_differ_widen_the_interval():
    generator = np.random.default_rng(0)
    values = np.repeat(generator.normal(size=(40, 1)), 3, axis=1)
    alike = bootstrap(40, seeds=3).mean(values)
    apart = bootstrap(40, seeds=3).mean(values + [-1, 0, 1])
    assert apart.value == pytest.approx(alike.value)
    assert apart.high - apart.low > 2 * (alike.high - alike.low)


@given(arrays(float, (4, 3), elements=st.floats(-1, 1, width=32)))
def test_the_value_lies_in_its_interval(values):
    found = QUICK.mean(values)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    narrow = QUICK.mean(values, confidence=0.5)
    assert found.low <= narrow.low + 1e-9
    assert narrow.high <= found.high + 1e-9


@pytest.mark.parametrize(
    ("values", "squared", "freedom"),
    [
        # Patients apart by 2, seeds by 1, nothing else: mean squares 4, 1, 0
        ([[0, 1], [2, 3]], (4 + 1 - 0) / 4, 25 / (16 + 1)),
        # means of patients 0.5 and 3.5, of seeds 1 and 3, rests of +-0.5: mean squares 9, 4, 1
        ([[0, 1], [2, 5]], (9 + 4 - 1) / 4, 144 / (81 + 16 + 1)),
        ([[1], [2], [4]], np.var([1, 2, 4], ddof=1) / 3, 2),  # one seed: the usual one
        ([[0, 1], [3, 2]], 4 / 4, 1),  # seeds no further apart than chance do not count
        ([[0, 1], [1, 0]], 1 / 4, 1),  # patients that agree while their seeds do not
    ],
)
def test_standard_error_by_hand(values, squared, freedom):
    found = standard_error(np.array(values, float))
    assert found == (pytest.approx(np.sqrt(squared)), pytest.approx(freedom))


def test_which_draws_are_the_ends_by_hand():
    # 0, 0, 0, 3: standard error 0.75, the bootstrap's 0.6495, Student's quantile 3.1824, so
    # 3.6748 standard deviations; acceleration 10.125 / 64 / (6 x 0.4219) = 0.0625;
    # 0.0625 + (0.0625 - 3.6748) / (1 + 0.0625 x 3.6123) = -2.8844
    influence = np.array([0.0, 0, 0, 3])[:, None] - 0.75
    low, high = quantiles(influence, np.sqrt(6.75 / 4) / 2, 0.95)
    assert low == pytest.approx(0.00196, rel=0.01)  # normal distribution at -2.8844
    assert 1 - high == pytest.approx(3.9e-7, rel=0.03)  # and at 4.9388


def test_cases_of_one_patient_are_drawn_together():
    """Two patients drawn twice: aa, ab or ba (4 cases, one of them 1), bb."""
    drawn = PairedBootstrap(["a", "a", "a", "b"], resamples=4000)
    ends = {
        round(end, 6)
        for confidence in (0.02, 0.3, 0.6, 0.95)
        for found in [drawn.mean(np.array([0.0, 0.0, 0.0, 1.0]), confidence)]
        for end in (found.low, found.high)
    }
    assert ends == {0, 0.25, 1}


def test_a_draw_without_a_gap_is_unboundedly_good_never_missing():
    found = FOUR.ratio(np.array([1.0, 1.0, 1.0, 1.0]), np.array([5.0, -1.0, -1.0, -1.0]))
    assert found.high == np.inf


def test_refuses_to_average_nothing():
    with pytest.raises(ValueError, match="expected cases and seeds, got 0 and 1"):
        PairedBootstrap([])


@given(arrays(float, (2, 3), elements=st.sampled_from([0.0, 0.5, 1.0])))
def test_any_few_values_have_an_interval_around_their_mean(values):
    found = bootstrap(2, 3, resamples=100).mean(values)
    assert 0 <= found.low <= found.high <= 1
