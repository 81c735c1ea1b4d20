"""AGI-Net: a ResUNet whose convolutions roll their kernels per sample and channel group.

After "Adaptive Group-wise Interactions" (arXiv 2411.14684). :class:`CagrConv` replaces the
first convolution of the ResBlocks in the chosen stages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth3d.models.agi_net.cagr import CagrConv
from synth3d.models.agi_net.routing import CagrOptions, Routing
from synth3d.models.blocks import check_option, conv
from synth3d.models.memory import needs_recomputing
from synth3d.models.resunet import WIDTHS, StagedOptions, StagedUNet

HEADS = ("plain", "grouped")


class ModalityHead(nn.Module):
    """A bias-free 3x3(x3) convolution in which every input channel feeds groups of its own.

    Groups go to the inputs in order and as evenly as can be, the first inputs having one more
    where they do not divide: 4 groups and 3 inputs make 2, 1 and 1. So the groups that the first
    block rolls are groups of one modality.

    Args:
        inputs: C_in, at most ``groups``.
        outputs: C_out, a multiple of ``groups``.
        groups: n.
        dim: 2 or 3.

    Raises:
        ValueError: Fewer groups than inputs, or outputs that are no multiple of the groups.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, dim: int) -> None:
        super().__init__()
        if groups < inputs or outputs % groups:
            raise ValueError(
                f"head 'grouped' gives every input channel groups of its own: {groups} groups of "
                f"{outputs} channels cannot be shared out among {inputs} inputs"
            )
        self.convolve = F.conv3d if dim == 3 else F.conv2d
        share, rest = divmod(groups, inputs)
        owned = [(share + (i < rest)) * (outputs // groups) for i in range(inputs)]
        rows = [
            [float(i == j) for j in range(inputs)] for i in range(inputs) for _ in range(owned[i])
        ]
        mask = torch.tensor(rows).reshape(outputs, inputs, *[1] * dim)
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)
        self.weight = nn.Parameter(torch.empty(outputs, 1, *[3] * dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernels as ``torch.nn.Conv3d`` draws its own for one input channel."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, \\*S) -> (B, C_out, \\*S)."""
        return self.convolve(x, self.weight * self.mask, padding=1)


@dataclass(frozen=True)
class AgiOptions(StagedOptions, CagrOptions):
    """What makes a ResUNet an AGI-Net; the defaults are the paper's.

    Args:
        groups: n; must divide the widths of the chosen stages.
        head: ``"plain"``, or ``"grouped"``: groups tied to modalities, :class:`ModalityHead`.
    """

    groups: int = 8
    head: str = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("head", self.head, HEADS)


class AGINet(StagedUNet):
    """ResUNet with group-wise rolling and cross-group attention in its first stages.

    With the defaults in 2-D, one channel in and out, 19 151 696 parameters; in 3-D, two in and
    one out, 55.54 million. Groups must divide the widths of the chosen stages.
    """

    offers: ClassVar[frozenset[str]] = StagedUNet.offers | {"routing"}
    Options = AgiOptions
    keywords: ClassVar[frozenset[str]] = frozenset(AgiOptions.__dataclass_fields__)
    options: AgiOptions

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dim: int | None = None,
        widths: Sequence[int] = WIDTHS,
        blocks: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, dim, widths, blocks, **options)
        if self.options.head == "grouped":
            self.head = ModalityHead(in_channels, widths[0], self.options.groups, self.dim)
        self._undecided = self.options.checkpoint_routing == "auto"

    def _special_convolution(self, channels: int) -> nn.Module:
        if self.options.module == "conv":
            return conv(self.dim, channels, channels, 3)
        return CagrConv(channels, self.options.groups, self.dim, self.options)

    def _made(
        self,
        x: Tensor,
        present: Tensor | None,
        time: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """As a ResUNet's.

        With ``checkpoint_routing="auto"`` the first training step decides whether the routing is
        computed again in the backward, see :func:`synth3d.models.memory.needs_recomputing`.
        """
        # Only for real tensors: not while a graph is traced or memory is being counted.
        if self._undecided and torch.is_grad_enabled() and type(x) is Tensor:
            self._undecided = torch.compiler.is_compiling()
            if not self._undecided:
                bound = 400.0 * self.blocks * sum(self.widths)
                self.recompute_routing(needs_recomputing(self, x, bound, time is not None))
        return super()._made(x, present, time, maps)

    def recompute_routing(self, recompute: bool) -> None:
        """Set whether the routing is computed again in the backward; the results are the same."""
        for module in self.modules():
            if isinstance(module, Routing):
                module.recompute = recompute

    def reset_parameters(self) -> None:
        """Draw all weights anew, and the heads as they start."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()
