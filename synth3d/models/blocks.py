"""The parts that generators are built of, one code path for 2-D and 3-D."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops import watched
from synth3d.models.time_embedding import TimeModulation

CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def _in_order(y: Tensor) -> Tensor:
    """``y`` (B, C, \\*S), whose gradient comes laid out plainly.

    torch's instance normalisation (2.15, CPU) reads a gradient of one sample that is laid out
    channels-last in the wrong order, and is wrong in silence.
    """
    if y.requires_grad:
        y.register_hook(Tensor.contiguous)
    return y


def instance_norm(x: Tensor) -> Tensor:
    """(B, C, \\*S): each channel of each sample with mean 0 and deviation 1."""
    return _in_order(F.instance_norm(x))


class InstanceNorm2d(nn.InstanceNorm2d):
    """:func:`instance_norm` of pictures, with what torch's own can be told."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return _in_order(super().forward(input))


class InstanceNorm3d(nn.InstanceNorm3d):
    """:func:`instance_norm` of volumes, with what torch's own can be told."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, D, H, W) → the same."""
        return _in_order(super().forward(input))


NORM: dict[int, type[InstanceNorm2d] | type[InstanceNorm3d]] = {
    2: InstanceNorm2d,
    3: InstanceNorm3d,
}


def conv(dim: int, inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d | nn.Conv3d:
    """A bias-free convolution; size-preserving for an odd side, or side = stride for halving."""
    padding = (side - 1) // 2 if stride == 1 else 0
    return CONV[dim](inputs, outputs, side, stride=stride, padding=padding, bias=False)


def halve(dim: int, inputs: int, outputs: int) -> nn.Module:
    """A bias-free convolution of side and stride 2."""
    return conv(dim, inputs, outputs, 2, stride=2)


def double(dim: int, inputs: int, outputs: int) -> nn.Module:
    """A bias-free transposed convolution of side and stride 2."""
    return TRANSPOSED[dim](inputs, outputs, 2, stride=2, bias=False)


class ResBlock(nn.Module):
    """z + second(relu(first(z))): no normalisation, nothing after the sum (DPIR, Zhang 2021).

    In generators that are told a time, the first convolution's result goes through ``time``.
    """

    def __init__(
        self, first: nn.Module, second: nn.Module, time: TimeModulation | None = None
    ) -> None:
        super().__init__()
        self.first, self.act, self.second = first, nn.ReLU(), second
        self.time = time

    def forward(self, z: Tensor, embedded: Tensor | None = None) -> Tensor:
        """(B, C, \\*S) -> (B, C, \\*S); ``embedded`` (B, E) is the time's embedding."""
        y = self.first(z)
        if self.time is not None:
            y = self.time(y, embedded)
        return z + self.second(self.act(y))


class Stage(nn.Sequential):
    """ResBlocks in a row, each told the time's embedding."""

    def forward(self, z: Tensor, embedded: Tensor | None = None) -> Tensor:
        """(B, C, \\*S) -> (B, C, \\*S)."""
        for block in self:
            z = block(z, embedded)
        return z


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels at every position, with affine."""

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to one and the bias to zero."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) -> the same, as channels-last memory."""
        return _normalised(x, self.weight, self.bias, self.eps)


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x.movedim(1, -1), weight.shape, weight, bias, eps).movedim(-1, 1)


def norm_gelu(x: Tensor, norm: ChannelNorm) -> Tensor:
    """``F.gelu(norm(x))`` that keeps ``x`` alone for the backward and normalises it again there."""
    plain = watched() or not torch.amp.is_autocast_available(x.device.type)
    if plain or not torch.is_grad_enabled():
        return F.gelu(norm(x))
    return _NormGelu.apply(x, norm.weight, norm.bias, norm.eps)


class _NormGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.eps, ctx.cast = eps, torch.get_autocast_dtype(x.device.type)
        ctx.casts = torch.is_autocast_enabled(x.device.type)
        return F.gelu(_normalised(x, weight, bias, eps))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()  # somebody differentiates the gradient
        wanted = ctx.needs_input_grad[:3]
        cast = torch.autocast(grad.device.type, ctx.cast, enabled=ctx.casts)
        with torch.enable_grad(), cast:
            pairs = zip(ctx.saved_tensors, wanted, strict=True)
            # A view where it is differentiated again: by the leaf itself, what else was made from
            # it would count as well.
            leaves = [
                leaf.view_as(leaf) if again else leaf.detach().requires_grad_(needed)
                for leaf, needed in pairs
            ]
            x, weight, bias = leaves
            normalised = _normalised(x, weight, bias, ctx.eps)
        to_normalised = torch.ops.aten.gelu_backward(grad, normalised)
        inputs = [leaf for leaf, needed in zip(leaves, wanted, strict=True) if needed]
        found = iter(torch.autograd.grad(normalised, inputs, to_normalised, create_graph=again))
        return (*(next(found) if needed else None for needed in wanted), None)


class _MeanOverPositions(torch.autograd.Function):
    """(B, C, \\*S) -> (B, C). On the CPU its gradient is a dense tensor: the stride-0 one that
    ``mean`` hands back makes the backward of the GELU before it eight times slower there.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        return x.mean(axes, dtype=torch.promote_types(x.dtype, torch.float32))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        (x,) = inputs
        ctx.shape, ctx.dtype, ctx.last = x.shape, x.dtype, not x.is_contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        positions = math.prod(ctx.shape[2:])
        spread = (grad / positions).to(ctx.dtype)[(...,) + (None,) * (len(ctx.shape) - 2)]
        if grad.device.type != "cpu":
            return spread.expand(ctx.shape)
        layout = torch.contiguous_format
        if ctx.last:
            layout = torch.channels_last_3d if len(ctx.shape) == 5 else torch.channels_last
        return spread.expand(ctx.shape).contiguous(memory_format=layout)


class GlobalMean(nn.Module):
    """The mean over all positions, at least in float32 also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) -> (B, C)."""
        return _MeanOverPositions.apply(x)


def check_sides(x: Tensor, dim: int, factor: int) -> None:
    """Refuse what lacks ``dim`` spatial axes or has a side that is no multiple of ``factor``."""
    if x.ndim != dim + 2:
        axes = "(B, C, D, H, W)" if dim == 3 else "(B, C, H, W)"
        raise ValueError(f"a {dim}-D model takes {axes}, got {tuple(x.shape)}")
    if any(side % factor or not side for side in x.shape[2:]):
        raise ValueError(
            f"expected sides that are multiples of {factor} (z, y, x), got {tuple(x.shape[2:])}; "
            "pad the input first"
        )


def blank_absent(x: Tensor, present: Tensor | None) -> Tensor:
    """``x`` (B, S, \\*S) with zeros where ``present`` (B, S) is False, whatever stood there."""
    if present is None:
        return x
    absent = ~present.to(torch.bool)
    return x.masked_fill(absent.reshape(*absent.shape, *[1] * (x.ndim - 2)), 0)


def stage_names(levels: int) -> tuple[str, ...]:
    """down1 ... body ... of a network with ``levels`` halvings, in the order data flows."""
    downs = [f"down{i}" for i in range(1, levels + 1)]
    ups = [f"up{i}" for i in range(1, levels + 1)]
    return (*downs, "body", *ups)


def choose_stages(stages: int | Sequence[str], levels: int) -> tuple[str, ...]:
    """The names that ``stages`` asks for: the first so many, or those named; else a ValueError."""
    names = stage_names(levels)
    if isinstance(stages, int):
        if not 0 <= stages <= len(names):
            raise ValueError(f"expected 0 to {len(names)} stages, got {stages}; there are {names}")
        return names[:stages]
    chosen = (stages,) if isinstance(stages, str) else tuple(stages)
    if unknown := [name for name in chosen if name not in names]:
        raise ValueError(f"unknown stage(s) {unknown}; there are {names}")
    return chosen


def check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a ``value`` that is not among ``known``, with a ValueError."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
