"""The rows of the probe: networks that are shown one source out of place, and what they are told.

A kernel that is rolled by +s reads a picture that lies s pixels away as if it were in its place;
of side k it can do so for shifts up to (k - 1) / 2 pixels, and only for the source whose groups of
channels it rolls. So groups must be groups of one source. In the routing's convolutions sources
meet if it is ``joint``, else in the normalisation between them alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from synth3d.models import (
    GENERATORS,
    AGINet,
    CagrConv,
    Centred,
    DisplacementMap,
    OffsetHead,
    routed,
)

WIDTHS = (16, 32)
GROUPS = 4
"""Of channels; with the head ``grouped`` the last half of them are the moved source's."""

AGI: Mapping[str, Any] = {
    "groups": GROUPS,
    "stages": ("down1", "body"),  # all but the last, as in the paper all but the last two
    "attn_init": "open",
    "scale_init": 3.0,
    "checkpoint_routing": False,
}
APART: Mapping[str, Any] = {**AGI, "head": "grouped", "stages": ("down1",)}
"""Groups of one source each, of which a single convolution at full resolution rolls the kernels."""


@dataclass(frozen=True)
class Row:
    """One network and what it is shown.

    Attributes:
        about: What the table says of it.
        model: A generator.
        options: Its keywords, beside the widths.
        place: Of the moved source: ``shifted``, ``aligned``, or ``blank``: it is not shown.
        side: Of the kernels that are rolled, odd.
        joint: Whether the routing's convolutions see all groups, and not each its own.
        told: ``""``; ``head``: the heads of the offsets read the true shift instead of the pooled
            features; ``offsets``: the moved source's groups are rolled by the true shift.
        taught: Weight of the squared error of the moved source's offsets, as a regression; 0 for
            L1 alone.
    """

    about: str
    model: str = "resunet"
    options: Mapping[str, Any] = field(default_factory=dict)
    place: str = "shifted"
    side: int = 3
    joint: bool = False
    told: str = ""
    taught: float = 0.0


ROWS: dict[str, Row] = {
    "resunet": Row("plain convolutions"),
    "agi-net": Row("AGI-Net", "agi-net", AGI),
    "agi-net-told": Row("AGI-Net, its heads read the true shift", "agi-net", AGI, told="head"),
    "side7-told": Row("apart, side 7, true offsets", "agi-net", APART, side=7, told="offsets"),
    "aligned": Row("plain convolutions, nothing shifted", place="aligned"),
    "deform": Row("deformable convolutions", "deform-resunet", {"deform": "warp", "stages": 2}),
    "blank": Row("plain convolutions, moved source not shown", place="blank"),
    "side7-joint": Row("apart, side 7, routing sees both", "agi-net", APART, side=7, joint=True),
    "side7-joint-taught": Row(
        "apart, side 7, routing sees both, is taught", "agi-net", APART,
        side=7, joint=True, taught=0.1,
    ),
    "side7-taught": Row("apart, side 7, is taught", "agi-net", APART, side=7, taught=0.1),
    "side7": Row("apart, side 7", "agi-net", APART, side=7),
    "side3-told": Row("apart, side 3, true offsets", "agi-net", APART, told="offsets"),
}  # fmt: skip
"""Name → row. The first is what the others are compared with.

*Apart*: each group of channels belongs to one source, and a single convolution rolls. *Taught*:
offsets learn the true shift by regression, beside L1.
"""


class Truth:
    """The true shift (B, 2) of the batch that a network is about to see."""

    shift: Tensor | None = None

    def tell(self) -> Tensor:
        """The shift; a ValueError where nobody knows it."""
        if self.shift is None:
            raise ValueError("a network that is told the shift was given none")
        return self.shift


class ToldHead(OffsetHead):
    """Offsets (B, n, d) as a learned linear map of the true shift, zero at the start."""

    def __init__(self, groups: int, truth: Truth) -> None:
        super().__init__(2, groups, 2)
        self.truth = truth

    def forward(self, v: Tensor) -> Tensor:
        """Whatever the features ``v`` say."""
        return super().forward(self.truth.tell().to(v.dtype))


class TrueOffsets(nn.Module):
    """Offsets (B, n, d) that are the true shift in the last half of the groups, 0 in the others."""

    def __init__(self, groups: int, truth: Truth) -> None:
        super().__init__()
        self.groups, self.truth = groups, truth

    def forward(self, v: Tensor) -> Tensor:
        """Whatever the features ``v`` say."""
        shift = self.truth.tell().to(v.dtype)[:, None].expand(-1, self.groups, -1)
        moved = torch.arange(self.groups, device=v.device) >= self.groups // 2
        return shift * moved[:, None]


class Probed(nn.Module):
    """The network of a row, which also says what its offsets are.

    Called with sources (B, 2, H, W) and the true shift (B, 2), it gives the picture (B, 1, H, W)
    and all offsets of the sample side by side (B, F): of each rolled convolution those of its
    groups (n, d), of each deformable one the mean over positions; F is 0 where nothing moves.
    """

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row, self.truth = row, Truth()
        self.heard: list[Tensor] = []
        build = GENERATORS[row.model]
        network = build(2, 1, dim=2, widths=WIDTHS, blocks=1, **row.options)
        if isinstance(network, AGINet):
            for place in routed(network).values():
                self._change(place, network)
                assert place.routing is not None
                place.routing.register_forward_hook(self._hear_rolled)
        for module in network.modules():
            if isinstance(module, DisplacementMap):
                module.register_forward_hook(self._hear_displaced)
        self.network = Centred(network)

    def forward(self, sources: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        self.truth.shift = shift
        self.heard.clear()
        made = self.network(sources)
        heard = [each.flatten(1) for each in self.heard]
        return made, torch.cat(heard, 1) if heard else made.new_zeros(len(made), 0)

    def error_of_offsets(self, shift: Tensor) -> Tensor:
        """Mean squared error, in pixels, of what the moved source's groups were just rolled by."""
        offsets = self.heard[0]  # (B, n, 2)
        return (offsets[:, offsets.shape[1] // 2 :] - shift[:, None]).square().mean()

    def _change(self, place: CagrConv, network: AGINet) -> None:
        row, conv, routing = self.row, place.conv, place.routing
        assert routing is not None
        if row.side != 3:  # starts as the kernel of side 3 in its middle
            channels = conv.in_channels, conv.out_channels
            place.conv = type(conv)(*channels, row.side, dim=2, groups=conv.groups)
            rim = (row.side - 3) // 2
            place.conv.weight.data = nn.functional.pad(conv.weight.data, [rim] * 4)
        if row.joint:
            seeing = type(routing)(conv.in_channels, 1, 2, network.options)
            routing.unit1, routing.unit2 = seeing.unit1, seeing.unit2
        if row.told == "head":
            routing.offsets = ToldHead(routing.groups, self.truth)
        elif row.told == "offsets":
            routing.register_module("offsets", TrueOffsets(routing.groups, self.truth))

    def _hear_rolled(self, _: nn.Module, __: Any, found: tuple[Tensor, Tensor]) -> None:
        self.heard.append(found[0])

    def _hear_displaced(self, _: nn.Module, __: Any, found: tuple[Tensor, Tensor]) -> None:
        self.heard.append(found[0].flatten(3).mean(3))
