import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_eval.scoring.regions import REGIONS, from_brats_2023, region_masks
from synth3d.cohort.labels import label_scheme

OLD = label_scheme({0, 1, 2, 4})
NEW = label_scheme({0, 1, 2, 3})
CAVITY = label_scheme({0, 1, 2, 3, 4})


def test_regions_of_hand_made_labels():
    labels = from_brats_2023(np.array([[0, 1, 2, 3]]), OLD)
    assert labels.tolist() == [[0, 1, 2, 4]]
    masks = region_masks(labels, OLD)
    assert masks["WT"].tolist() == [[False, True, True, True]]
    assert masks["TC"].tolist() == [[False, True, False, True]]
    assert masks["ET"].tolist() == [[False, False, False, True]]


def test_three_is_enhancing_in_the_new_scheme_and_a_cavity_is_no_tumour():
    labels = np.array([3, 4])
    assert region_masks(labels, NEW)["ET"].tolist() == [True, False]
    assert not region_masks(labels, CAVITY)["WT"][1]


@given(st.lists(st.sampled_from([0, 1, 2, 4]), min_size=1, max_size=20))
def test_each_region_holds_the_next(values):
    masks = region_masks(np.array(values), OLD)
    whole, core, enhancing = (masks[name] for name in REGIONS)
    assert not (core & ~whole).any()
    assert not (enhancing & ~core).any()


@pytest.mark.parametrize("scheme", [OLD, NEW, CAVITY], ids=lambda s: s.name)
def test_predictions_keep_their_regions_in_any_scheme(scheme):
    predicted = np.array([[0, 1], [2, 3]], np.uint8)
    painted = from_brats_2023(predicted, scheme)
    for name, mask in region_masks(predicted, NEW).items():
        np.testing.assert_array_equal(region_masks(painted, scheme)[name], mask)


def test_refuses_labels_that_are_not_coded_as_in_2023():
    with pytest.raises(ValueError, match=r"expected labels 0 to 3, got \[0, 4\]"):
        from_brats_2023(np.array([0, 4]), OLD)
