"""FGDL (Feng et al., IEEE TMI 2024): what is learnt is the target as it would lie on the sources.

Pairs are a little out of place even after registration, and a generator that is told to hit them
blurs. So a second network learns with the generator how each training target has to be moved; it
moves labels of the training only. Critics judge by what synthesis leaves over, D∞ = label − made.
Where the target is there but poor, a branch learns in a second stage to restore it from its coarse
image and from the features of the synthesis, which then is frozen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cuda_ops import full_precision
from synth3d.data import Batch, Task
from synth3d.errors import InputError
from synth3d.frameworks.base import Framework, Options, Player, Stage, counted, masked_l1
from synth3d.frameworks.contest import Contest
from synth3d.frameworks.correction import Correction, remark_on
from synth3d.losses import (
    masked_mean,
    multiscale_similarity,
    orthogonal_slices,
    squared_at_scales,
)
from synth3d.models import DifferenceCritic, PlainCritic, Restorer
from synth3d.scoring import load_lpips


@dataclass(frozen=True)
class FGDLOptions(Options):
    """``fgdl``: 1 L1 + 1 (1 − MS-SSIM) + 0.8 LPIPS + 1 × the smoothness of the displacements.

    And 0.01 relativistic adversarial + 10 × the L1 between the critic's features, from step
    ``adversarial_start`` of a stage on, in which the critics learn at every ``critic_every``-th
    step; ``adversarial_weight`` 0 is without critics. ``perceptual_weights`` is the file of
    torchvision's AlexNet; empty is where torch.hub keeps it. In 3-D LPIPS is of
    ``perceptual_slices`` slices across each axis, at places drawn anew.

    ``correct`` lets labels be moved, no component farther than ``cap`` voxels; ``keep_tumour``
    leaves voxels of the label's tumour where they are, so that no correction can hide them.
    ``spacing`` is the voxel edges ([z,] y, x) in which slopes of displacements are taken, empty for
    cubes. ``registration_width`` is the registration network's first layer, ``critic_width`` the
    critics', which halve ``critic_layers`` times, that of moved labels once less.

    Where a poor sequence is restored, ``pretrain`` is the share of the steps in which synthesis
    and label correction learn; then the branch does, its maps of distinction by 10 × the squared
    distance to D∞ (``distinction``: ``signed``, ``abs`` or ``none``). ``residual`` lets it add to
    the interpolated image instead of drawing all of it. ``modulate`` lets the maps modulate
    features; ``align``: ``deformable``, ``warp`` or ``none``, or ``auto``, the first in
    2-D and the second in 3-D.
    """

    name = "fgdl"
    l1_weight: float = 1.0
    similarity_weight: float = 1.0
    perceptual_weight: float = 0.8
    perceptual_weights: str = ""
    perceptual_slices: int = 1
    smoothness_weight: float = 1.0
    adversarial_weight: float = 0.01
    matching_weight: float = 10.0
    adversarial_start: int = 0
    critic_every: int = 6
    critic_width: int = 64
    critic_layers: int = 5
    correct: bool = True
    keep_tumour: bool = False
    cap: float = 8.0
    spacing: tuple[float, ...] = ()
    registration_width: int = 32
    pretrain: float = 0.5
    distinction: str = "signed"
    distinction_weight: float = 10.0
    modulate: bool = True
    residual: bool = False
    align: str = "auto"

    def __post_init__(self) -> None:
        self.check_weights("l1_weight", "similarity_weight", "smoothness_weight", "cap")
        self.check_weights("perceptual_weight", "adversarial_weight", "matching_weight")
        self.check_weights("distinction_weight", "adversarial_start")
        self.check_counts("registration_width", "critic_width", "critic_every", "perceptual_slices")
        self.require(2 <= self.critic_layers <= 16, "critic_layers", "2 to 16")
        self.check_choice("distinction", ("signed", "abs", "none"))
        self.check_choice("align", ("auto", "deformable", "warp", "none"))
        self.require(0 <= self.pretrain < 1, "pretrain", "in [0, 1)")
        self.require(self.cap > 0, "cap", "above 0 voxels")
        known = all(0 < edge < 1e6 for edge in self.spacing)
        self.require(known and len(self.spacing) in (0, 2, 3), "spacing", "2 or 3 lengths, or none")


class FGDL(Framework):
    """A generator, and beside it what moves the labels that it learns from, and critics.

    Each target is moved and judged by itself, by what the network sees of it and of the sources.
    Validation, completion and scores know nothing of that: what is made lies as the sources do.

    For a task with a poor sequence there are two stages. First the generator learns to make it
    from the other sources; then that and the correction of labels are frozen, and a branch learns
    to restore it, with a critic of its own. While the first lasts, what validation looks at is the
    synthesis; all else is the whole.
    """

    Options = FGDLOptions
    couples: ClassVar[bool] = True
    generator: Any
    judges: Any

    def prepare(self) -> None:
        """The branch of a poor sequence; registration, critics and AlexNet for training."""
        o, task = self.options, self.task
        axes = f"{task.dim} lengths, as dim is {task.dim}, or none"
        o.require(len(o.spacing) in (0, task.dim), "spacing", axes)
        if task.poor:
            self.generator = self._restorer()
        self.correction, self.judges = None, nn.ModuleDict()
        self._early, self._distance = False, None
        if self.plan is None:
            return
        if o.correct:
            how = o.registration_width, o.cap, o.spacing, o.keep_tumour
            self.correction = Correction(task, self.plan.patch, *how)
        if o.adversarial_weight > 0:
            self.judges.update(self._judges(self.plan.patch))
        if o.perceptual_weight > 0:
            path = Path(o.perceptual_weights).expanduser() if o.perceptual_weights else None
            remedy = (
                "say where with train.fgdl.perceptual_weights, or do without: "
                "train.fgdl.perceptual_weight=0"
            )
            self._distance = load_lpips(path, remedy)

    def _restorer(self) -> Restorer:
        """The generator and the branch that restores by its features."""
        o, ratio = self.options, self.task.ratio
        try:
            return Restorer(self.generator, ratio, o.align, o.modulate, o.residual)
        except ValueError as error:
            raise InputError(
                f"degrade.ratio {ratio} does not fit model.widths: {error}; take another ratio, "
                "more widths, or another framework"
            ) from error

    def _judges(self, patch: tuple[int, ...]) -> dict[str, Contest]:
        """A critic for each stage, and one of moved labels, if they are moved."""
        o, dim, made = self.options, self.task.dim, {}
        size = (1, dim, o.critic_width)
        if self.learns_synthesis:
            made["critic"] = DifferenceCritic(*size, o.critic_layers)
            if o.correct:
                made["plain_critic"] = PlainCritic(*size, o.critic_layers - 1)
        if self.task.poor:
            made["branch_critic"] = DifferenceCritic(*size, o.critic_layers)
        least = max(critic.smallest for critic in made.values())
        if min(patch, default=least) < least:
            raise InputError(
                f"data.patch {patch} is too small for critics of {o.critic_layers} layers, which "
                f"need {least}; lower train.fgdl.critic_layers, or use "
                "train.fgdl.adversarial_weight=0"
            )
        return {name: Contest(critic) for name, critic in made.items()}

    @classmethod
    def channels_of(cls, task: Task, options: Any = None) -> tuple[int, int]:
        """The generator never sees a poor sequence.

        Raises:
            InputError: That is not the only target, there is nothing else to see, or it is noisy
                alone.
        """
        if task.poor and (task.poor != task.targets or not task.guides):
            raise InputError(
                f"fgdl restores one sequence by others: expected it as the one target and another "
                f"among the sources, got {'+'.join(task.sources)} -> {'+'.join(task.targets)}; "
                "use another framework, or other lists"
            )
        if task.poor and max(task.ratio) == 1:
            raise InputError(
                f"fgdl makes coarse images fine, and here degrade.ratio {task.ratio} leaves "
                f"{task.poor[0]} as fine as it is, with degrade.noise alone; give a ratio above 1, "
                "or another framework, such as l1, which takes noise off as well"
            )
        return cls.channels(len(task.guides), len(task.targets))

    @classmethod
    def needs_of(cls, task: Task) -> frozenset[str]:
        """``pyramid``, where a poor sequence is restored."""
        return frozenset({"pyramid"} if task.poor else ())

    @property
    def synthesis(self) -> nn.Module:
        """What makes targets from the sources that are not poor."""
        return self.generator.synthesis if self.task.poor else self.generator

    @property
    def learns_synthesis(self) -> bool:
        """Whether that is (a stage) of this training."""
        return not self.task.poor or self.options.pretrain > 0

    def players(self) -> dict[str, Player]:
        """``generator``, ``registration``, which learns by the same loss, and their critics.

        ``critic`` looks at what is made, ``plain_critic`` at labels that were moved. Of a poor
        sequence also ``branch`` and ``branch_critic``; that begins with them, only these.
        """
        if self.plan is None:
            raise ValueError("this framework was built for synthesis: nothing of it learns")
        rate, loss, players = self.plan.rate, self.generator_loss, {}
        if self.learns_synthesis:
            players["generator"] = Player(self.synthesis, loss, rate, kept=True)
            if self.correction is not None:
                players["registration"] = Player(self.correction.registration, None, rate)
        if self.task.poor:
            players["branch"] = Player(self.generator.branch, loss, rate, kept=True)
        for name, judge in self.judges.items():
            term = partial(self.told, name.removeprefix("branch_"), judge)
            players[name] = Player(judge.critic, term, self.plan.critic_rate)
        return players

    @property
    def stages(self) -> Sequence[Stage]:
        """Synthesis, then the branch of a poor sequence; or the one that there is."""
        names = tuple(self.players())
        late = tuple(name for name in names if name.startswith("branch"))
        early = tuple(name for name in names if name not in late)
        shares = (self.options.pretrain, 1 - self.options.pretrain) if late else (1.0, 0.0)
        both = zip((early, late), shares, strict=True)
        return tuple(Stage(names, share) for names, share in both if names)

    def restores(self, step: int) -> bool:
        """Whether ``step`` is of the second stage."""
        return bool(self.task.poor) and step >= self._turn

    @property
    def _turn(self) -> int:
        return round(self.options.pretrain * self.plan.steps) if self.plan else 0

    def fights(self, step: int) -> bool:
        """Whether critics count at ``step``."""
        return self.options.adversarial_weight > 0 and self._since(step) >= 0

    def decides(self, step: int) -> bool:
        """Whether critics learn at ``step``."""
        return self.fights(step) and self._since(step) % self.options.critic_every == 0

    def _since(self, step: int) -> int:
        begin = self._turn if self.restores(step) else 0
        return step - begin - self.options.adversarial_start

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Terms of the stage that ``step`` is in, ``l1`` first.

        Where labels are moved ``folded`` and ``capped`` are only told, not learnt: the shares of
        voxels at which a displacement folds space, or is as long as it may be.
        """
        self._early = bool(self.task.poor) and not self.restores(step)
        return (self.branch_loss if self.restores(step) else self.synthesis_loss)(batch, step)

    def synthesis_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Of the first stage, or the only one."""
        o, guides = self.options, len(self.task.guides)
        made = self.synthesis(batch.sources[:, :guides], batch.present[:, :guides], batch.wanted)
        made = made.float()
        labelled, moved = self.corrected(batch)
        terms = self.fidelity(made, labelled, step)
        if moved is not None:
            assert self.correction is not None
            told = self.correction.told(moved)
            terms |= {name: self.each(values, batch) for name, values in told.items()}
            terms["smoothness"] = o.smoothness_weight * terms["smoothness"]
        if not self.fights(step):
            return terms
        label, shown = self.pictures(labelled.targets, batch), self.pictures(made, batch)
        terms |= self.contest("critic", shown, label, label - shown, batch, step)
        if moved is not None:
            judge, truth = self.judges["plain_critic"], self.pictures(batch.targets, batch)
            verdict = judge.judge(step, label, truth)
            terms["realism"] = o.adversarial_weight * self.each(verdict.fooled, batch)
            if self.decides(step):
                judge.show(batch.first, truth, label)
        return terms

    def branch_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Of the second stage, in which labels are moved as the first one left it."""
        o = self.options
        with torch.no_grad():
            batch, _ = self.corrected(batch)
        rough, made, maps = self.generator.parts(batch.sources, batch.present, batch.wanted)
        terms = self.fidelity(made.float(), batch, step)
        label, shown = (self.pictures(each, batch) for each in (batch.targets, made.float()))
        difference = label - self.pictures(rough.float(), batch)
        if o.distinction != "none" and o.distinction_weight > 0:
            goal = difference if o.distinction == "signed" else difference.abs()
            inside = counted(batch).flatten(0, 1)[:, None]
            far = squared_at_scales(maps, goal, inside)
            terms["distinction"] = o.distinction_weight * self.each(far, batch)
        if self.fights(step):
            terms |= self.contest("branch_critic", shown, label, difference, batch, step)
        return terms

    def contest(
        self, name: str, made: Tensor, label: Tensor, difference: Tensor, batch: Batch, step: int
    ) -> dict[str, Tensor]:
        """Terms ``adversarial`` and ``matching`` of pictures (N, 1, \\*S); labels learn nothing.

        The critic's condition is ``difference``, D∞, through which nothing learns either.
        """
        o, label, difference = self.options, label.detach(), difference.detach()
        judge = self.judges[name]
        verdict = judge.judge(step, made, label, difference)
        if self.decides(step):
            judge.show(batch.first, label, made, difference)
        return {
            "adversarial": o.adversarial_weight * self.each(verdict.fooled, batch),
            "matching": o.matching_weight * self.each(verdict.apart, batch),
        }

    def told(self, name: str, judge: Contest, batch: Batch, step: int) -> dict[str, Tensor]:
        """A critic's term, if it was shown something at this step."""
        found = judge.tells(batch.first)
        return {} if found is None else {name: self.each(found, batch)}

    def fidelity(self, made: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Terms of ``made`` (B, T, \\*S) float32: ``l1``, and those of a coupling."""
        o = self.options
        terms = {"l1": o.l1_weight * masked_l1(made, batch)}
        shown, truth = (self.pictures(images, batch)[:, 0] for images in (made, batch.targets))
        if o.similarity_weight > 0:
            alike = multiscale_similarity(shown, truth)
            terms["similarity"] = o.similarity_weight * self.each(1 - alike, batch)
        if self._distance is not None:
            far = self.perceptual(shown, truth, step)
            terms["perceptual"] = o.perceptual_weight * self.each(far, batch)
        return self.coupled(terms, made, batch, step)

    def perceptual(self, made: Tensor, truth: Tensor, step: int) -> Tensor:
        """(N,): LPIPS of images (N, \\*S), or the mean over slices of volumes; 0 … 1 is −1 … 1."""
        assert self._distance is not None
        count = self.options.perceptual_slices
        stacks = [
            orthogonal_slices(2 * images - 1, count, self.randomness(step))
            for images in (truth, made)
        ]
        with full_precision(made.device.type):
            found = [self._distance.of(*pair) for pair in zip(*stacks, strict=True)]
        return torch.cat(found).view(-1, len(made)).mean(0)

    def corrected(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """``batch`` with its wanted targets moved, and by how much: (B · T, d, \\*S) voxels.

        As it is, and None, where labels are not moved.
        """
        return (batch, None) if self.correction is None else self.correction(batch)

    def masks(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """And the wanted targets, which are compared, moved and judged one by one."""
        return super().masks(batch, step) | {"pictures": batch.wanted}

    def pictures(self, images: Tensor, batch: Batch) -> Tensor:
        """Each of images (B, T, \\*S) by itself, 0 where nothing counts: (B · T, 1, \\*S)."""
        return torch.where(counted(batch), images, 0).flatten(0, 1)[:, None]

    def each(self, values: Tensor, batch: Batch) -> Tensor:
        """The mean of ``values`` (B · T,) over wanted targets; 0 where there are none."""
        return masked_mean(values.view_as(batch.wanted), batch.wanted) * batch.weight("pictures")

    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """The generator's output; between steps of the first stage what synthesis makes alone."""
        if self._early:
            guides = len(self.task.guides)
            return self.synthesis(sources[:, :guides], present[:, :guides], wanted)
        return self.generator(sources, present, wanted)

    @property
    def beside(self) -> dict[str, nn.Module]:
        """``registration``, which a restoring that begins with its second stage needs."""
        return {} if self.correction is None else {"registration": self.correction.registration}

    def take_over(self, trained: Framework) -> None:
        """Begin with the synthesis of ``trained``, which never learns here."""
        assert isinstance(trained, FGDL)
        self.synthesis.load_state_dict(trained.synthesis.state_dict())

    def held_back(self, sources: Tensor, targets: Tensor) -> Tensor | None:
        """As :meth:`Framework.held_back`."""
        return None if self.correction is None else self.correction.held_back(sources, targets)

    def remarks(self, losses: Sequence[Mapping[str, float]]) -> list[str]:
        """That displacements were as long as they may be, where they were in the end."""
        told = [terms["capped"] for terms in losses if "capped" in terms]
        return remark_on(told[-max(1, len(told) // 4) :], self.options.cap)
