"""The parts of AGI-Net: cross-group attention, routing, and the convolution they steer.

After "Adaptive Group-wise Interactions" (arXiv 2411.14684). Attention gates the channels, a
routing function reads the gated features and predicts one offset and one scale per group, and
the convolution runs with the kernels so rolled.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cuda_ops import RollingConv, full_precision, roll_kernel
from cuda_ops.paths import conv_dtype, conv_per_sample
from synth3d.models.blocks import CONV, ChannelNorm, GlobalMean, check_option
from synth3d.models.grouped import GROUPED

MODULES = ("conv", "gr", "ca", "cagr")
ROUTINGS = ("stacked", "parallel")
ATTENTION_INITS = ("default", "open")
OFFSETS = ("learned", "shared", "frozen")
SCALES = ("learned", "fixed")


@dataclass(frozen=True)
class CagrOptions:
    """What the module is made of; the defaults are the paper's.

    Args:
        module: ``"cagr"``, ``"gr"`` (no attention), ``"ca"`` (no rolling) or ``"conv"`` (neither).
        routing: ``"stacked"``: two units in a row, both heads read their pooled output;
            ``"parallel"``: one unit for each head. The published counts fit both.
        attn_init: Gates start near 0.5 (``"default"``) or at 0.88 exactly (``"open"``).
        shuffle: Let the attention of a group read channels of the others.
        offsets: ``"learned"``, ``"shared"`` by all groups of a sample, or ``"frozen"`` at 0.
        scale: ``"learned"``, or ``"fixed"`` at 1.
        scale_init: What a learned scale is the sigmoid of, at the start.
        routing_stride: Of the routing's first unit (of both, if parallel); 2 is cheaper.
        checkpoint_routing: Compute the routing again in the backward instead of keeping it.

    Raises:
        ValueError: An option that does not exist.
    """

    module: str = "cagr"
    routing: str = "stacked"
    attn_init: str = "default"
    shuffle: bool = True
    offsets: str = "learned"
    scale: str = "learned"
    scale_init: float = 1.0
    routing_stride: int = 1
    checkpoint_routing: bool | str = "auto"

    def __post_init__(self) -> None:
        check_option("module", self.module, MODULES)
        check_option("routing", self.routing, ROUTINGS)
        check_option("attn_init", self.attn_init, ATTENTION_INITS)
        check_option("offsets", self.offsets, OFFSETS)
        check_option("scale", self.scale, SCALES)
        if self.routing_stride < 1:
            raise ValueError(f"routing_stride must be positive, got {self.routing_stride}")
        if self.checkpoint_routing not in (True, False, "auto"):
            raise ValueError(
                f"checkpoint_routing must be true, false or 'auto', got {self.checkpoint_routing!r}"
            )


class CrossGroupAttention(nn.Module):
    """One gate in (0, 1) per channel, from the pooled channels of its own and shuffled groups.

    Args:
        channels: C, a multiple of ``groups``.
        groups: n.
        dim: 2 or 3.
        init: ``"default"`` gates near 0.5 at the start, ``"open"`` at 0.88 exactly.
        shuffle: False lets each group see its own channels twice, and no others.
    """

    def __init__(
        self, channels: int, groups: int, dim: int, init: str = "default", shuffle: bool = True
    ) -> None:
        super().__init__()
        self.groups, self.init, self.shuffle = groups, init, shuffle
        self.pool = GlobalMean()
        self.mix: nn.Conv2d | nn.Conv3d = CONV[dim](2 * channels, channels, 1, groups=groups)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the 1x1 convolution anew, as ``init`` says."""
        self.mix.reset_parameters()
        if self.init == "open" and self.mix.bias is not None:
            nn.init.zeros_(self.mix.weight)
            nn.init.constant_(self.mix.bias, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) -> gates (B, C, 1, ...), float32 or more also under autocast."""
        pooled = self.pool(x)
        own = pooled.unflatten(1, (self.groups, -1))  # (B, n, C/n)
        other = own.transpose(1, 2).reshape(own.shape) if self.shuffle else own
        # Joined within each group: a plain cat would leave groups that see only one of the two.
        joined = torch.cat([own, other], dim=2).flatten(1)
        with full_precision(x.device.type):
            return torch.sigmoid(self.mix(joined.reshape(*joined.shape, *[1] * (x.ndim - 2))))


class OffsetHead(nn.Module):
    """(B, C) -> offsets (B, n, d), unbounded, zero at the start.

    Its weight is a bare parameter of a class that is no ``nn.Linear``, so that initialisers
    which walk over convolutions and linear layers leave the zeros alone.

    Args:
        channels: C.
        groups: n.
        dim: d.
        shared: Predict one offset for all groups.
    """

    def __init__(self, channels: int, groups: int, dim: int, shared: bool = False) -> None:
        super().__init__()
        self.groups, self.dim = groups, dim
        self.weight = nn.Parameter(torch.empty(dim * (1 if shared else groups), channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to zero."""
        nn.init.zeros_(self.weight)

    def forward(self, v: Tensor) -> Tensor:
        """(B, C) -> (B, n, d), axis order (z, y, x), in taps."""
        return F.linear(v, self.weight).unflatten(1, (-1, self.dim)).expand(-1, self.groups, -1)


class ScaleHead(nn.Module):
    """(B, C) -> scales (B, n) in (0, 1), sigmoid(1) = 0.731 at the start.

    Args:
        channels: C.
        groups: n.
        init: What the scale is the sigmoid of, at the start.
    """

    def __init__(self, channels: int, groups: int, init: float = 1.0) -> None:
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(groups, channels))
        self.bias = nn.Parameter(torch.empty(groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to zero and the bias to its start."""
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, self.init)

    def forward(self, v: Tensor) -> Tensor:
        """(B, C) -> (B, n)."""
        return torch.sigmoid(F.linear(v, self.weight, self.bias))


class RoutingUnit(nn.Sequential):
    """Grouped convolution of gated features, normalisation over channels, GELU."""

    def __init__(self, channels: int, groups: int, dim: int, stride: int = 1) -> None:
        super().__init__(
            GROUPED[dim](channels, channels, 3, stride=stride, padding=1, groups=groups),
            ChannelNorm(channels),
            nn.GELU(),
        )

    def forward(self, x: Tensor, gates: Tensor | None = None) -> Tensor:
        """(B, C, \\*S), gates (B, C, 1, ...) or None -> (B, C, \\*S')."""
        return self[2](self[1](self[0](x, gates)))


class Routing(nn.Module):
    """Reads gated features and predicts the offsets and scales of each group.

    Args:
        channels: C, a multiple of ``groups``.
        groups: n.
        dim: 2 or 3.
        options: See :class:`CagrOptions`. ``recompute`` is what ``checkpoint_routing`` says;
            where that is ``"auto"`` it is False until somebody decides.
    """

    def __init__(
        self, channels: int, groups: int, dim: int, options: CagrOptions | None = None
    ) -> None:
        super().__init__()
        options = options or CagrOptions()
        self.groups, self.dim, self.wiring = groups, dim, options.routing
        self.recompute = options.checkpoint_routing is True
        stride = options.routing_stride
        self.unit1 = RoutingUnit(channels, groups, dim, stride)
        self.unit2 = RoutingUnit(channels, groups, dim, stride if self.wiring == "parallel" else 1)
        self.pool = GlobalMean()
        self.offsets = self.scale = None
        if options.offsets != "frozen":
            self.offsets = OffsetHead(channels, groups, dim, options.offsets == "shared")
        if options.scale == "learned":
            self.scale = ScaleHead(channels, groups, options.scale_init)

    def forward(self, x: Tensor, gates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Offsets and scales for ``x * gates``.

        Args:
            x: (B, C, \\*S).
            gates: (B, C, 1, ...), or None for ones.

        Returns:
            Offsets (B, n, d) in taps (z, y, x), scales (B, n); float32 or more.
        """
        if self.recompute and torch.is_grad_enabled():
            shift, size = checkpoint(
                self._pooled, x, gates, use_reentrant=False, preserve_rng_state=False
            )
        else:
            shift, size = self._pooled(x, gates)
        with full_precision(x.device.type):
            still = shift.new_zeros(len(x), self.groups, self.dim)
            offsets = self.offsets(shift) if self.offsets is not None else still
            scale = self.scale(size) if self.scale is not None else still[..., 0] + 1
            return offsets, scale

    def _pooled(self, x: Tensor, gates: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the offset head reads and what the scale head reads, (B, C) each."""
        if self.wiring == "parallel":
            return self.pool(self.unit1(x, gates)), self.pool(self.unit2(x, gates))
        v = self.pool(self.unit2(self.unit1(x, gates)))
        return v, v


class GatedRollingConv(RollingConv):
    """A rolling convolution of gated features."""

    def forward(
        self,
        x: Tensor,
        offsets: Tensor | None = None,
        scale: Tensor | None = None,
        gates: Tensor | None = None,
    ) -> Tensor:
        """Convolve ``x * gates``.

        conv(x · A, W) = conv(x, W · A), since a gate A has no spatial extent. So where there is
        a kernel per sample anyway, and more voxels than kernel entries C_out · k^d to a channel,
        the gates go into the kernels and ``x * gates`` is not made.

        Args:
            x: (B, C_in, \\*S).
            offsets: As :class:`cuda_ops.RollingConv` takes them.
            scale: As :class:`cuda_ops.RollingConv` takes it.
            gates: (B, C_in, 1, ...), float32 or more, or None for ones.

        Returns:
            (B, C_out, \\*out).
        """
        if gates is None:
            return super().forward(x, offsets, scale)
        entries = self.weight[:, 0].numel()
        if offsets is None or scale is None or math.prod(x.shape[2:]) < entries:
            return super().forward(x * gates.to(x.dtype), offsets, scale)
        with full_precision(x.device.type):
            kernels = roll_kernel(self.weight, offsets, scale) * gates[:, None]
        geometry = (self.stride, self.padding, self.dilation)
        return conv_per_sample(x, kernels.to(conv_dtype(x)), *geometry)


class CagrConv(nn.Module):
    """Cross-group attention, routing and rolled convolution in place of a 3x3(x3) convolution.

    Args:
        channels: C in and out, a multiple of ``groups``.
        groups: n.
        dim: 2 or 3.
        options: See :class:`CagrOptions`; its ``module`` is not ``"conv"``.

    Raises:
        ValueError: ``groups`` does not divide ``channels``.
    """

    def __init__(
        self, channels: int, groups: int, dim: int, options: CagrOptions | None = None
    ) -> None:
        super().__init__()
        options = options or CagrOptions()
        self.conv = GatedRollingConv(channels, channels, 3, dim=dim, groups=groups)
        self.attention = self.routing = None
        if options.module in ("ca", "cagr"):
            self.attention = CrossGroupAttention(
                channels, groups, dim, options.attn_init, options.shuffle
            )
        if options.module in ("gr", "cagr"):
            self.routing = Routing(channels, groups, dim, options)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) -> (B, C, \\*S)."""
        gates = self.attention(x) if self.attention is not None else None
        if self.routing is None:
            return self.conv(x, gates=gates)
        offsets, scale = self.routing(x, gates)
        return self.conv(x, offsets, scale, gates)
