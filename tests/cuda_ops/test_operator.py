"""The custom operator, as torch sees it, and what it asks the fused kernel to do."""

import pytest
import torch

from cuda_ops import cuda
from cuda_ops.op import roll_kernel_backward_op, roll_kernel_op

CPU = torch.device("cpu")


def arguments(leaves, dtype):
    """Of the operator, with or without gates."""
    return (*leaves[:3], dtype, *leaves[3:])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_gradients_are_right_to_second_order(dim, gated, small):
    inputs = arguments(small(dim, CPU, sides=(3, 1, 2)[:dim], gated=gated), torch.float64)
    assert torch.autograd.gradcheck(roll_kernel_op, inputs)
    assert torch.autograd.gradgradcheck(roll_kernel_op, inputs)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own check reads it
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    "weight", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
def test_torchs_own_checks_of_an_operator_pass(weight, gated, small):
    leaves = small(3, CPU, weight, gated=gated)
    torch.library.opcheck(roll_kernel_op, arguments(leaves, torch.bfloat16))
    grad = torch.randn(2, *leaves[0].shape).to(torch.bfloat16)
    torch.library.opcheck(roll_kernel_backward_op, (grad, *leaves))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own check reads it
@pytest.mark.parametrize("dim", [2, 3])
def test_kernels_and_gradients_lie_in_memory_as_the_weight_does(dim, small):
    """Also those of the fake operator, which torch.compile believes: opcheck compares strides."""
    leaves = small(dim, CPU, gated=True)
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[dim]
    last = leaves[0].detach().to(memory_format=layout).requires_grad_()
    torch.library.opcheck(roll_kernel_op, arguments([last, *leaves[1:]], torch.float32))
    out = roll_kernel_op(*arguments([last, *leaves[1:]], torch.float64))
    assert out[0].is_contiguous(memory_format=layout)
    assert not out[0].is_contiguous()
    (grad,) = torch.autograd.grad(out.sum(), last)
    assert grad.is_contiguous(memory_format=layout)
    contiguous = roll_kernel_op(*arguments(leaves, torch.float64))
    assert torch.allclose(out, contiguous, rtol=0, atol=1e-12)


def test_instances_are_named_by_types_sizes_layout_and_registers():
    f, b = torch.float32, torch.bfloat16
    name = cuda.expression("roll_forward", f, b, (3, 3, 3), False, 128)
    assert name == "roll_forward<float, brain16, 3, 3, 3, 3, false, 128>"
    name = cuda.expression("roll_backward", f, f, (3, 3), True, 64)
    assert name.endswith("2, 1, 3, 3, true, 64>")
    assert "_any<" in cuda.expression("roll_forward", f, f, (5, 5, 5), False, 128)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("side", [3, 5])
def test_one_launch_forward_and_two_backward_whatever_the_batch(side, gated, monkeypatch):
    """One block column per group, one thread per row of taps (per tap, for large kernels)."""
    seen = []
    monkeypatch.setattr(cuda, "_prove_first", lambda *_: None)
    monkeypatch.setattr(
        cuda, "_launch", lambda name, grid, _, __, numbers: seen.append((name, grid, numbers))
    )
    weight = torch.zeros(40, 64, side, side, side)
    offsets, scale = torch.zeros(5, 8, 3), torch.zeros(5, 8)
    gates = torch.zeros(5, 64) if gated else None
    out = cuda.roll_forward(weight, offsets, scale, torch.bfloat16, gates)
    cuda.roll_backward(out, weight, offsets, scale, gates)
    chunks = -(-40 * 8 // 128) if side == 3 else -(-40 * 8 * 125 // 128)
    finish = 40 + gated * 5 * 64, 1, 1
    terms = gated * 40 * (1 if side == 3 else 125)
    assert [grid for _, grid, _ in seen] == [(chunks, 8, 5), (chunks, 8, 1), finish]
    sizes = [(40, 64, 8), (5, 40, 64, 8), (40, chunks, terms, 64)]
    assert [numbers for *_, numbers in seen] == sizes
    assert all(("_any<" in name) == (side == 5) for name, *_ in seen[:2])
    assert seen[2][0] == "roll_finish<float, 3>"


def test_an_empty_batch_launches_nothing(monkeypatch):
    monkeypatch.setattr(cuda, "_prove_first", lambda *_: None)
    monkeypatch.setattr(cuda, "_launch", None)
    weight, offsets, scale = torch.zeros(2, 4, 3, 3), torch.zeros(0, 2, 2), torch.zeros(0, 2)
    out = cuda.roll_forward(weight, offsets, scale, torch.float32)
    assert out.shape == (0, 2, 4, 3, 3)
    grads = cuda.roll_backward(out, weight, offsets, scale, torch.zeros(0, 4))
    assert (grads[0] == 0).all()
    assert grads[3].shape == (0, 4)
