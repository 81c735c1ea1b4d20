"""Norm and GELU in one pass: torch's numbers, bits that do not depend on threads, hooks heard."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cuda_ops import cpu_library, cpu_norm
from cuda_ops.cpu_norm import is_for, norm_gelu_by_torch, norm_gelu_compiled
from synth3d.models.agi_net.routing import RoutingUnit
from synth3d.models.blocks import ChannelNorm, norm_gelu

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

pytestmark = pytest.mark.skipif(
    not cpu_library.known_processor(), reason="the compiled norm is for x86-64 with AVX2"
)


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setenv("CUDA_OPS_CPU", "compiled")


def problem(channels, sizes, batch=2, seed=0, spread=3.0):
    g = torch.Generator().manual_seed(seed)
    x = spread * torch.randn(batch, channels, *sizes, generator=g)
    return [
        x.to(memory_format=LAST[x.ndim]),
        *(torch.randn(channels, generator=g) for _ in range(2)),
        torch.randn(batch, channels, *sizes, generator=g),
    ]


@given(
    st.sampled_from([8, 16, 24, 32, 40, 64, 136, 512]),
    st.lists(st.integers(1, 9), min_size=2, max_size=3),
    st.integers(1, 3),
    st.sampled_from([0.01, 1.0, 30.0]),
    st.integers(1, 3),
)
@settings(max_examples=150, deadline=None)
def test_as_near_to_the_truth_as_torch(channels, sizes, batch, spread, threads):
    *leaves, grad = problem(channels, sizes, batch, spread=spread)
    found = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for function, dtype in (
        (norm_gelu_compiled, torch.float32),
        (norm_gelu_by_torch, torch.float32),
        (norm_gelu_by_torch, torch.float64),
    ):
        own = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]
        y = function(*own, 1e-5)
        found.append([y, *torch.autograd.grad(y, own, grad.to(dtype))])
    torch.set_num_threads(before)
    for ours, torchs, truth in zip(*found, strict=True):
        scale = 1e-6 * (1 + float(truth.detach().abs().max()))
        error = float((ours - truth).detach().abs().max())
        assert error <= 2 * float((torchs - truth).detach().abs().max()) + scale
    assert found[0][0].is_contiguous(memory_format=LAST[found[0][0].ndim])


def test_the_normal_distribution_over_its_whole_range():
    """A channel's GELU at any number: a weight of 0 leaves the bias."""
    a = torch.cat([torch.linspace(-15, 15, 60_001), torch.tensor([0.0, -0.0, 1e-20, -1e-20, 90.0])])
    a = F.pad(a, (0, -len(a) % 512))
    rows = a.view(-1, 512)
    for bias in rows:
        y = norm_gelu_compiled(torch.zeros(1, 512, 1, 1), torch.zeros(512), bias, 1.0).flatten()
        truth = F.gelu(bias.double())
        assert float((y - truth).abs().max()) <= 4e-7 * (1 + float(bias.abs().max()))
        small = bias.abs() < 4
        assert torch.allclose(y[small].double(), truth[small], rtol=2e-4, atol=1e-12)


@pytest.mark.parametrize("channels", [8, 16, 32, 72])
def test_bits_do_not_depend_on_threads(channels):
    *leaves, grad = problem(channels, (9, 17, 23))
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        own = [leaf.detach().requires_grad_() for leaf in leaves]
        y = norm_gelu_compiled(*own, 1e-5)
        found.append([y, *torch.autograd.grad(y, own, grad)])
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_voxel_that_is_not_finite_spoils_no_other():
    x, weight, bias, _ = problem(16, (3, 4, 5))
    clean = norm_gelu_compiled(x, weight, bias, 1e-5)
    x[0, 3, 1, 1, 1], x[1, 0, 0, 0, 0] = torch.nan, torch.inf
    y = norm_gelu_compiled(x, weight, bias, 1e-5)
    spoilt = torch.zeros(2, 3, 4, 5, dtype=torch.bool)
    spoilt[0, 1, 1, 1] = spoilt[1, 0, 0, 0] = True
    assert torch.equal(y.isnan().all(1), spoilt)
    assert torch.equal(y.movedim(1, -1)[~spoilt], clean.movedim(1, -1)[~spoilt])


def test_differentiated_twice_and_in_part():
    *leaves, grad = problem(8, (2, 3, 4))
    found = []
    for function, dtype in (
        (norm_gelu_compiled, torch.float32), (norm_gelu_by_torch, torch.float64)
    ):  # fmt: skip
        own = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]
        y = function(*own, 1e-5)
        first = torch.autograd.grad(y, own, grad.to(dtype), create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(t.square().sum() for t in first), own)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=1e-3, atol=1e-3)
    for i in range(3):
        own = [leaf.detach().requires_grad_(i == k) for k, leaf in enumerate(leaves)]
        (alone,) = torch.autograd.grad(norm_gelu_compiled(*own, 1e-5), own[i], grad)
        assert torch.allclose(alone, found[0][i], rtol=1e-4, atol=1e-4)


def test_who_is_let_through(monkeypatch):
    x = torch.zeros(2, 16, 3, 4, 5).to(memory_format=LAST[5])
    rest = torch.zeros(16), torch.zeros(16)
    assert is_for(x, *rest)
    assert is_for(torch.zeros(2, 16, 3, 4).to(memory_format=LAST[4]), *rest)
    assert not is_for(x, rest[0].double(), rest[1])
    assert not is_for(x, rest[0], rest[1].bfloat16())
    assert not is_for(x, torch.zeros(8), torch.zeros(8))
    for other in (
        x.contiguous(), x.double(), x.bfloat16(), x[:0], x.to("meta"),
        x[:, :12].contiguous(memory_format=LAST[5]),
        torch.zeros(1, 520, 1, 2, 2).to(memory_format=LAST[5]),
    ):  # fmt: skip
        assert not is_for(other, torch.zeros(other.shape[1]), torch.zeros(other.shape[1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_for(x, *rest)
    inside = []
    torch.func.vmap(lambda one: inside.append(is_for(one, *rest)) or one)(x[None])
    assert inside == [False]
    monkeypatch.setenv("CUDA_OPS_CPU", "torch")
    assert not is_for(x, *rest)


def kept_by_a_unit(unit):
    """The nodes of autograd's graph from the result back to the convolution."""
    x = torch.randn(2, 16, 5, 6, 7).to(memory_format=LAST[5]).requires_grad_()
    node, names = unit(x).grad_fn, []
    while node is not None:
        names.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    return names


def test_a_routing_unit_calls_the_hooks_of_its_norm_and_gelu():
    unit = RoutingUnit(16, 4, 3).to(memory_format=LAST[5])
    x = torch.randn(2, 16, 5, 6, 7).to(memory_format=LAST[5])
    quiet, heard = unit(x), []

    def hear(module, *_):
        if isinstance(module, ChannelNorm | torch.nn.GELU):
            heard.append(type(module))

    for module in (unit[1], unit[2]):
        for register in (
            module.register_forward_hook, module.register_forward_pre_hook,
            module.register_full_backward_hook, module.register_full_backward_pre_hook,
        ):  # fmt: skip
            handle = register(hear)
            loud = unit(x)
            loud.sum().backward()
            handle.remove()
            assert torch.allclose(quiet, loud, atol=1e-5)
    assert heard == [ChannelNorm] * 4 + [torch.nn.GELU] * 4
    handle = torch.nn.modules.module.register_module_forward_hook(hear)
    unit(x)
    handle.remove()
    assert heard[8:] == [ChannelNorm, torch.nn.GELU]


@pytest.mark.parametrize(
    ("place", "module"),
    [(1, torch.nn.Identity()), (2, torch.nn.ReLU()), (2, torch.nn.GELU(approximate="tanh"))],
)
def test_a_routing_unit_of_other_parts_uses_them(place, module):
    unit = RoutingUnit(16, 4, 3).to(memory_format=LAST[5])
    assert "_NormGeluBackward" in kept_by_a_unit(unit)
    unit[place] = module
    x = torch.randn(2, 16, 5, 6, 7).to(memory_format=LAST[5])
    assert torch.allclose(unit(x), unit[2](unit[1](unit[0](x))), atol=1e-6)
    assert "_NormGeluBackward" not in kept_by_a_unit(unit)


def test_the_blocks_norm_is_this_one(monkeypatch):
    x, weight, bias, _ = problem(16, (3, 4, 5))
    norm = ChannelNorm(16)
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)
    assert torch.equal(norm_gelu(x, norm), norm_gelu_compiled(x, weight, bias, norm.eps))
    with pytest.raises(RuntimeError, match="type"):
        norm_gelu(x, ChannelNorm(16).double())
    with pytest.raises(RuntimeError, match="normalized_shape"):
        norm_gelu(x, ChannelNorm(8))
    monkeypatch.setattr(cpu_norm, "_gives_torchs_numbers", lambda: False)
    monkeypatch.setattr(cpu_library, "_refused", [])
    with pytest.raises(cpu_library.NoLibraryError, match="norms wrongly"):
        norm_gelu(x, norm)


def test_saved_tensors_may_come_back_in_another_layout():
    *leaves, grad = problem(16, (3, 4, 5))
    leaves = [leaf.requires_grad_() for leaf in leaves]
    plain = torch.autograd.grad(norm_gelu_compiled(*leaves, 1e-5), leaves, grad)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous(), lambda t: t):
        y = norm_gelu_compiled(*leaves, 1e-5)
    packed = torch.autograd.grad(y, leaves, grad)
    assert all(torch.equal(a, b) for a, b in zip(plain, packed, strict=True))


def test_weights_made_from_the_input_count_once():
    x, weight, bias, grad = problem(16, (3, 4, 5))
    x.requires_grad_()
    for function in (norm_gelu_compiled, norm_gelu_by_torch):
        y = function(x, weight * x.mean((0, 2, 3, 4)), bias + x.mean((0, 2, 3, 4)), 1e-5)
        (once,) = torch.autograd.grad(y, x, grad, retain_graph=True)
        (again,) = torch.autograd.grad(y, x, grad, create_graph=True)
        assert torch.allclose(once, again, atol=1e-5)
