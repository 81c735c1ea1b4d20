"""Convolution with one rolled kernel per sample, in 2-D and 3-D.

Two ways give the same numbers: one convolution per sample, or one grouped convolution of the
whole batch with one group per sample. Which is faster follows from the shape, see
:func:`runs_per_sample`.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops.op import roll_kernel

Sides = int | Sequence[int]

# ATen hands a one-sample float32 convolution without groups to oneDNN only above this many
# elements in (channels, first two spatial axes); below, 3-D falls to a 3-8 times slower loop.
ONEDNN_ELEMENTS = 20_480
# Above this many samples a CUDA batch goes as one grouped convolution.
CUDA_LOOP_SAMPLES = 4


def rolling_conv(
    x: Tensor,
    weight: Tensor,
    offsets: Tensor,
    scale: Tensor,
    stride: Sides = 1,
    padding: Sides = 0,
    dilation: Sides = 1,
) -> Tensor:
    """Convolve each sample with its own rolled form of ``weight``.

    Args:
        x: (B, C_in, D, H, W) or (B, C_in, H, W).
        weight: (C_out, C_in, \\*k).
        offsets: (B, n, d) in taps, axis order (z, y, x).
        scale: (B, n), factor of each group of C_in / n input channels.
        stride: Of the convolution, one number or one per axis (z, y, x).
        padding: Zeros on both sides, one number or one per axis.
        dilation: Of the convolution, one number or one per axis.

    Returns:
        (B, C_out, \\*out), as ``torch.nn.functional.conv3d`` or ``conv2d`` gives; empty for B = 0.

    Raises:
        ValueError: Shapes disagree; the sentence says which.
    """
    if x.ndim != weight.ndim:
        raise ValueError(
            f"expected x with {weight.ndim} axes for a weight {tuple(weight.shape)}, got "
            f"{tuple(x.shape)}"
        )
    if x.shape[:2] != (offsets.shape[0], weight.shape[1]):
        raise ValueError(
            f"expected x (B, C_in, ...) with B = {offsets.shape[0]} as the offsets and C_in = "
            f"{weight.shape[1]} as the weight, got {tuple(x.shape)}"
        )
    return conv_per_sample(x, roll_kernel(weight, offsets, scale), stride, padding, dilation)


def conv_per_sample(
    x: Tensor, kernels: Tensor, stride: Sides = 1, padding: Sides = 0, dilation: Sides = 1
) -> Tensor:
    """Convolve sample b of ``x`` (B, C_in, \\*S) with ``kernels[b]`` (B, C_out, C_in, \\*k).

    Returns:
        (B, C_out, \\*out), in the faster of two equal ways; see :func:`runs_per_sample`.
    """
    if x.shape[0] and runs_per_sample(x):
        return conv_looped(x, kernels, stride, padding, dilation)
    return conv_grouped(x, kernels, stride, padding, dilation)


def conv_looped(
    x: Tensor, kernels: Tensor, stride: Sides = 1, padding: Sides = 0, dilation: Sides = 1
) -> Tensor:
    """:func:`conv_per_sample` as one convolution per sample, B >= 1."""
    convolve = F.conv3d if x.ndim == 5 else F.conv2d
    # split and unbind, not x[b] and kernels[b]: the backward of an index writes B zero tensors.
    pairs = zip(x.split(1), kernels.unbind(0), strict=True)
    parts = [convolve(s, k, None, stride, padding, dilation) for s, k in pairs]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def conv_grouped(
    x: Tensor, kernels: Tensor, stride: Sides = 1, padding: Sides = 0, dilation: Sides = 1
) -> Tensor:
    """:func:`conv_per_sample` as one convolution with a group per sample."""
    convolve = F.conv3d if x.ndim == 5 else F.conv2d
    batch, outputs = kernels.shape[:2]
    if not batch:
        empty = kernels.new_zeros(kernels.shape[1:])
        return convolve(x.to(kernels.dtype), empty, None, stride, padding, dilation)
    joined = x.reshape(1, -1, *x.shape[2:])
    y = convolve(joined, kernels.flatten(0, 1), None, stride, padding, dilation, batch)
    return y.reshape(batch, outputs, *y.shape[2:])


def runs_per_sample(x: Tensor) -> bool:
    """Whether a batch ``x`` (B, C, \\*S) is convolved sample by sample rather than grouped.

    On the CPU a grouped convolution of channels-last data converts it twice, so such data goes
    sample by sample, unless a single sample is so small that ATen would leave oneDNN for its
    slow 3-D convolution; contiguous data goes grouped. On CUDA, small batches go one by one.
    """
    if x.shape[0] == 1:
        return True
    if x.device.type != "cpu":
        return x.shape[0] <= CUDA_LOOP_SAMPLES
    layout = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
    if x.is_contiguous() or not x.is_contiguous(memory_format=layout):
        return False
    return x.dtype == torch.bfloat16 or math.prod(x.shape[1:4]) > ONEDNN_ELEMENTS


class RollingConv(nn.Module):
    """A bias-free convolution whose kernel is rolled per sample and per group of channels.

    Offsets and scales are given with each call; where they come from is the caller's affair.

    Args:
        in_channels: C_in, a multiple of ``groups``.
        out_channels: C_out.
        kernel_size: Side of the kernel, one number or one per axis (z, y, x).
        dim: 2 or 3.
        groups: n, groups of contiguous input channels that are rolled separately.
        stride: Of the convolution.
        padding: Zeros on both sides; ``None`` keeps the size at stride 1 (odd kernels).
        dilation: Of the convolution.

    Raises:
        ValueError: ``groups`` does not divide ``in_channels``, or ``dim`` is not 2 or 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sides = 3,
        *,
        dim: int = 3,
        groups: int = 8,
        stride: Sides = 1,
        padding: Sides | None = None,
        dilation: Sides = 1,
    ) -> None:
        super().__init__()
        if dim not in (2, 3):
            raise ValueError(f"expected dim 2 or 3, got {dim}")
        if groups < 1 or in_channels % groups:
            raise ValueError(
                f"{in_channels} channels do not split into {groups} equal groups; choose a number "
                "of groups that divides the channels"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = _per_axis(kernel_size, dim)
        self.stride, self.dilation = _per_axis(stride, dim), _per_axis(dilation, dim)
        same = tuple(a * (k - 1) // 2 for a, k in zip(self.dilation, self.kernel_size, strict=True))
        self.padding = same if padding is None else _per_axis(padding, dim)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernel as ``torch.nn.Conv3d`` draws its own."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(
        self, x: Tensor, offsets: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """Convolve ``x`` (B, C_in, \\*S); without offsets and scale, plainly.

        Args:
            x: (B, C_in, D, H, W) or (B, C_in, H, W).
            offsets: (B, n, d) in taps, (z, y, x), or None for no roll.
            scale: (B, n), or None for ones.

        Returns:
            (B, C_out, \\*out).
        """
        geometry = (self.stride, self.padding, self.dilation)
        if offsets is None and scale is None:
            convolve = F.conv3d if x.ndim == 5 else F.conv2d
            return convolve(x, self.weight, None, *geometry)
        shape = (x.shape[0], self.groups)
        if offsets is None:
            offsets = self.weight.new_zeros(*shape, len(self.kernel_size))
        if scale is None:
            scale = self.weight.new_ones(shape)
        return rolling_conv(x, self.weight, offsets, scale, *geometry)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, groups={self.groups}"
        )


def _per_axis(value: Sides, dim: int) -> tuple[int, ...]:
    values = (value,) * dim if isinstance(value, int) else tuple(value)
    if len(values) != dim:
        raise ValueError(f"expected one number or {dim} (one per axis), got {value}")
    return values
