"""AGI-Net: a ResUNet whose convolutions roll their kernels per sample and channel group.

After "Adaptive Group-wise Interactions" (arXiv 2411.14684). Three parts replace the first
convolution of the ResBlocks in the chosen stages: cross-group attention gates the channels, a
routing function reads the gated features and predicts one offset and one scale per group, and
the convolution runs with the kernels so rolled.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cuda_ops import RollingConv, full_precision
from synth3d.models.blocks import CONV, GROUPED, ChannelNorm, GlobalMean, choose_stages, conv
from synth3d.models.resunet import WIDTHS, ResUNet, check_sizes

Module = Literal["conv", "gr", "ca", "cagr"]
MODULES = ("conv", "gr", "ca", "cagr")
ROUTINGS = ("stacked", "parallel")
ATTENTION_INITS = ("default", "open")


class CrossGroupAttention(nn.Module):
    """One gate in (0, 1) per channel, from the pooled channels of its own and shuffled groups.

    Args:
        channels: C, a multiple of ``groups``.
        groups: n.
        dim: 2 or 3.
        init: ``"default"`` gates near 0.5 at the start, ``"open"`` at 0.88 exactly.
    """

    def __init__(self, channels: int, groups: int, dim: int, init: str = "default") -> None:
        super().__init__()
        self.groups, self.init = groups, init
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
        """(B, C, \\*S) -> gates (B, C, 1, ...) of the same dtype."""
        pooled = self.pool(x)
        own = pooled.unflatten(1, (self.groups, -1))  # (B, n, C/n)
        shuffled = own.transpose(1, 2).reshape(own.shape)
        # Joined within each group: a plain cat would leave groups that see only one of the two.
        joined = torch.cat([own, shuffled], dim=2).flatten(1)
        with full_precision(x.device.type):
            gates = torch.sigmoid(self.mix(joined.reshape(*joined.shape, *[1] * (x.ndim - 2))))
        return gates.to(x.dtype)


class OffsetHead(nn.Module):
    """(B, C) -> offsets (B, n, d), unbounded, zero at the start.

    Its weight is a bare parameter of a class that is no ``nn.Linear``, so that initialisers
    which walk over convolutions and linear layers leave the zeros alone.
    """

    def __init__(self, channels: int, groups: int, dim: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(dim * groups, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to zero."""
        nn.init.zeros_(self.weight)

    def forward(self, v: Tensor) -> Tensor:
        """(B, C) -> (B, n, d), axis order (z, y, x), in taps."""
        return F.linear(v, self.weight).unflatten(1, (self.groups, -1))


class ScaleHead(nn.Module):
    """(B, C) -> scales (B, n) in (0, 1), sigmoid(1) = 0.731 at the start."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, channels))
        self.bias = nn.Parameter(torch.empty(groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to zero and the bias to one."""
        nn.init.zeros_(self.weight)
        nn.init.ones_(self.bias)

    def forward(self, v: Tensor) -> Tensor:
        """(B, C) -> (B, n)."""
        return torch.sigmoid(F.linear(v, self.weight, self.bias))


class RoutingUnit(nn.Sequential):
    """Grouped convolution, normalisation over channels, GELU."""

    def __init__(self, channels: int, groups: int, dim: int, stride: int = 1) -> None:
        super().__init__(
            GROUPED[dim](channels, channels, 3, stride=stride, padding=1, groups=groups),
            ChannelNorm(channels),
            nn.GELU(),
        )


class Routing(nn.Module):
    """Reads gated features and predicts the offsets and scales of each group.

    Args:
        channels: C, a multiple of ``groups``.
        groups: n.
        dim: 2 or 3.
        wiring: ``"stacked"``: two units in a row, both heads read their pooled output;
            ``"parallel"``: one unit for each head. The published counts fit both.
        stride: Of the first unit (of both, if parallel). The paper's is 1; 2 costs a quarter
            to an eighth.
        recompute: Do not keep the units' activations for the backward, compute them again.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        dim: int,
        wiring: str = "stacked",
        stride: int = 1,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.wiring, self.recompute = wiring, recompute
        second = stride if wiring == "parallel" else 1
        self.unit1 = RoutingUnit(channels, groups, dim, stride)
        self.unit2 = RoutingUnit(channels, groups, dim, second)
        self.pool = GlobalMean()
        self.offsets = OffsetHead(channels, groups, dim)
        self.scale = ScaleHead(channels, groups)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, \\*S) -> offsets (B, n, d) in taps (z, y, x), scales (B, n); float32 or more."""
        if self.recompute and torch.is_grad_enabled():
            shift, size = checkpoint(self._pooled, x, use_reentrant=False, preserve_rng_state=False)
        else:
            shift, size = self._pooled(x)
        with full_precision(x.device.type):
            return self.offsets(shift), self.scale(size)

    def _pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the offset head reads and what the scale head reads, (B, C) each."""
        if self.wiring == "parallel":
            return self.pool(self.unit1(x)), self.pool(self.unit2(x))
        v = self.pool(self.unit2(self.unit1(x)))
        return v, v


class CagrConv(nn.Module):
    """Cross-group attention, routing and rolled convolution in place of a 3x3(x3) convolution.

    Args:
        channels: C in and out, a multiple of ``groups``.
        groups: n.
        dim: 2 or 3.
        module: ``"cagr"``, or only one half: ``"ca"`` or ``"gr"``.
        routing: See :class:`Routing`.
        attn_init: See :class:`CrossGroupAttention`.
        checkpoint_routing: Trade time for memory in the routing.
        routing_stride: See :class:`Routing`.

    Raises:
        ValueError: ``groups`` does not divide ``channels``.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        dim: int,
        module: str = "cagr",
        routing: str = "stacked",
        attn_init: str = "default",
        checkpoint_routing: bool = False,
        routing_stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv = RollingConv(channels, channels, 3, dim=dim, groups=groups)
        self.attention = self.routing = None
        if module in ("ca", "cagr"):
            self.attention = CrossGroupAttention(channels, groups, dim, attn_init)
        if module in ("gr", "cagr"):
            self.routing = Routing(
                channels, groups, dim, routing, routing_stride, checkpoint_routing
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) -> (B, C, \\*S)."""
        if self.attention is not None:
            x = x * self.attention(x)
        if self.routing is None:
            return self.conv(x)
        return self.conv(x, *self.routing(x))


class AGINet(ResUNet):
    """ResUNet with group-wise rolling and cross-group attention in its first stages.

    With the defaults in 2-D, one channel in and out, 19 151 696 parameters; in 3-D, two in and
    one out, 55.54 million.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        dim: 2 or 3.
        widths: Channels from full resolution to the body.
        blocks: ResBlocks per stage.
        groups: n; must divide the widths of the chosen stages.
        stages: How many of down1, ..., body, up1, ... get the module, counted from the first, or
            their names. The paper's is 5 of 7.
        module: ``"cagr"``, ``"gr"`` (no attention), ``"ca"`` (no rolling) or ``"conv"`` (neither).
        routing: ``"stacked"`` or ``"parallel"``, see :class:`Routing`.
        attn_init: ``"default"`` or ``"open"``, see :class:`CrossGroupAttention`.
        checkpoint_routing: Compute the routing again in the backward; saves most of the memory
            that AGI-Net needs beyond ResUNet.
        routing_stride: 1 as in the paper, or 2: cheaper.

    Raises:
        ValueError: Groups that do not divide a width, or an option that does not exist.
    """

    offers: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dim: int = 3,
        widths: Sequence[int] = WIDTHS,
        blocks: int = 2,
        groups: int = 8,
        stages: int | Sequence[str] = 5,
        module: str = "cagr",
        routing: str = "stacked",
        attn_init: str = "default",
        checkpoint_routing: bool = False,
        routing_stride: int = 1,
    ) -> None:
        nn.Module.__init__(self)
        _check_option("module", module, MODULES)
        _check_option("routing", routing, ROUTINGS)
        _check_option("attn_init", attn_init, ATTENTION_INITS)
        if routing_stride < 1:
            raise ValueError(f"routing_stride must be positive, got {routing_stride}")
        check_sizes(in_channels, out_channels, dim, widths, blocks)
        chosen = choose_stages(stages, len(widths) - 1)

        def first(channels: int, stage: str) -> nn.Module:
            if module == "conv" or stage not in chosen:
                return conv(dim, channels, channels, 3)
            return CagrConv(
                channels,
                groups,
                dim,
                module,
                routing,
                attn_init,
                checkpoint_routing,
                routing_stride,
            )

        self._build(in_channels, out_channels, dim, widths, blocks, first)

    def reset_heads(self) -> None:
        """Set offsets to 0 and scales to sigmoid(1) again, after an initialiser touched them.

        Initialisers that go by layer class do not; one that draws every parameter does.
        """
        for module in self.modules():
            if isinstance(module, OffsetHead | ScaleHead):
                module.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, and the heads as they start."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()


def _check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
