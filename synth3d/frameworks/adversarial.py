"""Conditional adversarial training: pix2pix (Isola et al. 2017) with the least-squares loss."""

import torch
from torch import Tensor, nn

from cuda_ops import full_precision
from synth3d.batch import Batch
from synth3d.frameworks.base import Framework, masked_l1


class Pix2Pix(Framework):
    """``l1_weight`` × L1 plus ``adversarial_weight`` × LSGAN from a patch critic.

    The critic sees cat(sources, target), blanked outside the brain. Before step
    ``adversarial_start`` only L1 counts and the critic rests.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        l1_weight: float = 100.0,
        adversarial_weight: float = 1.0,
        adversarial_start: int = 0,
    ) -> None:
        super().__init__(generator)
        self.critic = critic
        self.l1_weight = l1_weight
        self.adversarial_weight = adversarial_weight
        self.adversarial_start = adversarial_start
        self._synthetic: Tensor | None = None

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Terms ``l1`` and, once it has started, ``adversarial``."""
        synthetic = self.generator(batch.sources, batch.present, batch.wanted)
        terms = {"l1": self.l1_weight * masked_l1(synthetic.float(), batch)}
        self._synthetic = synthetic.detach()
        if self._fights(step):
            score = self._score(batch, synthetic)
            terms["adversarial"] = self.adversarial_weight * (score - 1).square().mean()
        return terms

    def critic_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Term ``critic``: half of (real − 1)² + synthetic², on the volume just synthesised."""
        if not self._fights(step) or self._synthetic is None:
            return {}
        real = self._score(batch, batch.targets)
        synthetic = self._score(batch, self._synthetic)
        self._synthetic = None
        return {"critic": 0.5 * ((real - 1).square().mean() + synthetic.square().mean())}

    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor) -> Tensor:
        """The generator's output as it is."""
        return self.generator(sources, present, wanted)

    def _fights(self, step: int) -> bool:
        return self.adversarial_weight > 0 and step >= self.adversarial_start

    def _score(self, batch: Batch, targets: Tensor) -> Tensor:
        """The critic's verdict, always in float32.

        Instance normalisation of a patch that is background nearly everywhere divides by almost
        nothing; in bfloat16 its gradient overflows.
        """
        assert self.critic is not None
        seen = torch.cat([batch.sources, targets * batch.brain], dim=1).float()
        with full_precision(seen.device.type):
            return self.critic(seen)
