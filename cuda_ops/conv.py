"""Convolution with one kernel per sample, in 2-D and 3-D; above all with one rolled kernel each.

Three ways compute the same. ``looped`` convolves sample by sample, ``grouped`` all samples at once
with a group each, and ``mixed-input`` rolls the columns of the input instead of the kernels, so
that one product with the weight serves all. :func:`choose_way` knows which is fastest.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops.op import check_roll, full_precision, roll_kernel, watched
from cuda_ops.products import format_of, mixing_matrices

Sides = int | Sequence[int]
WAYS = ("auto", "looped", "grouped", "mixed-input")
CONV = {4: F.conv2d, 5: F.conv3d}

# ATen hands a lone float32 sample without groups to oneDNN only above this many elements in
# (channels, first two spatial axes); below, 3-D falls to a routine 2 to 9 times slower.
SMALL_ELEMENTS = 20_480
# The input is mixed rather than the weight up to this many result voxels per output channel.
MIXED_VOXELS = 0.5
# On CUDA a sample of so many result voxels takes far longer than the launch of its convolution, so
# they go one by one; of smaller ones more than so many go as one. Neither was ever measured.
CUDA_LOOP_VOXELS = 4096
CUDA_LOOP_SAMPLES = 4


class Geometry(NamedTuple):
    """Stride, padding and dilation, one number per axis (z, y, x), as torch takes them."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, stride: Sides, padding: Sides, dilation: Sides, dim: int) -> "Geometry":
        """From one number or one per axis each."""
        return cls(_per_axis(stride, dim), _per_axis(padding, dim), _per_axis(dilation, dim))

    def outputs(self, sizes: Sequence[int], kernel: Sequence[int]) -> list[int]:
        """The result's sizes for an input's ``sizes``; a ValueError where the kernel is larger."""
        axes = zip(sizes, kernel, *self, strict=True)
        outputs = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in axes]
        if min(outputs) < 1:
            raise ValueError(
                f"a kernel {tuple(kernel)} with dilation {self.dilation} is larger than x "
                f"{tuple(sizes)} with padding {self.padding}"
            )
        return outputs


def _per_axis(value: Sides, dim: int) -> tuple[int, ...]:
    """``value`` as one number per axis; a ValueError where it has another length."""
    values = (value,) * dim if isinstance(value, int) else tuple(value)
    if len(values) != dim:
        raise ValueError(f"expected one number or {dim} (one per axis), got {value}")
    return values


def conv_dtype(x: Tensor) -> torch.dtype:
    """The type in which a convolution of ``x`` computes, autocast considered."""
    device = x.device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if casts and x.dtype != torch.float64 else x.dtype


def choose_way(x: Tensor, shape: Sequence[int], geometry: Geometry, unmade: int = 0) -> str:
    """The fastest way for this shape: ``looped``, ``grouped`` or ``mixed-input``.

    Where voxels are few and channels many, mixing the input saves the kernels altogether. On the
    CPU small float32 samples go grouped, since alone ATen would keep them from oneDNN, and others
    looped (docs/benchmarks.md). The rule for CUDA has never been measured.

    Args:
        x: (B, C, \\*S), of which shape, type and device are read, never values.
        shape: Of the weight, (C_out, C_in, \\*k).
        geometry: Of the convolution.
        unmade: Kernels still to be rolled: B, 1 if all samples share theirs, 0 if all are there.
    """
    batch = x.shape[0]
    voxels = math.prod(geometry.outputs(x.shape[2:], shape[2:]))
    if x.device.type != "cpu":
        apart = batch <= CUDA_LOOP_SAMPLES or voxels >= CUDA_LOOP_VOXELS
        return "looped" if apart else "grouped"
    if 0 < voxels * batch <= MIXED_VOXELS * shape[0] * unmade:
        return "mixed-input"
    small = math.prod(x.shape[1:4]) <= SMALL_ELEMENTS and conv_dtype(x) == torch.float32
    return "grouped" if small else "looped"


def conv_per_sample(
    x: Tensor,
    kernels: Tensor,
    stride: Sides = 1,
    padding: Sides = 0,
    dilation: Sides = 1,
    way: str = "auto",
    groups: int = 1,
) -> Tensor:
    """Convolve sample b of ``x`` (B, C_in, \\*S) with ``kernels[b]``.

    Args:
        x: (B, C_in, D, H, W) or (B, C_in, H, W).
        kernels: (B, C_out, C_in / groups, \\*k), of the type of ``x`` unless under autocast.
        stride: Of the convolution, one number or one per axis (z, y, x).
        padding: Zeros on both sides, one number or one per axis.
        dilation: Of the convolution, one number or one per axis.
        way: ``"looped"``, ``"grouped"``, or ``"auto"`` for :func:`choose_way`.
        groups: Of channels within a sample, as torch's convolutions have them.

    Returns:
        (B, C_out, \\*out) in the memory format of ``x``; empty for B = 0.

    Raises:
        ValueError: ``way`` is none of these, or there are not as many kernels as samples.
    """
    if way not in WAYS[:3]:
        raise ValueError(f"expected a way among {WAYS[:3]}, got {way!r}")
    if len(x) != len(kernels):
        raise ValueError(f"expected a kernel for each of {len(x)} samples, got {len(kernels)}")
    geometry = Geometry.of(stride, padding, dilation, x.ndim - 2)
    if len(x) <= 1:  # the sum of no kernels: a kernel of zeros that knows where it is from
        kernel = kernels.squeeze(0) if len(x) else kernels.sum(0)
        return CONV[x.ndim](x, kernel, None, *geometry, groups)
    if way == "auto":
        way = choose_way(x, kernels.shape[1:], geometry) if groups == 1 else "looped"
    # Autocast would cast each sample by itself, and for the forward alone.
    x, kernels = x.to(conv_dtype(x)), kernels.to(conv_dtype(kernels))
    if way == "grouped":
        return _conv_grouped(x, kernels, geometry, groups)
    if not watched():
        return _Looped.apply(x, kernels, geometry, groups)
    # split and unbind, not x[b] and kernels[b]: the backward of an index writes B zero tensors.
    pairs = zip(x.split(1), kernels.unbind(0), strict=True)
    parts = [CONV[x.ndim](*pair, None, *geometry, groups) for pair in pairs]
    return _laid_as(x, torch.cat(parts))


def _conv_grouped(x: Tensor, kernels: Tensor, geometry: Geometry, groups: int = 1) -> Tensor:
    batch, outputs = kernels.shape[:2]
    joined = x.reshape(1, -1, *x.shape[2:])
    # Kernels in channels-last memory would turn the joined samples into that as well.
    stacked = kernels.flatten(0, 1).contiguous()
    y = CONV[x.ndim](joined, stacked, None, *geometry, batch * groups)
    return _laid_as(x, y.reshape(batch, outputs, *y.shape[2:]))


def _laid_as(x: Tensor, y: Tensor) -> Tensor:
    """``y`` in the memory format of ``x``, as a plain convolution leaves it."""
    return y.contiguous(memory_format=format_of(x))


class _Looped(torch.autograd.Function):
    """The convolutions one after the other, each result written to its place in one tensor.

    Written as a list that is joined, autograd would hold every sample's result beside the joined
    one, forward and backward: here there is one at a time. Writing it to its place is one more
    read and write of the result, as joining would be; a lone sample never comes here.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, geometry: Geometry, groups: int) -> Tensor:
        ctx.save_for_backward(x, kernels)
        ctx.geometry, ctx.groups = geometry, groups
        sizes = geometry.outputs(x.shape[2:], kernels.shape[3:])
        shape, layout = (len(x), kernels.shape[1], *sizes), format_of(x)
        whole = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        for target, sample, kernel in zip(whole, x.split(1), kernels, strict=True):
            target.copy_(CONV[x.ndim](sample, kernel, None, *geometry, groups)[0])
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, kernels = ctx.saved_tensors
        samples = list(zip(grad.split(1), x.split(1), kernels.unbind(0), strict=True))
        found: list[Tensor | None] = [None, None]
        # The kernels' first: this takes more memory, and the gradient of x is not there yet.
        for which in (1, 0):
            if not ctx.needs_input_grad[which]:
                continue
            parts = (_gradient(which, *each, ctx.geometry, ctx.groups) for each in samples)
            if torch.is_grad_enabled() or watched():  # it is differentiated itself
                found[which] = torch.stack(list(parts))
                continue
            whole = found[which] = torch.empty_like(kernels if which else x)
            for target, part in zip(whole, parts, strict=True):
                target.copy_(part)
        return found[0], found[1], None, None


def _gradient(
    which: int, grad: Tensor, x: Tensor, kernel: Tensor, geometry: Geometry, groups: int
) -> Tensor:
    """The gradient of one sample (``which`` 0), (C_in, \\*S), or of its kernel (1)."""
    wanted = (which == 0, which == 1, False)
    found = torch.ops.aten.convolution_backward(
        grad, x, kernel, None, *geometry, False, [0] * (x.ndim - 2), groups, wanted
    )[which]
    return found if which else found[0]


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

    Where all samples share their kernel it is rolled once and convolved plainly: offsets and
    scale both have a batch of one, or were expanded to theirs (``offsets.expand(B, -1, -1)``).
    Values are never compared.

    Args:
        x: (B, C_in, D, H, W) or (B, C_in, H, W).
        weight: (C_out, C_in, \\*k).
        offsets: (B, n, d) in taps, axis order (z, y, x), or (1, n, d) for all samples.
        scale: (B, n), factor of each group of C_in / n input channels, or (1, n) for all.
        stride: Of the convolution, one number or one per axis (z, y, x).
        padding: Zeros on both sides, one number or one per axis.
        dilation: Of the convolution, one number or one per axis.

    Returns:
        (B, C_out, \\*out), as ``torch.nn.functional.conv3d`` or ``conv2d`` gives; empty for B = 0.

    Raises:
        TypeError: An argument is not floating point.
        ValueError: Shapes disagree; the sentence says which.
    """
    geometry = Geometry.of(stride, padding, dilation, x.ndim - 2)
    return rolling_conv_by("auto", x, weight, offsets, scale, geometry)


def rolling_conv_by(
    way: str, x: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor, geometry: Geometry
) -> Tensor:
    """:func:`rolling_conv` in one of ``WAYS``, for whoever compares them; errors are the same."""
    if way not in WAYS:
        raise ValueError(f"expected a way among {WAYS}, got {way!r}")
    _check_input(x, weight)
    batch = x.shape[0]
    if offsets.shape[:1] not in ((1,), (batch,)):
        raise ValueError(
            f"expected x (B, C_in, ...) with B = {offsets.shape[0]} as the offsets, got "
            f"{tuple(x.shape)}"
        )
    shared = way == "auto" and _is_shared(offsets) and _is_shared(scale)
    if way == "auto":
        way = choose_way(x, weight.shape, geometry, 1 if shared else batch)
    if shared and way != "mixed-input":
        kernel = roll_kernel(weight, offsets[:1], scale[:1]).squeeze(0)
        return CONV[x.ndim](x, kernel, None, *geometry)
    offsets, scale = (
        row.expand(batch, *row.shape[1:]) if row.shape[:1] == (1,) else row
        for row in (offsets, scale)
    )
    if way == "mixed-input":
        check_roll(weight, offsets, scale)
        return _conv_mixed_input(x, weight, offsets, scale, geometry)
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


def _check_input(x: Tensor, weight: Tensor) -> None:
    if x.ndim != weight.ndim or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"expected x (B, C_in, ...) with {weight.ndim} axes and C_in = {weight.shape[1]} as "
            f"the weight, got {tuple(x.shape)}"
        )


def _conv_mixed_input(
    x: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor, geometry: Geometry
) -> Tensor:
    """Convolve with rolled kernels by rolling the columns of ``x`` instead, group by group.

    A roll is linear in the taps, so it may as well act, transposed, on what the taps meet; then
    one product with ``weight`` serves the whole batch. It is done in float32 (float64 for a
    float64 weight), also under autocast, and the product in the type of a convolution. A
    non-finite offset makes its own sample NaN and no other.
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
    return _laid_as(x, y.view(batch, *sizes, weight.shape[0]).movedim(-1, 1))


def _columns(x: Tensor, kernel: Sequence[int], geometry: Geometry) -> Tensor:
    """What each tap of a kernel meets at each place, as a view (B, C, \\*out, \\*k)."""
    x = F.pad(x, [side for padding in reversed(geometry.padding) for side in (padding, padding)])
    for axis, (size, stride, _, dilation) in enumerate(zip(kernel, *geometry, strict=True)):
        x = x.unfold(axis + 2, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return x


class RollingConv(nn.Module):
    """A bias-free convolution whose kernel is rolled per sample and per group of channels.

    Args:
        in_channels: C_in, a multiple of ``groups``.
        out_channels: C_out.
        kernel_size: Side of the kernel, one number or one per axis (z, y, x).
        dim: 2 or 3.
        groups: n, groups of contiguous input channels that are rolled separately.
        sides: ``stride`` and ``dilation`` (1) and ``padding`` of the convolution, one number or one
            per axis; without ``padding`` the size is kept at stride 1 (odd kernels).

    Raises:
        TypeError: ``sides`` has another name.
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
        **sides: Sides,
    ) -> None:
        super().__init__()
        if unknown := sorted(sides.keys() - set(Geometry._fields)):
            raise TypeError(f"expected stride, padding or dilation, got {', '.join(unknown)}")
        if dim not in (2, 3):
            raise ValueError(f"expected dim 2 or 3, got {dim}")
        if groups < 1 or in_channels % groups:
            raise ValueError(
                f"{in_channels} channels do not split into {groups} equal groups; choose a number "
                "of groups that divides the channels"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = _per_axis(kernel_size, dim)
        self.stride = _per_axis(sides.get("stride", 1), dim)
        self.dilation = _per_axis(sides.get("dilation", 1), dim)
        same = tuple(a * (k - 1) // 2 for a, k in zip(self.dilation, self.kernel_size, strict=True))
        self.padding = _per_axis(sides.get("padding", same), dim)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernel as ``torch.nn.Conv3d`` draws its own."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(
        self, x: Tensor, offsets: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """Convolve ``x`` (B, C_in, \\*S), giving (B, C_out, \\*out).

        Offsets (B, n, d) in taps (z, y, x) and scale (B, n), or one row of either for all samples;
        None is no roll and ones, and with neither the convolution is a plain one.
        """
        geometry = Geometry(self.stride, self.padding, self.dilation)
        if offsets is None and scale is None:
            _check_input(x, self.weight)
            return CONV[x.ndim](x, self.weight, None, *geometry)
        if offsets is None:
            offsets = self.weight.new_zeros(1, self.groups, len(self.kernel_size))
        if scale is None:
            scale = self.weight.new_ones(1, self.groups)
        return rolling_conv_by("auto", x, self.weight, offsets, scale, geometry)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, groups={self.groups}"
        )
