"""Features of two images that lie a little apart: how alike they are, and moved onto each other."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth3d.models.blocks import check_option, conv
from synth3d.models.moving.deformable import DeformableConv

ALIGNMENTS = ("auto", "deformable", "warp", "none")
GROUPS = 4
"""Parts of the channels that ``warp`` moves each by itself, where they divide."""


class StillConv(nn.Module):
    """The plain convolution of side 3, whatever guides it."""

    def __init__(self, dim: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv(dim, channels, outputs, 3)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """(B, C, \\*S) → (B, C_out, \\*S)."""
        return self.conv(x)


def moving_conv(
    dim: int, channels: int, alignment: str, outputs: int | None = None, guide: int | None = None
) -> DeformableConv | StillConv:
    """A convolution of side 3 whose taps move, and that starts as the plain one.

    Args:
        dim: 2 or 3.
        channels: What is moved and convolved.
        alignment: ``"deformable"``: each tap by itself, the modulated deformable convolution, in
            3-D one tap after the other, slow; ``"warp"``: all taps alike, in groups of channels;
            ``"auto"``: ``deformable`` in 2-D, ``warp`` in 3-D; ``"none"``: they do not move.
        outputs: None for as many as ``channels``.
        guide: Channels of what tells how taps move; None where the input itself does.

    Raises:
        ValueError: An unknown ``alignment``.
    """
    check_option("alignment", alignment, ALIGNMENTS)
    if alignment == "none":
        return StillConv(dim, channels, channels if outputs is None else outputs)
    chosen = ("deformable" if dim == 2 else "warp") if alignment == "auto" else alignment
    if chosen == "warp":
        groups = math.gcd(channels, GROUPS)
        return DeformableConv(channels, dim, "warp", outputs, guide, groups)
    return DeformableConv(channels, dim, "dcn" if dim == 2 else "exact", outputs, guide)


def likeness(features: Tensor, others: Tensor) -> Tensor:
    """The cosine between features (B, C, \\*S) at each position: (B, 1, \\*S), float32 or more."""
    exact = torch.promote_types(features.dtype, torch.float32)
    return F.cosine_similarity(features.to(exact), others.to(exact), dim=1)[:, None]
