"""How a generator is told the step of a diffusion: sinusoids, a small network, a factor and a bias.

After DDPM (Ho et al. 2020, appendix B) for the embedding and IDDPM (Nichol and Dhariwal 2021,
section 3) for scaling as well as shifting. A generator without it has none of these parameters.
"""

import math

import torch
from torch import Tensor, nn

from cuda_ops import full_precision

FEATURES = 128
LONGEST = 10_000.0


def sinusoids(time: Tensor, features: int = FEATURES) -> Tensor:
    """Cosines and sines of a step index (B,) at F / 2 geometrically spaced frequencies: (B, F).

    cos then sin of time · 10000^(-i / (F / 2)) for i = 0 ... F / 2 - 1, in float32, or float64 if
    ``time`` is.
    """
    half = features // 2
    time = time.to(torch.promote_types(time.dtype, torch.float32))
    steps = torch.arange(half, device=time.device, dtype=time.dtype)
    angles = time[:, None] * torch.exp(-math.log(LONGEST) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Step index (B,) -> embedding (B, E): sinusoids, linear, SiLU, linear, SiLU; no autocast."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.first = nn.Linear(FEATURES, width)
        self.second = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """(B,) -> (B, E)."""
        with full_precision(time.device.type):
            seen = sinusoids(time).to(self.first.weight.dtype)
            hidden = nn.functional.silu(self.first(seen))
            return nn.functional.silu(self.second(hidden))


class TimeModulation(nn.Module):
    """x · (1 + a) + b with one a and one b per sample and channel, read from the embedding.

    Both start at exactly 0, so that an untrained generator does not depend on time. The weights
    are bare parameters, which initialisers that walk over linear layers leave alone.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2 * channels, width))
        self.bias = nn.Parameter(torch.empty(2 * channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """(B, C, \\*S) and (B, E) -> (B, C, \\*S), of the dtype of ``x``."""
        with full_precision(x.device.type):
            both = nn.functional.linear(embedded, self.weight, self.bias).to(x.dtype)
        gain, shift = both.reshape(*both.shape, *[1] * (x.ndim - 2)).chunk(2, dim=1)
        return torch.addcmul(x + shift, x, gain)
