"""Grouped convolutions with a kernel for each sample, compiled for the CPU; differentiable."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cuda_ops.cpu_calls import by_torch, convolved, is_there, kernel_gradients, matches, turned
from cuda_ops.layout import format_of, is_channels_last
from cuda_ops.plain import is_counted, openly


def conv_compiled(
    x: Tensor,
    kernels: Tensor,
    gates: Tensor | None = None,
    bias: Tensor | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolve ``x * gates``, each sample with its own kernel or all with one, keeping the size.

    Args:
        x: (B, C_in, \\*S), channels-last or contiguous; the latter goes sample by sample through
            channels-last memory.
        kernels: (C_out, C_in / groups, \\*k), or (B, C_out, C_in / groups, \\*k); see
            :func:`cuda_ops.cpu_calls.fits`.
        gates: (B, C_in, 1, ...), or None for ones.
        bias: (C_out,) or None.
        groups: Of the convolution.

    Returns:
        (B, C_out, \\*S) in the memory format of ``x``; differentiable to any order. Tensors that
        are not plain (:func:`cuda_ops.plain.is_plain`), or of shapes that the library does not
        take, are left to torch, and so is everything where somebody counts operations.
    """
    given = (x, kernels, gates, bias)
    if is_counted() or not matches(*given, groups):
        return by_torch(*given, groups)
    return _Compiled.apply(*given, groups, is_there(*given))


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernels: Tensor,
        gates: Tensor | None,
        bias: Tensor | None,
        groups: int,
        compiled: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, kernels, gates, bias)
        ctx.groups, ctx.compiled = groups, compiled
        if compiled:
            return convolved(x, kernels, gates, bias, groups)
        y = by_torch(x, kernels, gates, bias, groups)
        return y.contiguous(memory_format=format_of(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[:4]
        # Somebody differentiates, or looks on.
        if torch.is_grad_enabled() or not (ctx.compiled and is_there(grad)):
            formula = partial(by_torch, groups=ctx.groups)
            return (*openly(formula, tensors, wanted, grad), None, None)
        x, kernels, gates, _ = tensors
        found: list[Tensor | None] = [None] * 4
        if wanted[1] or wanted[2]:  # first: it takes more memory, and the other is not there yet
            slopes = kernel_gradients(x, kernels, gates is not None, grad, ctx.groups)
            found[1:3] = _through_gates(slopes, kernels, gates, ctx.groups)
        if wanted[0]:
            grad = turned(grad) if is_channels_last(x) else grad.contiguous()
            found[0] = convolved(grad, kernels, gates, None, ctx.groups, transposed=True)
        if wanted[3]:
            rows = grad.movedim(1, -1).reshape(-1, grad.shape[1])
            with torch.autocast("cpu", enabled=False):
                found[3] = rows.new_ones(len(rows)) @ rows
        return (*found, None, None)


def _through_gates(
    slopes: Tensor, kernels: Tensor, gates: Tensor | None, groups: int
) -> tuple[Tensor, Tensor | None]:
    """The gradients of kernels and gates out of those of the gated kernels, ``slopes``."""
    if gates is None:
        return slopes, None
    outputs, width, *sides = slopes.shape[1:]
    own = gates.reshape(len(gates), groups, 1, width, *[1] * len(sides))
    own = own.expand(-1, -1, outputs // groups, *own.shape[3:]).flatten(1, 2)
    products = (slopes * kernels).unflatten(1, (groups, -1))
    of_gates = products.sum((2, *range(4, products.ndim))).reshape(gates.shape)
    of_kernels = slopes * own
    return of_kernels if kernels.ndim == slopes.ndim else of_kernels.sum(0), of_gates
