"""A generator seen through centred intensities, for networks without biases or normalisation."""

from typing import Any

import torch
from torch import Tensor, nn

from synth3d.models.blocks import blank_absent

CENTRE, GAIN = 0.5, 4.0
"""Healthy tissue lies at 1/2 of the network's scale and spreads by about 1/4 around it."""


class Centred(nn.Module):
    """Feeds ``generator`` (x − 1/2) · 4 and returns 1/2 + y / 4.

    AGI-Net and ResUNet have neither biases nor normalisation. Fed with intensities around 1/2 they
    spend their first hundreds of steps on the mean, and rates that would teach them more make
    them diverge. Background and absent sources stay exactly 0, which is now healthy tissue's level.

    Args:
        generator: (B, S, *) → (B, T, *), as in ``GENERATORS``.
        images: How many of the first input channels are intensities; those behind them, the state
            of a diffusion, pass as they are. None is all.
        offset: Added to the output: 1/2 for images, 0 for differences of images and for noise.
        gain: Divides the output before.
    """

    def __init__(
        self,
        generator: nn.Module,
        images: int | None = None,
        offset: float = CENTRE,
        gain: float = GAIN,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.images, self.offset, self.gain = images, offset, gain

    def forward(
        self,
        x: Tensor,
        present: Tensor | None = None,
        wanted: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        """(B, S, *) → (B, T, *), both in the network's scale; background is free.

        Background of ``x``, 0 in all sources, and absent sources are 0, whatever stood in these.
        ``present`` (B, S), None
        for all, ``wanted`` (B, T) and, if it is told one, ``time`` (B,) go on to the generator.
        """
        told = () if time is None else (time,)
        made = self.generator(self._centred(x, present), present, wanted, *told)
        return self.offset + made / self.gain

    @property
    def pyramid_widths(self) -> tuple[int, ...]:
        """The generator's."""
        inner: Any = self.generator
        return inner.pyramid_widths

    def pyramid(
        self, x: Tensor, present: Tensor | None = None, wanted: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The image as :meth:`forward` gives it, and the generator's features, coarse to fine."""
        inner: Any = self.generator
        made, maps = inner.pyramid(self._centred(x, present), present, wanted)
        return self.offset + made / self.gain, maps

    def _centred(self, x: Tensor, present: Tensor | None) -> Tensor:
        image, state = x.tensor_split([x.shape[1] if self.images is None else self.images], dim=1)
        here = None if present is None else present[:, : self.images]
        image = blank_absent(image, here)
        seen = (image != 0).any(1, keepdim=True)
        if here is not None:
            seen = seen & here.view(*here.shape, *[1] * (x.ndim - 2))
        centred = torch.where(seen, (image - CENTRE) * GAIN, torch.zeros_like(image))
        if state.shape[1]:
            centred = torch.cat([centred, state], dim=1)
        return centred
