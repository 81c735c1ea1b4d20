"""The roll as a matrix product: its matrices, its layouts, its gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ops import products, roll_kernel, roll_kernel_reference
from cuda_ops.products import mixing_matrices, roll_backward, roll_forward

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
SIDES = [(3, 3), (1, 3), (2, 5), (1, 1), (3, 3, 3), (1, 3, 3), (4, 1, 2), (1, 1, 1)]


def case(sides=(3, 3, 3), batch=2, outputs=4, dtype=torch.float64, last=False) -> list[Tensor]:
    """A weight of two groups of two channels, offsets away from whole numbers, and scale."""
    g = torch.Generator().manual_seed(len(sides) + batch)
    kind = torch.promote_types(dtype, torch.float32)
    weight = torch.randn(outputs, 4, *sides, generator=g, dtype=torch.float64).to(dtype)
    whole = torch.randint(-4, 5, (batch, 2, len(sides)), generator=g)
    offsets = whole + 0.2 + 0.6 * torch.rand(whole.shape, generator=g, dtype=torch.float64)
    scale = torch.randn(batch, 2, generator=g, dtype=torch.float64)
    weight = weight.to(memory_format=LAST[len(sides)]) if last else weight
    return [leaf.requires_grad_() for leaf in (weight, offsets.to(kind), scale.to(kind))]


def layout(kernels: Tensor) -> str:
    """Of (B, C_out, C_in, *k), sample by sample; both where both are the same memory."""
    names = {"contiguous": kernels, "channels-last": kernels.movedim(2, -1)}
    return " ".join(name for name, one in names.items() if one.is_contiguous())


@given(st.sampled_from(SIDES), st.integers(0, 3), st.integers(0, 99))
def test_a_roll_is_a_matrix_over_the_taps(sides, batch, seed):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 4, *sides, generator=g, dtype=torch.float64)
    offsets = 5 * torch.randn(batch, 2, len(sides), generator=g, dtype=torch.float64)
    scale = torch.randn(batch, 2, generator=g, dtype=torch.float64)
    matrices = mixing_matrices(offsets, scale, sides)
    taps = weight[0, 0].numel()
    assert matrices.shape == (batch, 2, taps, taps)
    rolled = torch.einsum("bnst,onct->boncs", matrices, weight.reshape(3, 2, 2, taps))
    expected = roll_kernel_reference(weight, offsets, scale)
    assert torch.allclose(rolled.reshape(expected.shape), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("outputs", [1, 7])
@pytest.mark.parametrize("sides", SIDES)
def test_kernels_and_gradients_are_the_references(sides, outputs, last):
    leaves = case(sides, outputs=outputs, last=last)
    kernels, expected = roll_forward(*leaves), roll_kernel_reference(*leaves)
    assert torch.allclose(kernels, expected, rtol=0, atol=1e-12)
    assert layout(leaves[0][None]) == layout(kernels)
    change = expected.detach().cos()
    wanted = torch.autograd.grad(expected, leaves, change)
    found = torch.autograd.grad(kernels, leaves, change)
    closed = roll_backward(change, *leaves)
    for one, other, meant in zip(found, closed, wanted, strict=True):
        assert torch.allclose(one, meant, rtol=0, atol=1e-10)
        assert torch.allclose(other, meant, rtol=0, atol=1e-10)


@pytest.mark.parametrize("outputs", [3, 160])  # in one part and in several
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("sides", [(1, 3), (3, 3, 3)])
def test_gated_kernels_and_gradients_are_the_references(sides, last, outputs, monkeypatch):
    monkeypatch.setattr(products, "PART_ELEMENTS", 64)
    leaves = case(sides, outputs=outputs, last=last)
    leaves.append(torch.linspace(-1, 2, 8, dtype=torch.float64).view(2, 4).requires_grad_())
    expected = roll_kernel_reference(*leaves)
    change = expected.detach().cos()
    wanted = torch.autograd.grad(expected, leaves, change)
    for kernels in (roll_kernel(*leaves), roll_forward(*leaves[:3], gates=leaves[3])):
        assert torch.allclose(kernels, expected, rtol=0, atol=1e-12)
        assert layout(leaves[0][None]) == layout(kernels)
        for one, meant in zip(torch.autograd.grad(kernels, leaves, change), wanted, strict=True):
            assert torch.allclose(one, meant, rtol=0, atol=1e-9)


@pytest.mark.parametrize("last", [False, True])
def test_a_gradient_that_is_not_finite_stays_in_its_own_group(last):
    leaves = case(dtype=torch.float32, last=last)
    kernels = roll_forward(*leaves)
    change = torch.ones_like(kernels)
    change[1, 2, 1] = torch.inf
    gradients = torch.autograd.grad(kernels, leaves, change)
    assert gradients[0][:, 2:].isfinite().all()
    for gradient in gradients[1:]:
        finite = gradient.reshape(4, -1).isfinite().all(1).tolist()
        assert finite == [True, True, False, True]


@pytest.mark.parametrize("weight", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("result", [None, torch.bfloat16, torch.float32])
def test_everything_is_computed_in_the_type_of_the_offsets(weight, result):
    leaves = case(dtype=weight)
    exact = [leaf.detach().float().requires_grad_() for leaf in leaves]
    kernels, expected = roll_forward(*leaves, result), roll_forward(*exact)
    assert kernels.dtype == (result or weight)
    assert torch.equal(kernels, expected.to(kernels.dtype))
    change = expected.detach().cos().to(kernels.dtype)
    wanted = torch.autograd.grad(expected, exact, change.float())
    for one, other in zip(torch.autograd.grad(kernels, leaves, change), wanted, strict=True):
        step = torch.finfo(one.dtype).eps
        assert torch.allclose(one.float(), other, rtol=step, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, once
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("sides", [(3, 3), (2, 1, 3)])
def test_gradients_are_right_to_second_order_and_forwards(sides, last):
    leaves = case(sides, batch=2, outputs=2, last=last)
    check, again = torch.autograd.gradcheck, torch.autograd.gradgradcheck
    assert check(roll_forward, leaves, fast_mode=True, check_forward_ad=True)
    assert again(roll_forward, leaves, fast_mode=True, check_fwd_over_rev=True)


def test_derivatives_do_not_end_with_the_second():
    weight, offsets, scale = case((2, 3), outputs=2)

    def third(*leaves: Tensor) -> Tensor:
        first = torch.autograd.grad((roll_forward(*leaves) ** 3).sum(), leaves, create_graph=True)
        total = sum((one**2).sum() for one in first)
        second = torch.autograd.grad(total, leaves, create_graph=True)
        return torch.stack([(one**2).sum() for one in second])

    assert torch.autograd.gradcheck(third, (weight, offsets, scale), fast_mode=True, rtol=1e-3)


class Watch(TorchDispatchMode):
    """Counts operations."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("sides", [(3, 3), (3, 3, 3), (1, 3, 3), (5, 5, 5)])
def test_operations_are_few_and_do_not_grow_with_batch_and_groups(sides, last):
    counts = {}
    for batch, groups in ((0, 1), (1, 1), (2, 2), (2, 8), (5, 4), (16, 16)):
        weight = torch.zeros(16, 32, *sides)
        weight = weight.to(memory_format=LAST[len(sides)]) if last else weight
        offsets, scale = torch.zeros(batch, groups, len(sides)), torch.zeros(batch, groups)
        with Watch() as watch:
            roll_kernel(weight, offsets, scale)
        counts[batch, groups] = watch.seen
    assert max(counts.values()) <= 70
    # one sample or one group saves a rearrangement
    assert len({count for (batch, groups), count in counts.items() if min(batch, groups) > 1}) == 1
