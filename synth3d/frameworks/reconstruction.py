"""L1 alone, the floor every other framework must beat; and beside it how wrong it may be."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from synth3d.data import Batch, Task
from synth3d.frameworks.base import EITHER, Framework, Options, masked_l1, voxel_mean

DEVIATION = "deviation"
"""The map of an uncertain run: the standard deviation of the error that the network expects."""

LOG_SCALES = math.log(1e-3), math.log(2.0)
"""Between which ln b lies: a thousandth, and four times what is between black and healthy tissue.

Bounded smoothly: beyond a hard limit there would be no gradient to bring it back.
"""


@dataclass(frozen=True)
class L1Options(Options):
    """``l1``: ``l1_weight`` × mean absolute error.

    With ``uncertain`` the generator says for every voxel how wrong it may be, too: b of a Laplace
    distribution around the picture, learnt by ``scale_weight`` × its negative log-likelihood. The
    error is taken for given there, so that the picture itself learns by L1 alone: plain likelihood
    would let it off where b is large, as in the tumour (β-NLL with β = 1, Seitzer et al. 2022).
    """

    name = "l1"
    l1_weight: float = 100.0
    uncertain: bool = False
    scale_weight: float = 10.0

    def __post_init__(self) -> None:
        self.check_weights("l1_weight", "scale_weight")


class Reconstruction(Framework):
    """Minimises ``l1_weight`` × mean absolute error inside the brain."""

    Options = L1Options
    modes: ClassVar[frozenset[str]] = EITHER
    couples: ClassVar[bool] = True

    @classmethod
    def channels_of(cls, task: Task, options: Any = None) -> tuple[int, int]:
        """Each target, and as many scales where it is uncertain."""
        given, made = cls.channels(len(task.sources), len(task.targets))
        return given, 2 * made if options is not None and options.uncertain else made

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One term, ``l1``, with ``scale`` where it is uncertain, and those of a coupling."""
        made, log_scale = self._asked(batch.sources, batch.present, batch.wanted)
        terms = {"l1": self.options.l1_weight * masked_l1(made, batch)}
        if log_scale is not None:
            error = (made.detach() - batch.targets).abs()
            likelihood = voxel_mean(laplace_nll(error, log_scale), batch)
            terms["scale"] = self.options.scale_weight * likelihood
        return self.coupled(terms, made, batch, step)

    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """The picture alone, as the generator gives it."""
        if not self.options.uncertain:
            return self.generator(sources, present, wanted)
        return self._asked(sources, present, wanted)[0]

    @property
    def explains(self) -> frozenset[str]:
        """``deviation``, too, if it is uncertain: a map of :meth:`explain`."""
        return super().explains | ({DEVIATION} if self.options.uncertain else set())

    def explain(self, sources: Tensor, present: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """``deviation`` (B, T, \\*): √2 b, the standard deviation of the error it expects."""
        _, log_scale = self._asked(sources, present, wanted)
        return {} if log_scale is None else {DEVIATION: math.sqrt(2) * log_scale.exp()}

    def _asked(
        self, sources: Tensor, present: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The picture (B, T, \\*) float32, and ln b of each voxel, if it is uncertain."""
        if not self.options.uncertain:
            return self.generator(sources, present, wanted).float(), None
        both = self.generator(sources, present, wanted.repeat(1, 2)).float()
        made, raw = both.chunk(2, dim=1)
        return made, bounded(raw)


def laplace_nll(error: Tensor, log_scale: Tensor) -> Tensor:
    """−ln of the Laplace density of ``error``, not negative: ln 2b + |error| / b, per voxel.

    ``log_scale`` is ln b; both are of one shape and unit. Its minimum over b is at b = |error|.
    """
    return math.log(2) + log_scale + error * torch.exp(-log_scale)


def bounded(raw: Tensor) -> Tensor:
    """ln b in :data:`LOG_SCALES` of what a generator gave; where that is 1/2, in their middle.

    A centred generator begins around 1/2. Its slope is that of ``raw`` less a centre, times 4.
    """
    low, high = LOG_SCALES
    half = (high - low) / 2
    return (low + high) / 2 + half * torch.tanh(4 * (raw - 0.5) / half)
