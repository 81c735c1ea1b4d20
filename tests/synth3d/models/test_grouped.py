"""Grouped convolutions with their groups merged, gates in rolled kernels: torch's numbers."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cuda_ops import roll_kernel
from synth3d.models.agi_net.cagr import GatedRollingConv
from synth3d.models.agi_net.grouped import (
    GroupedConv2d,
    GroupedConv3d,
    merge_groups,
    merged_groups,
)

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def gradients(y: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(y.sin().sum(), leaves))


@pytest.mark.parametrize("groups", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_merged_thin_groups_give_the_same_numbers_and_gradients(groups, stride, last, gated):
    for dim, make, convolve in ((2, GroupedConv2d, F.conv2d), (3, GroupedConv3d, F.conv3d)):
        layer = make(16, 16, 3, stride=stride, padding=1, groups=groups)
        x = torch.randn(2, 16, *[5] * dim)
        x = (x.to(memory_format=LAST[dim]) if last else x).requires_grad_()
        gates = torch.rand(2, 16, *[1] * dim).requires_grad_() if gated else None
        seen = x if gates is None else x * gates
        expected = convolve(seen, layer.weight, layer.bias, stride, 1, 1, groups)
        found = layer(x, gates)
        assert torch.allclose(found, expected, atol=1e-5)
        leaves = [x, layer.weight, layer.bias, *([gates] if gated else [])]
        pairs = zip(gradients(found, *leaves), gradients(expected, *leaves), strict=True)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("channels", "groups", "merged"), [(32, 8, 1), (64, 8, 2), (256, 8, 8)])
def test_on_cuda_groups_are_merged_to_32_channels(channels, groups, merged, dim):
    """The rule reads shape, type and device alone, so a stand-in will do; numbers as unmerged."""

    def on(kind: str, dtype: torch.dtype = torch.float32) -> int:
        x = SimpleNamespace(device=torch.device(kind), dtype=dtype, shape=(2, channels))
        return merged_groups(x, groups)

    assert on("cuda") == on("cuda", torch.bfloat16) == merged
    assert on("cuda", torch.float64) == on("meta") == groups
    weight = torch.randn(channels, channels // groups, *[3] * dim)
    x = torch.randn(1, channels, *[4] * dim)
    convolve = F.conv3d if dim == 3 else F.conv2d
    found = convolve(x, merge_groups(weight, groups, merged), groups=merged)
    torch.testing.assert_close(found, convolve(x, weight, groups=groups), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("side", [3, 6])
@pytest.mark.parametrize("dim", [2, 3])
def test_gates_in_the_kernels_are_gates_on_the_input(dim, side):
    """conv(x · A, W) = conv(x, W · A), on either side of the rule that chooses."""
    layer = GatedRollingConv(4, 4, 3, dim=dim, groups=2).double()
    x = torch.randn(2, 4, *[side] * dim, dtype=torch.float64).requires_grad_()
    gates = torch.rand(2, 4, *[1] * dim, dtype=torch.float64).requires_grad_()
    offsets = torch.randn(2, 2, dim, dtype=torch.float64).requires_grad_()
    scale = torch.rand(2, 2, dtype=torch.float64).requires_grad_()
    leaves = (x, gates, offsets, scale, layer.weight)
    found = layer(x, offsets, scale, gates)
    convolve = F.conv3d if dim == 3 else F.conv2d
    kernels = roll_kernel(layer.weight, offsets, scale)
    pairs = zip((x * gates).split(1), kernels, strict=True)
    expected = torch.cat([convolve(one, kernel, padding=1) for one, kernel in pairs])
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    pairs = zip(gradients(found, *leaves), gradients(expected, *leaves), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


def test_gates_go_into_the_kernels_where_there_are_more_voxels_than_entries(monkeypatch):
    """C_out · 27 = 108 entries to a channel: 4^3 = 64 voxels are fewer, 5^3 = 125 are more."""
    from synth3d.models.agi_net import cagr

    seen = []
    monkeypatch.setattr(cagr, "roll_kernel", lambda *a: seen.append(a) or roll_kernel(*a))
    layer = GatedRollingConv(4, 4, 3, groups=2)
    for side in (4, 5):
        layer(torch.randn(2, 4, *[side] * 3), torch.zeros(2, 2, 3), torch.ones(2, 2),
              torch.rand(2, 4, 1, 1, 1))  # fmt: skip
        assert len(seen) == (side == 5)
