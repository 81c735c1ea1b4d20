"""Coupled to a segmenter: terms beside a framework's own, by what a frozen nnU-Net makes of it.

The synthetic channel is put among the real ones, as whoever completes a case will put it, and a
segmenter that never learns (:mod:`synth3d.losses.segmentation`) looks at them. Its weights are no
part of the framework's state, and its export is not needed once the training is done.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops import full_precision
from synth3d.data import Batch, Task
from synth3d.errors import InputError
from synth3d.frameworks.coupling.options import LOOKING, TERMS, CouplingOptions
from synth3d.losses import FrozenSegmenter, feature_error, load_segmenter, masked_mean, standardised

MEMORY = 0.99
"""Of the mean of squared gradients by which terms are balanced, from one step to the next."""


class Coupling(nn.Module):
    """The terms of ``options``, for a framework that makes ``task``'s targets.

    Attributes:
        squares: (1 + terms,) mean squared norms of gradients, of the L1 and of each of ``TERMS``.
        fresh: The same of this step alone, of what this process has seen of its batch.

    Raises:
        InputError: The segmenter is not there or damaged, or is none for such a task.
    """

    squares: Tensor
    fresh: Tensor

    def __init__(self, options: CouplingOptions, task: Task, patch: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.options, self.task = options, task
        segmenter = load_segmenter(Path(options.segmenter)) if options.segmenter else None
        self._segmenter = (segmenter,)  # in a tuple, so that it is no part of this module
        if segmenter is not None:
            _check_fits(segmenter, options, task, patch)
        if options.balance:
            for name in ("squares", "fresh"):
                self.register_buffer(name, torch.zeros(1 + len(TERMS)))

    def masks(self, batch: Batch, inside: Tensor) -> dict[str, Tensor]:
        """What its means run over, see :meth:`synth3d.frameworks.Framework.masks`.

        ``inside`` (B, T, \\*S) bool: the brain of wanted targets.
        """
        o, label, found = self.options, batch.label, dict[str, Tensor]()
        if o.answer > 0:
            found["answered"] = batch.wanted.any(1)
        if o.label > 0:
            found["labelled"] = batch.wanted.any(1) & (label >= 0).flatten(1).all(1)
        if o.tumour > 0:
            found["tumour"] = inside & (label > 0)
        if o.boundary > 0:
            pool = F.max_pool2d if label.ndim == 4 else F.max_pool3d
            nearby = pool(label.float(), 3, 1, 1), -pool(-label.float(), 3, 1, 1)
            found["boundary"] = inside & (nearby[0] != nearby[1])
        return found

    def terms(
        self, made: Tensor, batch: Batch, step: int, inside: Tensor, reference: Tensor
    ) -> dict[str, Tensor]:
        """Weighted terms by name; none before ``start``.

        Args:
            made: (B, T, \\*S) float32, synthetic, with its gradient.
            batch: As the framework has it; its targets learn nothing here, moved ones neither.
            step: Of the training.
            inside: As for :meth:`masks`.
            reference: The framework's own weighted L1, by which weights are balanced.
        """
        o = self.options
        if step < o.start:
            return {}
        masks = self.masks(batch, inside)
        found: dict[str, Tensor] = {}
        if o.segmenter and (step - o.start) % o.every == 0:
            with full_precision(made.device.type):
                found = self._by_segmenter(made, batch, masks)
        for name in ("tumour", "boundary"):
            if getattr(o, name) > 0:
                error = (made - batch.targets.detach()).abs()
                found[name] = masked_mean(error, masks[name]) * batch.weight(name)
        if o.balance:
            return self._balanced(found, made, reference)
        return {name: self._weight(name) * term for name, term in found.items()}

    def _weight(self, name: str) -> float:
        """So that a term that rests at most steps means as much as one that never does."""
        return getattr(self.options, name) * (self.options.every if name in LOOKING else 1)

    def _by_segmenter(
        self, made: Tensor, batch: Batch, masks: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Terms by what the segmenter sees and finds, in full precision, without weights."""
        (segmenter,), o = self._segmenter, self.options
        assert segmenter is not None
        segmenter.to(made.device)
        sides, decodes = made.shape[2:], o.label > 0 or o.answer > 0
        maps = segmenter.encode(self.shown(made, batch, synthetic=True))
        logits = segmenter.decode(maps, sides) if decodes else made
        found: dict[str, Tensor] = {}
        if o.features > 0 or o.answer > 0:
            with torch.no_grad():
                goals = segmenter.encode(self.shown(batch.targets, batch, synthetic=False))
        if o.features > 0:
            found["features"] = feature_error(maps, goals)
        if o.label > 0:
            error = segmenter.error(logits, segmenter.truth(batch.label))
            found["label"] = masked_mean(error, masks["labelled"]) * batch.weight("labelled")
        if o.answer > 0:
            with torch.no_grad():
                answer = segmenter.answer(segmenter.decode(goals, sides))
            error = segmenter.error(logits, answer)
            found["answer"] = masked_mean(error, masks["answered"]) * batch.weight("answered")
        return found

    def shown(self, targets: Tensor, batch: Batch, synthetic: bool) -> Tensor:
        """What the segmenter sees (B, C, \\*S): z-scores of wanted ``targets``, else of sources.

        What a sample neither shows nor wants is 0, as an empty channel is. Synthetic images reach
        over all of the brain; real ones may have background in it.
        """
        (segmenter,), task, region = self._segmenter, self.task, batch.region
        assert segmenter is not None
        if batch.levels is None or region is None:
            raise ValueError("this batch was drawn for no segmenter: it has no levels")
        of_sources, of_targets = batch.levels.split([len(task.sources), len(task.targets)], 1)
        there = batch.brain if synthetic else targets != 0
        sources = batch.sources if batch.scanned is None else batch.scanned
        real = standardised(sources, sources != 0, of_sources, region)
        made = standardised(targets, there, of_targets, region)
        channels = []
        for name in segmenter.about.channels:
            seen = torch.zeros_like(made[:, 0])
            for images, known, names in (
                (real, batch.present, task.sources), (made, batch.wanted, task.targets)
            ):  # fmt: skip
                if name in names:
                    at = [*names].index(name)
                    which = known[:, at].view(-1, *[1] * (seen.ndim - 1))
                    seen = torch.where(which, images[:, at], seen)
            channels.append(seen)
        return torch.stack(channels, 1)

    def _balanced(
        self, found: dict[str, Tensor], made: Tensor, reference: Tensor
    ) -> dict[str, Tensor]:
        """Terms whose gradients have ``weight`` times the norm of the reference's.

        At the first step there is no mean yet, and they are only measured.
        """
        terms: dict[str, Tensor] = {}
        (slope,) = torch.autograd.grad(reference, made, retain_graph=True)
        self.fresh[0] += slope.square().sum()
        for name, term in found.items():
            place = 1 + TERMS.index(name)
            (slope,) = torch.autograd.grad(term, made, retain_graph=True)
            self.fresh[place] += slope.square().sum()
            own, goal = self.squares[place], self.squares[0]
            factor = torch.where(own > 0, (goal / own.clamp(min=1e-30)).sqrt(), 0)
            terms[name] = (
                self._weight(name)
                * factor
                * (term.detach() + ((made - made.detach()) * slope).sum())
            )
        return terms

    @torch.no_grad()
    def settle(self, total: Tensor) -> None:
        """Take ``total``, the sum of ``fresh`` over all processes, into ``squares``."""
        known = total > 0  # what rested at this step stays as it was
        new = torch.where(self.squares > 0, self.squares.lerp(total, 1 - MEMORY), total)
        self.squares.copy_(torch.where(known, new, self.squares))
        self.fresh.zero_()


def _check_fits(
    segmenter: FrozenSegmenter, options: CouplingOptions, task: Task, patch: tuple[int, ...]
) -> None:
    """Refuse a segmenter that does not see what this task makes, or is another than it was."""
    about, folder = segmenter.about, options.segmenter
    if options.segmenter_sha256 not in ("", about.weights_sha256):
        raise InputError(
            f"the segmenter {folder} was exported anew since this run was coupled to it; restore "
            "it, or choose another --name to start anew"
        )
    if about.architecture.dim != task.dim:
        raise InputError(
            f"the segmenter {folder} sees {about.architecture.dim}-D patches, and this run has "
            f"{task.dim}-D ones; export one of the same dimension"
        )
    takes, known = ", ".join(about.channels), {*task.sources, *task.targets}
    if strange := [name for name in about.channels if name not in known]:
        raise InputError(
            f"the segmenter {folder} takes {takes}, and this run has no {', '.join(strange)}; "
            "export one of the run's own sequences"
        )
    if not {*about.channels} & {*task.targets}:
        raise InputError(
            f"the segmenter {folder} takes {takes} and would see nothing of what this run makes "
            f"({', '.join(task.targets)}); export one that does"
        )
    if patch:
        segmenter.check_patch(patch)
