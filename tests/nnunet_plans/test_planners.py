"""The dataset fingerprint, computed here, is the one nnU-Net would write."""

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # third parties warn while being imported


@pytest.fixture
def summarise():
    pytest.importorskip("nnunetv2")
    from nnunet_plans.planners import summarise

    return summarise


def case(shape, spacing, channels, size):
    return shape, spacing, [np.asarray(values, float) for values in channels], None, size


def test_a_fingerprint_is_worked_out_by_hand(summarise):
    found = summarise(
        [
            case((10, 12, 14), (2, 1, 1), [[1, 2], [10, 10]], 0.5),
            case((12, 12, 10), (1, 1, 1), [[3, 4], [20, 20]], 0.7),
        ],
        channels=2,
    )
    assert found["shapes_after_crop"] == [[10, 12, 14], [12, 12, 10]]
    assert found["spacings"] == [[2.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    assert found["median_relative_size_after_cropping"] == pytest.approx(0.6)
    first = found["foreground_intensity_properties_per_channel"]["0"]
    assert (first["mean"], first["median"], first["min"], first["max"]) == (2.5, 2.5, 1, 4)
    assert found["foreground_intensity_properties_per_channel"]["1"]["std"] == 5


def test_a_case_without_tumour_is_fine_but_not_all_of_them(summarise):
    empty, full = case((8, 8, 8), (1, 1, 1), [[]], 0.5), case((8, 8, 8), (1, 1, 1), [[3]], 0.5)
    summarise([empty, full], channels=1)
    with pytest.raises(ValueError, match="no case has a labelled voxel"):
        summarise([empty, empty], channels=1)
