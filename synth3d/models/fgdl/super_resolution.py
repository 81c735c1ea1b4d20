"""A coarse image made fine with the features of another network: FGDL's super-resolution branch.

Feng et al. 2024, with the residual-in-residual dense blocks of ESRGAN (Wang et al. 2018) and
Restormer's blocks. One axis may be refined more often than another: thick slices are coarse along
one axis alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth3d.models.blocks import CONV
from synth3d.models.fgdl.alignment import likeness, moving_conv
from synth3d.models.fgdl.modulation import IncrementalModulation
from synth3d.models.fgdl.registration import LINEAR
from synth3d.models.restormer import RestormerBlock

GROWTH, SHARE = 32, 0.2
"""Of a dense block: channels that each convolution adds, and how much of it counts."""


def factors_of(ratio: Sequence[int]) -> list[tuple[int, ...]]:
    """How much coarser than the result each level is, per axis, coarse to fine: ratio … 1.

    Level l of k + 1 is min(r, 2 ** (k - l)), so that an axis is refined as late as it can be, where
    features have reached it.

    >>> factors_of((1, 2, 4))
    [(1, 2, 4), (1, 2, 2), (1, 1, 1)]
    """
    powers = all(each >= 1 and each & (each - 1) == 0 for each in ratio)
    if not ratio or not powers or max(ratio) < 2:
        raise ValueError(
            f"expected ratios that are powers of 2, one of them above 1, got {tuple(ratio)}"
        )
    steps = max(ratio).bit_length() - 1
    return [tuple(min(each, 2**left) for each in ratio) for left in range(steps, -1, -1)]


class DenseBlock(nn.Module):
    """x + 0.2 of five convolutions, each of which sees what all before it made."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        outputs = (*[GROWTH] * 4, width)
        self.layers = nn.ModuleList(
            CONV[dim](width + i * GROWTH, each, 3, padding=1) for i, each in enumerate(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) → the same."""
        seen = x
        for layer in self.layers[:-1]:
            seen = torch.cat([seen, F.leaky_relu(layer(seen), 0.2)], dim=1)
        return x + SHARE * self.layers[-1](seen)


class ResidualDenseBlocks(nn.Module):
    """x + 0.2 of what three dense blocks make of it (RRDB)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*[DenseBlock(dim, width) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) → the same."""
        return x + SHARE * self.body(x)


class Level(nn.Module):
    """Features of a coarse image and those of the other network at one scale, joined."""

    def __init__(self, dim: int, width: int, alignment: str, modulate: bool) -> None:
        super().__init__()
        both = 2 * width
        self.align = moving_conv(dim, width, alignment, guide=both)
        self.join = nn.Sequential(
            *[
                RestormerBlock(dim, both, moving_conv(dim, both, alignment, 3 * both))
                for _ in range(2)
            ],
            CONV[dim](both, width, 3, padding=1),
        )
        self.modulate = IncrementalModulation(dim, width) if modulate else None

    def forward(self, x: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Twice (B, C, \\*S) → (B, C, \\*S) and how alike both are (B, 1, \\*S)."""
        alike = likeness(x, others)
        seen = torch.cat([x, others], dim=1)
        joined = self.join(seen)
        joined = joined if self.modulate is None else self.modulate(joined, alike)
        return self.align(x, seen) + joined, alike


class SuperResolution(nn.Module):
    """A coarse image to a fine one, level by level, beside a pyramid of features of that fineness.

    With FGDL's widths in 2-D it has its 6.9, 22.5, 80.0 and 129.5 million parameters for ratios 2,
    4, 8 and 16.

    Args:
        dim: 2 or 3.
        ratio: Powers of 2, ([z,] y, x): how much finer the result is along each axis.
        widths: Channels of the pyramid's levels, coarse to fine, from stride max(ratio) to 1: one
            more than that ratio has doublings.
        alignment: How taps move, see :func:`synth3d.models.fgdl.alignment.moving_conv`.
        modulate: Whether maps of likeness change what is joined.

    Raises:
        ValueError: ``dim`` is neither, or ratios, widths or alignment do not fit.
    """

    def __init__(
        self,
        dim: int,
        ratio: Sequence[int],
        widths: Sequence[int],
        alignment: str = "auto",
        modulate: bool = True,
    ) -> None:
        super().__init__()
        if dim not in CONV or len(ratio) != dim:
            raise ValueError(f"expected dim 2 or 3 and as many ratios, got {dim}, {tuple(ratio)}")
        self.factors = factors_of(ratio)
        if len(widths) != len(self.factors) or min(widths) < 2:
            raise ValueError(
                f"expected {len(self.factors)} widths of at least 2 for ratio {tuple(ratio)}, got "
                f"{tuple(widths)}"
            )
        self.dim, self.ratio, self.widths = dim, tuple(ratio), tuple(widths)
        first, last = widths[0], widths[-1]
        self.head = CONV[dim](1, first, 3, padding=1)
        self.dense = nn.Sequential(*[ResidualDenseBlocks(dim, first) for _ in range(2)])
        self.levels = nn.ModuleList(Level(dim, width, alignment, modulate) for width in widths)
        self.refinements = nn.ModuleList(
            CONV[dim](a, b, 3, padding=1) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.tail = nn.Sequential(
            CONV[dim](last, last, 3, padding=1), nn.LeakyReLU(0.2),
            CONV[dim](last, last // 2, 3, padding=1), nn.LeakyReLU(0.2),
            CONV[dim](last // 2, 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, coarse: Tensor, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The fine image (B, 1, \\*S), and at each level how alike both sides are (B, 1, \\*s).

        Args:
            coarse: (B, 1, \\*s), S / ratio.
            features: (B, C, \\*s) of each level, coarse to fine, of ``widths``, the last of sides
                S. Where they are coarser than a level is along some axis they are read between
                voxels, linearly.
        """
        sides = self._checked(coarse, features)
        x = self.head(coarse)
        x = x + self.dense(x)
        maps: list[Tensor] = []
        for level, (factor, seen) in enumerate(zip(self.factors, features, strict=True)):
            grid = [side // each for side, each in zip(sides, factor, strict=True)]
            if level:
                x = self.refinements[level - 1](F.interpolate(x, grid, mode="nearest"))
            if list(seen.shape[2:]) != grid:
                seen = F.interpolate(seen, grid, mode=LINEAR[self.dim], align_corners=False)
            x, alike = self.levels[level](x, seen)
            maps.append(alike)
        return self.tail(x), maps

    def _checked(self, coarse: Tensor, features: Sequence[Tensor]) -> list[int]:
        """Sides of the fine image."""
        axes = "(B, 1, D, H, W)" if self.dim == 3 else "(B, 1, H, W)"
        if coarse.ndim != self.dim + 2 or coarse.shape[1] != 1:
            raise ValueError(f"expected a coarse image {axes}, got {tuple(coarse.shape)}")
        sides = [side * r for side, r in zip(coarse.shape[2:], self.ratio, strict=True)]
        found = [tuple(each.shape[1:2]) for each in features]
        if found != [(width,) for width in self.widths] or list(features[-1].shape[2:]) != sides:
            raise ValueError(
                f"expected features of {self.widths} channels, the last of sides {sides}, got "
                f"{[tuple(each.shape) for each in features]}"
            )
        return sides
