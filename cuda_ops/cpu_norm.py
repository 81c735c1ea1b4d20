"""Layer normalisation over channels and GELU in one pass on the CPU: ``cpu_norm.cpp``."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ops import cpu_calls, cpu_library
from cuda_ops.layout import FORMATS
from cuda_ops.plain import is_plain, openly

MOST_CHANNELS = 512
CHUNKS = 32
"""Into which the source splits its rows."""


def is_for(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether tensors like these go to the library; see :func:`cuda_ops.cpu_calls.is_for`.

    Features are (B, C, \\*S), channels-last, with C a multiple of 8 and at most 512, and there is
    no autocast.

    Raises:
        cuda_ops.cpu_library.NoLibraryError: ``CUDA_OPS_CPU=compiled`` and there is none.
    """
    if x.ndim not in FORMATS or x.shape[1] % cpu_calls.LANES or x.shape[1] > MOST_CHANNELS:
        return False
    if not list(weight.shape) == list(bias.shape) == [x.shape[1]]:
        return False
    if torch.is_autocast_enabled("cpu") or not cpu_calls.is_for(x, weight, bias):
        return False
    return x.is_contiguous(memory_format=FORMATS[x.ndim])


def norm_gelu_compiled(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """GELU of ``x`` normalised over its channels; keeps ``x`` alone for its backward.

    Args:
        x: (B, C, \\*S), see :func:`is_for`.
        weight: (C,).
        bias: (C,).
        eps: Added to the variance.

    Returns:
        (B, C, \\*S), channels-last; differentiable to any order. Tensors that are not plain
        (:func:`cuda_ops.plain.is_plain`) are left to torch.
    """
    compiled = is_plain(x, weight, bias)
    compiled = compiled and cpu_calls.is_proved(_gives_torchs_numbers, "it norms wrongly")
    return _NormGelu.apply(x, weight, bias, eps, compiled)


def norm_gelu_by_torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The same in torch's operations, of any type and layout."""
    normed = F.layer_norm(x.movedim(1, -1), weight.shape, weight, bias, eps)
    return F.gelu(normed.movedim(-1, 1))


class _NormGelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, compiled: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.eps, ctx.compiled = eps, compiled
        if not compiled:
            return norm_gelu_by_torch(x, weight, bias, eps)
        y = torch.empty_like(x, memory_format=FORMATS[x.ndim])
        pointers = x, weight.contiguous(), bias.contiguous(), y
        cpu_library.opened().norm_gelu(*_numbers(x, eps), *(t.data_ptr() for t in pointers))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[:3]
        # Somebody differentiates, or looks on.
        if torch.is_grad_enabled() or not (ctx.compiled and is_plain(grad)):
            formula = partial(norm_gelu_by_torch, eps=ctx.eps)
            return (*openly(formula, tensors, wanted, grad), None, None)
        x, weight, bias = tensors
        x, grad = cpu_calls.turned(x), cpu_calls.turned(grad)
        to_x = torch.empty_like(x, memory_format=FORMATS[x.ndim])
        sums = x.new_empty(CHUNKS, 2, x.shape[1])
        pointers = x, grad, weight.contiguous(), bias.contiguous(), to_x, sums
        called = cpu_library.opened().norm_gelu_backward
        called(*_numbers(x, ctx.eps), *(t.data_ptr() for t in pointers))
        return to_x, sums[0, 0].clone(), sums[0, 1].clone(), None, None


def _gives_torchs_numbers() -> bool:
    draw = torch.Generator().manual_seed(0)
    place: Any = {"generator": draw, "device": "cpu", "dtype": torch.float32}
    for channels in (8, 16, 24, 32):
        x, grad = torch.randn(2, 2, channels, 3, 9, 7, **place).unbind(0)
        weight, bias = torch.randn(2, channels, **place).unbind(0)
        found = []
        for function, dtype, rest in (
            (_NormGelu.apply, torch.float32, (1e-5, True)),
            (norm_gelu_by_torch, torch.float64, (1e-5,)),
        ):
            leaves = [leaf.to(dtype).requires_grad_() for leaf in (x, weight, bias)]
            y = function(cpu_calls.turned(leaves[0]), *leaves[1:], *rest)
            found.append([y, *torch.autograd.grad(y, leaves, grad.to(dtype))])
        if not cpu_calls.agree(*found):
            return False
    return True


def _numbers(x: Tensor, eps: float) -> tuple[int, int, float, int]:
    """Rows, channels, epsilon and threads."""
    return x.numel() // x.shape[1], x.shape[1], eps, torch.get_num_threads()
