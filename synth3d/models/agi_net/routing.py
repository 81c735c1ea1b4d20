"""What AGI-Net's module is made of, and the routing: offsets and scales read from the features."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cuda_ops import full_precision
from synth3d.models.agi_net.grouped import GROUPED
from synth3d.models.blocks import ChannelNorm, GlobalMean, check_option, norm_gelu

CHOICES = {
    "module": ("conv", "gr", "ca", "cagr"),
    "routing": ("stacked", "parallel"),
    "attn_init": ("default", "open"),
    "offsets": ("learned", "shared", "frozen"),
    "scale": ("learned", "fixed"),
}


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
        for name, known in CHOICES.items():
            check_option(name, getattr(self, name), known)
        if self.routing_stride < 1:
            raise ValueError(f"routing_stride must be positive, got {self.routing_stride}")
        if self.checkpoint_routing not in (True, False, "auto"):
            given = self.checkpoint_routing
            raise ValueError(f"checkpoint_routing must be true, false or 'auto', got {given!r}")


class OffsetHead(nn.Module):
    """(B, C) -> offsets (B, n, d), unbounded, zero at the start.

    Its weight is a bare parameter of a class that is no ``nn.Linear``, so that initialisers
    which walk over convolutions and linear layers leave the zeros alone. ``shared`` is one offset
    for all groups. Along an axis (0 is z, or y in 2-D) that is not among ``axes`` it is 0.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        dim: int,
        shared: bool = False,
        axes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.dim = groups, dim
        self.axes = tuple(axes) if axes is not None else tuple(range(dim))
        rows = len(self.axes) * (1 if shared else groups)
        self.weight = nn.Parameter(torch.empty(rows, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to zero."""
        nn.init.zeros_(self.weight)

    def forward(self, v: Tensor) -> Tensor:
        """(B, C) -> (B, n, d), axis order (z, y, x), in taps."""
        found = F.linear(v, self.weight).unflatten(1, (-1, len(self.axes)))
        if len(self.axes) < self.dim:
            still = torch.zeros_like(found[..., 0])
            known = dict(zip(self.axes, found.unbind(-1), strict=True))
            found = torch.stack([known.get(axis, still) for axis in range(self.dim)], dim=-1)
        return found.expand(-1, self.groups, -1)


class ScaleHead(nn.Module):
    """(B, C) -> scales (B, n) in (0, 1), sigmoid(``init``) at the start."""

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
    """Grouped convolution of gated features, normalisation over channels, GELU.

    ``lean``, it keeps the convolution's result for the backward alone and normalises it again
    there; hooks of the normalisation and the GELU are not called then.
    """

    def __init__(
        self, channels: int, groups: int, dim: int, stride: int = 1, lean: bool = False
    ) -> None:
        super().__init__(
            GROUPED[dim](channels, channels, 3, stride=stride, padding=1, groups=groups),
            ChannelNorm(channels),
            nn.GELU(),
        )
        self.lean = lean

    def forward(self, x: Tensor, gates: Tensor | None = None) -> Tensor:
        """(B, C, \\*S), gates (B, C, 1, ...) or None -> (B, C, \\*S')."""
        convolve, norm, act = self
        y = convolve(x, gates)
        if self.lean and isinstance(norm, ChannelNorm):
            return norm_gelu(y, norm)
        return act(norm(y))


class Routing(nn.Module):
    """Reads gated features and predicts the offsets and scales of each group.

    ``recompute`` is what ``checkpoint_routing`` says; where that is ``"auto"`` it is False until
    somebody decides. ``axes`` are those of :class:`OffsetHead`.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        dim: int,
        options: CagrOptions | None = None,
        axes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        options = options or CagrOptions()
        self.groups, self.dim, self.wiring = groups, dim, options.routing
        self.recompute = options.checkpoint_routing is True
        stride = options.routing_stride
        # Who asks for the cheap routing gets the lean one: at half resolution it costs 0.3 % of a
        # training step, at full resolution 2 %.
        lean = stride > 1
        second = stride if self.wiring == "parallel" else 1
        self.unit1 = RoutingUnit(channels, groups, dim, stride, lean)
        self.unit2 = RoutingUnit(channels, groups, dim, second, lean)
        self.pool = GlobalMean()
        self.offsets = self.scale = None
        if options.offsets != "frozen":
            self.offsets = OffsetHead(channels, groups, dim, options.offsets == "shared", axes)
        if options.scale == "learned":
            self.scale = ScaleHead(channels, groups, options.scale_init)

    def forward(self, x: Tensor, gates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Offsets (B, n, d) in taps (z, y, x) and scales (B, n) for ``x * gates``, float32 or more.

        ``x`` is (B, C, \\*S), ``gates`` (B, C, 1, ...) or None for ones.
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
