"""The networks that ``python -m synth3d.bench`` compares, and the sizes at which it does."""

from dataclasses import dataclass

import torch
from torch import nn

from synth3d.models import GENERATORS, options_of

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
        """The network of ``NETWORKS`` at this size, the same weights for the same name."""
        torch.manual_seed(0)
        model, options = NETWORKS[name]
        size = {"dim": self.dim, "widths": self.widths, "groups": self.groups} | options
        taken = {key: size[key] for key in size.keys() & options_of(model)}
        return GENERATORS[model](3, 1, **taken)
