"""Features strengthened or weakened by where two images differ."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops import full_precision
from synth3d.models.blocks import CONV

GUIDE = (64, 128, 128)
"""Channels of the convolutions that read the map."""


class IncrementalModulation(nn.Module):
    """IN(x) (σ + γ) + μ + β: the mean μ and deviation σ of each channel of ``x``, changed by a map.

    γ and β, voxel by voxel, follow from the map. They start at 0 and the whole as the identity,
    which it is exactly then, for IN(x) σ + μ is ``x`` itself.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        body: list[nn.Module] = []
        for inputs, outputs in zip((1, *GUIDE), GUIDE, strict=False):
            body += [CONV[dim](inputs, outputs, 3, padding=1), nn.ReLU()]
        self.guide = nn.Sequential(*body)
        self.scale, self.shift = (CONV[dim](GUIDE[-1], channels, 3, padding=1) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let it begin as the identity."""
        for head in (self.scale, self.shift):
            nn.init.zeros_(head.weight)
            assert head.bias is not None
            nn.init.zeros_(head.bias)

    def forward(self, x: Tensor, distinction: Tensor) -> Tensor:
        """(B, C, \\*S) and a map (B, 1, \\*S) → (B, C, \\*S); more than one voxel a channel."""
        read = self.guide(distinction)
        with full_precision(x.device.type):
            exact = x.to(torch.promote_types(x.dtype, torch.float32))
            normal = F.instance_norm(exact).to(x.dtype)
        return x + normal * self.scale(read) + self.shift(read)
