"""From an image to features and back: the shared encoder, and the decoder that a code steers.

After Seq2Seq (Han et al. 2023), from which TSF-Seq2Seq takes both.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth3d.models.blocks import CONV
from synth3d.models.tsf.hyper import ConvLSTM, HyperConv, Mix, leaky, normed

SLOTS = 64
"""Of the decoder's code: how many sequences it can tell apart, and the width of its style."""


def mirrored(
    dim: int, inputs: int, outputs: int, side: int, stride: int = 1, bias: bool = False
) -> nn.Module:
    """A convolution that pads with the mirror image."""
    shape = {"stride": stride, "padding": side // 2, "padding_mode": "reflect", "bias": bias}
    made = CONV[dim](inputs, outputs, side, **shape)
    nn.init.kaiming_normal_(made.weight)
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


class Block(nn.Module):
    """x + norm(conv(leaky(norm(conv(x)))))."""

    def __init__(self, dim: int, width: int, bias: bool) -> None:
        super().__init__()
        self.first, self.second = (mirrored(dim, width, width, 3, bias=bias) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, \\*S) → (N, C, \\*S)."""
        return x + normed(self.second(leaky(normed(self.first(x)))))


class HyperBlock(nn.Module):
    """:class:`Block` of HyperConvs."""

    def __init__(self, dim: int, width: int, mix: Mix) -> None:
        super().__init__()
        self.first, self.second = (
            HyperConv(dim, width, width, 3, mix, bias=mix.faithful) for _ in range(2)
        )

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(N, C, \\*S) and (N, SLOTS) → (N, C, \\*S)."""
        return x + normed(self.second(leaky(normed(self.first(x, style))), style))


class Encoder(nn.Module):
    """Any sequence's image to features: a convolution of 7, halvings by stride, ResBlocks.

    All convolutions are normalised, which takes their biases out again: only ``faithful`` ones have
    them. The same holds for the decoder, but for its last one.
    """

    def __init__(
        self,
        dim: int,
        slices: int,
        widths: Sequence[int],
        blocks: int,
        recurrent: bool = False,
        faithful: bool = False,
    ) -> None:
        super().__init__()
        self.head = mirrored(dim, slices, widths[0], 7, bias=faithful)
        pairs = zip(widths, widths[1:], strict=False)
        self.halvings = nn.ModuleList(mirrored(dim, a, b, 3, 2, faithful) for a, b in pairs)
        self.blocks = nn.Sequential(*(Block(dim, widths[-1], faithful) for _ in range(blocks)))
        self.series = ConvLSTM(dim, widths[-1]) if recurrent else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, slices, \\*S) around 0 → (N, C, \\*s); sides are multiples of 2 ** halvings."""
        x = leaky(normed(self.head(x)))
        for halving in self.halvings:
            x = leaky(normed(halving(x)))
        x = self.blocks(x)
        return x if self.series is None else self.series(x[:, None]).mean(1)


class Decoder(nn.Module):
    """Features to the image of the sequence that a code names: hyper ResBlocks, doublings."""

    def __init__(
        self,
        dim: int,
        slices: int,
        widths: Sequence[int],
        blocks: int,
        banks: int,
        recurrent: bool = False,
        faithful: bool = False,
    ) -> None:
        super().__init__()
        self.smooth, self.bounded = "bilinear" if dim == 2 else "trilinear", faithful
        mix = Mix(SLOTS, banks, faithful=faithful)

        def hyper(inputs: int, outputs: int, side: int, bias: bool = faithful) -> HyperConv:
            return HyperConv(dim, inputs, outputs, side, mix, bias=bias)

        self.style = nn.Linear(SLOTS, SLOTS)
        if not faithful:  # one slot of a code is 1: so the style's numbers have unit mean square
            nn.init.normal_(self.style.weight, std=(2 / (1 + 0.2**2)) ** 0.5)
            nn.init.zeros_(self.style.bias)
        self.series = ConvLSTM(dim, widths[-1]) if recurrent else None
        body = (HyperBlock(dim, widths[-1], mix) for _ in range(blocks))
        self.blocks = nn.ModuleList(body)
        down = list(reversed(widths))
        self.doublings = nn.ModuleList(hyper(a, b, 3) for a, b in zip(down, down[1:], strict=False))
        self.tail = hyper(widths[0], slices, 7, bias=True)

    def forward(self, features: Tensor, slots: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """(N, C, \\*s) and the slots (N,) of what is wanted → (N, slices, \\*S) around 0.

        Features (N, C, \\*s) of all its levels, coarse to fine, go to ``maps``.
        """
        code = F.one_hot(slots, SLOTS).to(self.style.weight.dtype)
        style, x = leaky(self.style(code)), features
        if self.series is not None:
            x = self.series(x[:, None])[:, 0]
        for block in self.blocks:
            x = block(x, style)
        if maps is not None:
            maps.append(x)
        for doubling in self.doublings:
            x = F.interpolate(x, scale_factor=2, mode=self.smooth, align_corners=False)
            x = leaky(normed(doubling(x, style)))
            if maps is not None:
                maps.append(x)
        x = self.tail(x, style).to(torch.promote_types(x.dtype, torch.float32))
        return x.tanh() if self.bounded else x
