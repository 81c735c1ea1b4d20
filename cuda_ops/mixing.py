"""The roll as one matrix product, in plain torch: the form of every device without a kernel.

The roll of one group of one sample is a linear map of its N = k^d taps, the Kronecker product of
one circulant k x k matrix per axis; so all samples and groups together are one batched matrix
product, whatever their number. Nothing here waits for the device or looks at a value.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def mixing_forward(weight: Tensor, offsets: Tensor, scale: Tensor) -> Tensor:
    """Roll as :func:`cuda_ops.reference.roll_kernel_reference`; all arguments of one dtype."""
    circulants, _ = _circulants(offsets, weight.shape[2:])
    return _apply(weight, _kronecker(scale, circulants))


def mixing_backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients that :func:`mixing_forward` hands back for ``grad``, in closed form.

    Args:
        grad: (B, C_out, C_in, \\*k).
        weight: (C_out, C_in, \\*k).
        offsets: (B, n, d) in taps, (z, y, x).
        scale: (B, n).

    Returns:
        Gradients of weight, offsets and scale, of their shapes; differentiable.
    """
    outputs, inputs, *sizes = weight.shape
    batch, groups, axes = offsets.shape
    taps, width = math.prod(sizes), inputs // groups
    circulants, slopes = _circulants(offsets, sizes)
    mixing = _kronecker(scale, circulants)
    grads = grad.reshape(batch, outputs, groups, width, taps).permute(2, 1, 3, 0, 4)
    grads = grads.reshape(groups, outputs * width, batch * taps)
    weights = weight.reshape(outputs, groups, width, taps).transpose(0, 1)
    weights = weights.reshape(groups, outputs * width, taps)
    rows = mixing.transpose(0, 1).reshape(groups, batch * taps, taps)
    grad_weight = torch.bmm(grads, rows).view(groups, outputs, width, taps).transpose(0, 1)
    # All that scale and offsets need: the products of every result tap with every weight tap.
    products = torch.bmm(grads.transpose(1, 2), weights)
    products = products.view(groups, batch, taps, taps).transpose(0, 1)
    ones = torch.ones_like(scale)
    grad_scale = (products * _kronecker(ones, circulants)).sum((2, 3))
    parts = []
    for axis in range(axes):
        turned = [*circulants[:axis], slopes[axis], *circulants[axis + 1 :]]
        parts.append((products * _kronecker(scale, turned)).sum((2, 3)))
    return grad_weight.reshape(weight.shape), torch.stack(parts, dim=-1), grad_scale


def _circulants(offsets: Tensor, sizes: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Per axis R (B, n, k, k) and its slope, for offsets (B, n, d)."""
    if all(size == sizes[0] for size in sizes):
        matrices, slopes = _circulant(offsets, sizes[0])
        return list(matrices.unbind(2)), list(slopes.unbind(2))
    pairs = [_circulant(offsets[..., axis], size) for axis, size in enumerate(sizes)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _circulant(offsets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """R (..., k, k) of offsets o (...): R[j, i] = (1 - f) [i = j - l] + f [i = j - l - 1], mod k.

    l = floor(o) and f = o - l; the second result is dR/do. Floor first, then modulo, both in
    floating point: exact for any magnitude, and a non-finite offset becomes a NaN share, never
    an index.
    """
    lower = offsets.detach().floor()
    fraction = (offsets - lower)[..., None, None]
    if size == 1:  # rolling one tap changes nothing; the product keeps a NaN visible
        return 1 + 0 * fraction, 0 * fraction
    taps = torch.arange(size, device=lower.device, dtype=lower.dtype)
    whole = torch.remainder(lower, size)[..., None, None]
    distance = torch.remainder(taps[:, None] - taps - whole, size)
    near, far = (distance == 0).to(lower.dtype), (distance == 1).to(lower.dtype)
    return (1 - fraction) * near + fraction * far, far - near


def _kronecker(scale: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """scale (B, n) times the Kronecker product of the axes' (B, n, k, k): (B, n, N, N)."""
    axes, sizes = len(matrices), [matrix.shape[-1] for matrix in matrices]
    product = scale.reshape(*scale.shape, *[1] * 2 * axes)
    for axis, (matrix, size) in enumerate(zip(matrices, sizes, strict=True)):
        shape = [1] * 2 * axes
        shape[axis] = shape[axes + axis] = size
        product = product * matrix.reshape(*scale.shape, *shape)
    return product.reshape(*scale.shape, math.prod(sizes), math.prod(sizes))


def _apply(weight: Tensor, mixing: Tensor) -> Tensor:
    """Mix the taps of ``weight`` (C_out, C_in, *k) by ``mixing`` (B, n, N, N): one product."""
    outputs, inputs = weight.shape[:2]
    batch, groups, taps = mixing.shape[:3]
    left = weight.reshape(outputs, groups, -1, taps).transpose(0, 1).reshape(groups, -1, taps)
    right = mixing.permute(1, 3, 0, 2).reshape(groups, taps, batch * taps)
    product = torch.bmm(left, right).view(groups, outputs, inputs // groups, batch, taps)
    return product.permute(3, 1, 0, 2, 4).reshape(batch, *weight.shape)
