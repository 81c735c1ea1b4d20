"""What adversarial frameworks share, and pix2pix (Isola et al. 2017)."""

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from cuda_ops import full_precision
from synth3d.config import MedSynthOptions, MMGanOptions, PGanOptions, Pix2PixOptions, RunConfig
from synth3d.data import Batch
from synth3d.errors import InputError
from synth3d.frameworks.base import Framework, counted, masked_l1
from synth3d.losses import OBJECTIVES, Objective
from synth3d.models import PatchCritic


class Adversarial(Framework):
    """A generator against a critic that judges the volume just synthesised.

    What varies is the way from sources to targets (``make``), the terms beside the adversarial
    one (``fidelity``), what the critic is shown (``shown``) and how its scores are read. Voxels
    outside the brain and targets that are not wanted are shown as 0, real and synthetic.

    Args:
        generator: (B, S, *) → (B, T, *).
        critic: Judges what ``shown`` gives; None for synthesis alone.
        options: With ``adversarial_weight`` and ``adversarial_start``: before that step only
            the other terms count and the critic rests.
        objective: How scores become a loss.
        seed: Of :meth:`Framework.randomness`.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module | None,
        options: Pix2PixOptions | PGanOptions | MMGanOptions | MedSynthOptions,
        objective: Objective,
        seed: int = 0,
    ) -> None:
        super().__init__(generator, seed)
        self.critic, self.options, self.objective = critic, options, objective
        self._synthetic: Tensor | None = None

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The terms of ``fidelity`` and, once it has started, ``adversarial``."""
        synthetic = self.make(batch.sources, batch.present, batch.wanted)
        terms = self.fidelity(synthetic.float(), batch, step)
        self._synthetic = synthetic.detach()
        if self.fights(step):
            score = self.judge(self.shown(batch, synthetic))
            weight = self.options.adversarial_weight
            terms["adversarial"] = weight * self.objective(score, torch.ones_like(score)).mean()
        return terms

    def critic_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Term ``critic``: half of its loss on the real volume and the one just synthesised."""
        if not self.fights(step) or self._synthetic is None:
            return {}
        real = self.judge(self.shown(batch, batch.targets))
        synthetic = self.judge(self.shown(batch, self._synthetic))
        self._synthetic = None
        found = self.objective(real, torch.ones_like(real)).mean()
        found = found + self.objective(synthetic, torch.zeros_like(synthetic)).mean()
        return {"critic": 0.5 * found}

    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """As :meth:`make`; nothing is random."""
        return self.make(sources, present, wanted)

    def make(self, sources: Tensor, present: Tensor, wanted: Tensor) -> Tensor:
        """(B, S, *) → (B, T, *): the generator's output as it is."""
        return self.generator(sources, present, wanted)

    @abstractmethod
    def fidelity(self, synthetic: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Terms that compare ``synthetic`` (B, T, *), float32, with the targets."""

    def shown(self, batch: Batch, targets: Tensor) -> Tensor:
        """What the critic sees of ``targets`` (B, T, *): cat(sources, targets)."""
        return torch.cat([batch.sources, targets * counted(batch)], dim=1)

    def fights(self, step: int) -> bool:
        """Whether the critic counts at ``step``."""
        return self.options.adversarial_weight > 0 and step >= self.options.adversarial_start

    def judge(self, seen: Tensor) -> Tensor:
        """The critic's scores, always in float32.

        Instance normalisation of a patch that is background nearly everywhere divides by almost
        nothing; in bfloat16 its gradient overflows.
        """
        if self.critic is None:
            raise ValueError("this framework was built for synthesis and has no critic")
        with full_precision(seen.device.type):
            return self.critic(seen.float())


class Pix2Pix(Adversarial):
    """L1 plus an adversarial loss from a conditional PatchGAN, on cat(sources, targets)."""

    @classmethod
    def from_config(cls, generator: nn.Module, config: RunConfig, training: bool = True) -> Self:
        """As :meth:`Framework.from_config`."""
        options = config.train.options
        n_channels = len(config.sources) + len(config.targets)
        critic = patch_critic(config, n_channels) if training else None
        return cls(generator, critic, options, OBJECTIVES[options.adversarial_loss])

    def fidelity(self, synthetic: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Term ``l1``."""
        return {"l1": self.options.l1_weight * masked_l1(synthetic, batch)}


def patch_critic(config: RunConfig, in_channels: int, out_channels: int = 1) -> PatchCritic:
    """The PatchGAN of the framework in use.

    Raises:
        InputError: Training patches are too small for its layers.
    """
    options = config.train.options
    critic = PatchCritic(
        in_channels, config.dim, options.critic_width, options.critic_layers, out_channels
    )
    check_smallest(config, critic.smallest)
    return critic


def check_smallest(config: RunConfig, smallest: int) -> None:
    """Refuse training patches with a side under ``smallest``, which the critic needs.

    Raises:
        InputError: As said.
    """
    if min(config.data.patch) < smallest:
        raise InputError(
            f"data.patch {config.data.patch} is too small for a critic of "
            f"{config.train.options.critic_layers} layers, which needs {smallest}; lower "
            "train.critic_layers or use train.framework=l1"
        )
