"""Convolution with kernels that turn: adaptive rotated convolution (ARC, Pu et al. 2023), 2-D.

K kernels are each rotated by an angle that a routing function reads from the input, and added
with weights that it reads as well (section 3.2 there): one kernel per sample.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops import conv_per_sample, full_precision
from synth3d.models.blocks import ChannelNorm, GlobalMean
from synth3d.models.resunet import StagedOptions, StagedUNet

LARGEST_ANGLE = math.radians(40)


def rotation_matrices(angles: Tensor) -> Tensor:
    """The rotation of a 3x3 kernel as a matrix over its 9 taps.

    Tap (y, x) of the rotated kernel is read, bilinearly, where the rotation takes it from, drawn
    back onto the kernel's square where that lies outside (so a corner slides along the rim).

    Args:
        angles: (...), in radians, counter-clockwise on the page (y down), up to a quarter turn.

    Returns:
        (..., 9, 9): rotated[s] = sum over t of R[s, t] kernel[t]; the identity, exactly, at 0.
        The slope at 0 is that from the right, not 0.
    """
    taps = torch.arange(-1, 2, device=angles.device, dtype=angles.dtype)
    y, x = (axis.flatten() for axis in torch.meshgrid(taps, taps, indexing="ij"))
    cos, sin = angles.cos()[..., None], angles.sin()[..., None]
    weights = []
    for place in (cos * y + sin * x, cos * x - sin * y):  # (..., 9), where each tap is read
        inside = place.clamp(-1, 1)
        lower = inside.detach().floor()
        share = (inside - lower)[..., None]
        at = (taps == lower[..., None]).to(share.dtype)
        above = (taps == lower[..., None] + 1).to(share.dtype)
        weights.append((1 - share) * at + share * above)  # (..., 9, 3)
    return (weights[0][..., :, None] * weights[1][..., None, :]).flatten(-2)


class AngleRouting(nn.Module):
    """(B, C, H, W) -> angles (B, K) within 40 degrees, weights (B, K) in (0, 1).

    Depthwise 3x3 convolution, normalisation over channels, ReLU, global mean, dropout, and one
    linear head each, the angles' without bias.
    """

    def __init__(self, channels: int, kernels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm, self.act, self.pool = ChannelNorm(channels), nn.ReLU(), GlobalMean()
        self.dropout = nn.Dropout(0.2)
        self.angle = nn.Linear(channels, kernels, bias=False)
        self.weight = nn.Linear(channels, kernels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small weights: angles near 0, every kernel's weight near 1/2."""
        for layer in (self.depthwise, self.angle, self.weight):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.weight.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Angles in radians and weights, in float32 or more also under autocast."""
        pooled = self.dropout(self.pool(self.act(self.norm(self.depthwise(x)))))
        with full_precision(x.device.type):
            angles = LARGEST_ANGLE * F.softsign(self.angle(pooled))
            return angles, torch.sigmoid(self.weight(pooled))


class RotatingConv(nn.Module):
    """A bias-free 3x3 convolution, C -> C, with K rotated kernels, one mixture per sample."""

    def __init__(self, channels: int, kernels: int) -> None:
        super().__init__()
        # The K kernels one after the other along the outputs: memory formats want four axes.
        self.weight = nn.Parameter(torch.empty(kernels * channels, channels, 3, 3))
        self.channels = channels
        self.routing = AngleRouting(channels, kernels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every kernel as ``torch.nn.Conv2d`` draws its own."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return conv_per_sample(x, self.kernels(x).to(x.dtype), padding=1)

    def kernels(self, x: Tensor) -> Tensor:
        """The kernels (B, C, C, 3, 3) that each sample of ``x`` is convolved with."""
        angles, weights = self.routing(x)
        with full_precision(x.device.type):
            turn = weights[..., None, None] * rotation_matrices(angles)
            kernels = self.weight.unflatten(0, (-1, self.channels)).flatten(3)
            mixed = torch.einsum("bkst,koct->bocs", turn, kernels)
        return mixed.unflatten(3, (3, 3))


@dataclass(frozen=True)
class ArcOptions(StagedOptions):
    """What makes a ResUNet turn its kernels.

    Args:
        rotated_kernels: K, how many kernels each of them mixes.
    """

    rotated_kernels: int = 4

    def __post_init__(self) -> None:
        if self.rotated_kernels < 1:
            raise ValueError(f"rotated_kernels must be positive, got {self.rotated_kernels}")


class ArcResUNet(StagedUNet):
    """ResUNet with rotating convolutions where AGI-Net has its rolling ones.

    2-D only: a rotation of a 3-D kernel has three angles and is not published.
    """

    dims: ClassVar[frozenset[int]] = frozenset({2})
    Options = ArcOptions
    keywords: ClassVar[frozenset[str]] = frozenset(ArcOptions.__dataclass_fields__)
    options: ArcOptions

    def _special_convolution(self, channels: int) -> nn.Module:
        return RotatingConv(channels, self.options.rotated_kernels)
