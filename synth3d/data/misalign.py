"""One sequence out of place: the experiment of how much misalignment a network bears.

A translation, a rotation about the centre and an elastic deformation of *one* source, or of the
target that is learnt from, in a single linear interpolation with zeros beyond the edge. For ``dim``
2 everything happens within the slices of ``data.plane`` and is the same for all slices of a case,
as when a patient moves between two sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synth3d.cohort import parse_modality
from synth3d.data.options import DataConfig, MisalignConfig
from synth3d.data.prepared import Prepared
from synth3d.data.task import Task, seed_of
from synth3d.images import turn_to

CONTROL_POINTS = 7
"""Along each axis of the elastic field; as in TorchIO's, it is a cubic B-spline between them."""

TEST_SEED = 0
"""Of validation: the same movements in every run, so that runs can be compared."""
DRAWS, SIDE = 64, 17
"""Elastic fields, and voxels along each axis, by which :func:`lengths` are told."""


@dataclass(frozen=True, eq=False)
class Motion:
    """Where one sequence goes; d is 2 or 3, axes ([z,] y, x).

    Attributes:
        shift: (d,) voxels; positive moves the picture to larger indices, as a roll does.
        rotation: (d, d) turns mm about the centre of the volume.
        field: (d, 7, ...) displacements in voxels at the control points.
    """

    shift: Tensor
    rotation: Tensor
    field: Tensor

    @property
    def rigid(self) -> bool:
        """Whether it is a translation and nothing else."""
        return not self.field.any() and torch.equal(self.rotation, torch.eye(len(self.shift)))

    def scaled(self, zoom: Sequence[float]) -> "Motion":
        """The same motion on a grid of ``zoom`` ([z,] y, x) times as many voxels."""
        factor = torch.tensor(tuple(zoom), dtype=torch.float32)
        per_axis = factor.view(-1, *[1] * len(factor))
        return replace(self, shift=self.shift * factor, field=self.field * per_axis)


def draw_motion(
    settings: MisalignConfig, dim: int, generator: torch.Generator | None = None
) -> Motion:
    """A motion as ``settings`` says, by ``generator`` or torch's own.

    ``uniform_box``: each component of the shift, each angle and each control point evenly in
    ±its setting. ``fixed_magnitude``: the shift has exactly that length and the rotation exactly
    that angle, in an even direction, and the strongest control point exactly that displacement.
    Motions of one generator state are proportional to their settings.
    """
    fixed = settings.draw == "fixed_magnitude"

    def even(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=generator) - 1

    def direction(length: int) -> Tensor:
        vector = torch.randn(length, generator=generator)
        return vector / vector.norm().clamp(min=1e-6)

    axes = 1 if dim == 2 else 3
    shift = (direction(dim) if fixed else even(dim)) * settings.shift
    angles = (direction(axes) if fixed else even(axes)) * settings.rotate
    field = even(dim, *[CONTROL_POINTS] * dim)
    if fixed:
        field = field / field.norm(dim=0).max().clamp(min=1e-6)
    return Motion(shift, _rotation(torch.deg2rad(angles), dim), field * settings.elastic)


def move(volume: Tensor, motion: Motion, spacing: Sequence[float]) -> Tensor:
    """``volume`` moved: linear, zeros from beyond the edge.

    A pure translation is exact where it is a whole number of voxels.

    Args:
        volume: (C, D, H, W) with d = 3, or (slices, rows, columns) with d = 2, float32.
        motion: Of as many axes.
        spacing: Voxel edges in mm, ([z,] y, x): rotations keep lengths in mm.
    """
    d = len(motion.shift)
    if motion.rigid:
        for axis, amount in enumerate(motion.shift.tolist(), start=volume.dim() - d):
            volume = _translate(volume, amount, axis)
        return volume
    shape = volume.shape[-d:]
    sides = torch.tensor(shape, dtype=torch.float32)
    axes = [torch.arange(side, dtype=torch.float32) - (side - 1) / 2 for side in shape]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    mm = torch.tensor(tuple(spacing), dtype=torch.float32)
    from_voxel = torch.diag(1 / mm) @ motion.rotation.T @ torch.diag(mm)
    there = place @ from_voxel.T - motion.shift
    if motion.field.any():
        there = there - _dense(motion.field, shape).movedim(0, -1)
    unit = there * 2 / (sides - 1).clamp(min=1)
    moved = F.grid_sample(volume[None], unit.flip(-1)[None], "bilinear", "zeros", True)
    return moved[0]


def misalign(
    prepared: Prepared, task: Task, data: DataConfig, settings: MisalignConfig
) -> Prepared:
    """``prepared`` with its one source moved as ``settings`` say, for testing.

    The motion follows from the case's name alone. A target stays: it is the truth.
    """
    if not settings.tested:
        return prepared
    return moved(prepared, task, data, settings, motion_seed(TEST_SEED, prepared.case.name))


def motion_seed(seed: int, case: str) -> int:
    """From what the motion of the case of that name is drawn, in an experiment of ``seed``."""
    return seed_of(f"{seed}/{case}")


def moved(
    prepared: Prepared, task: Task, data: DataConfig, settings: MisalignConfig, seed: int
) -> Prepared:
    """``prepared`` with its one sequence moved as ``settings`` say, by a draw from ``seed``.

    All else stays. Lengths are voxels of what the network sees: with ``data.slice_size`` they are
    converted to the case's own. A target stays 0 outside the brain.
    """
    if not settings.active or settings.source not in prepared.volumes:
        return prepared
    sequence = parse_modality(settings.source)
    motion = draw_motion(settings, task.dim, torch.Generator().manual_seed(seed))
    volume = np.ascontiguousarray(prepared.volumes[sequence])
    edges = np.linalg.norm(prepared.affine[:3, :3], axis=0)[::-1]
    if task.dim == 2:
        turn = turn_to(data.plane, prepared.affine)
        turned = turn.apply(volume)
        size = data.slice_size or turned.shape[1:]
        zoom = [own / there for own, there in zip(turned.shape[1:], size, strict=True)]
        tensor = torch.from_numpy(np.ascontiguousarray(turned))
        in_plane = [float(edges[axis]) for axis in turn.axes[1:]]
        found = turn.undo(move(tensor, motion.scaled(zoom), in_plane).numpy())
    else:
        found = move(torch.from_numpy(volume)[None], motion, edges.tolist())[0].numpy()
    if sequence in task.targets:
        found = np.where(prepared.brain, found, np.float32(0))
    return replace(prepared, volumes={**prepared.volumes, sequence: np.ascontiguousarray(found)})


def lengths(settings: MisalignConfig, dim: int) -> tuple[float, float]:
    """How long the displacements of the elastic field are, in voxels: their mean, and the longest.

    Of 64 draws, over a whole volume or slice; its size has next to no part in it. The field is
    smoother than its control points, so all are shorter than ``settings.elastic`` if the draw is
    ``fixed_magnitude``.
    """
    generator = torch.Generator().manual_seed(TEST_SEED)
    fields = [draw_motion(settings, dim, generator).field for _ in range(DRAWS)]
    each = torch.stack([_dense(field, (SIDE,) * dim).norm(dim=0) for field in fields])
    return float(each.mean()), float(each.max())


def _translate(volume: Tensor, amount: float, axis: int) -> Tensor:
    """Along one axis; zeros come in."""
    whole = int(np.floor(amount))
    share = amount - whole
    near = _step(volume, whole, axis)
    return near if share == 0 else (1 - share) * near + share * _step(volume, whole + 1, axis)


def _step(volume: Tensor, steps: int, axis: int) -> Tensor:
    side = volume.shape[axis]
    steps = max(-side, min(steps, side))
    return F.pad(volume, [0, 0] * (volume.dim() - 1 - axis) + [steps, -steps])


def _rotation(angles: Tensor, dim: int) -> Tensor:
    """In the plane by one angle, or about the vector of three, in radians; (dim, dim)."""
    if dim == 2:
        generator = torch.tensor([[0.0, -1.0], [1.0, 0.0]]) * angles
    else:
        z, y, x = angles.tolist()
        generator = torch.tensor([[0, -x, y], [x, 0, -z], [-y, z, 0]])
    return torch.matrix_exp(generator)


def _dense(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Control points (d, 7, ...) to (d, *shape): a cubic B-spline per axis, never beyond them."""
    for side in shape:
        # The axis goes to the end.
        field = torch.tensordot(field, _spline(side), dims=([1], [1]))  # pyright: ignore[reportArgumentType]
    return field


def _spline(side: int) -> Tensor:
    """(side, 7) weights of the control points, rows summing to 1; the ends are held beyond them."""
    at = torch.linspace(0, CONTROL_POINTS - 1, side)
    first = at.floor()
    t = (at - first)[:, None]
    weights = torch.cat(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1
    )
    index = (first[:, None].long() + torch.arange(-1, 3)).clamp(0, CONTROL_POINTS - 1)
    return torch.zeros(side, CONTROL_POINTS).scatter_add_(1, index, weights / 6)
