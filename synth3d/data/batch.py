"""What a framework is fed: sources, targets, and which of them count."""

from dataclasses import dataclass, fields

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
        label: (B, 1, *) int8, tumour classes as in BraTS 2023: 0 background, 1 necrosis,
            2 oedema, 3 enhancing; −1, unknown, everywhere if none is given. Necrosis is all
            of the non-enhancing core, a resection cavity is background.
    """

    sources: Tensor
    targets: Tensor
    present: Tensor
    wanted: Tensor
    brain: Tensor
    label: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.sources.shape[2:] != self.targets.shape[2:]:
            raise ValueError(
                f"sources have the grid {tuple(self.sources.shape[2:])} (z, y, x) "
                f"but targets {tuple(self.targets.shape[2:])}"
            )
        if self.label is None:
            unknown = torch.full_like(self.brain, -1, dtype=torch.int8)
            object.__setattr__(self, "label", unknown)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on ``device``."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))
