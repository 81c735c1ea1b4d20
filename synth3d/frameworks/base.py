"""A framework decides what a generator is fed, what its output means, and its loss."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from synth3d.batch import Batch


class Framework(nn.Module, ABC):
    """A generator together with one way of training and sampling it.

    Losses come back as named, already weighted terms; the trainer sums and logs them. The
    trainer calls ``generator_loss`` and then, if there is a critic, ``critic_loss`` on the
    same batch.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.critic: nn.Module | None = None
        self.generator = generator

    @staticmethod
    def channels(n_sources: int, n_targets: int) -> tuple[int, int]:
        """(in, out) channels asked of the generator."""
        return n_sources, n_targets

    @abstractmethod
    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Named, weighted, scalar terms to be minimised by the generator."""

    def critic_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Named, weighted, scalar terms to be minimised by the critic; none without one."""
        return {}

    @abstractmethod
    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor) -> Tensor:
        """(B, S, *) → (B, T, *) in the network's scale; what is not wanted is free."""


def masked_l1(synthetic: Tensor, batch: Batch) -> Tensor:
    """Mean |synthetic − target| over the wanted voxels of the brain; 0 when there are none."""
    shape = (*batch.wanted.shape, *[1] * (synthetic.ndim - 2))
    weight = (batch.brain & batch.wanted.view(shape)).to(synthetic.dtype)
    return ((synthetic - batch.targets).abs() * weight).sum() / weight.sum().clamp(min=1)
