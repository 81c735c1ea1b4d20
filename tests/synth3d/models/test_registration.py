"""Moving a label: where it begins, axis order, the cap, slopes in mm, and folds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from synth3d.models import Registration, folded, roughness, warp
from synth3d.models.moving.warping import voxel_positions

SHAPE = {2: (12, 20), 3: (8, 12, 10)}


def field(shape, shift):
    """A displacement that is ``shift`` everywhere, (1, d, *shape)."""
    return torch.tensor(shift, dtype=torch.float32).view(1, -1, *[1] * len(shape)).expand(
        1, len(shape), *shape
    )  # fmt: skip


@pytest.mark.parametrize(("dim", "patch"), [(2, (16, 32)), (3, (8, 8, 16)), (3, (16, 16, 16))])
def test_it_begins_as_the_identity_whatever_it_sees(dim, patch):
    network, x = Registration(3, dim, patch, width=4), torch.randn(2, 3, *patch)
    moved = network(x)
    assert moved.shape == (2, dim, *patch)
    assert 0 < moved.abs().max() < 1e-3
    torch.testing.assert_close(warp(x, moved), x, atol=1e-2, rtol=0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.normal_(module.weight, 0, 0.02)
    network.reset_parameters()
    assert network(x).abs().max() < 1e-3


def test_2d_has_the_published_size_less_what_its_norms_undo():
    with torch.device("meta"):
        count = sum(p.numel() for p in Registration(2, 2).parameters())
    biases = 2 * (32 + 6 * 64) + 3 * 2 * 128 + 2 * 32
    assert count + biases == 2_058_018
    assert f"{count / 1e6:.2f}" == "2.06"


@given(st.sampled_from([2, 3]), st.lists(st.integers(-3, 3), min_size=3, max_size=3))
def test_a_whole_displacement_is_a_roll_back_inside_and_the_edge_beyond(dim, shift):
    """Along each axis by itself, (z, y, x): what is read is what lies there."""
    shape, shift = SHAPE[dim], shift[-dim:]
    x = torch.rand(1, 2, *shape, generator=torch.Generator().manual_seed(0))
    found = warp(x, field(shape, shift))
    expected = x
    for axis, by in enumerate(shift, start=2):
        index = (torch.arange(x.shape[axis]) + by).clamp(0, x.shape[axis] - 1)
        expected = expected.index_select(axis, index)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_no_component_exceeds_the_cap():
    network = Registration(2, 2, (16, 16), width=4, cap=2.5)
    nn.init.normal_(network.out.weight, std=100.0)
    moved = network(torch.randn(1, 2, 16, 16))
    assert 2 < moved.abs().max() <= 2.5


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 2.0)])
def test_roughness_is_of_slopes_in_mm(spacing):
    """u_z = 0.1 y in voxels is 0.1 · s_z / s_y mm per mm; a translation has no slope."""
    y = voxel_positions((6, 7, 8), torch.zeros(()))[1]
    tilted = torch.stack([0.1 * y, torch.zeros_like(y), torch.full_like(y, 3.0)])[None]
    expected = (0.1 * spacing[0] / spacing[1]) ** 2 / 3
    assert roughness(tilted, spacing).item() == pytest.approx(expected, rel=1e-5)
    assert roughness(field((6, 7, 8), (3, 2, 1)), spacing).item() == 0


@pytest.mark.parametrize("dim", [2, 3])
def test_folds_are_where_space_turns_inside_out(dim):
    where = voxel_positions((8,) * dim, torch.zeros(()))
    assert folded(0 * where[None]).item() == 0
    for factor, share in ((-0.9, 0), (-1.5, 1), (2.0, 0)):
        along = torch.zeros_like(where)
        along[-1] = factor * where[-1]  # x → (1 + factor) x
        assert folded(along[None]).item() == share
    half = torch.zeros_like(where)
    half[0] = torch.where(where[0] >= 4, -3 * (where[0] - 4), 0)
    assert folded(half[None]).item() == pytest.approx(3 / 7)


def test_what_it_cannot_be_is_refused():
    for wrong in ({"dim": 4}, {"dim": 2, "cap": 0.0}, {"dim": 2, "width": 0}):
        with pytest.raises(ValueError, match=r"expected dim|must be positive"):
            Registration(2, **wrong)
