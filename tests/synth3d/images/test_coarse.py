"""Thick slices of a volume on a grid, and the ways back."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from synth3d.errors import InputError
from synth3d.images import Grid, Volume, coarse, coarse_grid, resample, resample_within

SIDES = st.tuples(*[st.integers(5, 13)] * 3)
PROFILES = st.sampled_from(["kspace", "slices"])
RATIO = st.tuples(*[st.integers(1, 5)] * 3)
OBLIQUE = np.array([[-1.5, 0.1, 0, 9], [0.1, -1, 0.2, 11], [0, 0.1, 2, -7], [0, 0, 0, 1.0]])


def picture(sides, seed=0):
    return np.random.default_rng(seed).random(sides).astype(np.float32)


@given(sides=SIDES, ratio=RATIO, profile=PROFILES, seed=st.integers(0, 99))
def test_means_and_constants_stay_and_energy_never_grows(sides, ratio, profile, seed):
    fine = picture(sides, seed).astype(np.float64) - 0.3
    found = coarse(fine, ratio, profile)
    assert found.shape == tuple(-(-side // by) for side, by in zip(sides, ratio, strict=True))
    assert found.mean() == pytest.approx(fine.mean())
    np.testing.assert_allclose(coarse(0 * fine + 7, ratio, profile), 7)
    assert np.square(found).mean() <= np.square(fine).mean() + 1e-12


@given(sides=SIDES, profile=PROFILES)
def test_a_ratio_of_one_is_the_volume_to_the_bit(sides, profile):
    fine = picture(sides)
    assert np.array_equal(coarse(fine, (1, 1, 1), profile), fine)


@pytest.mark.parametrize("by", [2, 4, 8])
def test_kspace_keeps_low_waves_and_drops_high_ones(by):
    """A wave below the coarse grid's limit is the same wave there; one above is gone."""
    there = 32 // by
    where = (np.arange(there) + 0.5) * by - 0.5

    def wave(turns, at):
        return np.sin(2 * np.pi * turns * at / 32 + 0.4)

    low, high = (wave(there // 2 + step, np.arange(32.0)) for step in (-1, 1))
    np.testing.assert_allclose(coarse(low, (by,)), wave(there // 2 - 1, where), atol=1e-12)
    assert np.abs(coarse(high, (by,))).max() < 1e-12


def test_slices_are_means_over_blocks():
    fine = picture((8, 6, 5))
    blocks = fine.reshape(4, 2, 6, 5).mean(1)
    np.testing.assert_allclose(coarse(fine, (2, 1, 1), "slices"), blocks, rtol=1e-5)


@given(sides=SIDES, ratio=RATIO)
def test_trilinear_is_what_training_interpolates_with(sides, ratio):
    fine = Grid(sides, OBLIQUE)
    found = coarse(picture(sides), ratio)
    there = Volume(found, coarse_grid(fine, ratio).affine, Path("scan.nii"))
    back = F.interpolate(torch.from_numpy(found)[None, None], size=sides, mode="trilinear")[0, 0]
    np.testing.assert_allclose(resample_within(there, fine).data, back, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", [1, 3])
def test_a_constant_and_an_untouched_volume_come_back(order):
    grid = Grid((6, 7, 8), OBLIQUE)
    fine = Volume(picture(grid.shape_zyx), OBLIQUE, Path("scan.nii"))
    np.testing.assert_allclose(resample_within(fine, grid, order).data, fine.data, atol=1e-6)
    slab = coarse(np.full(grid.shape_zyx, 300.0), (1, 2, 3))
    there = Volume(slab, coarse_grid(grid, (1, 2, 3)).affine, Path("scan.nii"))
    np.testing.assert_allclose(resample_within(there, grid, order).data, 300, rtol=1e-5)


@given(sides=SIDES, ratio=RATIO)
def test_the_coarse_grid_has_the_same_field_of_view(sides, ratio):
    """Its corners, half a voxel beyond the outermost middles, are those of the fine one."""
    fine, found = (grid := Grid(sides, OBLIQUE)), coarse_grid(grid, ratio)
    for low in (True, False):
        ends = [
            g.affine @ [*((-0.5 if low else n - 0.5) for n in g.shape_zyx[::-1]), 1]
            for g in (fine, found)
        ]
        np.testing.assert_allclose(ends[0], ends[1], atol=1e-9)
    assert found.shape_zyx == coarse(picture(sides), ratio).shape


def test_a_ramp_is_where_it_was():
    """Means of thick slices, resampled by the affines alone, are the ramp between the middles."""
    ramp = np.broadcast_to(np.arange(1.0, 17), (4, 5, 16))
    found = coarse(ramp, (1, 1, 4), "slices")
    np.testing.assert_allclose(found[0, 0], [2.5, 6.5, 10.5, 14.5])
    fine = Grid((4, 5, 16), OBLIQUE)
    there = Volume(found, coarse_grid(fine, (1, 1, 4)).affine, Path("scan.nii"))
    inner = np.s_[1:-1, 1:-1, 2:14]
    np.testing.assert_allclose(resample(there, fine).data[inner], ramp[inner], rtol=1e-5)
    np.testing.assert_allclose(resample_within(there, fine).data[inner], ramp[inner], rtol=1e-5)


@pytest.mark.parametrize(("order", "off"), [(1, 3.75), (3, 0)])
def test_splines_of_order_3_follow_a_parabola_and_lines_cut_its_corners(order, off):
    """Far from the ends; 1.5 from a point and 2.5 from the next a line is 3.75 above x²."""
    fine = Grid((1, 1, 128), OBLIQUE)
    own = coarse_grid(fine, (1, 1, 4))
    points = (np.arange(32.0)[None, None] * 4 - 62) ** 2
    there = Volume(points, own.affine, Path("scan.nii"))
    error = resample_within(there, fine, order).data - (np.arange(128) - 63.5) ** 2
    assert error[..., 40:88].max() == pytest.approx(off, abs=1e-3)


def test_voxels_larger_than_the_volume_are_refused():
    with pytest.raises(InputError, match="voxels of 9 along axis 2, which has 8; take a smaller"):
        coarse(picture((6, 7, 8)), (1, 1, 9))
