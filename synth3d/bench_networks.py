"""The networks that ``python -m synth3d.bench`` compares, and the sizes at which it does."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops import RollingConv
from synth3d.models import GENERATORS, ResUNet, choose_stages, conv, options_of

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
AGI = {"stages": 5, "checkpoint_routing": False}
NETWORKS: dict[str, tuple[str, dict[str, object]]] = {
    "plain": ("resunet", {}),
    "agi": ("agi-net", AGI),
    "agi-recomputed": ("agi-net", AGI | {"checkpoint_routing": True}),
    "agi-stride2": ("agi-net", AGI | {"routing_stride": 2}),
    "gr": ("agi-net", AGI | {"module": "gr"}),
    "ca": ("agi-net", AGI | {"module": "ca"}),
    "deform": ("deform-resunet", {"stages": 5}),
    "arc": ("arc-resunet", {"stages": 5}),
}
ROLL_ONLY = "roll-only"
"""The name of a :class:`RollOnly`, which is no generator of the project."""


@dataclass(frozen=True)
class Case:
    """A size at which networks are compared: three sources, one target, cubic patches."""

    name: str
    widths: tuple[int, ...]
    groups: int
    side: int
    dim: int = 3
    batch: int = 2
    seconds: float = 2.0
    """Of a plain training step on one core, about."""

    def __str__(self) -> str:
        widths = "-".join(map(str, self.widths))
        return f"{self.dim}-D {widths}, n={self.groups}, {self.side}^{self.dim}, B={self.batch}"

    def network(self, name: str) -> nn.Module:
        """The one of ``NETWORKS``, or ``ROLL_ONLY``, at this size; a name's weights repeat."""
        torch.manual_seed(0)
        if name == ROLL_ONLY:
            return RollOnly(self)
        model, options = NETWORKS[name]
        size = {"dim": self.dim, "widths": self.widths, "groups": self.groups} | options
        taken = {key: size[key] for key in size.keys() & options_of(model)}
        return GENERATORS[model](3, 1, **taken)

    def image(self) -> Tensor:
        """(B, 3, \\*S), contiguous, always the same."""
        g = torch.Generator().manual_seed(1)
        return torch.randn(self.batch, 3, *[self.side] * self.dim, generator=g)


class KnownRoll(nn.Module):
    """A rolling convolution C -> C with offsets and scales that nothing predicts."""

    def __init__(self, channels: int, case: Case) -> None:
        super().__init__()
        self.conv = RollingConv(channels, channels, dim=case.dim, groups=case.groups)
        self.offsets = nn.Parameter(torch.randn(case.batch, case.groups, case.dim))
        self.scale = nn.Parameter(torch.rand(case.batch, case.groups))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) -> the same, B at most the case's batch."""
        return self.conv(x, self.offsets[: len(x)], self.scale[: len(x)])


class RollOnly(ResUNet):
    """AGI-Net without attention and routing: what rolling alone costs, gradients included."""

    def __init__(self, case: Case) -> None:
        nn.Module.__init__(self)
        chosen = choose_stages(5, len(case.widths) - 1)

        def first(channels: int, stage: str) -> nn.Module:
            rolls = stage in chosen
            return KnownRoll(channels, case) if rolls else conv(case.dim, channels, channels, 3)

        self._build(3, 1, case.dim, case.widths, 2, first=first)


def training_step(
    network: nn.Module, x: Tensor, context: AbstractContextManager[object] | None = None
) -> Callable[[], None]:
    """Forward, L1, backward and Adam, as a run's, ready to be repeated.

    Args:
        network: (B, 3, \\*S) -> (B, 1, \\*S), on the device of ``x``.
        x: (B, 3, \\*S).
        context: An autocast for the forward, or None.
    """
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=True)
    target = torch.zeros_like(x[:, :1])

    def step() -> None:
        with context or nullcontext():
            y = network(x)
        F.l1_loss(y.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
