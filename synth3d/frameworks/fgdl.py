"""FGDL (Feng et al., IEEE TMI 2024): what is learnt is the target as it would lie on the sources.

Pairs are a little out of place even after registration, and a generator that is told to hit them
blurs. So a second network learns with the generator how each training target has to be moved; it
moves labels of the training only. Here is the synthesis of a missing sequence (their CMS with label
correction) by its reconstruction terms; its critics and the super-resolution of poor ones are not.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from synth3d.data import Batch, only
from synth3d.frameworks.base import Framework, Options, Player, counted, masked_l1
from synth3d.losses import masked_mean, multiscale_similarity
from synth3d.models import Registration, folded, roughness, warp


@dataclass(frozen=True)
class FGDLOptions(Options):
    """``fgdl``: 1 L1 + 1 (1 − MS-SSIM) + 1 × the smoothness of the displacements.

    ``correct`` lets labels be moved, no component farther than ``cap`` voxels; ``keep_tumour``
    leaves voxels of the label's tumour where they are, so that no correction can hide them.
    ``spacing`` is the voxel edges ([z,] y, x) in which slopes of displacements are taken, empty for
    cubes. ``registration_width`` is the registration network's first layer.
    """

    name = "fgdl"
    l1_weight: float = 1.0
    similarity_weight: float = 1.0
    smoothness_weight: float = 1.0
    correct: bool = True
    keep_tumour: bool = False
    cap: float = 8.0
    spacing: tuple[float, ...] = ()
    registration_width: int = 32

    def __post_init__(self) -> None:
        self.check_weights("l1_weight", "similarity_weight", "smoothness_weight", "cap")
        self.check_counts("registration_width")
        self.require(self.cap > 0, "cap", "above 0 voxels")
        known = all(0 < edge < 1e6 for edge in self.spacing)
        self.require(known and len(self.spacing) in (0, 2, 3), "spacing", "2 or 3 lengths, or none")


class FGDL(Framework):
    """A generator, and beside it what moves the labels that it learns from.

    Each target is moved by itself, by what the network sees of it and of the sources. Validation,
    completion and scores know nothing of that: what is made lies as the sources do.
    """

    Options = FGDLOptions

    def prepare(self) -> None:
        """The registration network, for training, if labels are to be moved."""
        o, task = self.options, self.task
        axes = f"{task.dim} lengths, as dim is {task.dim}, or none"
        o.require(len(o.spacing) in (0, task.dim), "spacing", axes)
        self.registration: Registration | None = None
        if self.plan is not None and o.correct:
            seen, size = 1 + len(task.sources), (o.registration_width, o.cap)
            self.registration = Registration(seen, task.dim, self.plan.patch, *size)

    def players(self) -> dict[str, Player]:
        """``generator`` and ``registration``, which learns by the same loss."""
        players = super().players()
        if self.registration is not None:
            assert self.plan is not None
            players["registration"] = Player(self.registration, None, self.plan.rate)
        return players

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Terms ``l1``, ``similarity`` and, where labels are moved, ``smoothness`` and ``folded``.

        The last is only told, not learnt: the share of voxels at which a displacement folds space.
        """
        o = self.options
        made = self.generator(batch.sources, batch.present, batch.wanted).float()
        batch, moved = self.corrected(batch)
        terms = {"l1": o.l1_weight * masked_l1(made, batch)}
        if o.similarity_weight > 0:
            inside = counted(batch)
            shown, truth = ((image * inside).flatten(0, 1) for image in (made, batch.targets))
            alike = multiscale_similarity(shown, truth).view_as(batch.wanted)
            terms["similarity"] = o.similarity_weight * self.picture_mean(1 - alike, batch)
        if moved is not None:
            spacing = o.spacing or (1.0,) * self.task.dim
            rough = roughness(moved, spacing).view_as(batch.wanted)
            terms["smoothness"] = o.smoothness_weight * self.picture_mean(rough, batch)
            terms["folded"] = self.picture_mean(folded(moved).view_as(batch.wanted), batch)
        return terms

    def corrected(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """``batch`` with its wanted targets moved, and by how much: (B · T, d, \\*S) voxels.

        As it is, and None, where labels are not moved.
        """
        if self.registration is None:
            return batch, None
        truth = only(batch.targets, batch.wanted)
        each, count = truth.flatten(0, 1)[:, None], truth.shape[1]
        seen = batch.sources.repeat_interleave(count, dim=0)
        moved = self.registration(torch.cat([each, seen], dim=1))
        if self.options.keep_tumour:
            tumour = (batch.label > 0).repeat_interleave(count, dim=0)
            moved = moved.masked_fill(tumour, 0)
        targets = warp(each, moved).view_as(truth)
        return replace(batch, targets=targets), moved

    def masks(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """And the wanted targets, which are compared and moved one by one."""
        return super().masks(batch, step) | {"pictures": batch.wanted}

    def picture_mean(self, values: Tensor, batch: Batch) -> Tensor:
        """The mean of ``values`` (B, T) over wanted targets; 0 where there are none."""
        return masked_mean(values, batch.wanted) * batch.weight("pictures")
