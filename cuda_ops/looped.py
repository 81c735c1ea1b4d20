"""A convolution per sample, each with its own kernel, that keeps no second copy of anything.

Written as a list of convolutions that are joined, autograd would hold every sample's result beside
the joined one, forward and backward. Here each is written straight to its place.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ops.layout import FORMATS, format_of
from cuda_ops.lone import AllSides, conv_lone, kernel_gradients, left_over, sample_gradient
from cuda_ops.plain import is_plain, watched

CONV = {4: F.conv2d, 5: F.conv3d}


def conv_each(
    x: Tensor, kernels: Tensor, sides: AllSides, turn: bool, lone: bool = False
) -> Tensor:
    """Convolve sample b of ``x`` (B, C_in, \\*S) with ``kernels[b]``, one after the other.

    Args:
        x: (B, C_in, \\*S) with B >= 1, of the type in which to convolve.
        kernels: (B, C_out, C_in, \\*k), of the same type.
        sides: Stride, padding and dilation, one number per axis each.
        turn: Bring each sample into channels-last memory first, and its result back.
        lone: Ask oneDNN past ATen, see :mod:`cuda_ops.lone`; ``x`` is float32 and 3-D, on the CPU.

    Returns:
        (B, C_out, \\*out) in the memory format of ``x``; differentiable to any order, also within
        a transform of torch.func.
    """
    if not watched():
        return _Each.apply(x, kernels, sides, turn, lone)
    # split and unbind, not x[b] and kernels[b]: the backward of an index writes B zero tensors.
    samples = zip(x.split(1), kernels.unbind(0), strict=True)
    parts = [
        CONV[x.ndim](_turned(sample, turn), kernel, None, *sides) for sample, kernel in samples
    ]
    return torch.cat(parts).contiguous(memory_format=format_of(x))


def conv_made(
    x: Tensor, kernel: Tensor, make: Callable[[Tensor], Tensor], sides: AllSides
) -> Tensor:
    """Convolve ``make(x)``, and keep ``x`` for the backward, which makes it once more.

    Args:
        x: (B, C_in, \\*S), which the backward of something else keeps anyway.
        kernel: (C_out, C_in, \\*k), of the type of ``x``.
        make: Differentiable, and cheap beside the convolution.
        sides: Stride, padding and dilation, one number per axis each.
    """
    if watched() or x.dtype != kernel.dtype or torch.is_autocast_enabled(x.device.type):
        return CONV[x.ndim](make(x), kernel, None, *sides)
    return _OfMade.apply(x, kernel, make, sides)


class _OfMade(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, make: Callable[[Tensor], Tensor], sides: AllSides
    ) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.make, ctx.sides = make, sides
        return CONV[x.ndim](make(x), kernel, None, *sides)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, kernel = ctx.saved_tensors
        wanted = [*ctx.needs_input_grad[:2], False]
        again = torch.is_grad_enabled()  # somebody differentiates the gradient
        with torch.enable_grad():
            seen = x if again and x.requires_grad else x.detach().requires_grad_()
            made = ctx.make(seen)
        to_made, to_kernel, _ = torch.ops.aten.convolution_backward(
            grad, made, kernel, None, *ctx.sides, False, [0] * (x.ndim - 2), 1, wanted
        )
        to_x = torch.autograd.grad(made, seen, to_made, create_graph=again) if wanted[0] else [None]
        return to_x[0], to_kernel, None, None


def _turned(sample: Tensor, turn: bool) -> Tensor:
    return sample.contiguous(memory_format=FORMATS[sample.ndim]) if turn else sample


class _Each(torch.autograd.Function):
    """The convolutions, each result written to its place in one tensor.

    No result of one sample outlives its copy, so that beside the whole there is one at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernels: Tensor, sides: AllSides, turn: bool, lone: bool
    ) -> Tensor:
        ctx.save_for_backward(x, kernels)
        ctx.sides, ctx.turn, ctx.lone = sides, turn, lone

        def result(b: int) -> Tensor:
            sample = _turned(x[b : b + 1], turn)
            if lone:
                return conv_lone(sample, kernels[b], sides)
            return CONV[x.ndim](sample, kernels[b], None, *sides)

        first = result(0)
        shape, place = (len(x), *first.shape[1:]), {"dtype": first.dtype, "device": x.device}
        whole = torch.empty(shape, memory_format=format_of(x), **place)
        whole[0].copy_(first[0])
        del first
        for b in range(1, len(x)):
            whole[b].copy_(result(b)[0])
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, kernels = ctx.saved_tensors
        to_x, to_kernels = ctx.needs_input_grad[:2]
        # Somebody differentiates the gradient, or looks on: nothing in place.
        if torch.is_grad_enabled() or watched() or (ctx.lone and not is_plain(grad)):
            samples = list(zip(x.split(1), kernels.unbind(0), grad.split(1), strict=True))
            gx = torch.cat([_gradient(0, *each, ctx) for each in samples]) if to_x else None
            gk = torch.stack([_gradient(1, *each, ctx) for each in samples]) if to_kernels else None
            return gx, gk, None, None, None
        gx = gk = None
        if to_kernels:  # all of them first: this takes more memory, and gx is not there yet
            gk = torch.empty_like(kernels)
            for whole, part in zip(gk, _kernel_gradients(x, kernels, grad, ctx), strict=True):
                whole.copy_(part)
        if to_x:
            gx = torch.empty_like(x)
            for b in range(len(x)):
                gx[b].copy_(_sample_gradient(x[b : b + 1], kernels[b], grad[b : b + 1], ctx)[0])
        return gx, gk, None, None, None


def _gradient(which: int, x: Tensor, kernel: Tensor, grad: Tensor, ctx: Any) -> Tensor:
    """The gradient of one sample (``which`` 0), (1, C_in, \\*S), or of its kernel (1)."""
    if ctx.turn and which == 0:
        return _to_sample(x.shape[2:], kernel, _turned(grad, True), *ctx.sides)
    return torch.ops.aten.convolution_backward(
        _turned(grad, ctx.turn), _turned(x, ctx.turn), kernel, None, *ctx.sides, False,
        [0] * (x.ndim - 2), 1, [which == 0, which == 1, False],
    )[which]  # fmt: skip


def _kernel_gradients(x: Tensor, kernels: Tensor, grad: Tensor, ctx: Any) -> Iterator[Tensor]:
    """The gradient of each kernel, one after the other."""
    if not ctx.lone:
        for sample, kernel, slope in zip(x.split(1), kernels, grad.split(1), strict=True):
            yield _gradient(1, sample, kernel, slope, ctx)
        return
    pairs = zip(x.split(1), grad.split(1), strict=True)
    turned = ((_turned(sample, True), _turned(slope, True)) for sample, slope in pairs)
    yield from kernel_gradients(turned, kernels[0], ctx.sides)


def _sample_gradient(x: Tensor, kernel: Tensor, grad: Tensor, ctx: Any) -> Tensor:
    """The gradient of one sample (1, C_in, \\*S)."""
    if ctx.lone:
        return sample_gradient(x.shape[2:], kernel, _turned(grad, True), ctx.sides)
    return _gradient(0, x, kernel, grad, ctx)


def _to_sample(sizes: Sequence[int], kernel: Tensor, grad: Tensor, *sides: tuple) -> Tensor:
    """The gradient of a sample, without the sample, in the memory format of ``grad``."""
    stride, padding, dilation = sides
    rest = left_over(sizes, kernel.shape[2:], grad.shape[2:], sides)
    return F.conv_transpose3d(grad, kernel, None, stride, padding, rest, 1, dilation)
