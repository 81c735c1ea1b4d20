"""The roll as one matrix product, in plain torch: the form of every device without a kernel.

The roll of one group of one sample is a linear map of its N = k^d taps, the Kronecker product of
one circulant k x k matrix per axis; so all samples and groups together are one batched matrix
product, whatever their number. Nothing here waits for the device or looks at a value.

The product stands between two rearrangements, of the weight before it and of the kernels after.
On the CPU all three go over a few parts of the output channels in turn: what lies between them
stays in the cache, and is never a second array of the size of the kernels.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cuda_ops.layout import empty_kernels, is_channels_last

# A part of a weight has at least this many elements; with less, calls cost more than they save.
PART_ELEMENTS = 1 << 16
# Bounds the number of operations, whatever the shape.
MOST_PARTS = 8


def mixing_matrices(offsets: Tensor, scale: Tensor, sizes: Sequence[int]) -> Tensor:
    """The roll of each group of each sample as a matrix over the taps of a kernel.

    Args:
        offsets: (B, n, d) in taps, axis order (z, y, x), any real value.
        scale: (B, n), factor of each group; of the dtype of ``offsets``.
        sizes: Taps along each of the d axes (z, y, x), each at least 1; N is their product.

    Returns:
        M (B, n, N, N), differentiable in both tensors: with a group's weights W (rows, N), taps
        flattened in the order (z, y, x), the rolled ones are W M[b, g]^T, that is
        ``rolled[..., s] = sum over t of M[b, g, s, t] W[..., t]``. M is the scale times the
        Kronecker product of one circulant matrix per axis (AGI-Net, eq. 4, with floor + 1 for
        ceil). Empty for B = 0. A non-finite offset or scale gives NaN in its own M[b, g] alone.
    """
    near, far, share = _neighbours(offsets, sizes)
    return _kronecker(scale, _per_axis(torch.lerp(near, far, share), sizes))


def mixing_forward(
    weight: Tensor, offsets: Tensor, scale: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Roll as :func:`cuda_ops.reference.roll_kernel_reference`; differentiable to any order.

    Args:
        weight: (C_out, C_in, \\*k) of any floating type, C_in = n groups of contiguous channels.
        offsets: (B, n, d) in taps, axis order (z, y, x).
        scale: (B, n); of the dtype of ``offsets``, in which everything is computed.
        dtype: Of the result; ``None`` for that of ``weight``.

    Returns:
        (B, C_out, C_in, \\*k), each sample in the layout of ``weight``; empty for B = 0.
    """
    mixing = mixing_matrices(offsets, scale, weight.shape[2:])
    dtype = weight.dtype if dtype is None else dtype
    # The compiler does not trace functions with a vmap rule; and a single part gains nothing.
    if torch.compiler.is_compiling() or _count_parts(weight) == 1:
        return _product(weight, mixing, dtype)
    return _Roll.apply(weight, mixing, dtype)


def mixing_backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients that :func:`mixing_forward` hands back for ``grad``, in closed form.

    Args:
        grad: (B, C_out, C_in, \\*k).
        weight: (C_out, C_in, \\*k).
        offsets: (B, n, d) in taps, (z, y, x).
        scale: (B, n); of the dtype of ``offsets``, in which everything is computed.

    Returns:
        Gradients of weight (of its dtype and layout), offsets and scale; differentiable.
    """
    sizes = weight.shape[2:]
    near, far, share = _neighbours(offsets, sizes)
    circulants = _per_axis(torch.lerp(near, far, share), sizes)
    slopes = _per_axis(far - near, sizes)
    grad_weight, grad_mixing = _Pull.apply(grad, weight, _kronecker(scale, circulants))
    ones = torch.ones_like(scale)
    grad_scale = (grad_mixing * _kronecker(ones, circulants)).sum((2, 3))
    parts = []
    for axis, slope in enumerate(slopes):
        turned = [*circulants[:axis], slope, *circulants[axis + 1 :]]
        parts.append((grad_mixing * _kronecker(scale, turned)).sum((2, 3)))
    return grad_weight, torch.stack(parts, dim=-1), grad_scale


def _neighbours(offsets: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The two whole rolls next to each offset o (B, n, d), and the share f of the second.

    With l = floor(o) and f = o - l (B, n, d, 1, 1), they are matrices (B, n, d, K, K), K the most
    taps of any axis, of which an axis of k taps uses the first k x k. There the first has ones at
    [j, i] with i = j - l mod k, the second with i = j - l - 1; for k = 1 they are the same.

    Floor first, then modulo, both in floating point: exact for any magnitude, and a non-finite
    offset becomes a NaN share, never an index.
    """
    most = max(sizes)
    sides, one = most, 1 % most
    if min(sizes) < most:
        sides = offsets.new_full((len(sizes), 1, 1), most)
        for axis, size in enumerate(sizes):
            if size < most:  # filled in place: a list would wait for the device to take it
                sides[axis] = size
        one = sides > 1
    offsets = offsets.reshape(*offsets.shape, 1, 1)
    lower = offsets.detach().floor()
    taps = torch.arange(most, device=lower.device, dtype=lower.dtype)
    distance = taps[:, None] - taps - torch.remainder(lower, sides)
    distance = torch.remainder(distance, sides)
    near, far = (distance == 0).to(lower.dtype), (distance == one).to(lower.dtype)
    return near, far, offsets - lower


def _per_axis(matrices: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The (B, n, k, k) of each axis out of (B, n, d, K, K)."""
    pairs = zip(matrices.unbind(2), sizes, strict=True)
    return [one if size == one.shape[-1] else one[..., :size, :size] for one, size in pairs]


def _kronecker(scale: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """scale (B, n) times the Kronecker product of the axes' (B, n, k, k): (B, n, N, N)."""
    axes, sizes = len(matrices), [matrix.shape[-1] for matrix in matrices]
    product = scale.reshape(*scale.shape, *[1] * 2 * axes)
    for axis in reversed(range(axes)):  # x first: the largest products have the longest rows
        matrix, size = matrices[axis], sizes[axis]
        shape = [1] * 2 * axes
        shape[axis] = shape[axes + axis] = size
        product = product * matrix.reshape(*scale.shape, *shape)
    return product.reshape(*scale.shape, math.prod(sizes), math.prod(sizes))


def rolled(weight: Tensor, mixing: Tensor, dtype: torch.dtype) -> Tensor:
    """Kernels (B, C_out, C_in, *k) of ``dtype`` from weight (C_out, C_in, *k) and M (B, n, N, N).

    Part by part, see above; not differentiable.
    """
    kernels = empty_kernels(len(mixing), weight, dtype)
    groups, parts, last = mixing.shape[1], _count_parts(weight), is_channels_last(weight)
    sources = _split(weight, weight, groups, parts, last)
    targets = _split(kernels, weight, groups, parts, last)
    left, right = mixing.new_empty(sources[0].shape), mixing.new_empty(targets[0].shape)
    factor, matrix, product = _factor(mixing, last), _matrix(left), _matrix(right)
    pair = (factor, matrix) if last else (matrix, factor)
    for source, target in zip(sources, targets, strict=True):
        left.copy_(source)
        torch.bmm(*pair, out=product)
        target.copy_(right)
    return kernels


def pulled(
    grad: Tensor, weight: Tensor, mixing: Tensor, wanted: tuple[bool, bool] = (True, True)
) -> tuple[Tensor, Tensor]:
    """The gradients of weight and M that :func:`rolled` hands back for one of its kernels.

    Those that are not ``wanted`` are not computed, and mean nothing.
    """
    batch, groups, taps = mixing.shape[:3]
    parts, last = _count_parts(weight), grad.stride(2) == 1 < grad.stride(-1)
    back = empty_kernels(1, weight, weight.dtype)[0]
    sources, targets = (_split(one, weight, groups, parts, last) for one in (weight, back))
    grads = _split(grad, weight, groups, parts, last)
    left, right = mixing.new_empty(sources[0].shape), mixing.new_empty(grads[0].shape)
    matrix, change, factor = _matrix(left), _matrix(right), _factor(mixing)
    products = torch.zeros_like(factor)
    for source, one, target in zip(sources, grads, targets, strict=True):
        right.copy_(one)
        if wanted[1]:
            left.copy_(source)
            products.baddbmm_(*(matrix, change.mT) if last else (matrix.mT, change))
        if wanted[0]:
            torch.bmm(*(factor, change) if last else (change, factor.mT), out=matrix)
            target.copy_(left)
    return back, products.view(groups, taps, batch, taps).permute(2, 0, 3, 1)


class _Roll(torch.autograd.Function):
    """:func:`rolled`, which is bilinear."""

    @staticmethod
    def forward(weight: Tensor, mixing: Tensor, dtype: torch.dtype) -> Tensor:
        return rolled(weight, mixing, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.dtype = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return (*_Pull.apply(grad, *ctx.saved_tensors), None)

    @staticmethod
    def jvp(ctx: Any, weight: Tensor | None, mixing: Tensor | None, _: None) -> Tensor:
        one, other = ctx.saved_tensors
        terms = []
        if weight is not None:
            terms.append(_Roll.apply(weight, other, ctx.dtype))
        if mixing is not None:
            terms.append(_Roll.apply(one, mixing, ctx.dtype))
        return sum(terms[1:], terms[0])

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int | None, ...], weight: Tensor, mixing: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        weight, mixing = _fold(weight, dims[0], size), _fold(mixing, dims[1], size)
        return _Roll.apply(weight, mixing, dtype).unflatten(2, (size, -1)), 2


class _Pull(torch.autograd.Function):
    """:func:`pulled`, which is trilinear."""

    @staticmethod
    def forward(grad: Tensor, weight: Tensor, mixing: Tensor) -> tuple[Tensor, Tensor]:
        return pulled(grad, weight, mixing)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, weights: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grad, weight, mixing = ctx.saved_tensors
        back = _Roll.apply(weights, mixing, grad.dtype) + _Roll.apply(weight, matrices, grad.dtype)
        return (back, *_Pull.apply(grad, weights, matrices))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        grad, weight, mixing = ctx.saved_tensors
        first, second, third = tangents
        back, products = torch.zeros_like(weight), torch.zeros_like(mixing)
        if first is not None:
            back, products = _Pull.apply(first, weight, mixing)
        if second is not None:
            products = products + _Pull.apply(grad, second, mixing)[1]
        if third is not None:
            back = back + _Pull.apply(grad, weight, third)[0]
        return back, products

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int | None, ...], grad: Tensor, weight: Tensor, mixing: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        size = info.batch_size
        weight, mixing = _fold(weight, dims[1], size), _fold(mixing, dims[2], size)
        back, products = _Pull.apply(_fold(grad, dims[0], size, 2), weight, mixing)
        return (back.unflatten(1, (size, -1)), products.unflatten(1, (size, -1))), (1, 1)


def _fold(tensor: Tensor, dim: int | None, size: int, axis: int = 1) -> Tensor:
    """Join the mapped ``dim`` with ``axis``, that of the channels or the groups."""
    if dim is None:
        tensor, dim = tensor.expand(size, *tensor.shape), 0
    return tensor.movedim(dim, axis).flatten(axis, axis + 1)


def _count_parts(weight: Tensor) -> int:
    """Into how many parts of equally many output channels the work is split."""
    if weight.device.type != "cpu":
        return 1
    most = min(MOST_PARTS, weight.numel() // PART_ELEMENTS)
    return next((count for count in range(most, 1, -1) if weight.shape[0] % count == 0), 1)


def _split(
    kernels: Tensor, weight: Tensor, groups: int, parts: int, last: bool
) -> tuple[Tensor, ...]:
    """Views of kernels (B, *weight.shape), or of a weight, as (n, outputs, C_in / n, B, N) a part.

    With ``last`` as (n, B, N, outputs, C_in / n): always the order in which most of what is
    together in memory stays together.
    """
    outputs, inputs, *sizes = weight.shape
    batch = 1 if kernels.ndim == weight.ndim else len(kernels)
    shape = (batch, parts, outputs // parts, groups, inputs // groups, math.prod(sizes))
    order = (1, 3, 0, 5, 2, 4) if last else (1, 3, 2, 4, 0, 5)
    return kernels.reshape(shape).permute(order).unbind(0)


def _matrix(part: Tensor) -> Tensor:
    """(n, a, b, c, d) as (n, a b, c d)."""
    n, a, b, c, d = part.shape
    return part.reshape(n, a * b, c * d)


def _factor(mixing: Tensor, last: bool = False) -> Tensor:
    """M (B, n, N, N) as (n, N, B N), a row for each tap of the weight; ``last``: transposed."""
    if last:
        return mixing.transpose(0, 1).flatten(1, 2)
    return mixing.permute(1, 3, 0, 2).flatten(2)


def _product(weight: Tensor, mixing: Tensor, dtype: torch.dtype) -> Tensor:
    """What ``_Roll`` gives, in operations that torch differentiates itself."""
    batch, groups, taps = mixing.shape[:3]
    outputs, inputs, *sizes = weight.shape
    # is_channels_last in terms that hold under vmap as well
    last = not weight.is_contiguous() and weight.movedim(1, -1).is_contiguous()
    (part,) = _split(weight.to(mixing.dtype), weight, groups, 1, last)
    if last:
        product = torch.bmm(_factor(mixing, last), _matrix(part)).to(dtype)
        product = product.view(groups, batch, taps, outputs, inputs // groups)
        joined = product.permute(1, 3, 2, 0, 4).reshape(batch, outputs, *sizes, inputs)
        return joined.movedim(-1, 2)
    product = torch.bmm(_matrix(part), _factor(mixing)).to(dtype)
    product = product.view(groups, outputs, inputs // groups, batch, taps)
    return product.permute(3, 1, 0, 2, 4).reshape(batch, *weight.shape)
