"""How features of several sources become one: a weighted mean and an attention, steered by a code.

TSF-Seq2Seq (Han et al., MICCAI 2023), equations 1 to 4. The code c = [s; t] says which sources are
there and which target is wanted.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops import full_precision
from synth3d.models.blocks import check_option
from synth3d.models.tsf.hyper import HyperConv, Mix, leaky

EPS = 1e-5
KINDS = ("full", "unmasked", "uniform", "codeless", "plain")


class ChannelGate(nn.Module):
    """h times σ(MLP(mean h) + MLP(max h)) per channel (CBAM, Woo et al. 2018, eq. 2)."""

    def __init__(self, dim: int, width: int, mix: Mix) -> None:
        super().__init__()
        hidden = max(width // 16, 1)
        self.down = HyperConv(dim, width, hidden, 1, mix)
        self.up = HyperConv(dim, hidden, width, 1, mix)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        """(N, C, \\*s) and (N, K) → (N, C, \\*s)."""
        axes = tuple(range(2, h.ndim))
        pooled = torch.cat([h.mean(axes, keepdim=True), h.amax(axes, keepdim=True)])
        twice = torch.cat([code, code])
        found = self.up(leaky(self.down(pooled, twice)), twice)
        return h * sum(found.chunk(2)).sigmoid()  # type: ignore[union-attr]


class SpatialGate(nn.Module):
    """h times σ(conv7([mean_C h, max_C h])) per voxel, no bias (CBAM, eq. 3)."""

    def __init__(self, dim: int, mix: Mix) -> None:
        super().__init__()
        self.conv = HyperConv(dim, 2, 1, 7, mix, mirror=False, bias=False)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        """(N, C, \\*s) and (N, K) → (N, C, \\*s)."""
        seen = torch.cat([h.mean(1, keepdim=True), h.amax(1, keepdim=True)], dim=1)
        return h * self.conv(seen, code).sigmoid()


class Fusion(nn.Module):
    """The fused features f̂ = Σ ω_i f_i, and f_A, what attention adds to them.

    f_A starts as exactly 0 unless ``faithful``: fusion begins at what the encoder and the decoder
    can do already.

    Args:
        dim: 2 or 3.
        sources: S.
        targets: T.
        width: C, channels of the features.
        banks: w of its HyperConvs.
        kind: ``full``, or one part left out: ``unmasked`` (ω is not masked by what is there),
            ``uniform`` (equal ω), ``codeless`` (attention is told no code), ``plain`` (no f_A).
        faithful: Start as the reference code does.

    Raises:
        ValueError: Another ``kind``.
    """

    def __init__(
        self,
        dim: int,
        sources: int,
        targets: int,
        width: int,
        banks: int,
        kind: str = "full",
        faithful: bool = False,
    ) -> None:
        super().__init__()
        check_option("fusion", kind, KINDS)
        self.sources, self.targets, self.kind = sources, targets, kind
        code = sources + targets
        self.weight = nn.Linear(code, sources)
        self.attends = kind != "plain"
        if not self.attends:
            return
        # A code holds a 1 for the target and, on average, for half of the sources or a little more.
        mix = Mix(code, banks, energy=1 + (sources + 1) / 2, faithful=faithful)
        self.conv = HyperConv(dim, sources * width, width, 3, mix)
        if not faithful:
            nn.init.zeros_(self.conv.bank)
        self.channel = ChannelGate(dim, width, mix)
        self.spatial = SpatialGate(dim, mix)

    def code(self, present: Tensor, target: Tensor) -> Tensor:
        """Which sources are there (N, S) bool, and a target each (N,) → c (N, S + T)."""
        wanted = F.one_hot(target, self.targets)
        return torch.cat([present.to(wanted.dtype), wanted], 1).to(self.weight.weight.dtype)

    def omega(self, present: Tensor, target: Tensor) -> Tensor:
        """ω (N, S), whose sum is 1; of an absent source 0 (eq. 1 and 2), and all 0 without any.

        Those of ``unmasked`` do neither: they are eq. 1 alone.
        """
        there = present.to(self.weight.weight.dtype)
        if self.kind == "uniform":
            raw = torch.ones_like(there)
        else:
            with full_precision(there.device.type):
                raw = self.weight(self.code(present, target)).softmax(1) + EPS
        if self.kind == "unmasked":
            return raw
        shown = raw * there
        return shown / shown.sum(1, keepdim=True).clamp(min=EPS)

    def forward(
        self, features: Tensor, present: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Features (N, S, C, \\*s), exactly 0 where not present → f̂ and f_A, (N, C, \\*s) each.

        ``present`` (N, S) bool, ``target`` (N,) from 0 to T − 1. f_A is None for ``plain``. ω and
        f̂ are as exact as the weights, under autocast, too.
        """
        omega = self.omega(present, target)
        mean = (omega.view(*omega.shape, *[1] * (features.ndim - 2)) * features).sum(1)
        if not self.attends:
            return mean, None
        code = self.code(present, target)
        if self.kind == "codeless":
            code = torch.zeros_like(code)
        h = leaky(self.conv(features.flatten(1, 2), code))
        return mean, self.spatial(self.channel(h, code), code)
