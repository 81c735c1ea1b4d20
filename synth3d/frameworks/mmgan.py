"""MM-GAN (Sharma & Hamarneh 2020): one network for every subset of missing sequences.

Its tensor of all sequences is cat(sources, targets) here, C = S + T channels in and out; in mode
``any``, where both are the same list, they are its C = S = T. A channel's truth is known where it
is a present source or a wanted target. In training some known channels are hidden, at least one and
never all, and the network makes them from the others; in synthesis the targets and the absent
sources are the hidden ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, ClassVar

import torch
from torch import Tensor

from synth3d.data import Batch, Task, head_of, only
from synth3d.frameworks.adversarial import Adversarial, AdversarialOptions
from synth3d.losses import masked_mean, spread
from synth3d.models import PatchCritic


@dataclass(frozen=True)
class MMGanOptions(AdversarialOptions):
    """``mmgan`` (Sharma & Hamarneh 2020): 0.9 L1 + 0.1 LSGAN with one verdict per sequence.

    ``missing``: which channels are hidden in training: ``any`` (the paper's: every subset of
    sources and targets) or ``targets`` (always the targets, and sources at random; in mode ``any``
    just what the batch wants).
    ``imputation``: what stands in for them: ``zeros``, ``noise`` or the ``mean`` of what is there.
    ``implicit_conditioning``: real channels go into the output as they are and only hidden ones
    count in L1. ``curriculum``: over this share of the steps the number of hidden channels
    rises from at most 1 to all but one.
    """

    name = "mmgan"
    l1_weight: float = 0.9
    adversarial_weight: float = 0.1
    missing: str = "any"
    imputation: str = "zeros"
    implicit_conditioning: bool = True
    curriculum: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_weights("l1_weight")
        self.check_choice("missing", ("any", "targets"))
        self.check_choice("imputation", ("zeros", "noise", "mean"))
        self.require(0 <= self.curriculum <= 1, "curriculum", "in [0, 1]")


class MMGan(Adversarial):
    """``l1_weight`` × L1 + ``adversarial_weight`` × LSGAN with one score map per sequence.

    The critic sees cat(output, truth) and says of each sequence whether it is real; with implicit
    conditioning the output holds the real channels that were given, which are labelled real, and L1
    counts hidden channels only. What is not known is shown as 0 and does not count.
    """

    Options = MMGanOptions
    hides_sources: ClassVar[bool] = True

    def prepare(self) -> None:
        """The critic, and what each share of a batch was given."""
        super().prepare()
        self._given: dict[int, Tensor] = {}

    def make_critic(self) -> PatchCritic:
        """(B, 2 C, *) → (B, C, *s): one map of scores per sequence."""
        n_channels, _ = self.channels_of(self.task)
        return self.patch_critic(2 * n_channels, n_channels)

    @staticmethod
    def channels(n_sources: int, n_targets: int) -> tuple[int, int]:
        """All sequences in, all sequences out."""
        return n_sources + n_targets, n_sources + n_targets

    @classmethod
    def channels_of(cls, task: Task, options: Any = None) -> tuple[int, int]:
        """Each sequence once."""
        return cls.channels(len(task.sources), 0 if task.mode == "any" else len(task.targets))

    @property
    def either(self) -> bool:
        """Whether sources and targets are the same channels."""
        return self.task.mode == "any"

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Terms ``l1`` and, once it has started, ``adversarial``."""
        draws, truth, known = self.draws(batch, step), *self.all_channels(batch)
        given = self.given(batch, step, draws)
        output = self.complete(truth, given, draws).float()
        mask = self.judged(batch, given)
        l1 = masked_mean((output - truth).abs(), mask) * batch.weight("voxels")
        terms = {"l1": self.options.l1_weight * l1}
        self._synthetic[batch.first], self._given[batch.first] = output.detach(), given
        if self.fights(step):
            scores = self.judge(_shown(output, truth, known, self.brain(batch, given)))
            loss = self.objective(scores, torch.ones_like(scores))
            score = masked_mean(loss, spread(known, loss.ndim)) * batch.weight("verdicts")
            terms["adversarial"] = self.options.adversarial_weight * score
        return terms

    def critic_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Term ``critic``: half of its loss on (truth, truth) and on (output, truth)."""
        if not self.fights(step) or batch.first not in self._synthetic:
            return {}
        synthetic, given = self._synthetic.pop(batch.first), self._given.pop(batch.first)
        (truth, known), brain = self.all_channels(batch), self.brain(batch, given)
        real = self.judge(_shown(truth, truth, known, brain))
        made = self.judge(_shown(synthetic, truth, known, brain))
        mask, labels = spread(known, real.ndim), spread(given, real.ndim).to(made.dtype)
        if not self.options.implicit_conditioning:
            labels = torch.zeros_like(labels)
        loss = masked_mean(self.objective(real, torch.ones_like(real)), mask)
        loss = loss + masked_mean(self.objective(made, labels), mask)
        return {"critic": 0.5 * loss * batch.weight("verdicts")}

    def masks(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``voxels``, those that count in L1, and ``verdicts``, the sequences that are judged."""
        given = self.given(batch, step, self.draws(batch, step))
        return {"voxels": self.judged(batch, given), "verdicts": self.all_channels(batch)[1]}

    def given(self, batch: Batch, step: int, draws: Sequence[torch.Generator]) -> Tensor:
        """(B, C) bool: the known channels that are not hidden at ``step``."""
        told, n_sources = batch.known, batch.sources.shape[1]
        if self.either and self.options.missing == "targets":
            return batch.present
        if self.either:
            told = told[:, :n_sources] | told[:, n_sources:]
        hidden, known = self.hidden(told, n_sources, step, draws), self.all_channels(batch)[1]
        return known & ~hidden.to(known.device, non_blocking=True)

    def judged(self, batch: Batch, given: Tensor) -> Tensor:
        """(B, C, *) bool: the voxels that count in L1."""
        known = self.all_channels(batch)[1]
        counts = known & ~given if self.options.implicit_conditioning else known
        return self.brain(batch, given) & spread(counts, batch.brain.ndim)

    def brain(self, batch: Batch, given: Tensor) -> Tensor:
        """(B, 1, *) bool; in mode ``any`` that of what this framework shows, not the batch."""
        return head_of(only(self.all_channels(batch)[0], given)) if self.either else batch.brain

    def all_channels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """All sequences (B, C, *), and (B, C) bool, whose truth is known."""
        if not self.either:
            truth = torch.cat([batch.sources, batch.targets], dim=1)
            return truth, torch.cat([batch.present, batch.wanted], dim=1)
        shown = spread(batch.present, batch.sources.ndim)
        truth = torch.where(shown, batch.sources, batch.targets)
        return truth, batch.present | batch.wanted

    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """Targets and absent sources are the hidden ones; noise that stands in is one pattern."""
        draws = [torch.Generator().manual_seed(0)]
        if self.either:
            return self.complete(sources, present, draws)
        blank = sources.new_zeros((len(sources), wanted.shape[1], *sources.shape[2:]))
        given = torch.cat([present, torch.zeros_like(wanted)], dim=1)
        everything = torch.cat([sources, blank], dim=1)
        return self.complete(everything, given, draws)[:, sources.shape[1] :]

    def complete(self, truth: Tensor, given: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
        """All sequences (B, C, *) from those that are ``given``.

        What is not given is not looked at; with implicit conditioning what is given comes back as
        it is. ``draws`` make the noise, if that is what stands in, as in :func:`impute`.
        """
        shown, told = impute(truth, given, self.options.imputation, draws)
        output = self.generator(shown, told, ~given)
        if not self.options.implicit_conditioning:
            return output
        return torch.where(spread(given, truth.ndim), truth.to(output.dtype), output)

    def hidden(
        self, known: Tensor, n_sources: int, step: int, draws: Sequence[torch.Generator]
    ) -> Tensor:
        """Which of the ``known`` channels (B, S + T) bool, on the CPU, are hidden at ``step``.

        Every subset that the curriculum allows by now is as likely as another, as in their code;
        each sample has ``draws`` of its own.
        """
        forced = torch.zeros_like(known)
        if self.options.missing == "targets":
            forced[:, n_sources:] = True
        most = self.most_hidden(step, known.shape[1])
        rows = []
        for may, must, draw in zip(known & ~forced, known & forced, draws, strict=True):
            free, n_must = int(may.sum()), int(must.sum())
            fewest = 0 if n_must else 1
            highest = max(min(most - n_must, free - 1), 0)
            subsets = [comb(free, m) if m >= fewest else 0 for m in range(highest + 1)]
            sizes = torch.tensor(subsets, dtype=torch.float64)
            n_hidden = int(sizes.multinomial(1, generator=draw)) if sizes.any() else 0
            order = torch.rand(known.shape[1], generator=draw).masked_fill(~may, 2).argsort()
            chosen = torch.zeros_like(may)
            chosen[order[:n_hidden]] = True
            rows.append(chosen | must)
        return torch.stack(rows)

    def most_hidden(self, step: int, n_channels: int) -> int:
        """How many of C channels the curriculum lets be hidden at ``step``: 1, 2, … C − 1.

        It rises in equal stages over the first ``curriculum`` of the training: theirs hides one
        of four for 10 epochs of 60, up to two for 10, up to three from then on.
        """
        stages, steps = n_channels - 1, self.plan.steps if self.plan else 1
        length = self.options.curriculum * steps / stages
        return stages if length == 0 else min(1 + int(step / length), stages)


def impute(
    truth: Tensor, given: Tensor, how: str, draws: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """What the generator is shown: given channels, and something in place of the others.

    ``how``: ``zeros``; ``noise``: N(0, 1), one pattern for all hidden channels of a sample, by its
    own of the ``draws``, or of all samples, if there is only one; or ``mean``: of the given
    channels, voxel by voxel. The background, where no given channel has a signal, stays 0.

    Returns (B, C, *), and (B, C) bool, which channels hold something.
    """
    mask = spread(given, truth.ndim)
    shown = torch.where(mask, truth, 0)
    if how == "zeros":
        return shown, given
    if how == "noise":
        shape = 1, *truth.shape[2:]
        patterns = torch.stack([torch.randn(shape, generator=draw) for draw in draws])
        stand_in = patterns.to(truth, non_blocking=True) * (shown != 0).any(1, keepdim=True)
    else:
        stand_in = shown.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return torch.where(mask, truth, stand_in), torch.ones_like(given)


def _shown(output: Tensor, truth: Tensor, known: Tensor, brain: Tensor) -> Tensor:
    """What the critic sees: cat(output, truth), 0 where nothing is known and outside the brain."""
    mask = brain & spread(known, truth.ndim)
    return torch.cat([output * mask, truth * mask], dim=1)
