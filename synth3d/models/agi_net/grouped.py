"""Grouped 3x3(x3) convolutions of gated features: torch's numbers, less time on the CPU."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops.cpu_calls import convolved, is_for, is_there, kernel_gradients, matches
from cuda_ops.cpu_conv import conv_compiled
from cuda_ops.layout import FORMATS
from cuda_ops.paths import conv_dtype, leaves_onednn
from cuda_ops.plain import watched

WIDE_GROUP = 16
"""Channels of a group that fill a vector of an AVX-512 processor."""
FEW_VOXELS = 1024
"""Of a result: with fewer, one convolution by torch beats the calls of :class:`_GatedConv`."""


class GroupedConv2d(nn.Conv2d):
    """``nn.Conv2d`` of ``x`` times one gate per sample and channel; see :func:`grouped_conv`."""

    def forward(self, x: Tensor, gates: Tensor | None = None) -> Tensor:
        """(B, C_in, H, W), gates (B, C_in, 1, 1) or None -> (B, C_out, H', W')."""
        return grouped_conv(x, self.weight, self.bias, self.stride, self.groups, gates)


class GroupedConv3d(nn.Conv3d):
    """``nn.Conv3d`` of ``x`` times one gate per sample and channel; see :func:`grouped_conv`."""

    def forward(self, x: Tensor, gates: Tensor | None = None) -> Tensor:
        """(B, C_in, D, H, W), gates (B, C_in, 1, 1, 1) or None -> (B, C_out, D', H', W')."""
        return grouped_conv(x, self.weight, self.bias, self.stride, self.groups, gates)


GROUPED: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: GroupedConv2d, 3: GroupedConv3d}


def grouped_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    groups: int,
    gates: Tensor | None = None,
) -> Tensor:
    """A grouped convolution of ``x * gates`` with padding 1.

    On the CPU channels-last float32 volumes go compiled, if the stride is 1 or, in 3-D, 2
    (:mod:`cuda_ops.cpu_conv`), the gates being folded into the kernels. What follows is for all
    others. Thin groups run merged, see :func:`merged_groups`. For channels-last float32 volumes on
    the CPU the gates go into the kernels, so that ``x * gates`` is never made, and the gradient of
    the weight is taken slice by slice (:func:`weight_gradient`).

    Args:
        x: (B, C_in, \\*S).
        weight: (C_out, C_in / groups, 3, 3) or (C_out, C_in / groups, 3, 3, 3).
        bias: (C_out,) or None.
        stride: One number per axis.
        groups: A divisor of C_in and C_out.
        gates: (B, C_in, 1, ...) or None for ones.

    Returns:
        (B, C_out, \\*S'), S' = ceil(S / stride).
    """
    compiled = _goes_compiled(x, weight, bias, stride, groups, gates)
    if compiled and max(stride) == 1:
        return conv_compiled(x, weight, gates, bias, groups)
    merged = merged_groups(x, groups)
    if compiled or _by_slices(x, weight, stride, merged):
        return _GatedConv.apply(x, gates, weight, bias, tuple(stride), groups, merged)
    if gates is not None:
        x = x * gates.to(x.dtype)
    convolve = F.conv3d if x.ndim == 5 else F.conv2d
    return convolve(x, merge_groups(weight, groups, merged), bias, stride, 1, 1, merged)


def _goes_compiled(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    groups: int,
    gates: Tensor | None,
) -> bool:
    """Whether the compiled routine convolves ``x``: faster than torch at any size.

    At stride 1, and in 3-D at 2. Where a vector of the processor holds 16 numbers, only groups of
    fewer channels: there oneDNN is slow, and with more it has not been measured.
    """
    if x.device.type != "cpu" or watched() or conv_dtype(x) != torch.float32:
        return False
    if set(stride) != {1} and (set(stride) != {2} or x.ndim != 5):
        return False
    if x.is_contiguous() or not x.is_contiguous(memory_format=FORMATS[x.ndim]):
        return False
    if not (matches(x, weight, gates, bias, groups) and is_for(x, weight, bias, gates)):
        return False
    return weight.shape[1] < WIDE_GROUP or torch.backends.cpu.get_cpu_capability() == "AVX2"


def merge_groups(weight: Tensor, groups: int, merged: int) -> Tensor:
    """A grouped kernel written as one of fewer groups, with zeros between what was apart.

    Args:
        weight: (C_out, C_in / groups, \\*k).
        groups: The groups it has.
        merged: The groups it shall have, a divisor of ``groups``.

    Returns:
        (C_out, C_in / merged, \\*k), for the same convolution with ``merged`` groups.
    """
    if merged == groups:
        return weight
    eye = torch.eye(groups // merged, dtype=weight.dtype, device=weight.device)
    blocks = weight.unflatten(0, (merged, groups // merged, -1))
    return torch.einsum("gh,ngoi...->ngohi...", eye, blocks).flatten(3, 4).flatten(0, 2)


def merged_groups(x: Tensor, groups: int) -> int:
    """Into how many groups a grouped 3x3(x3) convolution of ``x`` (B, C, \\*S) is best merged.

    oneDNN works on 8 or 16 channels at a time: on the CPU, groups of 2 channels took 1.6 (fp32)
    to 3.9 (bfloat16) times as long, forward and backward, as groups of 8 that are mostly zeros.
    """
    if x.device.type != "cpu" or x.dtype == torch.float64:
        return groups
    enough = 16 if x.is_contiguous() else 8
    while groups % 2 == 0 and x.shape[1] // groups < enough:
        groups //= 2
    return groups


def _by_slices(x: Tensor, weight: Tensor, stride: Sequence[int], merged: int) -> bool:
    """Whether :class:`_GatedConv` convolves ``x``.

    It costs some passes over a kernel per sample, and saves some over the features: with fewer
    voxels than kernel entries to a channel, torch's way takes 0.3 to 1 of its time. A lone
    small sample without groups is left to torch, which has a slow routine for it alone; and a
    compiler, which wants one graph for every batch size, gets the plain formula.
    """
    if torch.compiler.is_compiling():
        return False
    if x.device.type != "cpu" or x.ndim != 5 or x.is_contiguous() or not x.shape[0]:
        return False
    voxels = math.prod(-(-side // step) for side, step in zip(x.shape[2:], stride, strict=True))
    if voxels < max(FEW_VOXELS, weight[:, 0].numel()):
        return False
    fits = conv_dtype(x) == torch.float32 and x.is_contiguous(memory_format=torch.channels_last_3d)
    return fits and (merged > 1 or not leaves_onednn(x, weight.shape, x.dtype))


class _GatedConv(torch.autograd.Function):
    """A 3-D grouped convolution whose kernels take the gates, sample by sample."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gates: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        groups: int,
        merged: int,
    ) -> Tensor:
        ctx.save_for_backward(x, gates, weight)
        ctx.bias, ctx.stride, ctx.groups, ctx.merged = bias is not None, stride, groups, merged
        ctx.compiled = _goes_compiled(x, weight, bias, stride, groups, gates)
        ctx.compiled = ctx.compiled and is_there(x, weight, gates, bias)
        if ctx.compiled:
            return convolved(x, weight, gates, bias, groups, 2)
        kernels = _gated_kernels(weight, gates, groups, merged)
        samples = x.split(1) if gates is not None else (x,)
        pairs = zip(samples, kernels, strict=True)
        parts = [F.conv3d(sample, k, bias, stride, 1, 1, merged) for sample, k in pairs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gates, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        needs = dict(zip(("x", "gates", "weight", "bias"), ctx.needs_input_grad, strict=False))
        found: dict[str, Tensor | None] = dict.fromkeys(needs)
        if needs["x"]:
            lone = gates is not None or len(x) == 1
            merged = _merged_backwards(x, weight.shape, ctx.stride, ctx.merged, lone)
            kernels = _gated_kernels(weight, gates, ctx.groups, merged)
            samples = (x.split(1), grad.split(1)) if gates is not None else ((x,), (grad,))
            triples = zip(*samples, kernels, strict=True)
            parts = [_input_gradient(*triple, ctx.stride, merged) for triple in triples]
            found["x"] = parts[0] if len(parts) == 1 else torch.cat(parts)
        if needs["weight"] or needs["gates"]:
            if ctx.compiled and not torch.is_grad_enabled() and is_there(grad):
                slopes = kernel_gradients(x, weight, True, grad, ctx.groups, 2)
            else:
                slopes = weight_gradient(x, grad, weight, ctx.stride, ctx.groups)
            if gates is None:
                found["weight"] = slopes.sum(0)
            else:
                factors = _per_input(gates, weight, ctx.groups)
                found["weight"] = (slopes * factors).sum(0)
                products = (slopes * weight).unflatten(1, (ctx.groups, -1))
                found["gates"] = products.sum((2, 4, 5, 6)).reshape(gates.shape)
        if ctx.bias and needs["bias"]:
            rows = grad.movedim(1, -1).reshape(-1, grad.shape[1])
            found["bias"] = rows.new_ones(len(rows)) @ rows
        return (*found.values(), None, None, None)


def _gated_kernels(
    weight: Tensor, gates: Tensor | None, groups: int, merged: int
) -> tuple[Tensor, ...]:
    """The merged kernel of each sample, or one for all where there are no gates."""
    if gates is None:
        return (merge_groups(weight, groups, merged),)
    gated = weight * _per_input(gates, weight, groups)
    return tuple(merge_groups(kernel, groups, merged) for kernel in gated.unbind(0))


def _per_input(gates: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Gates (B, C_in, 1, ...) as factors (B, C_out, C_in / groups, 1, ...) of a grouped kernel."""
    outputs, width, *sides = weight.shape
    own = gates.reshape(len(gates), groups, 1, width, *[1] * len(sides))
    return own.expand(-1, -1, outputs // groups, *own.shape[3:]).flatten(1, 2)


def _merged_backwards(
    x: Tensor, shape: Sequence[int], stride: Sequence[int], groups: int, lone: bool
) -> int:
    """Into how many groups the gradient of ``x`` is best merged, from ``groups`` on.

    Of strided convolutions with fewer than 16 channels to a group, oneDNN's took 1.4 to 3 times
    as long as that of a merged one (8 to 64 channels, 24^3 to 96^3). A small sample that goes
    alone keeps two groups: without groups torch has a slow routine for it.
    """
    slow = lone and leaves_onednn(x, (shape[0], x.shape[1], *shape[2:]), x.dtype)
    least = 2 if slow else 1
    while max(stride) > 1 and groups % 2 == 0 and x.shape[1] // groups < 16:
        if groups // 2 < least:
            break
        groups //= 2
    return groups


def _input_gradient(
    x: Tensor, grad: Tensor, kernel: Tensor, stride: tuple[int, ...], groups: int
) -> Tensor:
    ones, zeros = (1,) * len(stride), (0,) * len(stride)
    wanted = (True, False, False)
    return torch.ops.aten.convolution_backward(
        grad, x, kernel, None, stride, ones, ones, False, zeros, groups, wanted
    )[0]


def weight_gradient(
    x: Tensor, grad: Tensor, weight: Tensor, stride: Sequence[int], groups: int
) -> Tensor:
    """Each sample's gradient of the weight of a 3-D grouped convolution with padding 1.

    One 2-D gradient per sample and depth of the kernel: the slices of a channels-last volume are
    a batch of images as they lie in memory. oneDNN unrolls every window of a thin 3-D group into
    a matrix, but not so in 2-D: on a CPU with AVX2 this took 0.4 (4 groups of 4 at 48^3), 0.5 (4
    of 8 at 24^3) and 0.8 (4 of 16 at 12^3) of the time.

    Args:
        x: (B, C_in, D, H, W), channels-last.
        grad: (B, C_out, D', H', W'), channels-last.
        weight: (C_out, C_in / groups, 3, 3, 3); only its shape is used.
        stride: One number per axis.
        groups: Of the convolution.

    Returns:
        (B, C_out, C_in / groups, 3, 3, 3).
    """
    ones, zeros, wanted = (1, 1), (0, 0), (False, True, False)
    step, plane = stride[0], tuple(stride[1:])
    found = []
    for images, slopes in zip(x.transpose(1, 2), grad.transpose(1, 2), strict=True):
        for place in range(3):
            first = 1 if place == 0 else 0  # the result's first slice whose tap is inside x
            last = min(len(slopes), (len(images) - place) // step + 1)
            if last <= first:
                found.append(weight.new_zeros(weight[:, :, place].shape))
                continue
            start = first * step + place - 1
            seen = images[start : start + (last - first - 1) * step + 1 : step]
            found.append(
                torch.ops.aten.convolution_backward(
                    slopes[first:last],
                    seen,
                    weight[:, :, place],
                    None,
                    plane,
                    ones,
                    ones,
                    False,
                    zeros,
                    groups,
                    wanted,
                )[1]  # fmt: skip
            )
    return torch.stack(found).unflatten(0, (len(x), 3)).movedim(1, 3)
