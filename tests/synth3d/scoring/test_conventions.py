"""Claims about image scores under named conventions."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from synth3d.images.intensity import Scale
from synth3d.scoring.case import score_case
from synth3d.scoring.conventions import CONVENTIONS
from synth3d.scoring.formulas import mae_brain, psnr_brain, ssim_brain
from synth3d.scoring.similarity import TORCHMETRICS, similarity_map

NAMES = list(CONVENTIONS)
AGI, TSF, BRASYN = (CONVENTIONS[name] for name in ("paper-agi", "paper-tsf", "brasyn"))


def ball(shape, radius=0.8, centre=0.0):
    axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in shape], indexing="ij")
    return sum((axis - centre) ** 2 for axis in axes) < radius**2


def head(shape=(20, 24, 22), seed=0):
    """(real, synthetic, brain, tumour) in scanner-like units, background 0."""
    generator = np.random.default_rng(seed)
    brain, tumour = ball(shape), ball(shape, 0.3, 0.2)
    real = np.where(brain, 100 + 300 * generator.random(shape) + 400 * tumour, 0)
    noise = 40 * generator.standard_normal(shape)
    synthetic = np.where(brain, np.maximum(real + noise, 0), 0)
    return real.astype(np.float32), synthetic.astype(np.float32), brain, tumour


def value(scores, name):
    return next(v for n, v in scores.items() if n.split("@")[0] == name)


def test_paper_agi_by_hand():
    real, synthetic, brain, tumour = head((31, 40, 36))
    top = np.percentile(real, 99.5)
    x, y = (np.clip(volume.astype(float) / top, 0, 1)[7:23] for volume in (real, synthetic))
    assert AGI.box(brain)[0] == slice(7, 23)  # 16 = round(31 * 80 / 155) slices
    native = np.ones((155, 240, 240), bool)
    assert AGI.box(native) == (slice(37, 117), slice(0, 240), slice(0, 240))
    assert TSF.box(native) == (slice(14, 140), slice(24, 216), slice(24, 216))
    scores = score_case(real, synthetic, brain, tumour, "paper-agi")
    psnr = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(x, y, strict=True)]
    ssim = [structural_similarity(a, b, data_range=1) for a, b in zip(x, y, strict=True)]
    assert value(scores, "psnr_volume") == pytest.approx(np.mean(psnr), abs=1e-9)
    assert value(scores, "ssim_volume") == pytest.approx(np.mean(ssim), abs=1e-9)
    assert value(scores, "mae_volume") == pytest.approx(np.abs(x - y).mean(), abs=1e-9)
    inside = tumour[7:23]
    error = np.mean((x - y)[inside] ** 2)
    assert value(scores, "psnr_tumour") == pytest.approx(-10 * math.log10(error), abs=1e-9)


def test_paper_tsf_by_hand():
    real, synthetic, brain, tumour = head((131, 20, 18))
    top = 2 * np.percentile(real, 99)
    x, y = (np.clip(v.astype(float), 0, top) / top * 2 - 1 for v in (real, synthetic))
    x, y = x[2:128], y[2:128]
    scores = score_case(real, synthetic, brain, tumour, "paper-tsf")
    psnr = peak_signal_noise_ratio(x, y, data_range=2)
    assert value(scores, "psnr_volume") == pytest.approx(psnr, abs=1e-9)
    ssim = structural_similarity(x, y, data_range=2)
    assert value(scores, "ssim_volume") == pytest.approx(ssim, abs=1e-9)


def test_brasyn_agrees_with_figures_of_torchmetrics():
    """Made as the challenge's ssim.py does, with torchmetrics 1.9.0."""
    scores = score_case(*head(), "brasyn")
    assert value(scores, "ssim_tumour") == pytest.approx(0.9997573609420519, abs=1e-9)
    assert value(scores, "ssim_rest") == pytest.approx(0.9835426081767248, abs=1e-9)


@pytest.mark.parametrize("background", [50.0, -50.0])
def test_brasyn_takes_the_lower_percentile_but_nothing_below_0(background):
    real, synthetic, brain, tumour = head((12, 14, 13))
    pair = [np.where(brain, volume, background) for volume in (real, synthetic)]
    mapped = []
    for volume in pair:
        low, high = max(0.0, np.percentile(volume, 0.5)), np.percentile(volume, 99.5)
        mapped.append(np.where(tumour, (volume.clip(low, high) - low) / (high - low), 0))
    expected = similarity_map(*mapped, max(np.ptp(volume) for volume in mapped), TORCHMETRICS)
    scores = score_case(*pair, brain, tumour, "brasyn")
    assert value(scores, "ssim_tumour") == pytest.approx(expected.mean(), abs=1e-9)
    assert BRASYN.ends(pair[0], brain)[0] == max(0.0, background)


@pytest.mark.parametrize("name", ["real-scale", "own-scale"])
def test_our_scores_are_our_formulas_on_the_scale_of_their_name(name):
    real, synthetic, brain, tumour = head()
    scales = [Scale.fit(each, brain) for each in (real, synthetic if name == "own-scale" else real)]
    x, y = (s.apply(v, brain) for s, v in zip(scales, (real, synthetic), strict=True))
    formulas = {"psnr": psnr_brain, "ssim": ssim_brain, "mae": mae_brain}
    found = score_case(real, synthetic, brain, tumour, name, blanked=False)
    for region, mask in (("brain", brain), ("tumour", tumour)):
        for kind, formula in formulas.items():
            expected = pytest.approx(formula(x, y, mask), rel=1e-9)
            assert found[f"{kind}_{region}@{name}"] == expected
    assert len(found) == 8


@settings(max_examples=40)
@example(seed=0, p=99.0, stretch=4.0)  # 20 log10 2 = 6.02 dB
@given(seed=st.integers(0, 999), p=st.floats(50, 99.9), stretch=st.floats(2, 9))
def test_psnr_of_two_ranges_differs_by_the_ratio_of_their_peaks(seed, p, stretch):
    generator = np.random.default_rng(seed)
    real, everywhere = 50 + 50 * generator.random((6, 8, 8)), np.ones((6, 8, 8), bool)
    synthetic = 50 + 50 * generator.random(real.shape)
    first = replace(TSF, high=p, stretch=stretch)  # at least 2 x 50 and so above every voxel
    one, two = (score_case(real, synthetic, everywhere, None, c) for c in (first, TSF))
    peaks = [float(np.diff(c.ends(real, everywhere))[0]) for c in (TSF, first)]
    expected = 20 * math.log10(peaks[0] / peaks[1])
    shift = value(two, "psnr_volume") - value(one, "psnr_volume")
    assert shift == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(factor=st.floats(0.01, 1000))
def test_a_common_factor_changes_nothing(name, factor):
    real, synthetic, brain, tumour = head((9, 12, 11))
    scores = score_case(real, synthetic, brain, tumour, name)
    scaled = score_case(
        real.astype(float) * factor, synthetic.astype(float) * factor, brain, tumour, name
    )
    assert scaled == pytest.approx(scores, rel=1e-4, abs=1e-5)


def test_wrong_brightness_counts_except_where_each_volume_is_its_own_measure():
    real, _, brain, tumour = head()
    for name in NAMES:
        scores = score_case(real, 0.6 * real, brain, tumour, name, blanked=False)
        ssim = next(v for n, v in scores.items() if n.startswith("ssim"))
        assert (ssim > 0.9999) == CONVENTIONS[name].own_scale


@pytest.mark.parametrize("name", NAMES)
def test_equal_volumes_are_perfect(name):
    real, _, brain, tumour = head()
    for full, found in score_case(real, real, brain, tumour, name, blanked=False).items():
        perfect = {"psnr": math.inf, "ssim": 1.0, "mae": 0.0, "nmse": 0.0}[full.split("_")[0]]
        assert found == perfect


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spoil", [lambda real, noisy: 2.0 * noisy - real, lambda *_: 0])
def test_more_noise_and_an_empty_volume_score_worse(name, spoil):
    real, synthetic, brain, tumour = head()
    worse = np.where(brain, np.maximum(spoil(real, synthetic), 0), 0)
    good = score_case(real, synthetic, brain, tumour, name, blanked=False)
    bad = score_case(real, worse, brain, tumour, name, blanked=False)
    for full in good:
        assert full.endswith(f"@{name}")
        assert math.isfinite(bad[full])
        sign = 1 if full.startswith(("psnr", "ssim")) else -1
        assert sign * good[full] > sign * bad[full]


@pytest.mark.parametrize("name", NAMES)
def test_the_control_is_the_score_of_a_blanked_tumour(name):
    real, synthetic, brain, tumour = head()
    scores = score_case(real, synthetic, brain, tumour, name)
    blank = np.where(tumour, 0, synthetic)
    again = score_case(real, blank, brain, tumour, name, blanked=False)
    for full, found in again.items():
        if not full.startswith("ssim_rest"):
            control = scores[full.replace("@", "_blanked@")]
            assert control == pytest.approx(found, abs=1e-9)
    assert set(again) <= set(scores)
    assert len(scores) == 2 * len(again) - (name == "brasyn")


def test_a_blanked_tumour_is_seen_inside_it_and_not_by_the_official_score():
    real, _, brain, tumour = head((40, 44, 42))
    perfect_but = np.where(tumour, 0, real)
    official = score_case(real, perfect_but, brain, tumour, "brasyn", blanked=False)
    assert value(official, "ssim_tumour") > 0.9
    assert value(official, "ssim_tumour_inside") < 0.1
    ours = score_case(real, perfect_but, brain, tumour, "real-scale", blanked=False)
    assert value(ours, "ssim_tumour") < 0.1


def test_without_a_tumour_there_is_nothing_to_blank():
    real, synthetic, brain, tumour = head()
    for name in NAMES:
        none = score_case(real, synthetic, brain, None, name)
        assert not any("tumour" in full or "blanked" in full for full in none)
        empty = score_case(real, synthetic, brain, np.zeros_like(tumour), name)
        for full, found in empty.items():
            assert math.isnan(found) == ("tumour" in full or "blanked" in full)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 24, 20), (3, 4, 5)])
def test_volumes_smaller_than_the_window_have_scores(name, shape):
    generator = np.random.default_rng(0)
    real = 100 + 50 * generator.random(shape)
    synthetic = 100 + 50 * generator.random(shape)
    everywhere = np.ones(shape, bool)
    for full, found in score_case(real, synthetic, everywhere, everywhere, name).items():
        assert math.isfinite(found) or full.startswith("ssim_rest")  # there is no rest


def test_degenerate_heads_have_scores_or_nan_and_divide_by_nothing():
    one, everywhere = np.full((1, 1, 1), 7.0), np.ones((1, 1, 1), bool)
    tiny = np.zeros((20, 20, 20))
    tiny[9:11, 9:11, 9:11] = 100  # 0.1 % of the volume: p99.5 is 0
    for name in NAMES:
        scores = score_case(one, 0.5 * one, everywhere, everywhere, name)
        psnr = [value for full, value in scores.items() if full.startswith("psnr")]
        # Each on its own scale two constant volumes are equal.
        assert all(map(math.isinf if name == "own-scale" else math.isfinite, psnr))
        assert all(math.isnan(v) for full, v in scores.items() if "brasyn" in full)
        scores = score_case(tiny, 0.5 * tiny, tiny > 0, tiny > 0, name)
        assert all(math.isfinite(v) for full, v in scores.items() if "@paper" in full)
    for name in ("real-scale", "paper-agi"):
        scores = score_case(0 * tiny, 0 * tiny, tiny < 0, tiny < 0, name)
        assert all(map(math.isnan, scores.values()))
    upper = np.arange(20)[:, None, None] >= 12  # slices without brain are left out
    scores = score_case(upper * (tiny + 1), upper * (tiny + 1) / 2, upper & (tiny >= 0), None, AGI)
    assert math.isfinite(value(scores, "psnr_volume"))


HEAD = head((6, 7, 8))


@pytest.mark.parametrize(
    ("changed", "name", "part"),
    [
        ({}, "theirs", "'theirs' is no convention; known are real-scale, own-scale, paper-agi"),
        ({1: HEAD[1][1:]}, "real-scale", r"synthetic is \(5, 7, 8\)"),
        ({3: HEAD[3].astype(np.float32)}, "real-scale", "tumour mask must be bool"),
        ({0: HEAD[0][0], 1: HEAD[1][0], 2: HEAD[2][0], 3: None}, "real-scale", r"\(D, H, W\)"),
        ({1: np.where(HEAD[2], HEAD[1], np.nan)}, "real-scale", "synthetic volume has .* NaN"),
    ],
)
def test_refuses_what_cannot_be_scored(changed, name, part):
    volumes = [changed.get(place, volume) for place, volume in enumerate(HEAD)]
    with pytest.raises(ValueError, match=part):
        score_case(*volumes, name)


def distance(real, synthetic):
    return np.abs(real - synthetic).mean(axis=(1, 2))


def test_lpips_is_the_sum_of_slices_in_one_paper_and_their_mean_in_ours():
    real, synthetic, brain, _ = head((12, 10, 10))
    held = brain.any(axis=(1, 2))
    assert 0 < held.sum() < 12
    for name, region in (("paper-tsf", "volume"), ("real-scale", "brain")):
        scores = score_case(real, synthetic, brain, None, name, perceptual=distance)
        rule = CONVENTIONS[name]
        ends = rule.ends(real, brain)
        each = 2 * distance(*(rule.apply(v, ends, brain) for v in (real, synthetic)))
        each /= rule.data_range  # pictures are given in [-1, 1]
        expected = each.sum() if name == "paper-tsf" else each[held].mean()
        assert scores[f"lpips_{region}@{name}"] == pytest.approx(expected, rel=1e-5)


def test_lpips_has_its_control_and_is_left_out_where_the_source_has_none():
    scores = score_case(*head((6, 8, 8)), "real-scale", perceptual=distance)
    assert scores["lpips_brain_blanked@real-scale"] > scores["lpips_brain@real-scale"]
    scores = score_case(*head((6, 8, 8)), "paper-agi", perceptual=distance)
    assert not any(full.startswith("lpips") for full in scores)
