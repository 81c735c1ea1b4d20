import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_eval.scoring.image_scores import IMAGE_SCORES, channel_scores
from synth3d.images.intensity import Scale
from synth3d.scoring.case import score_case
from synth3d.scoring.formulas import image_scores

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
    assert scores["psnr_brain"] is None  # infinite
    assert scores["psnr_tumour"] is None
    assert scores["mae_brain"] == scores["mae_tumour"] == 0
    for name in ("ssim_brain", "ssim_tumour", "ssim_tumour@brasyn", "ssim_rest@brasyn"):
        assert scores[name] == pytest.approx(1)


def test_the_official_score_hardly_sees_that_the_tumour_is_gone():
    real, brain, tumour = case()
    noise = 20 * np.random.default_rng(1).standard_normal(SHAPE) * brain
    synthetic = np.clip(real + noise, 0, None).astype(np.float32)
    blanked = np.where(tumour, 0, synthetic)
    scores, gone = (channel_scores(real, each, brain, tumour) for each in (synthetic, blanked))
    assert scores["ssim_tumour_blanked@brasyn"] == pytest.approx(gone["ssim_tumour@brasyn"])
    lost = scores["ssim_tumour@brasyn"] - scores["ssim_tumour_blanked@brasyn"]
    assert 0 < lost < 0.5 * (scores["ssim_tumour"] - gone["ssim_tumour"])
    assert gone["mae_tumour"] > 3 * scores["mae_tumour"]


def test_the_formulas_are_those_of_synth3d():
    real, brain, tumour = case()
    synthetic = np.random.default_rng(2).permuted(real, axis=2)
    scores = channel_scores(real, synthetic, brain, tumour)
    pair = [Scale.fit(volume, brain).apply(volume, brain) for volume in (real, synthetic)]
    expected = image_scores(*pair, brain, tumour & brain)
    expected |= score_case(real, synthetic, brain, tumour, "brasyn")
    assert scores == {name: pytest.approx(expected[name]) for name in IMAGE_SCORES}
    for name, (heading, form, better) in IMAGE_SCORES.items():
        assert heading
        assert format(scores[name], form)
        assert better in ("higher", "lower", "control")


@given(st.floats(0.05, 50), st.floats(-100, 100))
def test_our_scores_do_not_depend_on_the_units_of_the_channel(gain, shift):
    real, brain, tumour = case()
    blurred = np.where(brain, (real + np.roll(real, 1, 1)) / 2, 0)
    other = np.where(brain, gain * blurred + shift, 0)
    scores, moved = (channel_scores(real, each, brain, tumour) for each in (blurred, other))
    for name in IMAGE_SCORES:
        if "@" not in name:
            assert moved[name] == pytest.approx(scores[name], rel=1e-3, abs=1e-4)


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
