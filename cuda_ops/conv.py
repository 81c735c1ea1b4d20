"""Convolution with one rolled kernel per sample, in 2-D and 3-D."""

import math

import torch
from torch import Tensor, nn

from cuda_ops.geometry import Geometry, Sides, per_axis
from cuda_ops.mixed_input import conv_mixed_input
from cuda_ops.op import check_roll, roll_kernel
from cuda_ops.paths import (
    ALL_WAYS,
    choose_way,
    conv_dtype,
    conv_grouped,
    conv_looped,
    conv_per_sample,
    convolve,
)

__all__ = ["RollingConv", "conv_grouped", "conv_looped", "rolling_conv"]


def rolling_conv(
    x: Tensor,
    weight: Tensor,
    offsets: Tensor,
    scale: Tensor,
    stride: Sides = 1,
    padding: Sides = 0,
    dilation: Sides = 1,
    way: str = "auto",
) -> Tensor:
    """Convolve each sample with its own rolled form of ``weight``.

    Where all samples share their kernel it is rolled once and convolved plainly: offsets and
    scale both have a batch of one, or were expanded to theirs (``offsets.expand(B, -1, -1)``).
    Values are never compared. The gradient of an expanded tensor then stands in its first row,
    which ``expand`` hands back as the same sum.

    Args:
        x: (B, C_in, D, H, W) or (B, C_in, H, W).
        weight: (C_out, C_in, \\*k).
        offsets: (B, n, d) in taps, axis order (z, y, x), or (1, n, d) for all samples.
        scale: (B, n), factor of each group of C_in / n input channels, or (1, n) for all.
        stride: Of the convolution, one number or one per axis (z, y, x).
        padding: Zeros on both sides, one number or one per axis.
        dilation: Of the convolution, one number or one per axis.
        way: ``"compiled"``, ``"looped"``, ``"grouped"`` or ``"mixed-input"`` to insist on one way
            of computing the same; ``"auto"`` takes the fastest, see
            :func:`cuda_ops.paths.choose_way`.

    Returns:
        (B, C_out, \\*out), as ``torch.nn.functional.conv3d`` or ``conv2d`` gives; empty for B = 0.

    Raises:
        RuntimeError: ``way`` is ``"compiled"``, which cannot be done here.
        TypeError: An argument is not floating point.
        ValueError: Shapes disagree or ``way`` is unknown; the sentence says which.
    """
    if way not in ALL_WAYS:
        raise ValueError(f"expected a way among {ALL_WAYS}, got {way!r}")
    _check_input(x, weight)
    batch = x.shape[0]
    if offsets.shape[:1] not in ((1,), (batch,)):
        raise ValueError(
            f"expected x (B, C_in, ...) with B = {offsets.shape[0]} as the offsets, got "
            f"{tuple(x.shape)}"
        )
    geometry = Geometry.of(stride, padding, dilation, x.ndim - 2)
    shared = way == "auto" and _is_shared(offsets) and _is_shared(scale)
    if way == "auto":
        unmade = 1 if shared else batch
        way = choose_way(x, weight.shape, geometry, conv_dtype(x), unmade)
    if shared and way != "mixed-input":
        kernel = roll_kernel(weight, offsets[:1], scale[:1]).squeeze(0)
        return convolve(x, kernel, geometry)
    offsets, scale = _expanded(offsets, batch), _expanded(scale, batch)
    if way == "mixed-input":
        check_roll(weight, offsets, scale)
        return conv_mixed_input(x, weight, offsets, scale, geometry)
    if way == "grouped":  # which takes contiguous kernels: one weight is less to lay out than B
        weight = weight.contiguous()
    return conv_per_sample(x, roll_kernel(weight, offsets, scale), *geometry, way)


def _is_shared(values: Tensor) -> bool:
    """Whether all samples have the same row of ``values`` (B, ...), as far as its strides tell."""
    if values.shape[:1] == (1,):
        return True
    # An expanded leaf is asked for one gradient per row, which only its rows can give.
    rows = values.ndim > 0 and values.shape[0] > 1 and values.stride(0) == 0
    return rows and not (values.requires_grad and values.is_leaf)


def _expanded(values: Tensor, batch: int) -> Tensor:
    return values.expand(batch, *values.shape[1:]) if values.shape[:1] == (1,) else values


def _check_input(x: Tensor, weight: Tensor) -> None:
    if x.ndim != weight.ndim:
        raise ValueError(
            f"expected x with {weight.ndim} axes for a weight {tuple(weight.shape)}, got "
            f"{tuple(x.shape)}"
        )
    if x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"expected x (B, C_in, ...) with C_in = {weight.shape[1]} as the weight, got "
            f"{tuple(x.shape)}"
        )


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
        self.kernel_size = per_axis(kernel_size, dim)
        self.stride, self.dilation = per_axis(stride, dim), per_axis(dilation, dim)
        same = tuple(a * (k - 1) // 2 for a, k in zip(self.dilation, self.kernel_size, strict=True))
        self.padding = same if padding is None else per_axis(padding, dim)
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
            offsets: (B, n, d) or (1, n, d) in taps, (z, y, x), or None for no roll.
            scale: (B, n) or (1, n), or None for ones.

        Returns:
            (B, C_out, \\*out).
        """
        if offsets is None and scale is None:
            _check_input(x, self.weight)
            return convolve(x, self.weight, Geometry(self.stride, self.padding, self.dilation))
        if offsets is None:
            offsets = self.weight.new_zeros(1, self.groups, len(self.kernel_size))
        if scale is None:
            scale = self.weight.new_ones(1, self.groups)
        geometry = (self.stride, self.padding, self.dilation)
        return rolling_conv(x, self.weight, offsets, scale, *geometry)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, groups={self.groups}"
        )
