"""The generator ``tsf``: TSF-Seq2Seq (Han et al., MICCAI 2023), in 2-D and 3-D."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth3d.models.tsf.coding import SLOTS, Decoder, Encoder
from synth3d.models.tsf.fusion import Fusion

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
CENTRE = 1.0
"""Of the network's scale: images from 0 to 2 are from −1 to 1 within, as in the paper."""


@dataclass(frozen=True)
class TSFOptions:
    """What TSF-Seq2Seq can be asked for beside its size.

    Args:
        banks: w of the decoder's HyperConvs: of how many kernels each one is mixed.
        fusion_banks: w of the fusion's.
        recurrent: ConvLSTMs behind the encoder and before the decoder. The series here are of one
            image, in which their recurrent half has no effect.
        fusion: ``full``, or one part left out, see :class:`synth3d.models.tsf.fusion.Fusion`.
        faithful: Start as the reference code does, have biases where a norm follows that undoes
            them, and end with tanh: the output is in (0, 2).
        slices: Adjacent slices that make one image of a sequence; then images are (slices, H, W).
    """

    banks: int = 16
    fusion_banks: int = 4
    recurrent: bool = False
    fusion: str = "full"
    faithful: bool = False
    slices: int = 1


class TSFSeq2Seq(nn.Module):
    """Any of T targets from any of S sources, in three parts that can be had one by one.

    ``encoder`` takes the image of any source, ``fusion`` makes one set of features of those that
    are there, ``decoder`` makes the image that a slot names: T slots for the targets, and S more
    for the sources as they are, for tasks whose sources are no targets.

    Args:
        in_channels: S.
        out_channels: T; in mode ``any`` the same sequences as the sources.
        dim: 2 or 3.
        widths: Channels from full resolution to the features, at least two.
        blocks: ResBlocks of the encoder, and of the decoder.
        options: The keywords of :class:`TSFOptions`.

    Raises:
        ValueError: ``dim`` is neither, a count is not positive, there are more sequences than
            slots, or an option does not exist or fit.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"explanation", "pyramid"})
    dims: ClassVar[frozenset[int]] = frozenset({2, 3})
    Options: ClassVar[type[TSFOptions]] = TSFOptions
    keywords: ClassVar[frozenset[str]] = frozenset(TSFOptions.__dataclass_fields__)
    time: ClassVar[None] = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dim: int = 3,
        widths: Sequence[int] = (64, 128, 256),
        blocks: int = 6,
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = o = self.Options(**options)
        if dim not in self.dims:
            raise ValueError(f"{type(self).__name__} exists in 2-D and 3-D, got dim {dim}")
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"expected at least two positive widths, got {tuple(widths)}")
        least = min(in_channels, out_channels, blocks, o.banks, o.fusion_banks, o.slices)
        if least < 1:
            raise ValueError(
                "in_channels, out_channels, blocks, banks, fusion_banks and slices must be "
                f"positive, got {in_channels}, {out_channels}, {blocks}, {o.banks}, "
                f"{o.fusion_banks} and {o.slices}"
            )
        if in_channels + out_channels > SLOTS:
            raise ValueError(
                f"tsf tells {SLOTS} sequences apart, got {in_channels} sources and {out_channels} "
                "targets"
            )
        self.dim, self.widths, self.levels = dim, tuple(widths), len(widths) - 1
        self.sources, self.targets, self.blocks = in_channels, out_channels, blocks
        self.encoder = Encoder(dim, o.slices, widths, blocks, o.recurrent, o.faithful)
        self.decoder = Decoder(dim, o.slices, widths, blocks, o.banks, o.recurrent, o.faithful)
        self.fusion = Fusion(
            dim, in_channels, out_channels, widths[-1], o.fusion_banks, o.fusion, o.faithful
        )

    def forward(
        self, x: Tensor, present: Tensor | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """Sources (B, S, \\*S) → targets (B, T, \\*S), in one call of the decoder.

        Args:
            x: Intensities from 0 to 2 or so, of any size; (B, S, slices, \\*S) for more than one
                slice.
            present: (B, S) bool, None for all; what stands elsewhere in ``x`` is never looked at.
            wanted: (B, T) bool, None for all; what is not wanted is 0.
        """
        return self.reconstructions(x, present, wanted, plain=False)[0]

    @property
    def pyramid_widths(self) -> tuple[int, ...]:
        """Channels of each map of :meth:`pyramid`, coarse to fine."""
        return self.widths[::-1]

    def pyramid(
        self, x: Tensor, present: Tensor | None = None, wanted: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The image as :meth:`forward` gives it, and the decoder's features, coarse to fine.

        The maps (B, C, \\*s), of strides 2 ** L to 1, are those of the one wanted target: the
        decoder makes each target by itself. Where a sample wants several, they are the mean of
        theirs, and 0 where it wants none.

        Raises:
            ValueError: A side is no multiple of 2 ** L, or not at least twice that.
        """
        self._check(x)
        least, sides = 2 * 2**self.levels, tuple(x.shape[-self.dim :])
        if any(side % (least // 2) or side < least for side in sides):
            raise ValueError(
                f"expected sides that are multiples of {least // 2} and at least {least} "
                f"(z, y, x), got {sides}; pad the input first"
            )
        rows: list[Tensor] = []
        image = self.reconstructions(x, present, wanted, plain=False, maps=rows)[0]
        sample, _ = _places(wanted, len(x), self.targets, x.device)
        each = torch.ones(len(sample), dtype=torch.long, device=x.device)
        count = each.new_zeros(len(x)).index_add(0, sample, each).clamp(min=1)
        maps = []
        for row in rows:
            total = row.new_zeros((len(x), *row.shape[1:])).index_add(0, sample, row)
            maps.append(total / count.view(-1, *[1] * self.dim, 1).to(row.dtype))
        return image, maps

    def reconstructions(
        self,
        x: Tensor,
        present: Tensor | None = None,
        wanted: Tensor | None = None,
        plain: bool = True,
        maps: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x_A, from f̂ + f_A, and x, from f̂ alone, as :meth:`forward`; |x_A − x| is TSEM (eq. 6).

        Without ``plain`` x is x_A. The decoder's features go to ``maps``, see :meth:`decode`.
        """
        self._check(x)
        sample, target = _places(wanted, len(x), self.targets, x.device)
        features = self.features(x, present)
        if present is None:
            present = torch.ones(len(x), self.sources, dtype=torch.bool, device=x.device)
        there = present.to(x.device, non_blocking=True)
        mean, added = self.fusion(features[sample], there[sample], target)
        parts = [mean if added is None else mean + added]
        if plain and added is not None:
            parts.append(mean)
        slots, shape = target.repeat(len(parts)), x.shape[-self.dim :]
        made = self.decode(torch.cat(parts), slots, shape, maps)
        blank = made.new_zeros((len(x) * self.targets, *made.shape[1:]))
        index = sample * self.targets + target
        placed = [
            blank.index_copy(0, index, part).unflatten(0, (len(x), self.targets))
            for part in made.chunk(len(parts))
        ]
        return placed[0], placed[-1]

    def averaged(
        self, x: Tensor, present: Tensor | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """As :meth:`forward`, the mean of what each source alone gives: Seq2Seq, no fusion."""
        self._check(x)
        shape = (len(x), self.sources), (len(x), self.targets)
        present, wanted = (
            torch.ones(size, dtype=torch.bool, device="cpu") if mask is None else mask.cpu()
            for mask, size in zip((present, wanted), shape, strict=True)
        )
        pairs = present[:, :, None] & wanted[:, None, :]
        sample, source, target = (i.to(x.device) for i in pairs.nonzero(as_tuple=True))
        features = self.features(x, present)[sample, source]
        made = self.decode(features, target, x.shape[-self.dim :])
        total = made.new_zeros((len(x) * self.targets, *made.shape[1:]))
        total = total.index_add(0, sample * self.targets + target, made)
        count = present.sum(1).clamp(min=1).to(total)
        total = total.unflatten(0, (len(x), self.targets))
        return total / count.view(-1, *[1] * (total.ndim - 1))

    def features(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Of every source (B, S, C, \\*s), exactly 0 where not ``present`` (B, S) bool.

        ``present``, None for all, spares a GPU a wait if it is on the CPU.
        """
        images = x.flatten(0, 1)
        if present is None or present.cpu().all():
            return self.encode(images).unflatten(0, x.shape[:2])
        sample, source = _places(present, len(x), self.sources, x.device)
        here = sample * self.sources + source
        found = self.encode(images[here])
        blank = found.new_zeros((len(images), *found.shape[1:]))
        return blank.index_copy(0, here, found).unflatten(0, x.shape[:2])

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, \\*S), or (N, slices, \\*S), of any sequences → features (N, C, \\*s)."""
        stacked = images.ndim == self.dim + 2
        if images.ndim != self.dim + 1 + (self.options.slices > 1):
            raise ValueError(
                f"a {self.dim}-D tsf of {self.options.slices} slice(s) got images of shape "
                f"{tuple(images.shape[1:])}"
            )
        images = images - CENTRE
        return self.encoder(self._fitted(images if stacked else images[:, None]))

    def decode(
        self,
        features: Tensor,
        slots: Tensor,
        shape: Sequence[int],
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """Features (N, C, \\*s) → images (N, \\*S) of ``shape``, or (N, slices, \\*S).

        ``slots`` (N,): a target's number, or T and a source's for that source as it is. Features
        of all levels, coarse to fine and as large as the encoder's allow, go to ``maps``.
        """
        if features.device.type == "cpu":  # where convolutions want it, and norms keep it
            layout, halving = CHANNELS_LAST[self.dim], self.encoder.halvings[0]
            if halving.weight.is_contiguous(memory_format=layout):  # type: ignore[union-attr]
                features = features.contiguous(memory_format=layout)
        made = CENTRE + self.decoder(features, slots, maps)
        made = made[(..., *(slice(side) for side in shape))]
        return made if self.options.slices > 1 else made[:, 0]

    def weights(self, present: Tensor, wanted: Tensor) -> Tensor:
        """ω (B, T, S): what each source counts in the mean for each target; 0 if it is not wanted.

        They follow from ``present`` (B, S) and ``wanted`` (B, T), bool, alone, and are no measure
        of importance: attention has its say beside them.
        """
        every = present[:, None].expand(-1, self.targets, -1).flatten(0, 1)
        target = torch.arange(self.targets, device=present.device).repeat(len(present))
        omega = self.fusion.omega(every, target).unflatten(0, (len(present), self.targets))
        return torch.where(wanted[:, :, None], omega, 0)

    def _check(self, x: Tensor) -> None:
        if x.shape[1] != self.sources or x.ndim != self.dim + 2 + (self.options.slices > 1):
            axes = "(B, S, D, H, W)" if self.dim == 3 else "(B, S, H, W)"
            raise ValueError(
                f"a {self.dim}-D tsf of {self.sources} sources takes {axes}, got {tuple(x.shape)}"
            )

    def _fitted(self, x: Tensor) -> Tensor:
        """``x`` with its last voxels repeated until it halves evenly to two voxels or more."""
        factor = 2**self.levels
        padding = [
            amount
            for side in reversed(x.shape[2:])
            for amount in (0, max(-(-side // factor), 2) * factor - side)
        ]
        return F.pad(x, padding, mode="replicate") if any(padding) else x


def _places(
    mask: Tensor | None, rows: int, columns: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Row and column of all that is True in ``mask`` (rows, columns), None for all of it."""
    if mask is None:
        every = torch.arange(rows * columns, device=device)
        return every // columns, every % columns
    row, column = mask.cpu().nonzero(as_tuple=True)
    return row.to(device, non_blocking=True), column.to(device, non_blocking=True)
