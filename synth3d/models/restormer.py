"""The generator ``restormer``: attention among channels in a U-shape, in 2-D and 3-D.

Restormer (Zamir et al., CVPR 2022) as FGDL has it for its synthesis (Feng et al. 2024): six levels,
of which the deepest two do not widen.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth3d.models.blocks import CONV, ChannelNorm, blank_absent, check_sides, conv

WIDTHS = (48, 96, 192, 384, 384, 384)
EXPANSION = 2.66
"""Of a block's channels between its two projections."""
HEAD, MOST_HEADS = 48, 4
"""Channels for which there is one head of attention, and how many heads there are at most."""


def heads_of(width: int) -> int:
    """How many heads a level has: 1, 2, 4, 4 for 48, 96, 192, 384 channels."""
    fitting = [n for n in (1, 2, MOST_HEADS) if n * HEAD <= width and width % n == 0]
    return max(fitting, default=1)


def unshuffle(x: Tensor) -> Tensor:
    """(B, C, \\*S) → (B, 2^d C, \\*S/2): each 2^d voxels side by side as channels."""
    dim, (batch, channels) = x.ndim - 2, x.shape[:2]
    halves = [half for side in x.shape[2:] for half in (side // 2, 2)]
    order = [0, 1, *range(3, 3 + 2 * dim, 2), *range(2, 2 + 2 * dim, 2)]
    parts = x.reshape(batch, channels, *halves).permute(order)
    return parts.reshape(batch, channels * 2**dim, *[side // 2 for side in x.shape[2:]])


def shuffle(x: Tensor) -> Tensor:
    """(B, 2^d C, \\*S) → (B, C, 2 \\*S), the inverse of :func:`unshuffle`."""
    dim, batch = x.ndim - 2, len(x)
    channels = x.shape[1] // 2**dim
    parts = x.reshape(batch, channels, *[2] * dim, *x.shape[2:])
    order = [0, 1, *[axis for a in range(dim) for axis in (2 + dim + a, 2 + a)]]
    return parts.permute(order).reshape(batch, channels, *[2 * side for side in x.shape[2:]])


def depthwise(dim: int, width: int) -> nn.Module:
    """A bias-free convolution of side 3, each channel by itself."""
    return CONV[dim](width, width, 3, padding=1, groups=width, bias=False)


class ChannelAttention(nn.Module):
    """Each channel as a mixture of those that are like it; its cost is linear in voxels.

    ``asking``, C → 3 C, makes queries, keys and values; None for a convolution of one tap.
    """

    def __init__(self, dim: int, width: int, asking: nn.Module | None = None) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.temperature = nn.Parameter(torch.ones(self.heads, 1, 1))
        first = conv(dim, width, 3 * width, 1) if asking is None else asking
        self.qkv = nn.Sequential(first, depthwise(dim, 3 * width))
        self.project = conv(dim, width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) → the same."""
        rows = self.qkv(x).reshape(len(x), 3, self.heads, x.shape[1] // self.heads, -1)
        query, key, value = rows.unbind(1)
        # A norm over a whole volume is no sum for half precision.
        exact = torch.promote_types(x.dtype, torch.float32)
        query, key = (F.normalize(row.to(exact), dim=-1).to(row.dtype) for row in (query, key))
        alike = (query @ key.transpose(-2, -1)).to(exact) * self.temperature
        mixed = alike.softmax(-1).to(value.dtype) @ value
        return self.project(mixed.reshape(x.shape))


class GatedFeedForward(nn.Module):
    """Two branches of depth-wise convolutions, of which one gates the other."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        hidden = int(EXPANSION * width)
        self.spread = nn.Sequential(conv(dim, width, 2 * hidden, 1), depthwise(dim, 2 * hidden))
        self.act, self.project = nn.GELU(), conv(dim, hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) → the same."""
        gate, values = self.spread(x).chunk(2, dim=1)
        return self.project(self.act(gate) * values)


class RestormerBlock(nn.Module):
    """x + attention(norm(x)), then the same with the feed-forward part.

    ``asking`` is :class:`ChannelAttention`'s.
    """

    def __init__(self, dim: int, width: int, asking: nn.Module | None = None) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(2))
        self.attend = ChannelAttention(dim, width, asking)
        self.feed = GatedFeedForward(dim, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) → the same."""
        x = x + self.attend(self.norms[0](x))
        return x + self.feed(self.norms[1](x))


class Restormer(nn.Module):
    """A U of Restormer's blocks with concatenated skips and a linear output.

    Where a level is as wide as the one above it, what goes down and across is first reduced to half
    by a convolution of one tap; elsewhere what was concatenated is. FGDL's description leaves open
    where its reductions are, and this is the reading that gives its 30.00 M parameters (2-D, one
    channel in and out).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        dim: 2 or 3.
        widths: Channels from full resolution to the deepest level, at least two; all but the first
            multiples of 2 ** ``dim``.
        blocks: Per level and direction; one more refines at full resolution.

    Raises:
        ValueError: ``dim`` is neither, a count is not positive, or widths do not fit.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"pyramid"})
    dims: ClassVar[frozenset[int]] = frozenset({2, 3})
    keywords: ClassVar[frozenset[str]] = frozenset()
    time: ClassVar[None] = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dim: int = 3,
        widths: Sequence[int] = WIDTHS,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        if dim not in self.dims:
            raise ValueError(f"{type(self).__name__} exists in 2-D and 3-D, got dim {dim}")
        if min(in_channels, out_channels, blocks) < 1:
            raise ValueError(
                f"in_channels, out_channels and blocks must be positive, got {in_channels}, "
                f"{out_channels} and {blocks}"
            )
        parts = 2**dim
        if len(widths) < 2 or min(widths) < 1 or any(width % parts for width in widths[1:]):
            raise ValueError(
                f"expected at least two positive widths, after the first multiples of {parts}, "
                f"got {tuple(widths)}"
            )
        self.dim, self.widths, self.levels = dim, tuple(widths), len(widths) - 1
        self.blocks = blocks

        def stage(width: int, count: int = blocks) -> nn.Sequential:
            return nn.Sequential(*[RestormerBlock(dim, width) for _ in range(count)])

        self.head = conv(dim, in_channels, widths[0], 3)
        self.downs = nn.ModuleList(stage(width) for width in widths)
        self.ups = nn.ModuleList(stage(width) for width in widths[:-1])
        self.refine = stage(widths[0], 1)
        self.tail = conv(dim, widths[0], out_channels, 3)
        pairs = list(zip(widths, widths[1:], strict=False))
        # Nothing to reduce is an identity, so that levels are of one form.
        skips = [a // 2 if a == b else a for a, b in pairs]
        self.reductions = nn.ModuleList(
            conv(dim, a, skip, 1) if skip < a else nn.Identity()
            for (a, _), skip in zip(pairs, skips, strict=True)
        )
        self.halvings = nn.ModuleList(
            conv(dim, skip, b // parts, 3) for (_, b), skip in zip(pairs, skips, strict=True)
        )
        self.doublings = nn.ModuleList(conv(dim, b, b // 2 * parts, 3) for _, b in pairs)
        self.joints = nn.ModuleList(
            nn.Identity() if b // 2 + skip == a else conv(dim, b // 2 + skip, a, 1)
            for (a, b), skip in zip(pairs, skips, strict=True)
        )

    def forward(
        self, x: Tensor, present: Tensor | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """Map sources (B, C_in, \\*S) to targets (B, C_out, \\*S).

        Args:
            x: Sides are multiples of 2 ** (len(widths) - 1), else a ValueError.
            present: (B, C_in) bool; channels that are not present are read as zero.
            wanted: (B, C_out) bool; not used, all targets are made.
        """
        return self._made(x, present)

    @property
    def pyramid_widths(self) -> tuple[int, ...]:
        """Channels of each map of :meth:`pyramid`, coarse to fine."""
        return self.widths[::-1]

    def pyramid(
        self, x: Tensor, present: Tensor | None = None, wanted: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The image as :meth:`forward` gives it, and the decoder's features, coarse to fine.

        The maps (B, C, \\*s), of strides 2 ** L to 1, are the results of the levels; at full
        resolution of the refinement.
        """
        maps: list[Tensor] = []
        return self._made(x, present, maps), maps

    def _made(self, x: Tensor, present: Tensor | None, maps: list[Tensor] | None = None) -> Tensor:
        """The image; features go to ``maps``, which alone would keep them in memory."""
        check_sides(x, self.dim, 2**self.levels)
        x, skips = self.downs[0](self.head(blank_absent(x, present))), []
        for level, halving in enumerate(self.halvings):
            skips.append(self.reductions[level](x))
            x = self.downs[level + 1](unshuffle(halving(skips[-1])))
        for level in reversed(range(self.levels)):
            if maps is not None:
                maps.append(x)
            x = torch.cat([shuffle(self.doublings[level](x)), skips.pop()], dim=1)
            x = self.ups[level](self.joints[level](x))
        x = self.refine(x)
        if maps is not None:
            maps.append(x)
        return self.tail(x)
