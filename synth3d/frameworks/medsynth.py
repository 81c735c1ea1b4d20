"""MedSynth (Nie et al. 2018): a residual generator, gradient differences, a small critic."""

from typing import Self

from torch import Tensor, nn

from synth3d.cohort import parse_modality
from synth3d.config import MedSynthOptions, RunConfig
from synth3d.data import Batch
from synth3d.errors import InputError
from synth3d.frameworks.adversarial import Adversarial, check_smallest
from synth3d.frameworks.base import counted
from synth3d.losses import cross_entropy, masked_mean, spread
from synth3d.models import Centred, ScalarCritic

FIRST = -1
"""The residual is the first source that is present."""


class MedSynth(Adversarial):
    """L1 or L2 + gradient difference + BCE against a critic that sees the targets alone.

    The generator makes what is to be added to one of the sources (their long-term residual). Their
    auto-context, a second network trained on the first one's output, is not built: two runs, the
    second with the first's volumes among its sources, are the same.

    Args:
        generator: (B, S, *) → (B, T, *).
        critic: Of the targets, one logit per patch; None for synthesis alone.
        options: Weights.
        residual: Which source is added to the output: its channel, ``FIRST``, or None.
        seed: Of :meth:`Framework.randomness`.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module | None,
        options: MedSynthOptions,
        residual: int | None = FIRST,
        seed: int = 0,
    ) -> None:
        super().__init__(generator, critic, options, cross_entropy, seed)
        self.residual = residual

    @classmethod
    def from_config(cls, generator: nn.Module, config: RunConfig, training: bool = True) -> Self:
        """As :meth:`Framework.from_config`."""
        options, critic = config.train.options, None
        if training:
            sizes = (options.critic_width, options.critic_layers)
            critic = ScalarCritic(len(config.targets), config.dim, *sizes)
            check_smallest(config, critic.smallest)
        return cls(generator, critic, options, residual_channel(config), config.train.seed)

    @classmethod
    def centre(cls, generator: nn.Module, config: RunConfig) -> nn.Module:
        """With a residual the generator's output is a difference of images."""
        if residual_channel(config) is None:
            return Centred(generator)
        return Centred(generator, offset=0)

    def make(self, sources: Tensor, present: Tensor, wanted: Tensor) -> Tensor:
        """(B, S, *) → (B, T, *): the residual source plus the generator's output."""
        made = self.generator(sources, present, wanted)
        if self.residual is None:
            return made
        if self.residual == FIRST:
            first = present.int().argmax(1)
            source = sources.take_along_dim(spread(first[:, None], sources.ndim), dim=1)
        else:
            source = sources[:, [self.residual]]
        return source + made

    def fidelity(self, synthetic: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Terms ``l1`` or ``l2``, and ``gradient``."""
        options, error = self.options, (synthetic - batch.targets).abs()
        error = error if options.distance == "l1" else error.square()
        terms = {options.distance: options.pixel_weight * masked_mean(error, counted(batch))}
        if options.gradient_weight > 0:
            difference = gradient_difference(synthetic, batch, options.gradient_power)
            terms["gradient"] = options.gradient_weight * difference
        return terms

    def shown(self, batch: Batch, targets: Tensor) -> Tensor:
        """The critic sees the targets alone."""
        return targets * counted(batch)


def gradient_difference(synthetic: Tensor, batch: Batch, power: float) -> Tensor:
    """Σ_axes mean ||∂ target| − |∂ synthetic||^power (Mathieu et al. 2016; Nie et al. 2018).

    ∂ is the difference of two neighbours that both count.
    """
    mask, total = counted(batch), synthetic.new_zeros(())
    for axis in range(2, synthetic.ndim):
        both = mask.narrow(axis, 1, mask.shape[axis] - 1)
        both = both & mask.narrow(axis, 0, mask.shape[axis] - 1)
        steps = batch.targets.diff(dim=axis).abs() - synthetic.diff(dim=axis).abs()
        total = total + masked_mean(steps.abs() ** power, both)
    return total


def residual_channel(config: RunConfig) -> int | None:
    """Which source ``train.medsynth.residual`` means: a channel, ``FIRST`` or None.

    Raises:
        InputError: It is none of the sources.
    """
    name = config.train.medsynth.residual
    if name in ("first", "none"):
        return FIRST if name == "first" else None
    modality = parse_modality(name)
    if modality not in config.sources:
        raise InputError(
            f"train.medsynth.residual must be first, none or one of the sources "
            f"{list(config.sources)}, got {name!r}"
        )
    return config.sources.index(modality)
