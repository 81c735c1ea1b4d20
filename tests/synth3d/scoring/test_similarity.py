"""Claims about SSIM maps, against scikit-image and torchmetrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from synth3d.scoring.similarity import (
    SCIKIT_IMAGE,
    TORCHMETRICS,
    Window,
    box_around,
    similarity_map,
)

WINDOWS = [SCIKIT_IMAGE, TORCHMETRICS]


def pair(shape, seed=0):
    generator = np.random.default_rng(seed)
    real = generator.random(shape)
    return real, real + 0.1 * generator.standard_normal(shape)


GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


@pytest.mark.parametrize("data_range", [1.0, 2.0, 0.3])
@pytest.mark.parametrize(
    ("window", "settings"),
    [(SCIKIT_IMAGE, {}), (Window("gaussian", radius=5, sigma=1.5), GAUSSIAN)],
)
def test_agrees_with_scikit_image_in_3d(data_range, window, settings):
    real, synthetic = pair((12, 13, 14))
    known = {"data_range": data_range, "full": True}
    _, expected = structural_similarity(real, synthetic, **known, **settings)
    found = similarity_map(real, synthetic, data_range, window)
    assert found == pytest.approx(expected, abs=1e-12)


def test_agrees_with_scikit_image_slice_by_slice():
    real, synthetic = pair((4, 16, 13))
    found = similarity_map(real, synthetic, 1.0, axes=(1, 2))
    for index in range(4):
        _, expected = structural_similarity(
            real[index], synthetic[index], data_range=1.0, full=True
        )
        assert found[index] == pytest.approx(expected, abs=1e-12)


def test_gaussian_window_agrees_with_figures_of_torchmetrics():
    """Made with torchmetrics 1.9.0: structural_similarity_index_measure(..., data_range=1.0)."""
    real, synthetic = pair((16, 17, 18))
    volume = similarity_map(real, synthetic, 1.0, TORCHMETRICS).mean()
    slices = similarity_map(real, synthetic, 1.0, TORCHMETRICS, axes=(1, 2)).mean()
    assert volume == pytest.approx(0.9427388014337188, abs=1e-12)
    assert slices == pytest.approx(0.9402445887745388, abs=1e-12)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2)])
def test_only_the_differences_are_computed_and_nothing_is_lost(window, axes):
    real, noise = pair((30, 26, 28))
    synthetic = real.copy()
    synthetic[14:17, 1:4, 20:26] = noise[14:17, 1:4, 20:26]
    synthetic[9, 20, 3] += 0.5
    # A value that differs everywhere by next to nothing makes the whole map be computed.
    whole = similarity_map(real, np.nextafter(synthetic, 9.0), 1.0, window, axes)
    found = similarity_map(real, synthetic, 1.0, window, axes)
    assert found == pytest.approx(whole, abs=1e-9)
    assert np.count_nonzero(found == 1) > 1000


def test_a_known_map_is_only_updated():
    real, first = pair((20, 22, 24))
    second = first.copy()
    second[8:12, 3:9, 10:12] = 0
    known = (first, similarity_map(real, first, 1.0))
    before = known[1].copy()
    found = similarity_map(real, second, 1.0, known=known)
    assert found == pytest.approx(similarity_map(real, second, 1.0), abs=1e-12)
    assert np.array_equal(known[1], before)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 20), (3, 5, 2), (6, 6, 6)])
def test_a_volume_smaller_than_the_window_is_mirrored(window, shape):
    real, synthetic = pair(shape)
    mode = {"reflect": "symmetric", "mirror": "reflect"}[window.edge]
    wide = [np.pad(volume, 12, mode=mode) for volume in (real, synthetic)]
    middle = tuple(slice(12, 12 + side) for side in shape)
    expected = similarity_map(*wide, 1.0, window)[middle]
    assert similarity_map(real, synthetic, 1.0, window) == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 999), factor=st.floats(1e-3, 1e3))
def test_laws(seed, factor):
    real, synthetic = pair((5, 9, 8), seed)
    found = similarity_map(real, synthetic, 1.0)
    assert (found <= 1 + 1e-12).all()
    assert found == pytest.approx(similarity_map(synthetic, real, 1.0), abs=1e-12)
    scaled = similarity_map(factor * real, factor * synthetic, factor)
    assert found == pytest.approx(scaled, abs=1e-9)
    assert (similarity_map(real, real, 1.0) == 1).all()


def test_a_range_of_zero_gives_nan_only_where_nothing_can_be_said():
    real, synthetic = np.zeros((9, 9, 30)), np.zeros((9, 9, 30))
    synthetic[4, 4, 4] = 1
    found = similarity_map(real, synthetic, 0.0)
    assert (found[..., 12:] == 1).all()
    assert found[4, 4, 4] == 0


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="must agree"):
        similarity_map(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), 1.0)
    mask = np.zeros((10, 10, 10), bool)
    with pytest.raises(ValueError, match="empty mask has no box"):
        box_around(mask, 1)
    mask[1, 5, 8] = True
    assert box_around(mask, 3) == (slice(0, 5), slice(2, 9), slice(5, 10))
    assert box_around(mask, 3, axes=(1, 2)) == (slice(1, 2), slice(2, 9), slice(5, 10))
