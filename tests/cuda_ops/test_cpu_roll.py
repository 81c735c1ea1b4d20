"""Kernels rolled by the library: torch's numbers, bits that do not depend on threads."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops import cpu_library, cpu_roll, roll_kernel
from cuda_ops.cpu_roll import is_for, rolled
from cuda_ops.eager import eager_roll
from cuda_ops.layout import is_channels_last
from cuda_ops.mixing import mixing_forward
from cuda_ops.plain import is_plain
from cuda_ops.reference import roll_kernel_reference

pytestmark = pytest.mark.skipif(
    not cpu_library.known_processor(), reason="the compiled roll is for x86-64 with AVX2"
)

SIDES = [(3, 3, 3), (1, 3, 3), (2, 4, 3), (3, 1, 5), (3, 3), (4, 2), (1, 2), (5, 5, 5), (1, 1, 125)]


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setenv("CUDA_OPS_CPU", "compiled")


def problem(sides, width=8, groups=2, batch=2, outputs=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, *sides, width * groups, generator=g).movedim(-1, 1)
    offsets = 5 * torch.randn(batch, groups, len(sides), generator=g)
    return weight, offsets, torch.randn(batch, groups, generator=g)


@given(
    st.sampled_from(SIDES),
    st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 12, 32, 40]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_the_numbers_are_the_references(sides, width, groups, batch, outputs, seed):
    leaves = problem(sides, width, groups, batch, outputs, seed)
    if not is_channels_last(leaves[0]):  # one channel lies both ways, and counts as contiguous
        assert not is_for(*leaves, torch.float32)
        return
    assert is_for(*leaves, torch.float32)
    kernels = rolled(*leaves)
    truth = roll_kernel_reference(*(leaf.double() for leaf in leaves))
    assert torch.allclose(kernels.double(), truth, rtol=0, atol=3e-6 * float(truth.abs().max()))
    assert all(map(is_channels_last, kernels))


@given(st.sampled_from(SIDES), st.sampled_from([2, 4, 8, 32]), st.integers(-9, 9))
def test_whole_rolls_are_torchs_bit_for_bit(sides, width, by):
    weight, offsets, scale = problem(sides, width)
    axes = tuple(range(2, weight.ndim))
    kernels = rolled(weight, torch.full_like(offsets, by), torch.ones_like(scale))
    for kernel in kernels:
        assert torch.equal(kernel, weight.roll((by,) * len(axes), axes))


@pytest.mark.parametrize("width", [2, 4, 8, 32])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_own_group(width, bad):
    weight, offsets, scale = problem((3, 3, 3), width)
    clean = rolled(weight, offsets, scale)
    for axis in range(3):
        spoilt = offsets.clone()
        spoilt[1, 0, axis] = bad
        kernels = rolled(weight, spoilt, scale)
        assert kernels[1, :, :width].isnan().all()
        assert torch.equal(kernels[0], clean[0])
        assert torch.equal(kernels[1, :, width:], clean[1, :, width:])
    spoilt = scale.clone()
    spoilt[0, 1] = bad
    kernels = rolled(weight, offsets, spoilt)
    assert not kernels[0, :, width:].isfinite().any()
    assert torch.equal(kernels[0, :, :width], clean[0, :, :width])


def test_offsets_of_any_size_are_whole_rolls():
    weight, offsets, scale = problem((3, 4, 5))
    for size in (2.0**24, -(2.0**24), 1e30, -1e30, 3e38):
        kernels = rolled(weight, torch.full_like(offsets, size), torch.ones_like(scale))
        by = [int(torch.tensor(size).double().item()) % side for side in (3, 4, 5)]
        assert torch.equal(kernels[0], weight.roll(by, (2, 3, 4)))
    tiny = rolled(weight, torch.full_like(offsets, -1e-12), torch.ones_like(scale))
    assert torch.allclose(tiny[0], weight, atol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 6, 8, 32])
def test_bits_do_not_depend_on_threads(width):
    leaves = problem((3, 3, 3), width, groups=2, batch=3, outputs=2400 // width)  # 3 threads' worth
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(rolled(*leaves))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_gradients_are_those_of_the_differentiable_form(monkeypatch):
    found = []
    for choice in ("compiled", "torch"):
        monkeypatch.setenv("CUDA_OPS_CPU", choice)
        leaves = [leaf.requires_grad_() for leaf in problem((3, 3, 3), 4)]
        kernels = roll_kernel(*leaves)
        grad = torch.randn(kernels.shape, generator=torch.Generator().manual_seed(1))
        first = torch.autograd.grad(kernels, leaves, grad, retain_graph=True)
        again = torch.autograd.grad(kernels, leaves, grad, create_graph=True)
        twice = torch.autograd.grad(sum(one.square().sum() for one in again), leaves)
        found.append([kernels, *first, *again, *twice])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_both_ends_of_a_step_are_exact():
    """Whatever stands beside: an offset just under a whole one has a share of 1 in float32."""
    weight = torch.zeros(1, 1, 1, 3, 8)
    weight[..., 0, :], weight[..., 1, :], weight[..., 2, :] = 3e38, -3e38, 1.0
    weight = weight.movedim(-1, 1)
    one = torch.ones(1, 1)
    for by in (0.0, -1e-9):
        kernels = rolled(weight, torch.tensor([[[0.0, 0.0, by]]]), one)
        assert torch.equal(kernels[0], weight)


def test_a_storage_that_was_freed_is_an_error_of_torchs():
    leaves = problem((3, 3, 3))
    assert is_plain(*leaves)
    assert not is_plain(torch._efficientzerotensor(2, 2, 3))
    weight, offsets, scale = leaves
    weight.untyped_storage().resize_(0)
    assert not is_plain(weight)
    with pytest.raises(RuntimeError, match="storage"):
        roll_kernel(weight, offsets, scale)


def test_the_proof_sees_wrong_numbers(monkeypatch):
    assert cpu_roll._gives_torchs_numbers()
    right = cpu_roll.rolled
    monkeypatch.setattr(cpu_roll, "rolled", lambda *leaves: right(*leaves).mul(1.01))
    assert not cpu_roll._gives_torchs_numbers()


def test_who_is_let_through(monkeypatch):
    leaves = problem((3, 3, 3))
    assert is_for(*leaves, torch.float32)
    assert not is_for(*leaves, torch.bfloat16)
    weight, offsets, scale = leaves
    assert not is_for(weight.contiguous(), offsets, scale, torch.float32)
    assert not is_for(weight.double(), offsets, scale, torch.float32)
    assert not is_for(weight, offsets.double(), scale.double(), torch.float32)
    assert not is_for(weight[:0], offsets, scale, torch.float32)
    assert not is_for(weight, offsets[:0], scale[:0], torch.float32)
    assert not is_for(*problem((5, 5, 6)), torch.float32)
    # arguments may lie anyhow
    turned = offsets.mT.contiguous().mT, scale.mT.contiguous().mT
    assert torch.equal(rolled(weight, *turned), rolled(*leaves))
    monkeypatch.setenv("CUDA_OPS_CPU", "torch")
    assert not is_for(*leaves, torch.float32)


def test_a_library_that_rolls_wrongly_is_refused(monkeypatch):
    leaves = problem((3, 3, 3))
    monkeypatch.setattr(cpu_roll, "_gives_torchs_numbers", lambda: False)
    monkeypatch.setattr(cpu_library, "_refused", [])
    with pytest.raises(cpu_library.NoLibraryError, match="rolls wrongly"):
        eager_roll(*leaves, torch.float32)
    monkeypatch.setenv("CUDA_OPS_CPU", "auto")
    cpu_library._warn.cache_clear()
    with pytest.warns(UserWarning, match="rolls wrongly"):
        kernels = eager_roll(*leaves, torch.float32)
    assert torch.allclose(kernels, mixing_forward(*leaves), atol=1e-6)
    cpu_library._warn.cache_clear()
