"""What a 2-D network sees of a case, and the way back to the case's own grid.

The volume is turned so that the slices of ``data.plane`` lie first and, if ``data.slice_size`` says
so, resampled within them; then everything else is the 3-D path with patches one slice thick. The
turn is exact in both directions. Resampling keeps the field of view and looks at the brain alone,
so the zeros around it darken no rim, there or back. For ``dim`` 3 nothing happens here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import find_objects
from torch.nn import functional as F

from synth3d.data.options import DataConfig
from synth3d.data.prepared import Prepared, without_zeros
from synth3d.data.task import Task
from synth3d.images import Grid, turn_to


def seen(prepared: Prepared, task: Task, data: DataConfig) -> Prepared:
    """``prepared`` as the network sees it: arrays (slices, rows, columns) for ``dim`` 2.

    Its affine goes with it, voxel (column, row, slice) → mm. For ``dim`` 3 it is ``prepared``.
    """
    if task.dim == 3:
        return prepared
    turn = turn_to(data.plane, prepared.affine)
    turned = replace(
        prepared,
        volumes={name: turn.apply(volume) for name, volume in prepared.volumes.items()},
        poor={name: turn.apply(volume) for name, volume in prepared.poor.items()},
        brain=turn.apply(prepared.brain),
        tumour=turn.apply(prepared.tumour) if prepared.tumour is not None else None,
        affine=turn.affine(prepared.affine, prepared.brain.shape),
        label=turn.apply(prepared.label) if prepared.label is not None else None,
    )
    own, size = turned.brain.shape[1:], tuple(data.slice_size)
    if size in ((), own):
        return turned
    tumour, label = turned.tumour, turned.label

    def resized(volume: np.ndarray) -> np.ndarray:
        if task.mode != "any":
            return _resize_inside(volume, turned.brain, size)
        own = volume != 0  # no voxel of another sequence's head
        return without_zeros(_resize_inside(volume, own, size), _resize(own, size) > 0)

    return replace(
        turned,
        volumes={name: resized(volume) for name, volume in turned.volumes.items()},
        poor={name: resized(volume) for name, volume in turned.poor.items()},
        brain=_resize(turned.brain, size) > 0,
        tumour=_resize(tumour, size) >= 0.5 if tumour is not None else None,
        affine=turned.affine @ _finer(own, size),
        label=_nearest(label, size) if label is not None else None,
    )


def restore(result: np.ndarray, prepared: Prepared, task: Task, data: DataConfig) -> np.ndarray:
    """What was made from :func:`seen`, (T, slices, rows, columns) float32, on the case's own grid.

    Returns (T, D, H, W) float32, 0 outside the brain.
    """
    if task.dim == 3:
        return result * prepared.brain
    turn = turn_to(data.plane, prepared.affine)
    brain = turn.apply(prepared.brain)
    own, size = brain.shape[1:], tuple(data.slice_size)
    if size not in ((), own):
        inside = _resize(brain, size) > 0
        result = np.stack([_resize_inside(channel, inside, own) for channel in result])
    return np.ascontiguousarray(turn.undo(result)) * prepared.brain


def spacing_seen(grid: Grid, task: Task, data: DataConfig) -> tuple[float, ...]:
    """Voxel edges in mm of what the network sees of a case on ``grid``, its own.

    (z, y, x), or (row, column) for ``dim`` 2.
    """
    own = grid.spacing_mm
    if task.dim == 3:
        return own
    axes = turn_to(data.plane, grid.affine).axes[1:]
    sides = [grid.shape_zyx[axis] for axis in axes]
    size = data.slice_size or sides
    return tuple(own[a] * n / m for a, n, m in zip(axes, sides, size, strict=True))


def ratio_on(grid: Grid, task: Task, data: DataConfig) -> tuple[int, ...]:
    """``task.ratio`` along the axes (z, y, x) of a case on ``grid``, its own."""
    if task.dim == 3:
        return task.ratio
    ratio = [1, 1, 1]
    for axis, by in zip(turn_to(data.plane, grid.affine).axes[1:], task.ratio, strict=True):
        ratio[axis] = by
    return tuple(ratio)


def brain_box(brain: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around ``brain``; empty where there is none."""
    boxes = find_objects(brain.astype(np.uint8))
    return boxes[0] if boxes else (slice(0, 0),) * brain.ndim


def learnt_slices(brain: np.ndarray, count: int) -> slice:
    """Which slices of ``brain`` (slices, rows, columns) bool are learnt from.

    ``count`` around the middle of the brain's extent, fewer where it has not as many; for 0 all
    from the first to the last that hold brain.
    """
    extent = brain_box(brain)[0]
    if not 0 < count < extent.stop - extent.start:
        return extent
    first = (extent.start + extent.stop - count) // 2
    return slice(first, first + count)


@dataclass(frozen=True)
class Frame:
    """Where slices lie in the frame that patches are cut from, and what of it is kept in memory.

    Along rows and columns: where a whole slice fits into the patch, the frame is the patch and the
    slice lies at its beginning, as :func:`synth3d.inference.tiles.sliding_window` lays it; where
    it does not, the frame is the brain's box with a quarter patch of zeros around it.

    Attributes:
        origin: The frame's first voxel, in the case's own voxels; may be negative.
        shape: Of the frame.
        kept: The part that holds the brain of the slices that are learnt from.
    """

    origin: tuple[int, int, int]
    shape: tuple[int, int, int]
    kept: tuple[slice, slice, slice]

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The kept part of ``array`` (..., slices, rows, columns)."""
        parts = zip(self.origin, self.kept, strict=True)
        return array[(..., *(slice(start + k.start, start + k.stop) for start, k in parts))]

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Zeros before and after the kept part, along each axis, that make it the frame."""
        parts = zip(self.kept, self.shape, strict=True)
        return tuple((part.start, side - part.stop) for part, side in parts)


def frame_of(brain: np.ndarray, patch: Sequence[int], count: int) -> Frame:
    """The frame of a case whose ``brain`` is in some of its :func:`learnt_slices`."""
    learnt = learnt_slices(brain, count)
    origin, shape = [learnt.start], [learnt.stop - learnt.start]
    kept = [slice(0, shape[0])]
    box = brain_box(brain[learnt])[1:]
    for part, size, side in zip(box, patch, brain.shape[1:], strict=True):
        first, stop = part.start, part.stop
        if side <= size:
            start, length = 0, size
        else:
            total = max(2 * (size // 4), size - (stop - first))
            start, length = first - total // 2, stop - first + total
        origin.append(start)
        shape.append(length)
        kept.append(slice(first - start, stop - start))
    return Frame(tuple(origin), tuple(shape), tuple(kept))  # type: ignore[arg-type]


def slice_centres(brain: np.ndarray, tumour: np.ndarray | None, chance: float) -> np.ndarray:
    """How likely each voxel is to be shown, (slices, rows, columns) float32, summing to 1.

    Every slice that holds brain is as likely as any other, and within it every voxel of the
    brain; ``chance`` of the weight is spread over the tumour instead, where there is any.
    """
    area = brain.sum(axis=(1, 2), keepdims=True)
    weights = brain / np.maximum(area, 1) / max(1, np.count_nonzero(area))
    return with_tumour(weights, brain, tumour, chance)


def with_tumour(
    weights: np.ndarray, brain: np.ndarray, tumour: np.ndarray | None, chance: float
) -> np.ndarray:
    """``weights``, ``chance`` of which is spread over the tumour in the brain, if there is any."""
    inside = tumour & brain if tumour is not None else np.zeros_like(brain)
    if chance > 0 and inside.any():
        weights = (1 - chance) * weights + chance * inside / inside.sum()
    return weights.astype(np.float32)


def draw_in(weights: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """``weights`` (three axes), those too near an edge moved to the nearest place for a centre.

    From how likely each voxel is to be shown to how likely it is to be the centre of a patch, which
    is voxel ``size // 2`` of it. ``patch`` is nowhere larger than ``weights``.
    """
    for axis, size in enumerate(patch):
        first, last = size // 2, weights.shape[axis] - 1 - (size - 1) // 2
        inner = weights.narrow(axis, first, last - first + 1).clone()
        inner.select(axis, 0).add_(weights.narrow(axis, 0, first).sum(axis))
        beyond = weights.shape[axis] - 1 - last
        inner.select(axis, -1).add_(weights.narrow(axis, last + 1, beyond).sum(axis))
        weights = torch.zeros_like(weights)
        weights.narrow(axis, first, last - first + 1).copy_(inner)
    return weights


def _resize(volume: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Slices (N, h, w) of any type resampled to (N, *size), float32: linear, same field of view."""
    tensor = torch.from_numpy(np.ascontiguousarray(volume, np.float32))[:, None]
    resized = F.interpolate(tensor, tuple(size), mode="bilinear", antialias=True)
    return resized[:, 0].numpy()


def _nearest(label: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Slices (N, h, w) of classes resampled to (N, *size): the nearest voxel's, same type."""
    rows, columns = (
        ((np.arange(n) + 0.5) * side / n).astype(int)
        for n, side in zip(size, label.shape[1:], strict=True)
    )
    return label[:, rows[:, None], columns]


def _resize_inside(volume: np.ndarray, mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """As :func:`_resize`, the mean over the voxels in ``mask`` alone; 0 where there are none."""
    weight = _resize(mask, size)
    total = _resize(np.where(mask, volume, 0), size)
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), 0).astype(np.float32)


def _finer(own: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Voxel (column, row, slice) after resampling to voxel before, (4, 4)."""
    ratio = np.array([own[1] / size[1], own[0] / size[0], 1.0])
    matrix = np.diag([*ratio, 1.0])
    matrix[:3, 3] = (ratio - 1) / 2
    return matrix
