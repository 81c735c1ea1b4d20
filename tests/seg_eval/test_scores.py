import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg_eval.scores import counted, dice, score_case

MASKS = arrays(bool, (3, 4, 2))


def test_dice_of_a_worked_example():
    reference = np.array([1, 1, 1, 0], bool)
    prediction = np.array([0, 1, 1, 1], bool)
    assert dice(reference, prediction) == pytest.approx(2 * 2 / (3 + 3))


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"), [(0, 0, 1.0), (0, 1, 0.0), (1, 0, 0.0), (1, 1, 1.0)]
)
def test_empty_masks_score_as_brats_does(reference, prediction, expected):
    assert dice(np.array([reference], bool), np.array([prediction], bool)) == expected


@given(MASKS, MASKS)
def test_dice_is_symmetric_and_between_zero_and_one(a, b):
    assert dice(a, b) == dice(b, a)
    assert 0 <= dice(a, b) <= 1


@given(MASKS)
def test_a_mask_agrees_with_itself(a):
    assert dice(a, a) == 1


@given(MASKS, MASKS, st.permutations(range(24)))
def test_dice_does_not_care_where_voxels_are(a, b, order):
    assert dice(a.ravel()[order], b.ravel()[order]) == dice(a, b)


@given(MASKS, MASKS, st.integers(0, 23))
def test_a_new_false_positive_never_raises_dice(a, b, place):
    worse = b.copy().ravel()
    worse[place] |= not a.ravel()[place]
    assert dice(a, worse.reshape(b.shape)) <= dice(a, b) or not (a.any() or b.any())


def test_refuses_masks_of_different_shapes():
    with pytest.raises(ValueError, match=r"reference is \(2,\), prediction \(3,\)"):
        dice(np.zeros(2, bool), np.zeros(3, bool))


def test_skipping_leaves_a_case_out_of_every_arm_alike():
    empty, some = np.zeros(3, bool), np.array([1, 0, 0], bool)
    rows = []
    for arm, found in {"full": some, "zero": empty}.items():
        rows += score_case("A", "a", arm, {"ET": empty}, {"ET": found})
        rows += score_case("B", "b", arm, {"ET": some}, {"ET": found})
    assert [row.dice for row in rows] == [0, 1, 1, 0]
    assert counted(rows, "brats") == rows
    assert {(row.case, row.arm) for row in counted(rows, "skip")} == {("B", "full"), ("B", "zero")}


def test_unknown_rule_for_empty_regions_is_refused():
    with pytest.raises(ValueError, match="expected one of"):
        counted([], "nnunet")
