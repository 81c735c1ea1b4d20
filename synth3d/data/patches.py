"""Prepared case → TorchIO subject → patch queue → Batch.

The one door of TorchIO. TorchIO is (x, y, z), arrays and batches are (z, y, x): the axes turn in
:func:`to_subject` and back in :func:`collate`. In 2-D the same volumes, turned so that slices lie
first (:mod:`synth3d.data.slices`), give patches one slice thick, which lose that axis in the batch.
"""

import contextlib
import ctypes
import hashlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torchio as tio
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from synth3d.config import DataConfig, RunConfig
from synth3d.data.batch import Batch, drop_sources
from synth3d.data.misalign import draw_motion, move
from synth3d.data.prepared import Prepared, prepare
from synth3d.data.slices import draw_in, frame_of, learnt_slices, seen, slice_centres
from synth3d.errors import InputError
from synth3d.images import xyz_to_zyx

__all__ = ["Prepared", "augmentation", "batches", "brain_box", "collate", "drawn_by_workers",
           "patch_centres", "prepare", "to_subject"]  # fmt: skip


def to_subject(prepared: Prepared, config: RunConfig) -> tio.Subject:
    """A TorchIO subject, cropped to the brain and padded so that patches fit.

    It holds ``sources`` (S, x, y, z), ``targets`` (T, x, y, z), ``brain`` and ``centres``, the
    weight with which each voxel becomes the centre of a patch: ``tumour_chance`` of the weight
    is spread over the tumour, the rest over the brain. For ``dim`` 2 the axes are (column, row,
    slice), and the padding waits in ``margins`` until patches are drawn, to save memory.

    Raises:
        InputError: No patch can be centred in the brain (or in the tumour, for a
            ``tumour_chance`` of 1).
    """
    data = config.data
    if config.dim == 2:
        return _sliced_subject(seen(prepared, config), config)
    centres = patch_centres(prepared.brain, prepared.tumour, data.tumour_chance)
    box = brain_box(prepared.brain)
    margin = [_margins(part, side) for part, side in zip(box, data.patch, strict=True)]

    def image(volume: np.ndarray, kind: str) -> tio.Image:
        padded = np.pad(volume[(slice(None), *box)], [(0, 0), *margin])
        tensor = torch.from_numpy(np.ascontiguousarray(xyz_to_zyx(padded), np.float32))
        return tio.Image(tensor=tensor, affine=prepared.affine, type=kind)

    weights = image(centres[None], tio.SAMPLING_MAP)
    inner = tuple(slice(side // 2, 1 - (side + 1) // 2 or None) for side in data.patch[::-1])
    if not weights.data[(0, *inner)].any():
        raise InputError(
            f"case {prepared.case.name}: no patch of {data.patch} voxels (z, y, x) can be centred "
            "in its brain; choose a smaller data.patch or another data.tumour_chance"
        )
    return tio.Subject(
        sources=image(prepared.sources(config.sources), tio.INTENSITY),
        targets=image(np.stack([prepared.volumes[t] for t in config.targets]), tio.INTENSITY),
        brain=image(prepared.brain[None], tio.LABEL),
        centres=weights,
        present=torch.tensor([name in prepared.volumes for name in config.sources]),
    )


def _sliced_subject(prepared: Prepared, config: RunConfig) -> tio.Subject:
    """:func:`to_subject` of a case that is turned already, for ``dim`` 2."""
    data = config.data
    learnt = learnt_slices(prepared.brain, data.slices_per_case)
    if not prepared.brain[learnt].any():
        raise InputError(f"case {prepared.case.name} has no {data.plane} slice with brain")
    frame = frame_of(prepared.brain, data.patch, data.slices_per_case)

    def image(volume: np.ndarray, kind: str, dtype: type = np.float32) -> tio.Image:
        tensor = torch.from_numpy(np.ascontiguousarray(xyz_to_zyx(volume), dtype))
        return tio.Image(tensor=tensor, affine=prepared.affine, type=kind)

    tumour = frame.cut(prepared.tumour) if prepared.tumour is not None else None
    centres = slice_centres(frame.cut(prepared.brain), tumour, data.tumour_chance)
    targets = np.stack([prepared.volumes[t] for t in config.targets])
    return tio.Subject(
        sources=image(frame.cut(prepared.sources(config.sources)), tio.INTENSITY),
        targets=image(frame.cut(targets), tio.INTENSITY),
        brain=image(frame.cut(prepared.brain[None]), tio.LABEL, np.uint8),
        centres=image(centres[None], tio.SAMPLING_MAP),
        present=torch.tensor([name in prepared.volumes for name in config.sources]),
        margins=tuple(zeros for pair in frame.margins[::-1] for zeros in pair),
    )


def brain_box(brain: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around ``brain`` (D, H, W), as slices; the whole grid when it is empty."""
    if not brain.any():
        return tuple(slice(0, n) for n in brain.shape)
    slices = []
    for axis in range(brain.ndim):
        others = tuple(a for a in range(brain.ndim) if a != axis)
        where = np.flatnonzero(brain.any(axis=others))
        slices.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(slices)


def _margins(part: slice, side: int) -> tuple[int, int]:
    """Zeros before and after: a quarter patch, and at least enough for one patch."""
    length = part.stop - part.start
    total = max(2 * (side // 4), side - length)
    return total // 2, total - total // 2


def patch_centres(brain: np.ndarray, tumour: np.ndarray | None, chance: float) -> np.ndarray:
    """Sampling weights (D, H, W), float32, summing to 1; zero outside the brain."""
    weights = brain / max(1, brain.sum())
    inside = tumour & brain if tumour is not None else np.zeros_like(brain)
    if chance > 0 and inside.any():
        weights = (1 - chance) * weights + chance * inside / inside.sum()
    return weights.astype(np.float32)


def augmentation(config: DataConfig, spacing_mm: Sequence[float], dim: int = 3) -> tio.Transform:
    """Random left-right flips, and a random shift of the sources against the target.

    Args:
        config: ``flip`` and ``misregistration`` (voxels, the largest shift along each axis).
        spacing_mm: Voxel size (x, y, z); TorchIO takes shifts in mm.
        dim: For 2 nothing moves from slice to slice.
    """
    steps: list[tio.Transform] = []
    if config.flip:
        steps.append(tio.RandomFlip(axes=("Left",), copy=False))
    if config.misregistration > 0:
        far = [config.misregistration * mm for mm in spacing_mm[:dim]] + [0.0] * (3 - dim)
        reach = [value for mm in far for value in (mm, mm)]
        span = tuple(v if i % 2 else -v for i, v in enumerate(reach))
        steps.append(
            tio.RandomAffine(
                scales=0,
                degrees=0,
                translation=span,
                include=["sources"],
                default_pad_value=0,
                copy=False,
            )
        )
    return tio.Compose(steps, copy=False)  # the queue hands out copies already


def _on_its_way(subject: tio.Subject, config: RunConfig, augment: tio.Transform) -> tio.Subject:
    """What happens to a case before patches are cut: padding, one source astray, augmentation."""
    if config.dim == 2:
        subject = tio.Pad(subject["margins"], copy=False)(subject)
    if config.misalign.active and config.misalign.when == "train_and_test":
        _lead_astray(subject, config)
    subject = augment(subject)
    if config.dim == 2:
        centres = draw_in(subject["centres"].data[0], (*config.data.patch[::-1], 1))
        subject["centres"].set_data(centres[None])
    return subject


def _lead_astray(subject: tio.Subject, config: RunConfig) -> None:
    """Move the one source of ``config.misalign``, in place, by a draw from torch's generator."""
    motion = draw_motion(config.misalign, config.dim)
    channel = subject["sources"].data[config.sources.index(config.misalign.source)]
    spacing = subject["sources"].spacing[::-1][-config.dim :]
    volume = xyz_to_zyx(channel)
    if config.dim == 3:
        channel.copy_(xyz_to_zyx(move(volume[None], motion, spacing)[0]))
    else:
        channel.copy_(xyz_to_zyx(move(volume, motion, spacing)))


def collate(patches: Sequence[tio.Subject], dim: int = 3) -> Batch:
    """TorchIO patches (C, x, y, z) to one Batch (B, C, z, y, x), or (B, C, y, x) for ``dim`` 2."""

    def stack(name: str) -> Tensor:
        stacked = xyz_to_zyx(torch.stack([patch[name].data for patch in patches]))
        return (stacked.squeeze(2) if dim == 2 else stacked).contiguous()

    targets = stack("targets")
    return Batch(
        sources=stack("sources"),
        targets=targets,
        present=torch.stack([patch["present"] for patch in patches]),
        wanted=torch.ones(targets.shape[:2], dtype=torch.bool),
        brain=stack("brain") > 0,
    )


def batches(subjects: Sequence[tio.Subject], config: RunConfig, seed: int) -> Iterator[Batch]:
    """Patches without end, a fresh queue each time all subjects have been seen.

    Patches and flips are drawn from torch's global generator, seeded here, hidden sources from one
    of their own: the same seed and subjects give the same batches, if nobody else draws between.
    Sources are hidden at random (``data.source_dropout``) and are 0 then. With ``data.workers``
    other processes draw, each with generators of its own, and batches come from them in turn; a
    single worker gives the very batches that none would.
    """
    data = config.data
    if len(subjects) * data.patches_per_case < data.batch:
        raise InputError(
            f"{len(subjects)} training case(s) × {data.patches_per_case} patches do not fill "
            f"one batch of {data.batch}; raise data.patches_per_case"
        )
    torch.manual_seed(seed)
    if data.workers == 0:
        yield from _draw(subjects, config, seed)
    yield from drawn_by_workers(subjects, config, seed)


def drawn_by_workers(
    subjects: Sequence[tio.Subject], config: RunConfig, seed: int
) -> Iterator[Batch]:
    """The batches of :func:`batches`, of which the first are being drawn when this returns.

    Args:
        subjects: As there; enough for a batch.
        config: Of a run with ``data.workers`` of at least 1.
        seed: As there, but torch's global generator stays as it is.

    Returns:
        Batches without end; the workers end with the iterator.
    """
    return iter(
        DataLoader(
            _Stream(subjects, config, seed),
            batch_size=None,
            num_workers=config.data.workers,
            worker_init_fn=partial(_die_with, os.getpid()),
            generator=torch.Generator().manual_seed(seed),
        )
    )


@dataclass(frozen=True)
class _Stream(IterableDataset):
    """What a worker process draws."""

    subjects: Sequence[tio.Subject]
    config: RunConfig
    seed: int

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        seed = self.seed
        if worker is not None and worker.id > 0:
            digest = hashlib.sha256(f"{seed}/worker {worker.id}".encode()).digest()
            seed = int.from_bytes(digest[:8], "big") >> 1
        torch.manual_seed(seed)
        return _draw(self.subjects, self.config, seed)


def _die_with(parent: int, worker: int) -> None:
    """End this worker the moment the process ``parent`` is killed.

    A worker has inherited the lock on the run folder; one that outlives its parent by seconds would
    keep the same command from going on.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux: torch's watchdog ends it
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was killed before we could ask
        os._exit(1)


def _draw(subjects: Sequence[tio.Subject], config: RunConfig, seed: int) -> Iterator[Batch]:
    """:func:`batches` from torch's global generator as it stands."""
    hiding = torch.Generator().manual_seed(seed)
    data = config.data
    augment = augmentation(data, subjects[0].spacing, config.dim)
    patch = data.patch[::-1] if config.dim == 3 else (*data.patch[::-1], 1)
    while True:
        queue = tio.Queue(
            tio.SubjectsDataset(
                list(subjects), transform=partial(_on_its_way, config=config, augment=augment)
            ),
            max_length=max(data.queue, data.batch),
            samples_per_volume=data.patches_per_case,
            sampler=tio.WeightedSampler(patch, "centres"),
            start_background=False,
        )
        loader = tio.SubjectsLoader(
            queue,
            collate_fn=partial(collate, dim=config.dim),
            batch_size=data.batch,
            num_workers=0,
            drop_last=True,
        )
        for batch in loader:
            present = drop_sources(batch.present, data.source_dropout, hiding)
            shown = present.view(*present.shape, *[1] * (batch.sources.ndim - 2))
            yield Batch(batch.sources * shown, batch.targets, present, batch.wanted, batch.brain)
