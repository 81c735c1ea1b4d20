"""MedSynth (Nie et al. 2018): a residual generator, gradient differences, a small critic."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from synth3d.cohort import parse_modality
from synth3d.data import Batch, Task
from synth3d.errors import InputError
from synth3d.frameworks.adversarial import Adversarial, AdversarialOptions
from synth3d.frameworks.base import counted, voxel_mean
from synth3d.losses import masked_mean, spread
from synth3d.models import Centred, ScalarCritic

FIRST = -1
"""The residual is the first source that is present."""


@dataclass(frozen=True)
class MedSynthOptions(AdversarialOptions):
    """``medsynth`` (Nie et al. 2018): L1 + 0.05 gradient difference + 0.05 adversarial (BCE).

    ``distance``: ``l1`` or ``l2``, weighted with ``pixel_weight``. ``gradient_power``: p of the
    gradient difference. ``residual``: the source that is added to the generator's output:
    ``first`` (of those that are present), a source's name, or ``none``.
    """

    name = "medsynth"
    adversarial_loss = "bce"
    adversarial_weight: float = 0.05
    critic_width: int = 32
    distance: str = "l1"
    pixel_weight: float = 1.0
    gradient_weight: float = 0.05
    gradient_power: float = 2.0
    residual: str = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_weights("pixel_weight", "gradient_weight")
        self.check_counts("gradient_power")
        self.check_choice("distance", ("l1", "l2"))


class MedSynth(Adversarial):
    """L1 or L2 + gradient difference + BCE against a critic that sees the targets alone.

    The generator makes what is to be added to one of the sources (their long-term residual). Their
    auto-context, a second network trained on the first one's output, is not built: two runs, the
    second with the first's volumes among its sources, are the same.
    """

    Options = MedSynthOptions

    def prepare(self) -> None:
        """The critic, and which source is added."""
        super().prepare()
        self.residual = residual_channel(self.task, self.options)

    def make_critic(self) -> ScalarCritic:
        """Of the targets alone, one logit per patch."""
        size = self.options.critic_width, self.options.critic_layers
        return ScalarCritic(len(self.task.targets), self.task.dim, *size)

    @classmethod
    def centre(cls, generator: nn.Module, task: Task, options: Any) -> nn.Module:
        """With a residual the generator's output is a difference of images."""
        alone = residual_channel(task, options) is None
        return Centred(generator) if alone else Centred(generator, offset=0)

    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """The residual source plus the generator's output."""
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
        terms = {options.distance: options.pixel_weight * voxel_mean(error, batch)}
        if options.gradient_weight > 0:
            difference = gradient_difference(synthetic, batch, options.gradient_power)
            terms["gradient"] = options.gradient_weight * difference
        return terms

    def masks(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """And the pairs of neighbours along each axis."""
        axes = range(2, batch.targets.ndim)
        pairs = {f"pairs {axis}": neighbours(batch, axis) for axis in axes}
        return super().masks(batch, step) | pairs

    def shown(self, batch: Batch, targets: Tensor) -> Tensor:
        """The critic sees the targets alone."""
        return targets * counted(batch)


def gradient_difference(synthetic: Tensor, batch: Batch, power: float) -> Tensor:
    """Σ_axes mean ||∂ target| − |∂ synthetic||^power (Mathieu et al. 2016; Nie et al. 2018).

    ∂ is the difference of two neighbours that both count.
    """
    total = synthetic.new_zeros(())
    for axis in range(2, synthetic.ndim):
        steps = batch.targets.diff(dim=axis).abs() - synthetic.diff(dim=axis).abs()
        mean = masked_mean(steps.abs() ** power, neighbours(batch, axis))
        total = total + mean * batch.weight(f"pairs {axis}")
    return total


def neighbours(batch: Batch, axis: int) -> Tensor:
    """Where a voxel and the next one along ``axis`` both count: one shorter along it; bool."""
    mask = counted(batch)
    length = mask.shape[axis] - 1
    return mask.narrow(axis, 1, length) & mask.narrow(axis, 0, length)


def residual_channel(task: Task, options: MedSynthOptions) -> int | None:
    """Which source ``train.medsynth.residual`` means: a channel, ``FIRST`` or None.

    Raises:
        InputError: It is none of the sources, or one that mode ``any`` may hide.
    """
    name = options.residual
    if name in ("first", "none"):
        return FIRST if name == "first" else None
    if task.mode == "any":
        raise InputError(
            "train.medsynth.residual must be first or none where mode is any, since every source "
            f"may be absent, got {name!r}"
        )
    modality = parse_modality(name)
    if modality not in task.sources:
        raise InputError(
            f"train.medsynth.residual must be first, none or one of the sources "
            f"{list(task.sources)}, got {name!r}"
        )
    return task.sources.index(modality)
