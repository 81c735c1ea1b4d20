"""Deformable and rotating convolutions, and reading at displaced positions."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from synth3d.models import ArcResUNet, DeformResUNet, ResUNet
from synth3d.models.moving.deformable import DeformableConv, deformable_conv
from synth3d.models.moving.rotating import RotatingConv, rotation_matrices
from synth3d.models.moving.warping import displace, sample_at

MODES = [(2, "dcn"), (2, "exact"), (2, "warp"), (3, "exact"), (3, "warp")]


def image(dim: int, channels: int = 4, batch: int = 2, side: int = 6, **kind) -> torch.Tensor:
    return torch.randn(batch, channels, *[side] * dim, **kind)


# Reading at displaced positions


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, -2, 0), (0, 0, 1), (2, -1, 1)])
def test_a_whole_shift_is_a_roll_inside_the_volume(shift):
    """Displacement (z, y, x) by s reads at p + s: a roll by -s, away from the rim."""
    x = torch.randn(1, 2, 5, 6, 7, dtype=torch.float64)
    moved = displace(
        x, torch.tensor(shift, dtype=x.dtype).view(1, 3, 1, 1, 1).expand(1, 3, 5, 6, 7)
    )
    rolled = x.roll([-s for s in shift], (2, 3, 4))
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2), slice(2, -2))
    assert torch.allclose(moved[inside], rolled[inside], atol=1e-12)


def test_worked_example_of_a_fractional_read():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
    where = torch.tensor([[0.5, 0.25], [0.0, -0.5], [1.0, 2.0], [0.0, 1.0]]).T.reshape(1, 2, 1, 4)
    # Between rows: (2, 3.5), a quarter of the way: 2.375. Half outside: 1/2. A voxel outside: 0.
    assert torch.allclose(sample_at(x, where).flatten(), torch.tensor([2.375, 0.5, 0.0, 2.0]))


def test_an_axis_of_one_voxel_can_be_left_and_nothing_is_no_displacement():
    x = torch.ones(1, 1, 1, 3, 3, dtype=torch.float64)
    half = torch.zeros(1, 3, 1, 3, 3, dtype=x.dtype)
    half[:, 0] = 0.5
    assert torch.allclose(displace(x, half), 0.5 * x)
    for dim in (2, 3):
        x = image(dim, dtype=torch.float64)
        still = torch.zeros(2, dim, *x.shape[2:], dtype=x.dtype)
        assert torch.allclose(displace(x, still), x, atol=1e-12)


def test_coordinates_stay_exact_under_autocast():
    x = torch.arange(200.0).view(1, 1, 1, 200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        read = displace(x, torch.full((1, 2, 1, 200), 0.0))
    assert torch.allclose(read, x, atol=1e-3)


# Deformable convolution


@pytest.mark.parametrize(("dim", "mode"), MODES)
def test_it_starts_as_the_plain_convolution_and_its_offsets_get_a_gradient(dim, mode):
    layer, x = DeformableConv(4, dim, mode).double(), image(dim, dtype=torch.float64)
    y = layer(x)
    assert torch.allclose(y, layer.conv(x), atol=1e-12)
    y.square().sum().backward()
    grad = layer.displacements.weight.grad
    taps = layer.displacements.taps
    offsets, masks = grad[: taps * dim], grad[taps * dim :]
    assert (offsets.flatten(1).abs().amax(1) > 1e-4).all()
    assert (masks.flatten(1).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize("seed", range(3))
def test_tap_by_tap_is_torchvisions_operator(seed):
    torch.manual_seed(seed)
    layer = DeformableConv(4, 2, "exact").double()
    other = DeformableConv(4, 2, "dcn").double()
    nn.init.normal_(layer.displacements.weight, std=0.3)
    nn.init.normal_(layer.displacements.bias, std=2.0)
    other.load_state_dict(layer.state_dict())
    found = []
    for module in (layer, other):
        torch.manual_seed(seed + 9)
        x = torch.randn(2, 4, 5, 7, dtype=torch.float64).requires_grad_()
        y = module(x)
        y.square().sum().backward()
        found.append([y, x.grad, *[p.grad for p in module.parameters()]])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_in_3d_one_slice_is_torchvisions_operator():
    from torchvision.ops import deform_conv2d

    weight = torch.randn(3, 4, 3, 3, dtype=torch.float64)
    deep = torch.randn(3, 4, 3, 3, 3, dtype=torch.float64)
    deep[:, :, 1] = weight
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    flat = 2 * torch.randn(2, 9, 2, 5, 7, dtype=torch.float64)
    masks = torch.rand(2, 9, 5, 7, dtype=torch.float64)
    offsets = torch.zeros(2, 3, 9, 3, 1, 5, 7, dtype=torch.float64)
    offsets[:, 1, :, 1:, 0] = flat
    all_masks = torch.rand(2, 3, 9, 1, 5, 7, dtype=torch.float64)
    all_masks[:, 1, :, 0] = masks
    ours = deformable_conv(x[:, :, None], deep, offsets.flatten(1, 2), all_masks.flatten(1, 2))
    theirs = deform_conv2d(x, flat.flatten(1, 2), weight, padding=1, mask=masks)
    assert torch.allclose(ours[:, :, 0], theirs, atol=1e-10)


def test_one_common_offset_is_the_warp():
    """The same offset and mask at every tap, voxel by voxel constant: displacing the input."""
    shift = torch.tensor([0.25, -1.0, 0.5], dtype=torch.float64)
    x = image(3, dtype=torch.float64)
    weight = torch.randn(4, 4, 3, 3, 3, dtype=torch.float64)
    offsets = shift.view(1, 1, 3, 1, 1, 1).expand(2, 27, 3, *x.shape[2:])
    exact = deformable_conv(x, weight, offsets, torch.ones(2, 27, *x.shape[2:], dtype=x.dtype))
    warped = F.conv3d(displace(x, offsets[:, 0]), weight, padding=1)
    inside = (slice(None), slice(None), *[slice(2, -2)] * 3)
    assert torch.allclose(exact[inside], warped[inside], atol=1e-10)


@pytest.mark.parametrize(("dim", "mode"), MODES)
def test_autocast_keeps_displacements_in_float32(dim, mode):
    layer, x = DeformableConv(4, dim, mode), image(dim).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        assert {t.dtype for t in layer.displacements(x)} == {torch.float32}
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_what_a_deformable_convolution_cannot_do_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="'dcn' is 2-D only; use 'warp' or 'exact'"):
        DeformResUNet(1, 1, dim=3, widths=(4, 8), stages=3, deform="dcn")
    with pytest.raises(ValueError, match="deform must be one of auto, dcn, warp, exact, got 'v3'"):
        DeformResUNet(1, 1, dim=2, widths=(4, 8), stages=3, deform="v3")
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    with pytest.raises(ValueError, match="install it, or set deform to 'exact' or 'warp'"):
        DeformResUNet(1, 1, dim=2, widths=(4, 8), stages=3)
    assert DeformResUNet(1, 1, dim=2, widths=(4, 8), stages=3, deform="exact")


# Rotating convolution


def test_a_kernel_that_is_not_turned_stays_bit_for_bit():
    kernel = torch.randn(9)
    assert torch.equal(rotation_matrices(torch.zeros(())) @ kernel, kernel)


@given(st.floats(-math.radians(40), math.radians(40)))
def test_turning_mixes_taps_keeps_constants_and_is_mirrored_by_turning_back(angle):
    there = rotation_matrices(torch.tensor(angle, dtype=torch.float64))
    assert there.min() >= 0
    assert torch.allclose(there.sum(1), torch.ones(9, dtype=torch.float64))
    assert there[4].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    back = rotation_matrices(torch.tensor(-angle, dtype=torch.float64))
    mirror = torch.arange(9).view(3, 3).flip(1).flatten()
    assert torch.allclose(there[mirror][:, mirror], back, atol=1e-12)


def test_a_quarter_turn_is_exact():
    kernel = torch.randn(3, 3, dtype=torch.float64)
    turn = rotation_matrices(torch.tensor(math.pi / 2, dtype=torch.float64))
    assert torch.allclose((turn @ kernel.flatten()).view(3, 3), torch.rot90(kernel), atol=1e-12)


def test_an_eighth_of_a_turn_by_hand():
    """The middle of an edge moves half-way to its corner: at (0.707, 0.707) of the square."""
    turn = rotation_matrices(torch.tensor(math.pi / 4, dtype=torch.float64))
    a = math.sqrt(0.5)
    row = sorted(turn[1].tolist(), reverse=True)
    assert row[:4] == pytest.approx(sorted([a * a, a * (1 - a), a * (1 - a), (1 - a) ** 2])[::-1])


def test_rotation_has_the_right_gradient_and_one_at_zero():
    angles = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation_matrices, (angles,))
    still = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    kernel, weight = torch.randn(2, 9, dtype=torch.float64)
    ((rotation_matrices(still) @ kernel) * weight).sum().backward()
    assert still.grad.abs() > 1e-3


def test_each_sample_gets_its_own_mixture_of_turned_kernels():
    layer, x = RotatingConv(4, 2).eval(), image(2)
    nn.init.normal_(layer.routing.angle.weight)
    angles, weights = layer.routing(x)
    assert angles.abs().max() <= math.radians(40)
    expected = []
    for b in range(2):
        kernel = torch.zeros(4, 4, 9)
        for k in range(2):
            kernel += (
                weights[b, k] * layer.weight.view(2, 4, 4, 9)[k] @ rotation_matrices(angles[b, k]).T
            )
        expected.append(F.conv2d(x[b : b + 1], kernel.view(4, 4, 3, 3), padding=1))
    assert torch.allclose(layer(x), torch.cat(expected), atol=1e-5)


def test_rotation_exists_in_2d_only():
    with pytest.raises(ValueError, match="exists in 2-D only, got dim 3; use dim 2"):
        ArcResUNet(1, 1, dim=3)
    assert ArcResUNet.dims == {2}
    with pytest.raises(ValueError, match="rotated_kernels must be positive, got 0"):
        ArcResUNet(1, 1, rotated_kernels=0)


# In the network


@pytest.mark.parametrize("make", [DeformResUNet, ArcResUNet])
def test_the_same_ten_places_as_agi_net(make):
    with torch.device("meta"):
        net = make(1, 1, dim=2)
        placed = {
            (name, i)
            for name, stage in net.stages.items()
            for i, block in enumerate(stage)
            if not isinstance(block.first, nn.Conv2d)
        }
        stages = ["down1", "down2", "down3", "body", "up1"]
        assert placed == {(name, i) for name in stages for i in range(2)}
        assert (
            not make(1, 1, dim=2, stages=0).state_dict().keys()
            ^ ResUNet(1, 1, dim=2).state_dict().keys()
        )


def test_deformable_counts():
    """Per convolution a map of 9 C (taps (d + 1)) weights and as many biases as outputs."""

    def count(make, **options):
        with torch.device("meta"):
            return sum(p.numel() for p in make(1, 1, **options).parameters())

    for dim, mode, taps in ((2, "dcn", 9), (2, "exact", 9), (3, "warp", 1), (3, "exact", 27)):
        widths, outputs = (8, 16, 32), taps * (dim + 1)
        extra = sum(2 * outputs * (3**dim * c + 1) for c in (8, 16, 32, 16, 8))
        plain = count(ResUNet, dim=dim, widths=widths)
        assert count(DeformResUNet, dim=dim, widths=widths, deform=mode) == plain + extra
