"""The rolling convolution that rolls the columns of its input instead of the kernels."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ops.geometry import Geometry
from cuda_ops.layout import format_of
from cuda_ops.mixing import mixing_matrices
from cuda_ops.op import full_precision


def conv_mixed_input(
    x: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor, geometry: Geometry
) -> Tensor:
    """Convolve with rolled kernels by rolling the columns of ``x`` instead, group by group.

    A roll is linear in the taps, so it may as well act, transposed, on what the taps meet; then
    one product with ``weight`` serves the whole batch. It is done in float32 (float64 for a
    float64 weight), also under autocast, and the product in the type of a convolution.

    Args:
        x: (B, C_in, \\*S).
        weight: (C_out, C_in, \\*k).
        offsets: (B, n, d) in taps, (z, y, x).
        scale: (B, n).
        geometry: Of the convolution.

    Returns:
        (B, C_out, \\*out) in the memory format of ``x``; empty for B = 0. A non-finite offset
        makes its own sample NaN and no other.
    """
    batch, channels, kernel = x.shape[0], x.shape[1], weight.shape[2:]
    groups, taps = offsets.shape[1], math.prod(kernel)
    sizes = geometry.outputs(x.shape[2:], kernel)
    voxels, width = math.prod(sizes), channels // groups
    compute = torch.promote_types(weight.dtype, torch.float32)
    with full_precision(x.device.type):
        mixing = mixing_matrices(offsets.to(compute), scale.to(compute), kernel).flatten(0, 1)
        columns = _columns(x.to(compute), kernel, geometry)
        columns = columns.unflatten(1, (groups, width)).flatten(3, x.ndim).flatten(4)
        columns = columns.permute(0, 1, 4, 3, 2).reshape(batch * groups, taps, voxels * width)
        mixed = torch.bmm(mixing.mT, columns).view(batch, groups, taps, voxels, width)
        rows = mixed.permute(0, 3, 2, 1, 4).reshape(batch * voxels, taps * channels).to(x.dtype)
    y = F.linear(rows, weight.movedim(1, -1).flatten(1))
    y = y.view(batch, *sizes, weight.shape[0]).movedim(-1, 1)
    return y.contiguous(memory_format=format_of(x))


def _columns(x: Tensor, kernel: Sequence[int], geometry: Geometry) -> Tensor:
    """What each tap of a kernel meets at each place, as a view (B, C, \\*out, \\*k)."""
    x = F.pad(x, [side for padding in reversed(geometry.padding) for side in (padding, padding)])
    for axis, (size, stride, _, dilation) in enumerate(zip(kernel, *geometry, strict=True)):
        x = x.unfold(axis + 2, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return x
