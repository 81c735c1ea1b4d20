"""Gates in the kernels, and gradients slice by slice: the same numbers as the plain formulas."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cuda_ops import cpu_library, roll_kernel
from synth3d.models import AGINet
from synth3d.models.agi_net.cagr import GatedRollingConv
from synth3d.models.agi_net.grouped import (
    GroupedConv2d,
    GroupedConv3d,
    _GatedConv,
    _goes_compiled,
    _input_gradient,
    weight_gradient,
)
from synth3d.models.agi_net.routing import OffsetHead

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.fixture(autouse=True)
def _seed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setenv("CUDA_OPS_CPU", "torch")  # unless a test says else


def gradients(y: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(y.sin().sum(), leaves))


@pytest.mark.parametrize("groups", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_merged_thin_groups_give_the_same_numbers(groups, last, gated):
    for dim, make, convolve in ((2, GroupedConv2d, F.conv2d), (3, GroupedConv3d, F.conv3d)):
        layer, x = make(16, 16, 3, padding=1, groups=groups), torch.randn(2, 16, *[5] * dim)
        x = x.to(memory_format=LAST[dim]) if last else x
        gates = torch.rand(2, 16, *[1] * dim) if gated else None
        seen = x if gates is None else x * gates
        expected = convolve(seen, layer.weight, layer.bias, 1, 1, 1, groups)
        assert torch.allclose(layer(x, gates), expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    sides=st.tuples(*[st.integers(1, 5)] * 3),
    batch=st.integers(1, 3),
    stride=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 2, 4]),
    gated=st.booleans(),
    biased=st.booleans(),
)
def test_gated_kernels_and_slices_are_the_plain_convolution(
    sides, batch, stride, groups, gated, biased
):
    """In double precision, the result and all gradients, to 1e-10."""
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    x = torch.randn(batch, 8, *sides, **double).to(memory_format=LAST[3]).requires_grad_()
    weight = torch.randn(8, 8 // groups, 3, 3, 3, **double).requires_grad_()
    gates = torch.rand(batch, 8, 1, 1, 1, **double).requires_grad_() if gated else None
    bias = torch.randn(8, **double).requires_grad_() if biased else None
    seen = x if gates is None else x * gates
    expected = F.conv3d(seen, weight, bias, stride, 1, 1, groups)
    found = _GatedConv.apply(x, gates, weight, bias, (stride,) * 3, groups, groups)
    leaves = [leaf for leaf in (x, gates, weight, bias) if leaf is not None]
    pairs = zip(gradients(found, *leaves), gradients(expected, *leaves), strict=True)
    for ours, theirs in [(found, expected), *pairs]:
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


def test_the_gradients_gradient_is_right():
    x = torch.randn(1, 4, 2, 2, 3, dtype=torch.float64).to(memory_format=LAST[3])
    weight = torch.randn(4, 2, 3, 3, 3, dtype=torch.float64)
    gates = torch.rand(1, 4, 1, 1, 1, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, gates, weight)]

    def run(x, gates, weight):
        return _GatedConv.apply(x, gates, weight, None, (1, 1, 1), 2, 2)

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


def volumes(batch: int, channels: int, side: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.zeros(batch, channels, side, side, side, dtype=dtype).to(memory_format=LAST[3])


@pytest.mark.parametrize(
    ("x", "stride", "taken"),
    [
        (volumes(2, 16, 12), 1, True),
        (volumes(2, 16, 21), 2, True),
        (volumes(2, 16, 10), 1, False),
        (volumes(2, 16, 20), 2, False),
        (volumes(2, 128, 12), 1, False),
        (torch.zeros(2, 16, 12, 12, 12), 1, False),
        (volumes(2, 16, 12, torch.float64), 1, False),
        (torch.zeros(2, 16, 40, 40).to(memory_format=LAST[2]), 1, False),
        (volumes(0, 16, 12), 1, False),
    ],
    ids=[
        "channels-last float32 volumes", "strided", "few voxels", "few voxels of a strided result",
        "fewer voxels than kernel entries", "contiguous", "float64", "images", "empty batch",
    ],
)  # fmt: skip
def test_who_goes_by_slices(x, stride, taken):
    make = GroupedConv3d if x.ndim == 5 else GroupedConv2d
    channels = x.shape[1]
    layer = make(channels, channels, 3, stride=stride, padding=1, groups=4).to(x.dtype)
    y = layer(x, torch.ones(len(x), channels, *[1] * (x.ndim - 2), dtype=x.dtype))
    assert (type(y.grad_fn).__name__ == "_GatedConvBackward") == taken


@pytest.mark.parametrize(
    ("side", "stride", "gated", "groups"),
    [(40, 2, True, 1), (40, 1, True, 2), (24, 2, True, 2), (24, 2, False, 1)],
    ids=["strided", "not strided", "small and alone", "small, both samples at once"],
)
def test_into_how_many_groups_the_gradient_of_the_input_goes(side, stride, gated, groups):
    """16 channels in 4 groups run as 2 forward; their strided gradient as 1, if torch may."""
    x = torch.randn(2, 16, side, side, side).to(memory_format=LAST[3]).requires_grad_()
    gates = torch.rand(2, 16, 1, 1, 1) if gated else None
    layer = GroupedConv3d(16, 16, 3, stride=stride, padding=1, groups=4).requires_grad_(False)
    y = layer(x, gates)
    with mock.patch(
        "synth3d.models.agi_net.grouped._input_gradient", wraps=_input_gradient
    ) as gradient:
        y.sum().backward()
    assert {call.args[-1] for call in gradient.call_args_list} == {groups}
    assert gradient.call_count == (2 if gated else 1)


def test_a_lone_small_sample_without_groups_keeps_torchs_way():
    layer = GroupedConv3d(8, 8, 3, padding=1, groups=1)
    for side, slow in ((12, True), (52, False)):
        y = layer(volumes(1, 8, side))
        assert (type(y.grad_fn).__name__ == "ConvolutionBackward0") == slow


def test_a_gradient_that_is_not_wanted_is_not_made():
    x = torch.randn(2, 8, 3, 3, 3).to(memory_format=LAST[3])
    weight = nn.Parameter(torch.randn(8, 2, 3, 3, 3))
    _GatedConv.apply(x, None, weight, None, (1, 1, 1), 4, 1).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_slices_beyond_the_volume_have_no_gradient():
    """One slice: of the kernel's three depths only the middle one ever meets it."""
    x, grad = (torch.randn(1, 4, 1, 5, 5).to(memory_format=LAST[3]) for _ in range(2))
    found = weight_gradient(x, grad, torch.zeros(4, 4, 3, 3, 3), (1, 1, 1), 1)
    assert not found[:, :, :, 0].any()
    assert not found[:, :, :, 2].any()
    assert found[:, :, :, 1].any()


# The rolling convolution with gates in its kernels


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


def test_a_network_is_the_same_in_both_memory_formats_with_all_gradients():
    nets = [AGINet(2, 1, widths=(16, 32), stages=3, groups=4) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        torch.manual_seed(1)
        for head in (m for m in net.modules() if isinstance(m, OffsetHead)):
            nn.init.normal_(head.weight)
    nets[1].to(memory_format=LAST[3])
    x = torch.randn(2, 2, 16, 16, 16)
    for net, one in zip(nets, (x, x.to(memory_format=LAST[3])), strict=True):
        net(one).sin().sum().backward()
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        scale = a.grad.abs().max() + 1e-6
        assert torch.allclose(a.grad / scale, b.grad / scale, atol=1e-3), name


compiled_only = pytest.mark.skipif(
    not cpu_library.known_processor(), reason="the compiled convolutions are for x86-64 with AVX2"
)


@compiled_only
@pytest.mark.parametrize("groups", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_compiled_and_by_torch_are_the_same(monkeypatch, groups, dim, gated, stride):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    make = GroupedConv2d if dim == 2 else GroupedConv3d
    layer = make(16, 16, 3, stride, padding=1, groups=groups).to(memory_format=LAST[dim])
    x = torch.randn(2, 16, *[7, 8, 9][:dim]).to(memory_format=LAST[dim]).requires_grad_()
    gates = torch.rand(2, 16, *[1] * dim, requires_grad=True)
    leaves = [x, *layer.parameters(), *([gates] if gated else [])]
    found = []
    for choice in ("torch", "compiled"):
        monkeypatch.setenv("CUDA_OPS_CPU", choice)
        y = layer(x, gates if gated else None)
        found.append([y, *gradients(y, *leaves)])
        if choice == "compiled" and (stride == 1 or dim == 3):
            assert y.grad_fn.name() == (
                "_CompiledBackward" if stride == 1 else "_GatedConvBackward"
            )
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.detach().abs().max()))


@compiled_only
def test_who_goes_compiled(monkeypatch):
    monkeypatch.setenv("CUDA_OPS_CPU", "compiled")
    x, thin, wide = torch.zeros(1, 32, 4, 4, 4), (32, 4, 3, 3, 3), (32, 16, 3, 3, 3)
    last = x.to(memory_format=LAST[3])

    def goes(x, shape, stride=(1, 1, 1), dtype=torch.float32, gates=None):
        weight = torch.zeros(shape, dtype=dtype)
        return _goes_compiled(x, weight, None, stride, 32 // shape[1], gates)

    for capability, with_many in (("AVX2", True), ("AVX512", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=capability: name)
        assert goes(last, thin)
        assert goes(last, thin, (2, 2, 2))
        assert goes(last, wide) is with_many
    assert not goes(x, thin)
    assert not goes(last, thin, (2, 2, 1))
    assert not goes(last, thin, (3, 3, 3))
    assert not goes(last.double(), thin, dtype=torch.float64)
    assert goes(last, thin, gates=torch.ones(1, 32, 1, 1, 1))
    assert not goes(last, thin, gates=torch.ones(1, 1, 1, 1, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not goes(last, thin)


@compiled_only
@pytest.mark.parametrize("stride", [1, 2])
def test_a_grouped_convolution_made_from_the_input_is_differentiated_once(monkeypatch, stride):
    monkeypatch.setenv("CUDA_OPS_CPU", "compiled")
    layer = GroupedConv3d(16, 16, 3, stride, padding=1, groups=4).to(memory_format=LAST[3])
    x = torch.randn(2, 16, 6, 7, 8).to(memory_format=LAST[3]).requires_grad_()
    y = layer(x, x.mean((2, 3, 4), keepdim=True).sigmoid()).square().mean()
    (once,) = torch.autograd.grad(y, x, retain_graph=True)
    (again,) = torch.autograd.grad(y, x, create_graph=True)
    assert torch.allclose(once, again, atol=1e-6)


@compiled_only
def test_a_network_compiled_is_the_network_by_torch(monkeypatch):
    net = AGINet(2, 1, dim=3, widths=(16, 32), groups=4, stages=3).to(memory_format=LAST[3])
    x = torch.randn(2, 2, 16, 16, 16).to(memory_format=LAST[3])
    for module in net.modules():
        if isinstance(module, OffsetHead):
            nn.init.normal_(module.weight, std=0.1)
    found = []
    for choice in ("torch", "compiled"):
        monkeypatch.setenv("CUDA_OPS_CPU", choice)
        y = net(x)
        found.append([y, *gradients(y, *net.parameters())])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-2, atol=2e-3 * float(b.detach().abs().max()))
