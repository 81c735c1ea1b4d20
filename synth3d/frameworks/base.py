"""A framework decides what a generator is fed, what its output means, and its loss."""

import hashlib
from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from synth3d.config import RunConfig
from synth3d.data import Batch
from synth3d.losses import masked_mean, spread
from synth3d.models import Centred


class Framework(nn.Module, ABC):
    """A generator together with one way of training and sampling it, in 2-D and 3-D alike.

    Losses come back as named, already weighted terms; the trainer sums and logs them. The
    trainer calls ``generator_loss`` and then, if there is a critic, ``critic_loss`` on the
    same batch.

    Attributes:
        needs: What a generator must offer.
        iterative: Whether a volume takes several steps (``synth3d.frameworks.iterative``).
        hides_sources: Whether training hides sources by itself, so that any one that is there
            is enough even without ``data.source_dropout``.
        validation_steps: How many of them are enough while training; None where there are none.
        generator: Learns under ``generator_loss``; the only part that a finished run keeps.
        critic: Learns under ``critic_loss``; None if there is none, or for synthesis alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    iterative: ClassVar[bool] = False
    hides_sources: ClassVar[bool] = False
    validation_steps: int | None = None

    def __init__(self, generator: nn.Module, seed: int = 0) -> None:
        super().__init__()
        self.critic: nn.Module | None = None
        self.generator = generator
        self.seed = seed

    @classmethod
    @abstractmethod
    def from_config(cls, generator: nn.Module, config: RunConfig, training: bool = True) -> Self:
        """The framework as ``config`` wants it, around ``generator``.

        Args:
            generator: Made for :meth:`channels`, and passed through :meth:`centre` if centred.
            config: With ``config.train.options`` of this framework.
            training: Whether losses will be asked for; without, there is neither a critic nor
                any other network beside the generator.

        Raises:
            InputError: Options that do not fit the rest of ``config``, or a missing file.
        """

    @staticmethod
    def channels(n_sources: int, n_targets: int) -> tuple[int, int]:
        """(in, out) channels asked of the generator."""
        return n_sources, n_targets

    @classmethod
    def centre(cls, generator: nn.Module, config: RunConfig) -> nn.Module:
        """``generator`` for intensities around 0 (``model.centred``); it speaks images here."""
        return Centred(generator)

    @abstractmethod
    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Named, weighted, scalar terms to be minimised by the generator."""

    def critic_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Named, weighted, scalar terms to be minimised by the critic; none without one."""
        return {}

    @abstractmethod
    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """(B, S, *) → (B, T, *) in the network's scale; what is not wanted is free.

        Args:
            sources: (B, S, *); absent ones are 0.
            present: (B, S) bool.
            wanted: (B, T) bool.
            seed: Decides all randomness, if there is any.
        """

    def randomness(self, step: int) -> torch.Generator:
        """The source of a step's random numbers; follows from (seed, step) alone.

        It is on the CPU, so that every device draws the same, and no part of a checkpoint.
        """
        digest = hashlib.sha256(f"framework/{self.seed}/{step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def counted(batch: Batch) -> Tensor:
    """(B, T, *) bool: the voxels that count in a loss, which are the brain of wanted targets."""
    return batch.brain & spread(batch.wanted, batch.brain.ndim)


def masked_l1(synthetic: Tensor, batch: Batch) -> Tensor:
    """Mean |synthetic − target| over the wanted voxels of the brain; 0 when there are none."""
    return masked_mean((synthetic - batch.targets).abs(), counted(batch))
