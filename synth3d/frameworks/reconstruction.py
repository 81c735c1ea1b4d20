"""L1 alone: the floor every other framework must beat."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from synth3d.data import Batch
from synth3d.frameworks.base import EITHER, Framework, Options, masked_l1


@dataclass(frozen=True)
class L1Options(Options):
    """``l1``: ``l1_weight`` × mean absolute error."""

    name = "l1"
    l1_weight: float = 100.0

    def __post_init__(self) -> None:
        self.check_weights("l1_weight")


class Reconstruction(Framework):
    """Minimises ``l1_weight`` × mean absolute error inside the brain."""

    Options = L1Options
    modes: ClassVar[frozenset[str]] = EITHER
    couples: ClassVar[bool] = True
    bases: ClassVar[bool] = True

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One term, ``l1``, and those of a coupling."""
        made = self.generator(batch.sources, batch.present, batch.wanted).float()
        terms = {"l1": self.options.l1_weight * masked_l1(made, batch)}
        return self.coupled(terms, made, batch, step)
