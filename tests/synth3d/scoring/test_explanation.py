"""Whether a map finds the errors: worked examples, and laws of its figures."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synth3d.scoring import CHANCE, find_errors
from synth3d.scoring.explanation import area_under_roc, gradient_magnitude, worst

SHAPE = (10, 10, 10)
BRAIN = np.ones(SHAPE, bool)


@pytest.fixture
def pair():
    """A picture and the truth: wrong by up to 1, most in one corner."""
    draws = np.random.default_rng(0)
    real, error = draws.random(SHAPE), draws.random(SHAPE) ** 4
    return real, (real + error).astype(np.float32), error


def test_the_error_itself_finds_it_and_noise_does_not(pair):
    real, synthetic, error = pair
    noise = np.random.default_rng(1).random(SHAPE)
    found = find_errors({"error": error, "less": -error, "noise": noise}, real, synthetic, BRAIN)
    assert found["correlation_brain@error"] == pytest.approx(1)
    assert found["auc_brain@error"] == pytest.approx(1)
    assert found["auc_brain@less"] == pytest.approx(0)
    assert found["correlation_brain@noise"] == pytest.approx(CHANCE["correlation"], abs=0.1)
    assert found["auc_brain@noise"] == pytest.approx(CHANCE["auc"], abs=0.2)
    assert {key.split("@")[1] for key in found} == {"error", "less", "noise", "gradient"}


def test_each_region_is_asked_by_itself_and_what_is_outside_never_matters(pair):
    real, synthetic, error = pair
    tumour = np.zeros(SHAPE, bool)
    tumour[2:6, 2:6, 2:6] = True
    there = np.where(tumour, error, 0)
    found = find_errors({"there": there}, real, synthetic, BRAIN, tumour)
    assert found["correlation_tumour@there"] == pytest.approx(1)
    assert found["correlation_brain@there"] < 0.9
    inner = BRAIN.copy()
    inner[:3] = False
    spoilt = [np.where(inner, volume, 1e6) for volume in (error, real, synthetic)]
    assert find_errors({"m": spoilt[0]}, *spoilt[1:], inner) == pytest.approx(
        find_errors({"m": error}, real, synthetic, inner)
    )


def test_ten_voxels_worked_out_by_hand():
    """One of ten is the worst; of the nine others the map puts six below it and one beside it."""
    error = np.array([9.0, 1, 2, 3, 0, 1, 2, 3, 4, 5])
    map_ = np.array([5.0, 9, 8, 5, 1, 1, 1, 1, 1, 1])
    assert worst(error).tolist() == [True] + [False] * 9
    assert area_under_roc(map_, worst(error)) == pytest.approx((6 + 0.5) / 9)


@given(arrays(np.int64, 30, elements=st.integers(0, 9)), arrays(bool, 30), st.integers(1, 5))
def test_the_area_is_a_share_of_pairs_and_knows_no_scale(values, positive, factor):
    area = area_under_roc(values, positive)
    pairs = [(a > b) + 0.5 * (a == b) for a in values[positive] for b in values[~positive]]
    if not pairs or not np.ptp(values):
        assert math.isnan(area)
        return
    assert area == pytest.approx(np.mean(pairs))
    assert area_under_roc(factor * values + 3, positive) == pytest.approx(area)
    assert area_under_roc(-values, positive) == pytest.approx(1 - area)


def test_the_gradient_is_per_mm_and_stops_at_the_brain():
    z, y, x = np.indices(SHAPE).astype(float)
    ramp = 2 * 3 * z + 1 * 4 * x
    inner = BRAIN.copy()
    inner[:, :, 7:] = False
    spoilt = np.where(inner, ramp, -1e6)
    found = gradient_magnitude(spoilt, inner, (2.0, 1.0, 1.0))
    np.testing.assert_allclose(found[inner], 5)
    assert not found[~inner].any()


def test_what_is_not_defined_is_nan_and_what_does_not_fit_is_refused(pair):
    real, synthetic, error = pair
    none = np.zeros(SHAPE, bool)
    assert all(math.isnan(v) for v in find_errors({"m": error}, real, synthetic, none).values())
    flat = find_errors({"m": np.ones(SHAPE)}, real, synthetic, BRAIN)
    assert math.isnan(flat["correlation_brain@m"])
    assert math.isnan(flat["auc_brain@m"])
    same = find_errors({"m": error}, real, real, BRAIN)
    assert math.isnan(same["auc_brain@m"])
    with pytest.raises(ValueError, match="m is"):
        find_errors({"m": error[1:]}, real, synthetic, BRAIN)
    with pytest.raises(ValueError, match="must be bool"):
        find_errors({"m": error}, real, synthetic, BRAIN.astype(int))
    with pytest.raises(ValueError, match="gradient"):
        find_errors({"gradient": error}, real, synthetic, BRAIN)
