"""The convolution of one small 3-D sample by oneDNN, which ATen would not ask for it.

ATen hands a lone float32 sample of few elements to a routine of its own that takes 2 to 14 times as
long. oneDNN's entry points do not look at the size; for the gradient of the kernel there is none,
and matrix products of columns, unrolled a few planes at a time, do it at 0.7 to 0.95 of oneDNN's
own time.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

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


def kernel_gradients(
    samples: Iterable[tuple[Tensor, Tensor]], kernel: Tensor, sides: AllSides
) -> Iterator[Tensor]:
    """The gradients of the kernels that :func:`conv_lone` convolved each sample with.

    Args:
        samples: Of each sample (1, C_in, D, H, W) and its result's gradient (1, C_out, \\*out);
            channels-last and of the same shape all.
        kernel: (C_out, C_in, \\*k), of which only the shape is read.
        sides: Stride, padding and dilation, one number per axis each.

    Yields:
        (C_out, C_in, \\*k), one for each sample.
    """
    room = None
    for x, grad in samples:
        if x.shape[1] < PRODUCT_CHANNELS and sides[0][0] == 1 and grad.shape[2] % 2 == 0:
            yield _by_halves(x, kernel, grad, sides)
            continue
        room = _room(x, kernel, grad) if room is None else room
        yield _by_products(x, kernel, grad, sides, room)


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


def _room(x: Tensor, kernel: Tensor, grad: Tensor) -> Tensor:
    """For what some planes unroll to, (planes, H', W', k_y, k_x, C_in), zeros.

    Where a tap meets the padding nothing is ever written: there the zeros stay.
    """
    channels, *flat = kernel.shape[1], *kernel.shape[3:]
    columns = math.prod(grad.shape[3:]) * math.prod(flat) * channels
    planes = max(1, min(x.shape[2], round(COLUMN_ELEMENTS / columns)))
    return x.new_zeros(planes, *grad.shape[3:], *flat, channels)


def _by_products(
    x: Tensor, kernel: Tensor, grad: Tensor, sides: AllSides, unrolled: Tensor
) -> Tensor:
    """By one matrix product for each depth of the kernel and each few planes of the input.

    What the taps of one depth meet in a plane is unrolled once, and serves all depths.
    """
    outputs, channels, deep, *flat = kernel.shape
    planes, slopes = x.movedim(1, -1)[0], grad.movedim(1, -1)[0]
    depth, places = len(slopes), math.prod(slopes.shape[1:3])
    slopes = slopes.reshape(depth * places, outputs).t()
    step, columns = len(unrolled), math.prod(flat) * channels
    rows = unrolled.view(step * places, columns)
    pairs = list(_met(planes, unrolled, [side[1:] for side in sides]))
    found = x.new_zeros(deep, outputs, columns)
    stride, padding, dilation = (side[0] for side in sides)
    for part, start in enumerate(range(0, len(planes), step)):
        count = min(step, len(planes) - start)
        for target, sources in pairs:
            (target if count == step else target[:count]).copy_(sources[part])
        for tap in range(deep):
            # At output o this depth of the kernel meets plane o stride - padding + tap dilation.
            shift = tap * dilation - padding
            first = max(0, -((shift - start) // stride))
            last = min(depth, (start + count - 1 - shift) // stride + 1)
            if first < last:
                place = first * stride + shift - start
                met = rows[place * places : (place + (last - first - 1) * stride + 1) * places]
                if stride > 1:
                    met = met.view(-1, places, columns)[::stride].reshape(-1, columns)
                found[tap].addmm_(slopes[:, first * places : last * places], met)
    return found.view(deep, outputs, *flat, channels).permute(1, 4, 0, 2, 3)


def _met(
    planes: Tensor, unrolled: Tensor, sides: Sequence[Sequence[int]]
) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
    """For each tap of a plane its place in what is unrolled, and what it meets, some planes each.

    Args:
        planes: (D, H, W, C).
        unrolled: (step, H', W', k_y, k_x, C), contiguous.
        sides: Stride, padding and dilation, along y and x each.
    """
    step, *outputs, high, wide, channels = unrolled.shape
    sizes, steps, places = planes.shape[1:3], planes.stride(), unrolled.stride()

    def along(axis: int, tap: int) -> tuple[int, int, int]:
        """Where the outputs begin that meet the input, how many, and where it is met first."""
        stride, padding, dilation = (side[axis] for side in sides)
        shift = tap * dilation - padding
        first = max(0, -(shift // stride))
        last = min(outputs[axis], (sizes[axis] - 1 - shift) // stride + 1)
        return first, max(0, last - first), first * stride + shift

    # By as_strided: half of the time of a small sample went into slicing axis by axis.
    (y_stride, x_stride), deep = sides[0], (steps[0], steps[3])
    strides = (deep[0], y_stride * steps[1], x_stride * steps[2], deep[1])
    for y in range(high):
        for x in range(wide):
            (top, rows, row), (left, lines, line) = along(0, y), along(1, x)
            if not rows or not lines:
                continue
            target = unrolled.as_strided(
                (step, rows, lines, channels), (*places[:3], places[5]),
                top * places[1] + left * places[2] + y * places[3] + x * places[4],
            )  # fmt: skip
            source = planes.as_strided(
                (len(planes), rows, lines, channels), strides,
                planes.storage_offset() + row * steps[1] + line * steps[2],
            )  # fmt: skip
            yield target, source.split(step)
