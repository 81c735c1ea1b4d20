"""The ways of convolving each sample with its own rolled kernel, and the rule that chooses.

``compiled`` has a routine of our own do it on the CPU (:mod:`cuda_ops.cpu_conv`), ``looped``
convolves sample by sample, ``grouped`` all samples at once with a group each, and ``mixed-input``
rolls the input's columns instead of the kernels and needs one product with the weight as it is
(:mod:`cuda_ops.mixed_input`). All give the same numbers; :func:`choose_way` knows which is fastest.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ops import cpu_calls
from cuda_ops.cpu_conv import conv_compiled as conv_by_library
from cuda_ops.geometry import Geometry, Sides
from cuda_ops.layout import format_of, is_channels_last
from cuda_ops.lone import asks_onednn
from cuda_ops.looped import CONV, conv_each, conv_made
from cuda_ops.plain import is_plain

WAYS = ("auto", "looped", "grouped", "mixed-input")
ALL_WAYS = (*WAYS, "compiled")  # which is not for any shape or type
KERNEL_WAYS = ("auto", "compiled", "looped", "grouped")

# Up to this many channels, in and out, a processor without AVX-512 convolves compiled. With 128
# oneDNN is faster.
COMPILED_CHANNELS = 64

# ATen hands a one-sample float32 convolution without groups to oneDNN only above this many
# elements in (channels, first two spatial axes); below, 3-D falls to a 2-14 times slower loop.
ONEDNN_ELEMENTS = 20_480
# Up to this many elements of a sample, the calls of a loop cost more than what they compute.
GROUPED_ELEMENTS = 8_192
# Where oneDNN cannot be asked past ATen, a loop of halved samples pays below this many channels.
HALVED_CHANNELS = 128
# Contiguous samples of so few channels and from so many voxels are halved anyhow.
HALVED_VOXELS = 4096
# Below this many channels contiguous 3-D samples are convolved in channels-last memory.
TURNED_CHANNELS = 128
# The input is mixed rather than the weight below this many result voxels per output channel.
MIXED_VOXELS = 0.5
# Above this many samples a CUDA batch goes as one grouped convolution. Never measured.
CUDA_LOOP_SAMPLES = 4


def choose_way(
    x: Tensor, shape: Sequence[int], geometry: Geometry, dtype: torch.dtype, unmade: int = 0
) -> str:
    """The fastest way for this shape: ``compiled``, ``looped``, ``grouped`` or ``mixed-input``.

    On the CPU (one thread, float32, forward plus backward, B 2, 3-D, ratio to a plain
    convolution, on an EPYC without AVX-512; docs/benchmarks.md has the table): of 8 to 64 channels,
    3-D, go compiled at 0.5 to 1.01. Without the compiled routine, and above: channels-last goes
    looped at 0.9 to 1.1 above 4 096 voxels, grouped at 1.3 to 2.3, which converts the samples both
    ways; contiguous 3-D goes looped by way of channels-last memory at 0.6 to 1.02 under 128
    channels (:func:`turns`), and else grouped at 0.98 to 1.08. Samples so small that ATen keeps
    them from oneDNN are looped past ATen (:mod:`cuda_ops.lone`), but grouped where even the calls
    of a loop would show. Where voxels are few and channels many, mixing the input saves the kernels
    altogether. The rule for CUDA has never been measured.

    Args:
        x: (B, C, \\*S), of which shape, type, memory format and device are read, never values.
        shape: Of the weight, (C_out, C_in, \\*k).
        geometry: Of the convolution.
        dtype: In which the convolution computes.
        unmade: Kernels still to be rolled: B, 1 if all samples share theirs, 0 if all are there.
    """
    batch = x.shape[0]
    voxels = math.prod(geometry.outputs(x.shape[2:], shape[2:]))
    if x.device.type != "cpu":
        return "looped" if batch <= CUDA_LOOP_SAMPLES else "grouped"
    if 0 < voxels * batch <= MIXED_VOXELS * shape[0] * unmade:
        return "mixed-input"
    if goes_compiled(x, shape, geometry, dtype):
        return "compiled"
    if leaves_onednn(x, shape, dtype):
        if x.ndim == 4 or batch > 1 and voxels * x.shape[1] <= GROUPED_ELEMENTS:
            return "grouped"
        return "looped" if x.shape[1] < HALVED_CHANNELS or _goes_lone(x) else "grouped"
    return "looped" if is_channels_last(x) or turns(x, shape, dtype) else "grouped"


def goes_compiled(x: Tensor, shape: Sequence[int], geometry: Geometry, dtype: torch.dtype) -> bool:
    """Whether ``x`` (B, C, \\*S) is best convolved by :func:`cuda_ops.cpu_conv.conv_compiled`.

    Args:
        x: Of which shape, type, kind and device are read, never values.
        shape: Of the kernel, (C_out, C_in, \\*k).
        geometry: Of the convolution.
        dtype: In which the convolution computes.
    """
    few = x.ndim == 5 and max(shape[:2]) <= COMPILED_CHANNELS
    if not (few and dtype == conv_dtype(x) == torch.float32 and cpu_calls.is_for(x)):
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX2" and compiles(shape, geometry)


def compiles(shape: Sequence[int], geometry: Geometry) -> bool:
    """Whether a kernel (C_out, C_in, \\*k) is one that can be convolved compiled, in this way."""
    same = tuple(side // 2 for side in shape[2:])
    ones = (1,) * len(same)
    return geometry == (ones, same, ones) and cpu_calls.fits(shape)


def turns(x: Tensor, shape: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether contiguous ``x`` (B, C, \\*S) is best convolved in channels-last memory.

    oneDNN's 3-D convolutions of few channels are that much faster there (a plain one too) that
    bringing the samples there and the result back costs less than it saves: at 16 channels and
    64^3 the layer with its rolling took 0.70 of a plain contiguous one (``cuda_ops.bench``). Not
    in 2-D, where it is the other way round, nor where ``x`` is so small that oneDNN is left.

    Args:
        x: (B, C, \\*S), of which shape, memory format and device are read, never values.
        shape: Of the weight, (C_out, C_in, \\*k).
        dtype: In which the convolution computes.
    """
    return (
        x.ndim == 5
        and x.device.type == "cpu"
        and dtype == torch.float32
        and x.shape[1] < TURNED_CHANNELS
        and max(shape[-3:]) > 1
        and not is_channels_last(x)
        and not leaves_onednn(x, shape, dtype)
    )


def leaves_onednn(x: Tensor, shape: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether ATen convolves one sample of ``x`` (B, C, \\*S) without oneDNN, when it is alone.

    ``shape`` is the kernel's, (C_out, C_in, \\*k), and ``dtype`` what is computed in. Kernels of
    one tap in the last two axes do not count: without oneDNN they are no slower.
    """
    fits = math.prod(x.shape[1:4]) <= ONEDNN_ELEMENTS
    return (
        x.device.type == "cpu"
        and dtype == torch.float32
        and fits
        and min(shape[-2:]) <= 3
        and max(shape[-2:]) > 1
    )


def conv_dtype(x: Tensor) -> torch.dtype:
    """The type in which a convolution of ``x`` computes, autocast considered."""
    device = x.device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if casts and x.dtype != torch.float64 else x.dtype


def convolve(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """Convolve all samples of ``x`` (B, C_in, \\*S) with one kernel (C_out, C_in, \\*k).

    ``torch.nn.functional.conv3d`` or ``conv2d``, but for three cases on the CPU. Few channels go
    compiled (:func:`goes_compiled`). One small sample, which ATen would send to a slow routine, 2
    to 14 times slower, goes past it, or as a batch of its two halves; and contiguous samples of few
    channels go by way of channels-last memory.
    """
    if goes_compiled(x, kernel.shape, geometry, conv_dtype(x)) and cpu_calls.is_for(kernel):
        return conv_by_library(x, kernel)
    if x.shape[0] == 1 and x.ndim == 5 and leaves_onednn(x, kernel.shape, conv_dtype(x)):
        return _small(x, kernel[None], geometry)
    if x.shape[0] and turns(x, kernel.shape, conv_dtype(x)):
        return conv_each(x, kernel.expand(len(x), *kernel.shape), geometry, turn=True)
    return CONV[x.ndim](x, kernel, None, *geometry)


def _small(x: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Convolve sample b, so small that it leaves oneDNN, with ``kernels[b]``.

    oneDNN is asked past ATen, in channels-last memory; but contiguous samples of few channels and
    many voxels go as halves, which was 0.05 to 0.1 faster.
    """
    geometry.outputs(x.shape[2:], kernels.shape[3:])  # or its ValueError
    turn = not is_channels_last(x)
    halves = turn and x.shape[1] < HALVED_CHANNELS and math.prod(x.shape[2:]) >= HALVED_VOXELS
    if x.dtype == kernels.dtype and not halves and _goes_lone(x, kernels):
        return conv_each(x, kernels, geometry, turn, lone=True)
    return _in_halves(x, kernels.unbind(0), geometry)


def _goes_lone(*tensors: Tensor) -> bool:
    """Whether oneDNN can be asked past ATen for these, the sample(s) first: float32 and plain."""
    x = tensors[0]
    full = conv_dtype(x) == x.dtype == torch.float32 and x.numel() > 0
    return full and is_plain(*tensors) and asks_onednn()


def _in_halves(x: Tensor, kernels: Sequence[Tensor], geometry: Geometry) -> Tensor:
    """Convolve sample b with ``kernels[b]`` as a batch of two halves along its longest axis."""
    outputs = geometry.outputs(x.shape[2:], kernels[0].shape[2:])
    axis = outputs.index(max(outputs))
    stride, padding, dilation = (sides[axis] for sides in geometry)
    half = (outputs[axis] + 1) // 2
    step = half * stride
    length = step + max(0, dilation * (kernels[0].shape[axis + 2] - 1) + 1 - stride)
    # With the channels where they are in memory, halves along z are joined without a copy.
    channel, along = (-1, axis + 1) if is_channels_last(x) else (1, axis + 2)
    laid = [0 if a == axis else side for a, side in enumerate(geometry.padding)]

    def halves(sample: Tensor) -> Tensor:
        pieces = _overlapping(sample.movedim(1, channel), along, padding, step, length)
        pieces = pieces.unflatten(along, (2, length)).movedim(along, 1).flatten(0, 1)
        return pieces.movedim(channel, 1)

    sides = geometry.stride, tuple(laid), geometry.dilation
    pairs = zip(x.split(1), kernels, strict=True)
    results = [conv_made(sample, kernel, halves, sides) for sample, kernel in pairs]
    y = results[0] if len(results) == 1 else torch.cat(results)
    y = y.movedim(1, channel).unflatten(0, (-1, 2)).movedim(1, along).flatten(along, along + 1)
    y = y.movedim(channel, 1)
    return _laid_as(x, y.narrow(axis + 2, 0, outputs[axis])) if outputs[axis] % 2 else y


def _overlapping(x: Tensor, along: int, padding: int, step: int, length: int) -> Tensor:
    """Two pieces of ``length``, the second ``step`` further, of ``x`` with zeros before and after.

    They follow each other along the same axis. ``padding`` zeros stand before ``x``.
    """
    # The second piece may end after the input, or before it where a stride leaves a rest.
    rest = step + length - padding - x.shape[along]
    if padding > step or not 0 <= rest <= step:
        x = F.pad(x, (*[0, 0] * (x.ndim - 1 - along), padding, rest))
        padding = rest = 0
    first, both, last = x.split((step - padding, length - step, step - rest), along)
    before, after = list(x.shape), list(x.shape)
    before[along], after[along] = padding, rest
    pieces = [x.new_zeros(before), first, both, both, last, x.new_zeros(after)]
    return torch.cat(pieces, along)


def conv_per_sample(
    x: Tensor,
    kernels: Tensor,
    stride: Sides = 1,
    padding: Sides = 0,
    dilation: Sides = 1,
    way: str = "auto",
) -> Tensor:
    """Convolve sample b of ``x`` (B, C_in, \\*S) with ``kernels[b]`` (B, C_out, C_in, \\*k).

    Args:
        x: (B, C_in, D, H, W) or (B, C_in, H, W).
        kernels: (B, C_out, C_in, \\*k).
        stride: Of the convolution, one number or one per axis (z, y, x).
        padding: Zeros on both sides, one number or one per axis.
        dilation: Of the convolution, one number or one per axis.
        way: ``"compiled"``, ``"looped"``, ``"grouped"``, or ``"auto"`` for :func:`choose_way`.

    Returns:
        (B, C_out, \\*out) in the memory format of ``x``; empty for B = 0.

    Raises:
        RuntimeError: ``way`` is ``"compiled"``, which cannot be done here.
        ValueError: ``way`` is none of these, or there are not as many kernels as samples.
    """
    _check_pairs(x, kernels)
    geometry = Geometry.of(stride, padding, dilation, x.ndim - 2)
    if way not in KERNEL_WAYS:
        raise ValueError(f"expected a way among {KERNEL_WAYS}, got {way!r}")
    if way == "auto":
        way = choose_way(x, kernels.shape[1:], geometry, kernels.dtype)
    if way == "compiled" and x.shape[0]:
        return conv_compiled(x, kernels, geometry)
    if x.shape[0] == 0:  # the sum of no kernels: a kernel of zeros that knows where it is from
        return convolve(x, kernels.sum(0), geometry)
    if x.shape[0] == 1:
        return convolve(x, kernels.squeeze(0), geometry)
    return (conv_looped if way == "looped" else conv_grouped)(x, kernels, *geometry)


def conv_compiled(x: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """:func:`conv_per_sample` by the compiled routine.

    Raises:
        RuntimeError: It is not there, or not for these.
    """
    fits = compiles(kernels.shape[1:], geometry) and conv_dtype(x) == x.dtype
    if not (fits and cpu_calls.is_for(x, kernels)):
        raise RuntimeError(
            "the compiled convolution takes plain float32 tensors on the CPU, kernels of 3 taps, "
            f"multiples of 8 channels, stride 1 and the same size, got x {tuple(x.shape)} {x.dtype}"
            f" on {x.device}, kernels {tuple(kernels.shape)}, {geometry}; or there is no compiled "
            "library (CUDA_OPS_CPU=compiled says why); use way='auto'"
        )
    return conv_by_library(x, kernels)


def _check_pairs(x: Tensor, kernels: Tensor) -> None:
    if len(x) != len(kernels):
        got = f"got {len(x)} samples and {len(kernels)} kernels"
        raise ValueError(f"expected a kernel for each sample, {got}")


def conv_looped(
    x: Tensor, kernels: Tensor, stride: Sides = 1, padding: Sides = 0, dilation: Sides = 1
) -> Tensor:
    """:func:`conv_per_sample` as one convolution per sample, B >= 1."""
    _check_pairs(x, kernels)
    geometry = Geometry.of(stride, padding, dilation, x.ndim - 2)
    if x.ndim == 5 and leaves_onednn(x, kernels.shape[1:], kernels.dtype):
        return _small(x, kernels, geometry)
    # Under autocast, which would cast each sample by itself.
    x = x.to(kernels.dtype) if x.dtype != conv_dtype(x) == kernels.dtype else x
    return conv_each(x, kernels, geometry, turns(x, kernels.shape[1:], kernels.dtype))


def conv_grouped(
    x: Tensor, kernels: Tensor, stride: Sides = 1, padding: Sides = 0, dilation: Sides = 1
) -> Tensor:
    """:func:`conv_per_sample` as one convolution with a group per sample, B >= 2."""
    batch, outputs = kernels.shape[:2]
    joined = x.reshape(1, -1, *x.shape[2:])
    # Kernels in channels-last memory would turn the joined samples into that as well.
    stacked = kernels.flatten(0, 1).contiguous()
    y = CONV[x.ndim](joined, stacked, None, stride, padding, dilation, batch)
    return _laid_as(x, y.reshape(batch, outputs, *y.shape[2:]))


def _laid_as(x: Tensor, y: Tensor) -> Tensor:
    """``y`` in the memory format of ``x``, as a plain convolution leaves it."""
    return y.contiguous(memory_format=format_of(x))
