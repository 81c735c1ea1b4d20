"""Frameworks that make a volume in several steps, the same for a patch and for many tiles."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from synth3d.frameworks.base import Framework


class Iterative(Framework):
    """``start``; for each of ``times`` one ``predict`` and one ``step``; ``finish``.

    ``predict`` is of tiles, what it gives is blended, and all else is of the whole volume, where
    all randomness is: :func:`synth3d.inference.volume.synthesize_volume`.
    """

    iterative: ClassVar[bool] = True

    @abstractmethod
    def times(self, steps: int | None = None) -> Sequence[int]:
        """What ``predict`` is asked for, first to last.

        Args:
            steps: How many; None is what the options say.
        """

    @abstractmethod
    def start(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """The first state (T, *shape), float32 on the CPU, where ``generator`` is too."""

    @abstractmethod
    def predict(
        self, sources: Tensor, state: Tensor, time: int, present: Tensor, wanted: Tensor
    ) -> Tensor:
        """The generator's output for tiles at one of :meth:`times`.

        Args:
            sources: (B, S, *).
            state: (B, T, *).
            time: One of :meth:`times`.
            present: (B, S) bool.
            wanted: (B, T) bool.

        Returns:
            (B, K, *) float32, K the generator's output channels.
        """

    @abstractmethod
    def step(
        self,
        state: Tensor,
        prediction: Tensor,
        index: int,
        generator: torch.Generator,
        steps: int | None = None,
    ) -> Tensor:
        """The next state.

        Args:
            state: (T, *).
            prediction: (K, *), what :meth:`predict` gave, blended over the volume.
            index: Which of :meth:`times`, from 0.
            generator: On the CPU.
            steps: As given to :meth:`times`.

        Returns:
            (T, *).
        """

    @abstractmethod
    def finish(self, state: Tensor) -> Tensor:
        """The state after the last step, in the network's scale."""

    @torch.no_grad()
    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """All steps for patches (B, S, *) → (B, T, *); sample b draws from ``seed`` + b."""
        draws = [torch.Generator().manual_seed(seed + b) for b in range(len(sources))]
        states = [self.start(sources.shape[2:], draw).to(sources.device) for draw in draws]
        for index, time in enumerate(self.times()):
            predictions = self.predict(sources, torch.stack(states), time, present, wanted)
            states = [
                self.step(state, prediction, index, draw)
                for state, prediction, draw in zip(states, predictions, draws, strict=True)
            ]
        return self.finish(torch.stack(states))
