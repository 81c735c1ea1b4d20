"""A volume on another grid: places are compared by the affines alone, nothing is registered."""

from typing import Any

import numpy as np

from synth3d.errors import InputError
from synth3d.images.grids import TOLERANCE_VOXELS, Grid
from synth3d.images.intensity import background_of, differs
from synth3d.images.volumes import Volume


def resample(volume: Volume, target: Grid) -> Volume:
    """``volume`` on the grid ``target``: linear, background outside its field of view.

    Places are compared by the affines alone, nothing is registered; a volume that is on the grid
    already comes back as it is. Two that do not overlap are refused.
    """
    if target.difference(volume.grid) is None:
        return volume
    moved = Volume(sample_on(volume, target, np.eye(4)), target.affine, volume.path)
    if not differs(moved.data, background_of(volume.data)).any():
        raise InputError(f"{volume.path} does not overlap the grid it is to be brought to")
    return moved


def resample_within(volume: Volume, target: Grid, order: int = 1) -> Volume:
    """``volume`` of thick slices on the grid ``target``, constant beyond its middles.

    By B-splines of ``order``: 1 is trilinear, 3 cubic.
    So it has something everywhere, the outermost slice where it has no place (:func:`share_beyond`
    says where that is). One that is on the grid already comes back as it is.
    """
    from scipy import ndimage

    if target.difference(volume.grid) is None:
        return volume
    to_own = (np.linalg.inv(volume.affine) @ target.affine)[:3]
    matrix: Any = to_own[:, :3][::-1, ::-1]
    offset: Any = to_own[:, 3][::-1]
    shape = target.shape_zyx
    data = ndimage.affine_transform(volume.data, matrix, offset, shape, order=order, mode="nearest")
    return Volume(data.astype(np.float32, copy=False), target.affine, volume.path)


def share_beyond(own: Grid, target: Grid, mask: np.ndarray) -> float:
    """The share of ``mask``, (D, H, W) bool on ``target``, outside the field of view of ``own``."""
    there = np.argwhere(mask)[:, ::-1]
    to_own = (np.linalg.inv(own.affine) @ target.affine)[:3]
    places = there @ to_own[:, :3].T + to_own[:, 3]
    sides = np.array(own.shape_zyx[::-1])
    slack = 0.5 + TOLERANCE_VOXELS
    outside = (places < -slack) | (places > sides - 1 + slack)
    return float(outside.any(1).mean()) if len(there) else 0.0


def edges_in(own: Grid, target: Grid) -> tuple[float, float, float]:
    """How long the voxels of ``own`` are along the axes of ``target``, (z, y, x) in its voxels."""
    steps = np.abs(np.linalg.inv(target.affine[:3, :3]) @ own.affine[:3, :3])
    x, y, z = (float(edge) for edge in steps.max(axis=1))
    return z, y, x


def sample_on(volume: Volume, target: Grid, motion: np.ndarray) -> np.ndarray:
    """``volume`` at the voxels of ``target``, (D, H, W) float32: linear, background outside.

    A voxel between the outermost samples and the edge of the field of view counts as outside.
    ``motion`` is (4, 4), a place of the target to the same anatomy in the volume, RAS+ mm.
    """
    from scipy import ndimage

    to_own = np.linalg.inv(volume.affine) @ motion @ target.affine
    matrix: Any = to_own[:3, :3][::-1, ::-1]
    offset: Any = to_own[:3, 3][::-1]
    around = background_of(volume.data)
    sampled = ndimage.affine_transform(
        volume.data, matrix, offset, target.shape_zyx, order=1, cval=around
    )
    return sampled.astype(np.float32, copy=False)
