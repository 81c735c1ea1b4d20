"""A volume on another grid: places are compared by the affines alone, nothing is registered."""

from typing import Any

import numpy as np

from synth3d.errors import InputError
from synth3d.images.grids import Grid
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
