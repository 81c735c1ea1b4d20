"""ResUNet: the plain backbone of AGI-Net (the UNetRes of DPIR), in 2-D and 3-D."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from synth3d.models.blocks import (
    ResBlock,
    Stage,
    blank_absent,
    check_sides,
    choose_stages,
    conv,
    double,
    halve,
    stage_names,
)
from synth3d.models.time_embedding import TimeEmbedding, TimeModulation

WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class UNetOptions:
    """What a ResUNet can be asked for beside its size.

    Args:
        time_embedding: Let every ResBlock be told a diffusion step (``synth3d.models.
            time_embedding``); only then are there parameters for it. Untrained, the time has no
            effect.
    """

    time_embedding: bool = False


class ResUNet(nn.Module):
    """A U-shaped residual network with additive skips, no normalisation and no biases.

    With L + 1 widths there are L halvings and 2 L + 1 stages: down1 ... downL, body, up1 ...
    upL. Output is linear. With widths 64 to 512 in 2-D, one channel in and out, it has
    17 007 744 parameters.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        dim: 2 or 3, one of ``dims``; None for the larger of them.
        widths: Channels from full resolution to the body, at least two.
        blocks: ResBlocks per stage.
        options: The keywords of ``Options``.

    Raises:
        ValueError: ``dim`` is none of ``dims``, a count is not positive, or an option does not
            exist or fit.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"time", "pyramid"})
    dims: ClassVar[frozenset[int]] = frozenset({2, 3})
    Options: ClassVar[type[UNetOptions]] = UNetOptions
    keywords: ClassVar[frozenset[str]] = frozenset(UNetOptions.__dataclass_fields__)
    """Options beside those that the constructor names."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dim: int | None = None,
        widths: Sequence[int] = WIDTHS,
        blocks: int = 2,
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = self.Options(**options)
        dim = max(self.dims) if dim is None else dim
        if dim not in self.dims:
            able = " or ".join(map(str, sorted(self.dims)))
            raise ValueError(
                f"{type(self).__name__} exists in {able}-D only, got dim {dim}; use dim {able}"
            )
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"expected at least two positive widths, got {tuple(widths)}")
        if min(in_channels, out_channels, blocks) < 1:
            raise ValueError(
                f"in_channels, out_channels and blocks must be positive, got {in_channels}, "
                f"{out_channels} and {blocks}"
            )
        self.dim, self.widths, self.levels = dim, tuple(widths), len(widths) - 1
        self.blocks = blocks
        names, pairs = stage_names(self.levels), list(zip(widths, widths[1:], strict=False))
        self.time = TimeEmbedding(4 * widths[0]) if self.options.time_embedding else None
        self.head = conv(dim, in_channels, widths[0], 3)
        sizes = zip(names, (*widths, *reversed(widths[:-1])), strict=True)
        self.stages = nn.ModuleDict({name: self._stage(name, width) for name, width in sizes})
        self.halvings = nn.ModuleList(halve(dim, a, b) for a, b in pairs)
        self.doublings = nn.ModuleList(double(dim, b, a) for a, b in reversed(pairs))
        self.tail = conv(dim, widths[0], out_channels, 3)

    def _stage(self, name: str, width: int) -> Stage:
        def block() -> ResBlock:
            time = TimeModulation(self.time.width, width) if self.time is not None else None
            first = self._first_convolution(name, width)
            return ResBlock(first, conv(self.dim, width, width, 3), time)

        return Stage(*[block() for _ in range(self.blocks)])

    def _first_convolution(self, stage: str, channels: int) -> nn.Module:
        """Of a ResBlock."""
        return conv(self.dim, channels, channels, 3)

    def forward(
        self,
        x: Tensor,
        present: Tensor | None = None,
        wanted: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        """Map sources (B, C_in, \\*S) to targets (B, C_out, \\*S).

        Args:
            x: Sides are multiples of 2 ** (len(widths) - 1), else a ValueError.
            present: (B, C_in) bool; channels that are not present are read as zero.
            wanted: (B, C_out) bool; not used, all targets are made.
            time: (B,) floating point, a diffusion step index in [0, T); exactly if the network
                was built with ``time_embedding``.
        """
        return self._made(x, present, time)

    @property
    def pyramid_widths(self) -> tuple[int, ...]:
        """Channels of each map of :meth:`pyramid`, coarse to fine."""
        return self.widths[::-1]

    def pyramid(
        self, x: Tensor, present: Tensor | None = None, wanted: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The image as :meth:`forward` gives it, and the decoder's features, coarse to fine.

        The maps (B, C, \\*s), of strides 2 ** L to 1, are what each stage from the body on hands
        on: its result and the skip.
        """
        maps: list[Tensor] = []
        return self._made(x, present, maps=maps), maps

    def _made(
        self,
        x: Tensor,
        present: Tensor | None,
        time: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """The image; features go to ``maps``, which alone would keep them in memory."""
        check_sides(x, self.dim, 2**self.levels)
        embedded = self._embed(x, time)
        x = self.head(blank_absent(x, present))
        skips = [x]
        for level, halving in enumerate(self.halvings, start=1):
            x = halving(self.stages[f"down{level}"](x, embedded))
            skips.append(x)
        x = self.stages["body"](x, embedded) + skips.pop()
        if maps is not None:
            maps.append(x)
        for level, doubling in enumerate(self.doublings, start=1):
            x = self.stages[f"up{level}"](doubling(x), embedded) + skips.pop()
            if maps is not None:
                maps.append(x)
        return self.tail(x)

    def _embed(self, x: Tensor, time: Tensor | None) -> Tensor | None:
        if self.time is None:
            if time is not None:
                raise ValueError("this network is told no time; build it with time_embedding=True")
            return None
        if time is None or time.shape != x.shape[:1]:
            raise ValueError(
                f"expected a time (B,) = ({x.shape[0]},) for a network with time_embedding, got "
                f"{time if time is None else tuple(time.shape)}"
            )
        return self.time(time)


@dataclass(frozen=True)
class StagedOptions(UNetOptions):
    """What a ResUNet with another kind of convolution in some stages can be asked for.

    Args:
        stages: How many of down1, ..., body, up1, ... have it, counted from the first, or their
            names. AGI-Net's paper has it in 5 of 7.
    """

    stages: int | Sequence[str] = 5


class StagedUNet(ResUNet):
    """ResUNet with another kind of convolution first in the ResBlocks of some stages."""

    options: StagedOptions

    def _first_convolution(self, stage: str, channels: int) -> nn.Module:
        if stage in choose_stages(self.options.stages, self.levels):
            return self._special_convolution(channels)
        return super()._first_convolution(stage, channels)

    def _special_convolution(self, channels: int) -> nn.Module:
        raise NotImplementedError
