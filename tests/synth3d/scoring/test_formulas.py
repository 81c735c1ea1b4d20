"""Claims about PSNR, SSIM and MAE inside a mask."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from synth3d.scoring.formulas import mae_brain, psnr_brain, ssim_brain

SCORES = {psnr_brain: math.inf, ssim_brain: 1.0, mae_brain: 0.0}
"""Each with its value for equal volumes."""


def pair(shape, seed=0):
    generator = np.random.default_rng(seed)
    real = generator.random(shape, dtype=np.float32)
    return real, (real + 0.1 * generator.standard_normal(shape)).astype(np.float32)


def ball(shape, radius=0.8):
    axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in shape], indexing="ij")
    return sum(axis**2 for axis in axes) < radius**2


def test_worked_example():
    real = np.zeros((2, 2, 2), np.float32)
    synthetic = np.zeros_like(real)
    synthetic[0, 0, 0], synthetic[1, 1, 1] = 0.1, 5
    mask = np.zeros(real.shape, bool)
    mask[0] = True  # the error of 5 is outside
    assert mae_brain(real, synthetic, mask) == pytest.approx(0.1 / 4)
    assert psnr_brain(real, synthetic, mask) == pytest.approx(10 * math.log10(4 / 0.01))


def test_agrees_with_scikit_image_and_ssim_in_a_mask_is_the_mean_of_the_whole_map():
    real, synthetic = pair((20, 15, 23))
    everywhere, mask = np.ones(real.shape, bool), ball(real.shape, 0.5)
    expected = peak_signal_noise_ratio(real, synthetic, data_range=1)
    assert psnr_brain(real, synthetic, everywhere) == pytest.approx(expected, rel=1e-6)
    _, similarity = structural_similarity(
        real.astype(float), synthetic.astype(float), data_range=1, full=True
    )
    for where in (everywhere, mask):
        found = ssim_brain(real, synthetic, where)
        assert found == pytest.approx(similarity[where].mean(), abs=1e-12)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("shape", [(8, 8, 8), (3, 20, 9), (1, 1, 1), (5, 5, 5)])
def test_equal_volumes_are_perfect_and_an_empty_mask_gives_nan(score, shape):
    real, synthetic = pair(shape)
    assert score(real, real, np.ones(shape, bool)) == pytest.approx(SCORES[score])
    assert math.isnan(score(real, synthetic, np.zeros(shape, bool)))


@pytest.mark.parametrize("score", [psnr_brain, mae_brain])
def test_what_lies_outside_the_mask_does_not_count(score):
    real, synthetic = pair((6, 7, 8))
    mask = ball(real.shape)
    spoilt = np.where(mask, synthetic, 99).astype(np.float32)
    assert score(real, spoilt, mask) == score(real, synthetic, mask)


@pytest.mark.parametrize("score", SCORES)
def test_refuses_volumes_that_do_not_match(score):
    real, synthetic = pair((4, 4, 4))
    with pytest.raises(ValueError, match="must agree"):
        score(real, synthetic[1:], np.ones(real.shape, bool))
    with pytest.raises(ValueError, match="must be bool"):
        score(real, synthetic, np.ones(real.shape))
