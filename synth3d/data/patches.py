"""Prepared case → TorchIO subject → patch queue → Batch.

The one door of TorchIO. TorchIO is (x, y, z), arrays and batches are (z, y, x): the axes turn in
:func:`to_subject` and back in :func:`collate`. In 2-D the same volumes, turned so that slices lie
first (:mod:`synth3d.data.slices`), give patches one slice thick, which lose that axis in the batch.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torchio as tio
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchio.constants import INTENSITY, LABEL, SAMPLING_MAP
from torchio.transforms import Compose, Pad, RandomAffine, RandomFlip, Transform

from synth3d.cohort import parse_modality
from synth3d.data.batch import Batch
from synth3d.data.misalign import draw_motion, move
from synth3d.data.options import DataConfig, MisalignConfig
from synth3d.data.prepared import Prepared
from synth3d.data.slices import (
    brain_box,
    draw_in,
    frame_of,
    learnt_slices,
    seen,
    slice_centres,
    with_tumour,
)
from synth3d.data.task import Task, draw_any, drop_sources, seed_of
from synth3d.errors import InputError
from synth3d.images import xyz_to_zyx

Cut = Callable[[np.ndarray], np.ndarray]
"""(..., D, H, W) → the part of it that patches are cut from."""


def to_subject(prepared: Prepared, task: Task, data: DataConfig) -> tio.Subject:
    """A TorchIO subject, cropped to the brain and padded so that patches fit.

    It holds ``sources`` (S, x, y, z), ``targets`` (T, x, y, z), ``brain``, ``label`` where the case
    has one, ``present`` (S) and ``wanted`` (T), which of them the case has, and ``centres``, the
    weight with which each voxel becomes the centre of a patch: ``tumour_chance`` of the weight
    is spread over the tumour, the rest over the brain. For ``dim`` 2 the axes are (column, row,
    slice), and the padding waits in ``margins`` until patches are drawn, to save memory.

    Raises:
        InputError: No patch can be centred in the brain (or in the tumour, for a
            ``tumour_chance`` of 1).
    """
    if task.dim == 2:
        prepared = seen(prepared, task, data)
        cut, centres, margins = _whole_slices(prepared, data)
    else:
        cut, centres, margins = _padded_box(prepared, data)

    def image(volume: np.ndarray, kind: str, dtype: type = np.float32) -> tio.Image:
        tensor = torch.from_numpy(np.ascontiguousarray(xyz_to_zyx(volume), dtype))
        return tio.Image(tensor=tensor, affine=prepared.affine, type=kind)

    subject = tio.Subject(
        sources=image(cut(prepared.sources(task.sources)), INTENSITY),
        targets=image(cut(prepared.sources(task.targets)), INTENSITY),
        brain=image(cut(prepared.brain[None]), LABEL, np.uint8),
        centres=image(centres[None], SAMPLING_MAP),
        present=torch.tensor([name in prepared.volumes for name in task.sources]),
        wanted=torch.tensor([name in prepared.volumes for name in task.targets]),
        margins=margins,
    )
    if prepared.label is not None:
        subject.add_image(image(cut(prepared.label[None]), LABEL, np.int8), "label")
    return subject


def _padded_box(prepared: Prepared, data: DataConfig) -> tuple[Cut, np.ndarray, tuple[int, ...]]:
    """For volumes: how to cut, the cut weights of centres, and no margins for later.

    Around the brain lie a quarter patch of zeros, and at least enough for one patch.
    """
    box = brain_box(prepared.brain)
    margins = []
    for part, side in zip(box, data.patch, strict=True):
        total = max(2 * (side // 4), side - (part.stop - part.start))
        margins.append((total // 2, total - total // 2))

    def cut(volume: np.ndarray) -> np.ndarray:
        return np.pad(volume[(..., *box)], [(0, 0)] * (volume.ndim - 3) + margins)

    centres = cut(patch_centres(prepared.brain, prepared.tumour, data.tumour_chance))
    inner = tuple(slice(side // 2, 1 - (side + 1) // 2 or None) for side in data.patch)
    if not centres[inner].any():
        raise InputError(
            f"case {prepared.case.name}: no patch of {data.patch} voxels (z, y, x) can be centred "
            "in its brain; choose a smaller data.patch or another data.tumour_chance"
        )
    return cut, centres, ()


def _whole_slices(prepared: Prepared, data: DataConfig) -> tuple[Cut, np.ndarray, tuple[int, ...]]:
    """For slices, of a case that is turned already: as :func:`_padded_box`, margins (x, y, z)."""
    learnt = learnt_slices(prepared.brain, data.slices_per_case)
    if not prepared.brain[learnt].any():
        raise InputError(f"case {prepared.case.name} has no {data.plane} slice with brain")
    frame = frame_of(prepared.brain, data.patch, data.slices_per_case)
    tumour = frame.cut(prepared.tumour) if prepared.tumour is not None else None
    centres = slice_centres(frame.cut(prepared.brain), tumour, data.tumour_chance)
    return frame.cut, centres, tuple(zeros for pair in frame.margins[::-1] for zeros in pair)


def patch_centres(brain: np.ndarray, tumour: np.ndarray | None, chance: float) -> np.ndarray:
    """Sampling weights (D, H, W), float32, summing to 1; zero outside the brain."""
    return with_tumour(brain / max(1, brain.sum()), brain, tumour, chance)


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
    return Compose(steps, copy=False)  # the queue hands out copies already


def collate(patches: Sequence[tio.Subject], dim: int = 3) -> Batch:
    """TorchIO patches (C, x, y, z) to one Batch (B, C, z, y, x), or (B, C, y, x) for ``dim`` 2."""

    def stack(name: str) -> Tensor:
        stacked = xyz_to_zyx(torch.stack([getattr(patch, name).data for patch in patches]))
        return (stacked.squeeze(2) if dim == 2 else stacked).contiguous()

    brain = stack("brain") > 0
    label = torch.full_like(brain, -1, dtype=torch.int8)
    for index, patch in enumerate(patches):
        if "label" in patch:
            known = xyz_to_zyx(patch.label.data)
            label[index] = known.squeeze(1) if dim == 2 else known
    present, wanted = (
        torch.stack([getattr(patch, name) for patch in patches]) for name in ("present", "wanted")
    )
    return Batch(stack("sources"), stack("targets"), present, wanted, brain, label)


@dataclass(frozen=True)
class Stream:
    """Training batches without end, drawn from the subjects of a cohort.

    All randomness follows from a seed: patches, flips and movements are drawn from torch's global
    generator, hidden sources (``data.source_dropout``), or what is shown and wanted in a task of
    mode ``any``, from one of their own. What is hidden is 0. Subjects that do not fill one batch
    are refused. ``pinned`` batches lie in page-locked memory, as a GPU copies them fastest.
    """

    subjects: Sequence[tio.Subject]
    task: Task
    data: DataConfig
    misalign: MisalignConfig = MisalignConfig()
    pinned: bool = False

    def __post_init__(self) -> None:
        each = self.data.patches_per_case
        if len(self.subjects) * each < self.data.batch:
            raise InputError(
                f"{len(self.subjects)} training case(s) × {each} patches do not fill "
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
        loader = DataLoader(
            _Drawn(self, seed),
            batch_size=None,
            num_workers=self.data.workers,
            worker_init_fn=partial(_die_with, os.getpid()),
            generator=torch.Generator().manual_seed(seed),
            pin_memory=self.pinned,  # here, by a thread; workers never touch the GPU
        )
        return iter(loader)

    def draw(self, seed: int) -> Iterator[Batch]:
        """:meth:`batches` from torch's global generator as it stands."""
        hiding, data = torch.Generator().manual_seed(seed), self.data
        augment = augmentation(data, self.subjects[0].spacing, self.task.dim)
        patch: Any = data.patch[::-1] if self.task.dim == 3 else (*data.patch[::-1], 1)
        on_its_way = partial(self._on_its_way, augment=augment)
        pack = partial(collate, dim=self.task.dim)
        while True:
            queue = tio.Queue(
                tio.SubjectsDataset(list(self.subjects), transform=on_its_way),
                max_length=max(data.queue, data.batch),
                samples_per_volume=data.patches_per_case,
                sampler=tio.WeightedSampler(patch, "centres"),
                start_background=False,
            )
            how: dict[str, Any] = {"batch_size": data.batch, "drop_last": True}
            for batch in tio.SubjectsLoader(queue, collate_fn=pack, **how):
                yield self._hide(batch, hiding)

    def _hide(self, batch: Batch, generator: torch.Generator) -> Batch:
        wanted = batch.wanted
        if self.task.mode == "any":
            present, wanted = draw_any(batch.present, generator)
        else:
            present = drop_sources(batch.present, self.data.source_dropout, generator)
        shown = present.view(*present.shape, *[1] * (batch.sources.ndim - 2))
        return replace(batch, sources=batch.sources * shown, present=present, wanted=wanted)

    def _on_its_way(self, subject: tio.Subject, augment: Transform) -> tio.Subject:
        """A case before patches are cut: padding, one source out of place, augmentation."""
        if self.task.dim == 2:
            subject = Pad(subject.margins, copy=False)(subject)
        if self.misalign.active and self.misalign.when == "train_and_test":
            self._move_one_source(subject)
        subject = augment(subject)
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
        moved = move(volume if dim == 2 else volume[None], motion, sources.spacing[::-1][-dim:])
        channel.copy_(xyz_to_zyx(moved.reshape(volume.shape)))


@dataclass(frozen=True)
class _Drawn(IterableDataset):
    """What a worker process draws."""

    stream: Stream
    seed: int

    def __iter__(self) -> Iterator[Batch]:
        worker, seed = get_worker_info(), self.seed
        if worker is not None and worker.id > 0:
            seed = seed_of(f"{seed}/worker {worker.id}")
        torch.manual_seed(seed)
        return self.stream.draw(seed)


def _die_with(parent: int, worker: int) -> None:
    """End this worker the moment the process ``parent`` is killed, and at no other signal.

    A scheduler's warning goes to all processes of a job, and is for the one that can save. A worker
    has inherited the lock on the run folder; one that outlives its parent by seconds would keep the
    same command from going on.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # not Linux: torch's watchdog ends it
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was killed before we could ask
        os._exit(1)
