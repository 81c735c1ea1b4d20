"""Packed case → TorchIO's queue → Batch.

The one door of TorchIO. TorchIO is (x, y, z), arrays and batches are (z, y, x). Its queue takes a
case, draws its patches and lets it go. Of volumes only the patches are read; where something moves
them as a whole (``data.misregistration``, ``MisalignConfig``) or makes them poorer
(``DegradeConfig``), and for slices, the case is read whole, as TorchIO's subject
(:func:`to_subject`). In 2-D it is turned so that slices lie first (:mod:`synth3d.data.slices`) and
gives patches one slice thick, which lose that axis in the batch.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler
from torchio.constants import INTENSITY, LABEL, SAMPLING_MAP
from torchio.transforms import Compose, Pad, RandomAffine, RandomFlip, Transform

from synth3d.cohort import Case, parse_modality
from synth3d.data.batch import Batch, head_of, only, varied
from synth3d.data.cache import Levels, Packed, scored
from synth3d.data.centres import Frame3d, centres_of
from synth3d.data.cutting import Cutter, Patch, collate, frame_around, known_of
from synth3d.data.degrade import degrade
from synth3d.data.feeding import drawn_by_workers
from synth3d.data.misalign import draw_motion, move, moved
from synth3d.data.options import DataConfig, DegradeConfig, MisalignConfig
from synth3d.data.prepared import Prepared
from synth3d.data.slices import (
    brain_box,
    draw_in,
    frame_of,
    slice_centres,
    with_tumour,
)
from synth3d.data.task import Task, draw_any, drop_sources, seed_of
from synth3d.errors import InputError
from synth3d.images import xyz_to_zyx

Cut = Callable[[np.ndarray], np.ndarray]
"""(..., D, H, W) → the part of it that patches are cut from."""
Counts = MutableMapping[object, np.ndarray]
"""Of the places of a case by slabs, see :func:`synth3d.data.centres.centres_of`."""

Drawing = Callable[[], Iterator[Patch]]
"""Draws patches of a case that is augmented already, without end."""


def to_subject(
    prepared: Prepared, task: Task, data: DataConfig, region: np.ndarray | None = None
) -> tio.Subject:
    """A TorchIO subject of a whole case as the network sees it, cropped and padded.

    It holds ``sources`` (S, x, y, z), ``targets`` (T, x, y, z), ``brain``, ``label`` where the case
    has one, ``region`` (D, H, W) where that is given, and ``centres``, the weight with which each
    voxel becomes the centre of a patch: ``tumour_chance`` of it is spread over the tumour, the rest
    over the brain. For ``dim`` 2 the case is turned already, the axes are (column, row, slice), and
    the padding waits in ``margins``.
    """
    if task.dim == 2:
        cut, centres, margins = _whole_slices(prepared, data)
    else:
        cut, centres, margins = _padded_box(prepared, data)

    def image(volume: np.ndarray, kind: str, dtype: type = np.float32) -> tio.Image:
        tensor = torch.from_numpy(np.ascontiguousarray(xyz_to_zyx(volume), dtype))
        return tio.Image(tensor=tensor, affine=prepared.affine, type=kind)

    subject = tio.Subject(
        sources=image(cut(prepared.sources(task)), INTENSITY),
        targets=image(cut(prepared.stack(task.targets)), INTENSITY),
        brain=image(cut(prepared.brain[None]), LABEL, np.uint8),
        centres=image(centres[None], SAMPLING_MAP),
        margins=margins,
    )
    if prepared.label is not None:
        subject.add_image(image(cut(prepared.label[None]), LABEL, np.int8), "label")
    if region is not None:
        subject.add_image(image(cut(region[None]), LABEL, np.uint8), "region")
    return subject


def _padded_box(prepared: Prepared, data: DataConfig) -> tuple[Cut, np.ndarray, tuple[int, ...]]:
    """For volumes: how to cut, the cut weights of centres, and no margins for later."""
    box = brain_box(prepared.brain)
    frame = Frame3d(tuple(part.stop - part.start for part in box)[::-1], data.patch[::-1])
    margins = [frame.margin(axis) for axis in (2, 1, 0)]

    def cut(volume: np.ndarray) -> np.ndarray:
        return np.pad(volume[(..., *box)], [(0, 0)] * (volume.ndim - 3) + margins)

    return cut, cut(patch_centres(prepared.brain, prepared.tumour, data.tumour_chance)), ()


def _whole_slices(prepared: Prepared, data: DataConfig) -> tuple[Cut, np.ndarray, tuple[int, ...]]:
    """For slices, of a case that is turned already: as :func:`_padded_box`, margins (x, y, z)."""
    frame = frame_of(prepared.brain, data.patch, data.slices_per_case)
    tumour = frame.cut(prepared.tumour) if prepared.tumour is not None else None
    centres = slice_centres(frame.cut(prepared.brain), tumour, data.tumour_chance)
    return frame.cut, centres, tuple(zeros for pair in frame.margins[::-1] for zeros in pair)


def patch_centres(brain: np.ndarray, tumour: np.ndarray | None, chance: float) -> np.ndarray:
    """Sampling weights (D, H, W), float32, summing to 1; zero outside the brain."""
    return with_tumour(brain / max(1, brain.sum()), brain, tumour, chance)


NOBODY = Case("", "", Path(), {}, None, "brats2023")
"""Whose a case is, is of no account once it is drawn from."""


def _flips_drawn(augment: Transform, affine: np.ndarray) -> tuple[bool, ...]:
    """Which axes (x, y, z) ``augment``, which does nothing else, flips now.

    It is let loose on two voxels a side with a mark in the first: all its draws are made.
    """
    corner = torch.zeros(1, 2, 2, 2)
    corner[0, 0, 0, 0] = 1
    drawn: Any = augment(tio.Subject(corner=tio.Image(tensor=corner, affine=affine, type=LABEL)))
    return tuple(bool(index) for index in drawn.corner.data[0].nonzero()[0])


def augmentation(config: DataConfig, spacing_mm: Sequence[float], dim: int = 3) -> Transform:
    """Random left-right flips, and a random shift of the sources against the target.

    ``spacing_mm`` is (x, y, z): TorchIO takes shifts in mm. For ``dim`` 2 nothing moves from slice
    to slice.
    """
    steps: list[Transform] = []
    if config.flip:
        steps.append(RandomFlip(axes=("Left",), copy=False))  # pyright: ignore[reportArgumentType]
    if config.misregistration > 0:
        far = [config.misregistration * mm for mm in spacing_mm[:dim]] + [0.0] * (3 - dim)
        span: Any = tuple(sign * mm for mm in far for sign in (-1, 1))
        how: dict[str, Any] = {"include": ["sources"], "default_pad_value": 0, "copy": False}
        steps.append(RandomAffine(scales=0, degrees=0, translation=span, **how))
    return Compose(steps, copy=False)


class _Order(RandomSampler):
    """Torch's order of cases, anew each time, told before the first of them is asked for."""

    def __init__(self, count: int, tell: Callable[[Sequence[int]], object]) -> None:
        super().__init__(range(count))
        self.tell = tell

    def __iter__(self) -> Iterator[int]:
        order = list(super().__iter__())
        self.tell(order)
        yield from order


class _Queue(tio.Queue):
    """TorchIO's, which would draw an order to count its patches."""

    @property
    def iterations_per_epoch(self) -> int:
        return len(self.subjects_dataset) * self.samples_per_volume


@dataclass(frozen=True)
class _Opened(Dataset):
    """What TorchIO's queue asks a stream for by number: cases that are augmented already."""

    stream: "Stream"

    def __len__(self) -> int:
        return len(self.stream.cases)

    def __getitem__(self, number: int) -> Drawing:
        return self.stream.opened(number)


@dataclass(frozen=True)
class Stream:
    """Training batches without end, drawn from packed cases, of which one is held at a time.

    All randomness follows from a seed: patches, flips and movements are drawn from torch's global
    generator, hidden sources (``data.source_dropout``), or what is shown and wanted in a task of
    mode ``any``, from one of their own, and so are other intensities (``data.vary``). What is
    hidden is 0; a poor sequence never is, for then
    nothing would be left to restore. Cases that do not fill one batch are refused. ``pinned``
    batches lie in page-locked memory, as a GPU copies them fastest.
    A target that ``misalign`` moves lies in the same wrong place whenever its case is drawn from.

    Attributes:
        cases: As the network sees them (:func:`synth3d.data.seen`); each is asked for when its
            patches are drawn.
        expect: Called with the numbers of ``cases`` in the order in which they will be asked for.
        coupled: Where a coupled segmenter takes z-scores, ``head`` or ``box``; empty without one.
        seeds: From which the motion of each case's target is drawn; needed where one moves.
    """

    cases: Sequence[Packed]
    task: Task
    data: DataConfig
    misalign: MisalignConfig = MisalignConfig()
    pinned: bool = False
    expect: Callable[[Sequence[int]], object] = len
    counted: dict[int, Counts] = field(default_factory=dict, compare=False)
    degrade: DegradeConfig = DegradeConfig()
    coupled: str = ""
    scored: dict[int, Levels] = field(default_factory=dict, compare=False)
    seeds: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self._moves_target and len(self.seeds) != len(self.cases):
            raise ValueError(f"{len(self.cases)} cases and {len(self.seeds)} seeds of their motion")
        each = self.data.patches_per_case
        if len(self.cases) * each < self.data.batch:
            raise InputError(
                f"{len(self.cases)} training case(s) × {each} patches do not fill "
                f"one batch of {self.data.batch}; raise data.patches_per_case"
            )

    def batches(self, seed: int) -> Iterator[Batch]:
        """The batches of ``seed``, a fresh queue each time all subjects have been seen.

        The same seed gives the same batches, if nobody else draws between. With ``data.workers``
        other processes draw, each with generators of its own, and batches come from them in turn;
        a single worker gives the very batches that none would.
        """
        torch.manual_seed(seed)
        if self.data.workers > 0:
            return self.drawn_by_workers(seed)
        drawn = self.draw(seed)
        return map(Batch.pin_memory, drawn) if self.pinned else drawn

    def drawn_by_workers(self, seed: int) -> Iterator[Batch]:
        """As :meth:`batches`, of which the first are being drawn when this returns.

        Torch's global generator stays as it is; the workers end with the iterator.
        """
        return drawn_by_workers(self, seed)

    def draw(self, seed: int) -> Iterator[Batch]:
        """:meth:`batches` from torch's global generator as it stands."""
        hiding, data = torch.Generator().manual_seed(seed), self.data
        varying = torch.Generator().manual_seed(seed_of(f"vary/{seed}"))
        order, pack = _Order(len(self.cases), self.expect), partial(collate, dim=self.task.dim)
        while True:
            queue = _Queue(
                _Opened(self),  # pyright: ignore[reportArgumentType]
                max_length=max(data.queue, data.batch),
                samples_per_volume=data.patches_per_case,
                sampler=_begun,  # pyright: ignore[reportArgumentType]
                subject_sampler=order,
                shuffle_subjects=False,
                start_background=False,
            )
            how: dict[str, Any] = {"batch_size": data.batch, "drop_last": True}
            for batch in tio.SubjectsLoader(queue, collate_fn=pack, **how):
                yield self._vary(self._hide(batch, hiding), varying)

    def opened(self, number: int) -> Drawing:
        """A case whose augmentation is drawn, by torch's global generator."""
        packed = self.cases[number]
        levels = region = None
        if self.coupled:
            names = (*self.task.sources, *self.task.targets)
            seen = self.scored.setdefault(number, {})
            levels, region = scored(packed, names, self.coupled, seen)
        if self.reads_whole:
            prepared = packed.prepared(NOBODY)
            if self.degrade.active and self.degrade.when == "train_and_test":
                draws = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
                prepared = degrade(prepared, self.task, self.data, self.degrade, draws)
            if self._moves_target:
                how = self.task, self.data, self.misalign
                prepared = moved(prepared, *how, self.seeds[number])
            whole = None if region is None else packed.placed(region)
            subject = to_subject(prepared, self.task, self.data, whole)
            known = *known_of(packed, self.task), levels
            return partial(self._cut_whole, self._on_its_way(subject), *known)
        flips = _flips_drawn(augmentation(self.data, (1, 1, 1)), packed.affine)
        frame, known = frame_around(packed, self.data), self.counted.setdefault(number, {})
        centres = centres_of(packed, frame, flips, self.data.tumour_chance, known)
        return Cutter(packed, self.task, self.data.patch, flips, centres, levels, region)

    @property
    def reads_whole(self) -> bool:
        """Whether more than a patch of a case is needed to draw one."""
        moves = self.misalign.trained
        poor = self.degrade.active and self.degrade.when == "train_and_test"
        poor = poor or bool(self.task.poor)
        return self.task.dim == 2 or moves or poor or self.data.misregistration > 0

    @property
    def _moves_target(self) -> bool:
        return self.misalign.trained and self.misalign.source in self.task.targets

    def _hide(self, batch: Batch, generator: torch.Generator) -> Batch:
        """In mode ``any`` the brain is that of what is shown, as for a case that has no more."""
        if self.task.mode == "any":
            present, wanted = draw_any(batch.present, generator)
            sources = only(batch.sources, present)
            parts = {"present": present, "wanted": wanted, "brain": head_of(sources)}
            return replace(batch, sources=sources, **parts)
        present = drop_sources(batch.present, self.data.source_dropout, generator)
        poor = torch.tensor([name in self.task.poor for name in self.task.sources])
        present = present | (batch.present & poor)
        return replace(batch, sources=only(batch.sources, present), present=present)

    def _vary(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Other intensities of what is shown; a coupled segmenter sees them as they were."""
        if not self.data.vary:
            return batch
        sources = varied(batch.sources, self.data.vary, generator)
        return replace(batch, sources=sources, scanned=batch.sources if self.coupled else None)

    def _cut_whole(
        self, subject: tio.Subject, present: Tensor, wanted: Tensor, levels: np.ndarray | None
    ) -> Iterator[Patch]:
        """Patches of a case that was read whole."""
        size: Any = self.data.patch[::-1] if self.task.dim == 3 else (*self.data.patch[::-1], 1)
        sampler: Any = tio.WeightedSampler(size, "centres")
        for patch in sampler(subject):
            tensors = {
                name: xyz_to_zyx(patch[name].data) if name in patch else None
                for name in ("sources", "targets", "brain", "label", "region")
            }
            more: dict[str, Any] = {"brain": tensors.pop("brain") > 0}  # pyright: ignore[reportOptionalOperand]
            if levels is not None:
                more |= {"levels": torch.from_numpy(levels), "region": tensors.pop("region") > 0}  # pyright: ignore[reportOptionalOperand]
            yield Patch(**tensors | more, present=present, wanted=wanted)  # pyright: ignore[reportArgumentType]

    def _on_its_way(self, subject: tio.Subject) -> tio.Subject:
        """A case before patches are cut: padding, one source out of place, augmentation."""
        if self.task.dim == 2:
            subject = Pad(subject.margins, copy=False)(subject)
        if self.misalign.trained and self.misalign.source in self.task.sources:
            self._move_one_source(subject)
        subject = augmentation(self.data, subject.spacing, self.task.dim)(subject)
        if self.task.dim == 2:
            centres = draw_in(subject.centres.data[0], (*self.data.patch[::-1], 1))
            subject.centres.set_data(centres[None])
        return subject

    def _move_one_source(self, subject: tio.Subject) -> None:
        """In place, by a draw from torch's global generator."""
        dim, sources = self.task.dim, subject.sources
        motion = draw_motion(self.misalign, dim)
        channel = sources.data[self.task.sources.index(parse_modality(self.misalign.source))]
        volume = xyz_to_zyx(channel)
        found = move(volume if dim == 2 else volume[None], motion, sources.spacing[::-1][-dim:])
        channel.copy_(xyz_to_zyx(found.reshape(volume.shape)))


def _begun(drawing: Drawing) -> Iterator[Patch]:
    return drawing()
