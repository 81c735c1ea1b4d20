"""ResUNet: the plain backbone of AGI-Net (the UNetRes of DPIR), in 2-D and 3-D."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from synth3d.models.blocks import (
    CONV,
    MakeConv,
    ResBlock,
    Stage,
    blank_absent,
    check_sides,
    conv,
    double,
    halve,
    stage_names,
)
from synth3d.models.time_embedding import TimeEmbedding, TimeModulation

WIDTHS = (64, 128, 256, 512)


class ResUNet(nn.Module):
    """A U-shaped residual network with additive skips, no normalisation and no biases.

    With L + 1 widths there are L halvings and 2 L + 1 stages: down1 ... downL, body, up1 ...
    upL. Output is linear. With widths 64 to 512 in 2-D, one channel in and out, it has
    17 007 744 parameters.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        dim: 2 or 3.
        widths: Channels from full resolution to the body, at least two.
        blocks: ResBlocks per stage.
        time_embedding: Let every ResBlock be told a diffusion step (``synth3d.models.
            time_embedding``); only then are there parameters for it. Untrained, the time has no
            effect.

    Raises:
        ValueError: ``dim`` is not 2 or 3, or a count is not positive.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"time"})
    dims: ClassVar[frozenset[int]] = frozenset({2, 3})
    keywords: ClassVar[frozenset[str]] = frozenset()
    """Options beside those that the constructor names."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dim: int = 3,
        widths: Sequence[int] = WIDTHS,
        blocks: int = 2,
        time_embedding: bool = False,
    ) -> None:
        super().__init__()
        self._build(in_channels, out_channels, dim, widths, blocks, time_embedding)

    def _build(
        self,
        in_channels: int,
        out_channels: int,
        dim: int,
        widths: Sequence[int],
        blocks: int,
        time_embedding: bool = False,
        first: MakeConv | None = None,
    ) -> None:
        """Make all layers; ``first`` makes the first convolution of each ResBlock."""
        check_sizes(in_channels, out_channels, dim, widths, blocks)
        self.dim, self.widths, self.levels = dim, tuple(widths), len(widths) - 1
        self.blocks = blocks
        names, pairs = stage_names(self.levels), list(zip(widths, widths[1:], strict=False))
        self.time = TimeEmbedding(4 * widths[0]) if time_embedding else None

        def stage(name: str, width: int) -> Stage:
            make = first or (lambda c, _: conv(dim, c, c, 3))

            def block() -> ResBlock:
                time = TimeModulation(self.time.width, width) if self.time is not None else None
                return ResBlock(make(width, name), conv(dim, width, width, 3), time)

            return Stage(*[block() for _ in range(blocks)])

        self.head = conv(dim, in_channels, widths[0], 3)
        sizes = (*widths, *reversed(widths[:-1]))
        self.stages = nn.ModuleDict({n: stage(n, w) for n, w in zip(names, sizes, strict=True)})
        self.halvings = nn.ModuleList(halve(dim, a, b) for a, b in pairs)
        self.doublings = nn.ModuleList(double(dim, b, a) for a, b in reversed(pairs))
        self.tail = conv(dim, widths[0], out_channels, 3)

    def forward(
        self,
        x: Tensor,
        present: Tensor | None = None,
        wanted: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        """Map sources to targets.

        Args:
            x: (B, C_in, D, H, W), or (B, C_in, H, W) if ``dim`` is 2; sides are multiples of
                2 ** (len(widths) - 1).
            present: (B, C_in) bool; channels that are not present are read as zero.
            wanted: (B, C_out) bool; not used, all targets are made.
            time: (B,) floating point, a diffusion step index in [0, T); exactly if the network
                was built with ``time_embedding``.

        Returns:
            (B, C_out, \\*S).

        Raises:
            ValueError: Wrong number of axes, sides that do not halve often enough, or a time
                that is missing, unwelcome or not (B,).
        """
        check_sides(x, self.dim, 2**self.levels)
        embedded = self._embed(x, time)
        x = self.head(blank_absent(x, present))
        skips = [x]
        for level, halving in enumerate(self.halvings, start=1):
            x = halving(self.stages[f"down{level}"](x, embedded))
            skips.append(x)
        x = self.stages["body"](x, embedded)
        for level, doubling in enumerate(self.doublings, start=1):
            x = self.stages[f"up{level}"](doubling(x + skips.pop()), embedded)
        return self.tail(x + skips.pop())

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


def check_sizes(
    in_channels: int, out_channels: int, dim: int, widths: Sequence[int], blocks: int
) -> None:
    """Refuse sizes that no network can have.

    Raises:
        ValueError: ``dim`` is not 2 or 3, fewer than two widths, or a count below 1.
    """
    if dim not in CONV:
        raise ValueError(f"expected dim 2 or 3, got {dim}")
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"expected at least two positive widths, got {tuple(widths)}")
    for name, count in (
        ("in_channels", in_channels),
        ("out_channels", out_channels),
        ("blocks", blocks),
    ):
        if count < 1:
            raise ValueError(f"{name} must be positive, got {count}")
