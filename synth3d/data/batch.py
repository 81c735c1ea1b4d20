"""What a framework is fed: sources, targets, and which of them count."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One training batch in the network's intensity scale; axes (B, C, D, H, W) or (B, C, H, W).

    Attributes:
        sources: (B, S, *); a source that is not ``present`` is exactly 0.
        targets: (B, T, *).
        present: (B, S) bool, which sources may be looked at.
        wanted: (B, T) bool, which targets count in the loss.
        brain: (B, 1, *) bool.
    """

    sources: Tensor
    targets: Tensor
    present: Tensor
    wanted: Tensor
    brain: Tensor

    def __post_init__(self) -> None:
        if self.sources.shape[2:] != self.targets.shape[2:]:
            raise ValueError(
                f"sources have the grid {tuple(self.sources.shape[2:])} (z, y, x) "
                f"but targets {tuple(self.targets.shape[2:])}"
            )

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on ``device``."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def drop_sources(present: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Hide each present source with probability ``chance``, never the last one of a sample.

    Args:
        present: (B, S) bool.
        chance: In [0, 1).
        generator: The source of randomness.

    Returns:
        (B, S) bool, a subset of ``present`` that is non-empty wherever ``present`` is.
    """
    draw = torch.rand(present.shape, generator=generator)
    kept = present & (draw >= chance)
    last = torch.where(present, draw, -1.0).argmax(1, keepdim=True)
    rescue = torch.zeros_like(present).scatter(1, last, True) & present
    return torch.where(kept.any(1, keepdim=True), kept, rescue)
