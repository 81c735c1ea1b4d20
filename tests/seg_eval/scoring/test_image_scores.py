import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_eval.scoring.image_scores import IMAGE_SCORES, channel_scores
from synth3d.scoring.case import score_case

SHAPE = (12, 22, 20)


def case(seed=0, shape=SHAPE):
    """A head with a bright tumour, in scanner units, and its masks."""
    generator = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    brain = z**2 + y**2 + x**2 < 0.8
    tumour = z**2 + (y - 0.1) ** 2 + (x + 0.1) ** 2 < 0.15
    tissue = 300 + 25 * generator.standard_normal(shape) + 400 * tumour
    return np.where(brain, tissue, 0).astype(np.float32), brain, tumour


def test_equal_channels_are_perfect():
    real, brain, tumour = case()
    scores = channel_scores(real, real, brain, tumour)
    for name, score in scores.items():
        if name.startswith("psnr"):
            assert score is None  # infinite
        elif name.startswith("mae"):
            assert score == 0
        elif "blanked" not in name:
            assert score == pytest.approx(1)


def test_the_official_score_hardly_sees_that_the_tumour_is_gone():
    real, brain, tumour = case()
    noise = 20 * np.random.default_rng(1).standard_normal(SHAPE) * brain
    synthetic = np.clip(real + noise, 0, None).astype(np.float32)
    blanked = np.where(tumour, 0, synthetic)
    scores, gone = (channel_scores(real, each, brain, tumour) for each in (synthetic, blanked))
    assert scores["ssim_tumour_blanked@brasyn"] == pytest.approx(gone["ssim_tumour@brasyn"])
    lost = scores["ssim_tumour@brasyn"] - scores["ssim_tumour_blanked@brasyn"]
    assert 0 < lost < 0.5 * (scores["ssim_tumour@own-scale"] - gone["ssim_tumour@own-scale"])
    assert gone["mae_tumour@own-scale"] > 3 * scores["mae_tumour@own-scale"]


def test_one_name_is_one_number_here_and_in_synth3d():
    real, brain, tumour = case()
    synthetic = np.random.default_rng(2).permuted(real, axis=2)
    scores = channel_scores(real, synthetic, brain, tumour)
    expected = {}
    for convention in ("own-scale", "real-scale", "brasyn"):
        expected |= score_case(real, synthetic, brain, tumour, convention)
    assert scores == {name: pytest.approx(expected[name]) for name in IMAGE_SCORES}
    for name, (heading, form, better) in IMAGE_SCORES.items():
        assert heading
        assert format(scores[name], form)
        assert better in ("higher", "lower", "control")


@given(st.floats(0.05, 50), st.floats(-100, 100))
def test_scores_on_the_own_scale_do_not_depend_on_the_units_of_the_channel(gain, shift):
    real, brain, tumour = case()
    blurred = np.where(brain, (real + np.roll(real, 1, 1)) / 2, 0)
    other = np.where(brain, gain * blurred + shift, 0)
    scores, moved = (channel_scores(real, each, brain, tumour) for each in (blurred, other))
    for name in IMAGE_SCORES:
        if name.endswith("@own-scale"):
            assert moved[name] == pytest.approx(scores[name], rel=1e-3, abs=1e-4)


def test_a_wrong_gain_counts_on_the_real_scale_alone():
    real, brain, tumour = case()
    scores = channel_scores(real, (1.25 * real).astype(np.float32), brain, tumour)
    assert scores["mae_brain@own-scale"] == pytest.approx(0, abs=1e-6)
    assert scores["mae_brain@real-scale"] > 0.1
    assert scores["psnr_brain@real-scale"] < 20


@pytest.mark.parametrize("shape", [(1, 9, 9), (1, 1, 1), (3, 1, 4)], ids=str)
def test_degenerate_volumes_have_scores_or_none(shape):
    real = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    every, none = np.ones(shape, bool), np.zeros(shape, bool)
    for brain, tumour in ((every, every), (every, none), (none, none), (none, every)):
        for synthetic in (real, np.zeros_like(real), real[::-1, ::-1] * 3):
            scores = channel_scores(real, synthetic, brain, tumour)
            assert list(scores) == list(IMAGE_SCORES)
            assert all(value is None or np.isfinite(value) for value in scores.values())
            absent = {name for name, value in scores.items() if value is None}
            assert tumour.any() or absent >= {name for name in IMAGE_SCORES if "tumour" in name}
