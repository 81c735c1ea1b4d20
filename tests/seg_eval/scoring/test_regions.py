import numpy as np
import pytest

from seg_eval.scoring.regions import REGIONS, from_brats_2023, region_masks
from synth3d.cohort.labels.schemes import SCHEMES


def test_regions_of_hand_made_labels():
    masks = region_masks(np.array([0, 1, 2, 3, 4]), SCHEMES["brats2024"])
    assert tuple(masks) == REGIONS
    assert masks["WT"].tolist() == [False, True, True, True, False]
    assert masks["TC"].tolist() == [False, True, False, True, False]
    assert masks["ET"].tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
def test_predictions_keep_their_regions_in_any_scheme(scheme):
    predicted = np.array([[0, 1], [2, 3]], np.uint8)
    painted = from_brats_2023(predicted, scheme)
    for name, mask in region_masks(predicted, SCHEMES["brats2023"]).items():
        np.testing.assert_array_equal(region_masks(painted, scheme)[name], mask)


def test_refuses_labels_that_are_not_coded_as_in_2023():
    with pytest.raises(ValueError, match=r"expected labels 0 to 3, got \[0, 4\]"):
        from_brats_2023(np.array([0, 4]), SCHEMES["brats2018"])
