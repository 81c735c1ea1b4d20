"""A generator seen through centred intensities, for networks without biases or normalisation."""

import torch
from torch import Tensor, nn

CENTRE, GAIN = 0.5, 4.0
"""Healthy tissue lies at 1/2 of the network's scale and spreads by about 1/4 around it."""


class Centred(nn.Module):
    """Feeds ``generator`` (x − 1/2) · 4 and returns 1/2 + y / 4.

    AGI-Net and ResUNet have neither biases nor normalisation. Fed with intensities around 1/2 they
    spend their first hundreds of steps on the mean, and rates that would teach them more make
    them diverge. Background and absent sources stay exactly 0, which is now healthy tissue's level.

    Args:
        generator: (B, S, *) → (B, T, *), as in ``GENERATORS``.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self, x: Tensor, present: Tensor | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """(B, S, *) → (B, T, *), both in the network's scale; background is free.

        Args:
            x: Sources; background (0 in all of them) and absent ones are 0.
            present: (B, S) bool, or None for all.
            wanted: (B, T) bool, passed on.
        """
        seen = (x != 0).any(1, keepdim=True)
        if present is not None:
            seen = seen & present.view(*present.shape, *[1] * (x.ndim - 2))
        centred = torch.where(seen, (x - CENTRE) * GAIN, torch.zeros_like(x))
        return CENTRE + self.generator(centred, present, wanted) / GAIN
