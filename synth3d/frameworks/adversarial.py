"""What adversarial frameworks share, and pix2pix (Isola et al. 2017)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cuda_ops import full_precision
from synth3d.data import Batch
from synth3d.errors import InputError
from synth3d.frameworks.base import EITHER, Framework, Options, Player, counted, masked_l1
from synth3d.losses import OBJECTIVES, Objective
from synth3d.models import PatchCritic


@dataclass(frozen=True)
class AdversarialOptions(Options):
    """What every framework with a critic can be told.

    The critic rests, and only the other terms count, before step ``adversarial_start``.
    ``critic_width`` is the critic's first layer, ``critic_layers`` its halvings: 64 and 3 are the
    70-voxel PatchGAN.
    """

    adversarial_loss = "lsgan"
    adversarial_weight: float = 1.0
    adversarial_start: int = 0
    critic_width: int = 64
    critic_layers: int = 3

    def __post_init__(self) -> None:
        self.check_weights("adversarial_weight", "adversarial_start")
        self.check_counts("critic_width", "critic_layers")
        self.require(self.critic_layers <= 16, "critic_layers", "at most 16")


class Adversarial(Framework):
    """A generator against a critic that judges the volume just synthesised.

    What varies is the critic (``make_critic``), the way from sources to targets (``synthesize``),
    the terms beside the adversarial one (``fidelity``), what the critic is shown (``shown``) and
    how its scores become a loss (``objective``). Voxels outside the brain and targets that are not
    wanted are shown as 0, real and synthetic. For synthesis alone there is no critic.
    """

    modes: ClassVar[frozenset[str]] = EITHER

    def prepare(self) -> None:
        """The critic, for training."""
        self._synthetic: dict[int, Tensor] = {}  # what was just made, of each share of a batch
        self.critic: Any = None
        if self.plan is None:
            return
        self.critic, patch = self.make_critic(), self.plan.patch
        if patch and min(patch) < self.critic.smallest:
            raise InputError(
                f"data.patch {patch} is too small for a critic of {self.options.critic_layers} "
                f"layers, which needs {self.critic.smallest}; lower train.critic_layers or use "
                "train.framework=l1"
            )

    def make_critic(self) -> Any:
        """What judges :meth:`shown`; its ``smallest`` is the side that it needs."""
        return self.patch_critic(len(self.task.sources) + len(self.task.targets))

    def patch_critic(self, in_channels: int, out_channels: int = 1) -> PatchCritic:
        """A PatchGAN of the size that the options say."""
        size = self.options.critic_width, self.options.critic_layers
        return PatchCritic(in_channels, self.task.dim, *size, out_channels)

    @property
    def objective(self) -> Objective:
        """How scores become a loss."""
        return OBJECTIVES[self.options.adversarial_loss]

    def players(self) -> dict[str, Player]:
        """``generator``, then ``critic`` on what it has just made."""
        players = super().players()
        assert self.plan is not None
        return players | {"critic": Player(self.critic, self.critic_loss, self.plan.critic_rate)}

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The terms of ``fidelity`` and, once it has started, ``adversarial``."""
        synthetic = self.synthesize(batch.sources, batch.present, batch.wanted)
        terms = self.fidelity(synthetic.float(), batch, step)
        self._synthetic[batch.first] = synthetic.detach()
        if self.fights(step):
            score = self.judge(self.shown(batch, synthetic))
            weight = self.options.adversarial_weight
            terms["adversarial"] = weight * self.objective(score, torch.ones_like(score)).mean()
        return terms

    def critic_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Term ``critic``: half of its loss on the real volume and the one just synthesised."""
        if not self.fights(step) or batch.first not in self._synthetic:
            return {}
        real = self.judge(self.shown(batch, batch.targets))
        synthetic = self.judge(self.shown(batch, self._synthetic.pop(batch.first)))
        loss = self.objective(real, torch.ones_like(real)).mean()
        loss = loss + self.objective(synthetic, torch.zeros_like(synthetic)).mean()
        return {"critic": 0.5 * loss}

    def fidelity(self, synthetic: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Terms that compare ``synthetic`` (B, T, *), float32, with the targets; here none."""
        return {}

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
        with full_precision(seen.device.type):
            return self.critic(seen.float())


@dataclass(frozen=True)
class Pix2PixOptions(AdversarialOptions):
    """``pix2pix`` (Isola et al. 2017): 100 L1 + an adversarial term.

    ``adversarial_loss``: ``lsgan`` (least squares) or ``bce``.
    """

    name = "pix2pix"
    l1_weight: float = 100.0
    adversarial_loss: str = "lsgan"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_weights("l1_weight")
        self.check_choice("adversarial_loss", tuple(OBJECTIVES))


class Pix2Pix(Adversarial):
    """L1 plus an adversarial loss from a conditional PatchGAN, on cat(sources, targets)."""

    Options = Pix2PixOptions
    couples: ClassVar[bool] = True

    def fidelity(self, synthetic: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Term ``l1``, and those of a coupling."""
        terms = {"l1": self.options.l1_weight * masked_l1(synthetic, batch)}
        return self.coupled(terms, synthetic, batch, step)
