import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg_eval.analysis.recovery import recovery
from synth3d.scoring.intervals import Crossed

FULL, ZERO, ARM = np.array([[0.9, 0.8, 0.95, 0.85], [0.4, 0.3, 0.5, 0.4], [0.7, 0.6, 0.75, 0.65]])[
    ..., None
]
PATIENTS = ["a", "b", "c", "d"]
FOUR = Crossed(PATIENTS)
THREE = Crossed(PATIENTS, 3)
DICE = arrays(float, (4, 3), elements=st.floats(0, 1, width=32))


def crossed(count, seeds=1):
    return Crossed([f"{i:03d}" for i in range(count)], seeds)


def of_cases(full, zero, arm):
    """Recovery from one training's scores by case."""
    columns = (np.array(values, float)[:, None] for values in (full, zero, arm))
    return recovery(*columns, crossed(len(full)))


def test_recovery_of_a_worked_example():
    found = recovery(FULL, ZERO, ARM, FOUR)
    assert found.gap.value == pytest.approx(0.475)
    assert found.gain.value == pytest.approx(0.275)
    assert found.loss.value == pytest.approx(0.2)
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(0.275 / 0.475)
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert found.per_seed == pytest.approx((0.275 / 0.475,))
    assert (found.patients, found.reason) == (4, None)


def test_seeds_are_pooled_and_shown_one_by_one():
    full = np.array([[0.9, 0.8], [0.9, 0.8]])
    zero = np.array([[0.5, 0.79], [0.5, 0.79]])  # the second training loses too little
    arm = np.array([[0.7, 0.8], [0.8, 0.8]])
    found = recovery(full, zero, arm, crossed(2, seeds=2))
    assert found.gap.value == pytest.approx((0.4 + 0.4 + 0.01 + 0.01) / 4)
    assert found.gain.value == pytest.approx((0.2 + 0.3 + 0.01 + 0.01) / 4)
    assert found.per_seed == (pytest.approx(0.25 / 0.4), None)


@pytest.mark.parametrize(
    ("arm", "share"), [(FULL, 1), (ZERO, 0), (FULL + 0.1, 1.21), (ZERO - 0.1, -0.21)]
)
def test_full_recovers_everything_zero_nothing_and_values_beyond_are_kept(arm, share):
    found = recovery(FULL, ZERO, arm, FOUR).ratio
    assert found is not None
    assert found.value == pytest.approx(share, abs=0.001)
    if share in (0, 1):
        assert found.low == found.high == share


@pytest.mark.parametrize(
    ("full", "zero", "arm", "reason"),
    [([0.91] * 5, [0.90] * 5, [0.905] * 5, "small_gap"),
     ([0.3] * 3, [0.9] * 3, [0.9] * 3, "small_gap"),
     ([0.9, 0.5, 0.9], [0.3, 0.8, 0.9], [0.8] * 3, "gap_may_be_zero"),
     ([0.9], [0.3], [0.8], "one_patient")],
)  # fmt: skip
def test_without_a_measurable_loss_there_is_no_ratio(full, zero, arm, reason):
    found = of_cases(full, zero, arm)
    assert (found.ratio, found.reason) == (None, reason)
    assert found.gain.value == pytest.approx(np.mean(arm) - np.mean(zero))  # still said
    assert (found.gap.low == found.gap.value == found.gap.high) or reason == "gap_may_be_zero"


def test_a_case_without_a_score_is_left_out_of_all_three():
    found = of_cases([0.9, 0.9, 0.9], [0.5, 0.5, 0.1], [0.7, 0.8, np.nan])
    assert found.gap.value == pytest.approx(0.4)
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(0.25 / 0.4)


@given(DICE, DICE, st.floats(-1, 1))
def test_a_constant_added_to_all_arms_changes_nothing(full, arm, constant):
    zero = full - 0.3
    before, after = (
        recovery(full + c, zero + c, arm + c, THREE).ratio for c in (0.0, constant)
    )  # fmt: skip
    assert before is not None
    assert after is not None
    assert after.value == pytest.approx(before.value, abs=1e-6)
    assert after.low == pytest.approx(before.low, abs=1e-6)


@given(DICE, DICE, DICE, st.permutations(range(4)), st.permutations(range(3)))
def test_the_order_of_cases_and_seeds_does_not_move_the_values(full, zero, arm, order, seeds):
    assume(np.mean(full) - np.mean(zero) > 0.05)
    names = [PATIENTS[i] for i in order]
    moved = [column[order][:, seeds] for column in (full, zero, arm)]
    first = recovery(full, zero, arm, THREE)
    second = recovery(*moved, Crossed(names, 3))
    assert first.gain.value == pytest.approx(second.gain.value)
    assert first.gap.value == pytest.approx(second.gap.value)
    again = recovery(*[c[order] for c in (full, zero, arm)], Crossed(names, 3))
    assert first.gain.low == pytest.approx(again.gain.low)
    assert first.gap.high == pytest.approx(again.gap.high)


@given(DICE, DICE)
def test_seeds_that_are_copies_change_nothing(full, arm):
    zero = full[:, :1] - 0.3
    one = recovery(full[:, :1], zero, arm[:, :1], Crossed(PATIENTS))
    columns = (np.repeat(column[:, :1], 3, axis=1) for column in (full, zero, arm))
    three = recovery(*columns, THREE)
    assert one.ratio is not None
    assert three.ratio is not None
    assert three.ratio.value == pytest.approx(one.ratio.value)
    assert three.ratio.low == pytest.approx(one.ratio.low)
    assert three.ratio.high == pytest.approx(one.ratio.high)


def test_refuses_scores_of_other_cases():
    with pytest.raises(ValueError, match=r"expected 4 cases x 1 trainings, got shape \(3, 1\)"):
        recovery(FULL[:3], ZERO[:3], ARM[:3], FOUR)
    with pytest.raises(ValueError, match="denominator other than 0"):
        FOUR.mean(np.full(4, np.nan))
