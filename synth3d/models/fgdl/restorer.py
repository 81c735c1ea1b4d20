"""A poor sequence restored: what is synthesised of it lends its features to what refines it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth3d.models.fgdl.super_resolution import SuperResolution


class Restorer(nn.Module):
    """A synthesis and a branch beside it, as a generator of all sources.

    The synthesis sees the other sources and never learns here. The branch sees the poor sequence,
    the last source, on its coarse grid, whose voxels are the means of blocks of the fine one's.

    Args:
        synthesis: A generator of the sequence from the other sources, with a ``pyramid``.
        ratio: Sides of a block, ([z,] y, x), powers of 2; sides of an image are multiples of them.
        alignment: See :class:`synth3d.models.SuperResolution`.
        modulate: See there, too.
        residual: The branch adds to the poor sequence as it is shown, between its voxels
            interpolated, and starts with adding 0; else it draws the whole picture, as published.

    Raises:
        ValueError: The pyramid has too few levels for the ratio, or it or the alignment is none.
    """

    def __init__(
        self,
        synthesis: nn.Module,
        ratio: Sequence[int],
        alignment: str = "auto",
        modulate: bool = True,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.synthesis: Any = synthesis
        self.ratio, self.depth = tuple(ratio), max(ratio).bit_length()
        widths = self.synthesis.pyramid_widths
        if self.depth > len(widths):
            raise ValueError(
                f"ratio {self.ratio} needs features of {self.depth} levels, and there are "
                f"{len(widths)}"
            )
        finest = widths[-self.depth :]
        self.branch = SuperResolution(len(self.ratio), self.ratio, finest, alignment, modulate)
        if residual:
            last: Any = self.branch.tail[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self, x: Tensor, present: Tensor | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """(B, S, \\*S), the poor sequence last → (B, 1, \\*S) restored."""
        return self.parts(x, present, wanted)[1]

    def parts(
        self, x: Tensor, present: Tensor | None = None, wanted: Tensor | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What is synthesised, what is restored, (B, 1, \\*S) each, and the maps (B, 1, \\*s)."""
        here = None if present is None else present[:, :-1]
        with torch.no_grad():
            rough, features = self.synthesis.pyramid(x[:, :-1], here, wanted)
        made, maps = self.branch(self.coarse(x[:, -1:]), features[-self.depth :])
        return rough, made + x[:, -1:] if self.residual else made, maps

    def coarse(self, x: Tensor) -> Tensor:
        """(B, 1, \\*S) → (B, 1, \\*s): the mean of each block."""
        return (F.avg_pool2d if x.ndim == 4 else F.avg_pool3d)(x, self.ratio)

    @property
    def dim(self) -> int:
        """2 or 3."""
        return len(self.ratio)

    @property
    def levels(self) -> int:
        """How often sides are halved."""
        return self.synthesis.levels

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the synthesis, full resolution first."""
        return self.synthesis.widths

    @property
    def time(self) -> None:
        """It is told none."""
        return None
