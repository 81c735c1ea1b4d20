"""The roll as one matrix product, in plain torch: the form of every device without a kernel.

The roll of one group of one sample is a linear map of its N = k^d taps, the Kronecker product of
one circulant k x k matrix per axis; so all samples and groups together are one batched matrix
product, whatever their number. Nothing here waits for the device or looks at a value.

Rolled kernels take the memory layout of the weight, sample by sample: a network that was moved to
``torch.channels_last(_3d)`` gets kernels that its convolutions need not reorder.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Channels-last by the number of axes, batch and channels included."""

# Kernels are rolled in parts of so many elements of the weight, and in no more parts than that.
PART_ELEMENTS, MOST_PARTS = 1 << 16, 8


def is_channels_last(weight: Tensor) -> bool:
    """Whether a weight (C_out, C_in, \\*k) lies in memory as (C_out, \\*k, C_in).

    Where both layouts are the same memory (one tap, one channel), it counts as contiguous.
    """
    if weight.is_contiguous() or weight.ndim not in FORMATS:
        return False
    return weight.is_contiguous(memory_format=FORMATS[weight.ndim])


def format_of(x: Tensor) -> torch.memory_format:
    """Channels-last or contiguous, as :func:`is_channels_last` says."""
    return FORMATS[x.ndim] if is_channels_last(x) else torch.contiguous_format


def empty_kernels(batch: int, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Uninitialised (B, C_out, C_in, \\*k), each sample in the layout of ``weight``."""
    if not is_channels_last(weight):
        return weight.new_empty((batch, *weight.shape), dtype=dtype)
    outputs, inputs, *sides = weight.shape
    return weight.new_empty((batch, outputs, *sides, inputs), dtype=dtype).movedim(-1, 2)


def laid_as(weight: Tensor, kernels: Tensor) -> Tensor:
    """``kernels`` (B, C_out, C_in, \\*k) in the layout of ``weight``; copied only if it differs."""
    if not is_channels_last(weight):
        return kernels.contiguous()
    return kernels.movedim(2, -1).contiguous().movedim(-1, 2)


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


def roll_forward(
    weight: Tensor,
    offsets: Tensor,
    scale: Tensor,
    dtype: torch.dtype | None = None,
    gates: Tensor | None = None,
) -> Tensor:
    """Roll as :func:`cuda_ops.reference.roll_kernel_reference`; differentiable to any order.

    Args:
        weight: (C_out, C_in, \\*k) of any floating type, C_in = n groups of contiguous channels.
        offsets: (B, n, d) in taps, axis order (z, y, x).
        scale: (B, n); of the dtype of ``offsets``, in which everything is computed.
        dtype: Of the result; ``None`` for that of ``weight``.
        gates: (B, C_in), a factor of each input channel, of the dtype of ``offsets``; or None.

    Returns:
        (B, C_out, C_in, \\*k), each sample in the layout of ``weight``; empty for B = 0.
    """
    mixing = mixing_matrices(offsets, scale, weight.shape[2:])
    return _mixed(weight, mixing, weight.dtype if dtype is None else dtype, gates)


def roll_in_parts(
    weight: Tensor,
    offsets: Tensor,
    scale: Tensor,
    dtype: torch.dtype,
    gates: Tensor | None = None,
) -> Tensor:
    """:func:`roll_forward` a few output channels at a time, not differentiable.

    A part is laid into its place while it is still in the cache: on a CPU large kernels take half
    of the time so.
    """
    mixing = mixing_matrices(offsets, scale, weight.shape[2:])
    if len(_parts(weight, weight, 0)) == 1:
        return _mixed(weight, mixing, dtype, gates)
    kernels = empty_kernels(len(mixing), weight, dtype)
    for place, part in zip(_parts(kernels, weight, 1), _parts(weight, weight, 0), strict=True):
        place.copy_(_mixed(part, mixing, dtype, gates))
    return kernels


def _mixed(
    weight: Tensor, mixing: Tensor, dtype: torch.dtype, gates: Tensor | None = None
) -> Tensor:
    """The rolled kernels of a weight, given M (B, n, N, N), times the gates (B, C_in)."""
    batch, groups = mixing.shape[:2]
    outputs, inputs, *sizes = weight.shape
    parts = _by_groups(weight.to(mixing.dtype), groups, sizes)
    # is_channels_last in terms that hold under vmap as well. M is named first where its axes are
    # the outer ones of the result: the other order takes 1.6 times as long.
    if not weight.is_contiguous() and weight.movedim(1, -1).is_contiguous():
        rolled = torch.einsum("bgst,ogct->bosgc", mixing, parts)
        if gates is not None:
            rolled = rolled * gates.reshape(batch, 1, 1, groups, -1)
        rolled = rolled.to(dtype).contiguous()
        return rolled.view(batch, outputs, *sizes, inputs).movedim(-1, 2)
    rolled = torch.einsum("ogct,bgst->bogcs", parts, mixing)
    if gates is not None:
        rolled = rolled * gates.reshape(batch, 1, groups, -1, 1)
    return rolled.to(dtype).contiguous().view(batch, *weight.shape)


def roll_backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor, gates: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The gradients that :func:`roll_forward` hands back for ``grad``, in closed form.

    Args:
        grad: (B, C_out, C_in, \\*k).
        weight: (C_out, C_in, \\*k).
        offsets: (B, n, d) in taps, (z, y, x).
        scale: (B, n).
        gates: (B, C_in), or None; all of one dtype.

    Returns:
        Gradients of weight, offsets, scale and, where there are any, gates, of their shapes;
        differentiable.
    """
    sizes = weight.shape[2:]
    near, far, share = _neighbours(offsets, sizes)
    circulants = _per_axis(torch.lerp(near, far, share), sizes)
    slopes = _per_axis(far - near, sizes)
    mixing = _kronecker(scale, circulants)
    factor = mixing
    if gates is not None:  # each channel is a group of its own
        gates = gates.reshape(*scale.shape, -1, 1, 1)
        factor = (gates * mixing[:, :, None]).flatten(1, 2)
    grad_weights, grad_factor = [], torch.zeros_like(factor)
    for part, change in zip(_parts(weight, weight, 0), _parts(grad, weight, 1), strict=True):
        back, products = _pulled(change, part, factor)
        grad_weights.append(back)
        grad_factor = grad_factor + products
    grad_weight = torch.cat(grad_weights)
    grad_mixing, grad_gates = grad_factor, []
    if gates is not None:
        grad_factor = grad_factor.reshape(*scale.shape, -1, *mixing.shape[2:])
        grad_mixing = (gates * grad_factor).sum(2)
        grad_gates = [(grad_factor * mixing[:, :, None]).sum((3, 4)).flatten(1)]
    ones = torch.ones_like(scale)
    grad_scale = (grad_mixing * _kronecker(ones, circulants)).sum((2, 3))
    grad_offsets = []
    for axis, slope in enumerate(slopes):
        turned = [*circulants[:axis], slope, *circulants[axis + 1 :]]
        grad_offsets.append((grad_mixing * _kronecker(scale, turned)).sum((2, 3)))
    return grad_weight, torch.stack(grad_offsets, dim=-1), grad_scale, *grad_gates


def _pulled(change: Tensor, part: Tensor, mixing: Tensor) -> tuple[Tensor, Tensor]:
    """What a gradient ``change`` (B, o, C, *k) of the rolled ``part`` (o, C, *k) gives it and M.

    Rows are as long as what lies together in memory allows: einsum copies against it channels-last.
    """
    batch, groups, taps = mixing.shape[:3]
    outputs, inputs, *sizes = part.shape
    width = inputs // groups
    if not part.is_contiguous() and part.movedim(1, -1).is_contiguous():
        right = change.movedim(2, -1).reshape(batch, outputs, taps, groups, width)
        right = right.permute(3, 0, 2, 1, 4).reshape(groups, batch * taps, outputs * width)
        left = part.movedim(1, -1).reshape(outputs, taps, groups, width)
        left = left.permute(2, 1, 0, 3).reshape(groups, taps, outputs * width)
        factor = mixing.permute(1, 3, 0, 2).reshape(groups, taps, batch * taps)
        back = (factor @ right).view(groups, taps, outputs, width).permute(2, 1, 0, 3)
        back = back.reshape(outputs, *sizes, inputs).movedim(-1, 1)
        return back, (right @ left.mT).view(groups, batch, taps, taps).transpose(0, 1)
    right = change.reshape(batch, outputs, groups, width, taps)
    right = right.permute(2, 1, 3, 0, 4).reshape(groups, outputs * width, batch * taps)
    left = part.reshape(outputs, groups, width, taps).transpose(0, 1).flatten(1, 2)
    factor = mixing.transpose(0, 1).reshape(groups, batch * taps, taps)
    back = (right @ factor).view(groups, outputs, width, taps).transpose(0, 1)
    products = (right.mT @ left).view(groups, batch, taps, taps).transpose(0, 1)
    return back.reshape(outputs, inputs, *sizes), products


def _parts(kernels: Tensor, weight: Tensor, dim: int) -> tuple[Tensor, ...]:
    """``kernels`` in parts along the axis ``dim`` of the output channels; one part off the CPU."""
    many = weight.numel() // PART_ELEMENTS if weight.device.type == "cpu" else 1
    return kernels.split(max(1, -(-weight.shape[0] // max(1, min(many, MOST_PARTS)))), dim)


def _by_groups(kernels: Tensor, groups: int, sizes: Sequence[int]) -> Tensor:
    """(..., C_out, C_in, *k) as (..., C_out, n, C_in / n, N)."""
    *leading, inputs = kernels.shape[: -len(sizes)]
    return kernels.reshape(*leading, groups, inputs // groups, math.prod(sizes))


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
