import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from seg_eval.recovery import difference, recovery
from synth3d.bootstrap import resampled_means

FULL = [0.9, 0.8, 0.95, 0.85]
ZERO = [0.4, 0.3, 0.5, 0.4]
ARM = [0.7, 0.6, 0.75, 0.65]
PATIENTS = ["a", "b", "c", "d"]
DICE = st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)


def test_recovery_of_a_worked_example():
    found = recovery(FULL, ZERO, ARM, PATIENTS)
    assert found.full == pytest.approx(0.875)
    assert found.zero == pytest.approx(0.4)
    assert found.gap.value == pytest.approx(0.475)
    assert found.gain.value == pytest.approx(0.275)
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(0.275 / 0.475)
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert (found.cases, found.patients, found.reason) == (4, 4, "")


def test_it_is_a_ratio_of_means_not_a_mean_of_ratios():
    full, zero, arm = [0.9, 0.5], [0.1, 0.4], [0.5, 0.6]  # ratios 0.5 and 2
    found = recovery(full, zero, arm, ["a", "b"])
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(0.6 / 0.9)


def test_full_recovers_everything_and_zero_nothing():
    top, bottom = recovery(FULL, ZERO, FULL, PATIENTS), recovery(FULL, ZERO, ZERO, PATIENTS)
    assert top.ratio is not None
    assert bottom.ratio is not None
    assert [top.ratio.low, top.ratio.value, top.ratio.high] == [1, 1, 1]
    assert [bottom.ratio.low, bottom.ratio.value, bottom.ratio.high] == [0, 0, 0]


def test_values_outside_zero_to_one_are_kept():
    better = recovery(FULL, ZERO, [1.0] * 4, PATIENTS)
    worse = recovery(FULL, ZERO, [0.1] * 4, PATIENTS)
    assert better.ratio is not None
    assert better.ratio.value > 1
    assert worse.ratio is not None
    assert worse.ratio.value < 0


def test_a_small_gap_is_no_measurable_loss():
    found = recovery([0.91] * 5, [0.90] * 5, [0.905] * 5, list("abcde"))
    assert found.ratio is None
    assert "0.010 is below 0.02" in found.reason


def test_a_gap_that_may_be_zero_is_no_measurable_loss():
    found = recovery([0.9, 0.5, 0.9], [0.3, 0.8, 0.9], [0.8] * 3, list("abc"))
    assert found.gap.value > 0.02
    assert found.ratio is None
    assert "contains 0" in found.reason


def test_a_negative_gap_is_not_a_recovery():
    assert recovery([0.3] * 3, [0.9] * 3, [0.9] * 3, list("abc")).ratio is None


@given(DICE, DICE, DICE, st.permutations(range(4)))
def test_the_order_of_cases_does_not_move_the_means(full, zero, arm, order):
    assume(np.mean(full) - np.mean(zero) > 0.05)
    first = recovery(full, zero, arm, PATIENTS, resamples=50)
    moved = [[column[i] for i in order] for column in (full, zero, arm, PATIENTS)]
    second = recovery(*moved, resamples=50)
    assert first.gain.value == pytest.approx(second.gain.value)
    # patients are drawn by name, so even the resamples are the same
    assert first.gain.low == pytest.approx(second.gain.low)
    assert first.gap.high == pytest.approx(second.gap.high)


def test_the_same_seed_gives_the_same_interval():
    assert recovery(FULL, ZERO, ARM, PATIENTS, seed=3) == recovery(
        FULL, ZERO, ARM, PATIENTS, seed=3
    )
    other = recovery(FULL, ZERO, ARM, PATIENTS, seed=4, resamples=100)
    assert other != recovery(FULL, ZERO, ARM, PATIENTS, seed=3, resamples=100)


def test_cases_of_one_patient_are_drawn_together():
    columns = np.array([[0.0], [0.0], [0.0], [1.0]])
    drawn = resampled_means(columns, ["a", "a", "a", "b"], resamples=4000)
    found, counts = np.unique(drawn.round(6), return_counts=True)
    # two patients drawn twice: aa, ab or ba (4 cases, one of them 1), bb
    assert found.tolist() == [0, 0.25, 1]
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_repeating_a_patients_cases_does_not_sharpen_the_interval():
    once = recovery(FULL, ZERO, ARM, PATIENTS)
    thrice = recovery(FULL * 3, ZERO * 3, ARM * 3, PATIENTS * 3)
    assert thrice.gap.low == pytest.approx(once.gap.low)
    assert thrice.gap.high == pytest.approx(once.gap.high)
    assert (thrice.cases, thrice.patients) == (12, 4)


def test_the_interval_covers_the_truth_of_simulated_cohorts():
    generator = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        level = generator.normal(0.8, 0.08, 40)
        loss = generator.normal(0.3, 0.1, 40)
        full, zero = level, level - loss
        arm = zero + 0.6 * loss + generator.normal(0, 0.03, 40)
        found = recovery(full, zero, arm, [str(i) for i in range(40)], 500, trial)
        assert found.ratio is not None
        inside += found.ratio.low <= 0.6 <= found.ratio.high
    assert 0.90 <= inside / 200 <= 0.98


def test_paired_difference_of_equal_arms_is_exactly_zero():
    found = difference(ARM, ARM, PATIENTS)
    assert (found.low, found.value, found.high) == (0, 0, 0)


def test_pairing_removes_what_cases_share():
    hard = np.linspace(0, 0.8, 12)
    found = difference(hard + 0.1, hard, [str(i) for i in range(12)])
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)


def test_refuses_to_average_nothing():
    with pytest.raises(ValueError, match="expected one patient per case, got 0 for 0"):
        recovery([], [], [], [])


def test_refuses_scores_without_patients():
    with pytest.raises(ValueError, match="got 3 for 4"):
        recovery(FULL, ZERO, ARM, PATIENTS[:3])
