"""The convolution of one small 3-D sample by oneDNN, which ATen would not ask for it.

ATen hands a lone float32 sample of few elements to a routine of its own that takes 2 to 14 times as
long. oneDNN's entry points do not look at the size; for the gradient of the kernel there is none,
and matrix products of columns, unrolled a few planes at a time, do it at 0.7 to 0.95 of oneDNN's
own time.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

AllSides = tuple[tuple[int, ...], ...]

# Of a kernel's gradient: what is unrolled at a time, in elements; 2.5 MB were fastest.
COLUMN_ELEMENTS = 640_000
# Below this many channels oneDNN's gradient of two halves is faster than matrix products, where
# a result has two (an even depth, and no stride along z).
PRODUCT_CHANNELS = 32


def asks_onednn() -> bool:
    """Whether oneDNN is there and not switched off."""
    return torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled


def conv_lone(x: Tensor, kernel: Tensor, sides: AllSides) -> Tensor:
    """Convolve one sample.

    Args:
        x: (1, C_in, D, H, W), float32 on the CPU.
        kernel: (C_out, C_in, \\*k).
        sides: Stride, padding and dilation, one number per axis each.

    Returns:
        (1, C_out, \\*out) in the memory format of ``x``; not differentiable.
    """
    stride, padding, dilation = sides
    return torch.ops.aten.mkldnn_convolution(x, kernel, None, padding, stride, dilation, 1)


def sample_gradient(sizes: Sequence[int], kernel: Tensor, grad: Tensor, sides: AllSides) -> Tensor:
    """The gradient of the sample that :func:`conv_lone` convolved.

    Args:
        sizes: The sample's, (D, H, W).
        kernel: (C_out, C_in, \\*k).
        grad: (1, C_out, \\*out).
        sides: As there.

    Returns:
        (1, C_in, D, H, W) in the memory format of ``grad``.
    """
    stride, padding, dilation = sides
    rest = left_over(sizes, kernel.shape[2:], grad.shape[2:], sides)
    return torch.ops.mkldnn._convolution_transpose_pointwise(
        grad, kernel, None, padding, rest, stride, dilation, 1, "none", [], ""
    )


def left_over(
    sizes: Sequence[int], kernel: Sequence[int], outputs: Sequence[int], sides: AllSides
) -> list[int]:
    """What of ``sizes`` no tap reaches, the stride being larger: a transposed one's padding."""
    axes = zip(sizes, outputs, kernel, *sides, strict=True)
    return [size - ((o - 1) * s - 2 * p + d * (k - 1) + 1) for size, o, k, s, p, d in axes]


def kernel_gradient(x: Tensor, kernel: Tensor, grad: Tensor, sides: AllSides) -> Tensor:
    """The gradient of the kernel that :func:`conv_lone` convolved with.

    Args:
        x: (1, C_in, D, H, W), channels-last.
        kernel: (C_out, C_in, \\*k), of which only the shape is read.
        grad: (1, C_out, \\*out), channels-last.
        sides: Stride, padding and dilation, one number per axis each.

    Returns:
        (C_out, C_in, \\*k).
    """
    if x.shape[1] < PRODUCT_CHANNELS and sides[0][0] == 1 and grad.shape[2] % 2 == 0:
        return _by_halves(x, kernel, grad, sides)
    return _by_products(x, kernel, grad, sides)


def _by_halves(x: Tensor, kernel: Tensor, grad: Tensor, sides: AllSides) -> Tensor:
    """By oneDNN, which is asked for two samples: the halves along z, with what they overlap."""
    (_, *stride), (before, *padding), (dilation, *dilations) = sides
    half, depth = grad.shape[2] // 2, x.shape[2]
    planes = x.movedim(1, -1)[0]
    pieces = planes.new_zeros(2, half + dilation * (kernel.shape[2] - 1), *planes.shape[1:])
    for piece, start in zip(pieces, (-before, half - before), strict=True):
        first, last = max(0, start), min(depth, start + len(piece))
        if first < last:
            piece[first - start : last - start].copy_(planes[first:last])
    slopes = grad.movedim(1, -1).reshape(2, half, *grad.shape[3:], grad.shape[1])
    return torch.ops.aten.convolution_backward(
        slopes.movedim(-1, 1), pieces.movedim(-1, 1), kernel, None, (1, *stride), (0, *padding),
        (dilation, *dilations), False, (0, 0, 0), 1, (False, True, False),
    )[1]  # fmt: skip


def _by_products(x: Tensor, kernel: Tensor, grad: Tensor, sides: AllSides) -> Tensor:
    """By one matrix product for each depth of the kernel and each few planes of the input.

    What the taps of one depth meet in a plane is unrolled once, and serves all depths.
    """
    outputs, channels, deep, *flat = kernel.shape
    planes, slopes = x.movedim(1, -1)[0], grad.movedim(1, -1)[0]
    depth, places = len(slopes), math.prod(slopes.shape[1:3])
    slopes = slopes.reshape(depth, places, outputs)
    columns = math.prod(flat) * channels
    step = max(1, min(len(planes), round(COLUMN_ELEMENTS / (places * columns))))
    # Where a tap meets the padding nothing is ever written: there the zeros stay.
    unrolled = x.new_zeros(step, *grad.shape[3:], *flat, channels)
    rows = unrolled.view(step, places, columns)
    found = x.new_zeros(deep, outputs, columns)
    taps = list(_taps(x.shape[3:], grad.shape[3:], flat, [side[1:] for side in sides]))
    stride, padding, dilation = (side[0] for side in sides)
    for start in range(0, len(planes), step):
        count = min(step, len(planes) - start)
        for to, (y, z), source in taps:
            unrolled[:count, *to, y, z].copy_(planes[start : start + count][:, *source])
        for tap in range(deep):
            # Plane i is met by this depth of the kernel at output o: i = o stride - padding + ...
            shift = tap * dilation - padding
            first = max(0, -((shift - start) // stride))
            last = min(depth, (start + count - 1 - shift) // stride + 1)
            if first < last:
                place = first * stride + shift - start
                met = rows[place : place + (last - first - 1) * stride + 1 : stride]
                found[tap].addmm_(
                    slopes[first:last].reshape(-1, outputs).t(), met.reshape(-1, columns)
                )
    return found.view(deep, outputs, *flat, channels).permute(1, 4, 0, 2, 3)


def _taps(
    sizes: Sequence[int], outputs: Sequence[int], kernel: Sequence[int], sides: Sequence[tuple]
):
    """For each tap of a plane: the outputs where it meets the input, the tap, and what it meets."""

    def along(axis: int, tap: int) -> tuple[slice, slice] | None:
        stride, padding, dilation = (side[axis] for side in sides)
        shift = tap * dilation - padding
        first = max(0, -(shift // stride))
        last = min(outputs[axis], (sizes[axis] - 1 - shift) // stride + 1)
        if first >= last:
            return None
        begin = first * stride + shift
        return slice(first, last), slice(begin, begin + (last - first - 1) * stride + 1, stride)

    for y in range(kernel[0]):
        for z in range(kernel[1]):
            pair = along(0, y), along(1, z)
            if None not in pair:
                yield (pair[0][0], pair[1][0]), (y, z), (pair[0][1], pair[1][1])
