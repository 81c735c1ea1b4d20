"""A volume in thicker slices.

Coarse voxels share the field of view of the fine ones: a side of n voxels becomes ceil(n / ratio),
so the ratio is exact where it divides n and a little less elsewhere. Axes are taken one by one.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from synth3d.errors import InputError
from synth3d.images.grids import Grid

PROFILES = ("kspace", "slices")
"""``kspace`` keeps the middle of k-space, as a scanner that samples less of it; ``slices`` the mean
over each slice's thickness."""


def coarse(volume: np.ndarray, ratio: Sequence[int], profile: str = "kspace") -> np.ndarray:
    """``volume`` (D, H, W) as a scan with voxels ``ratio`` (z, y, x) times as long.

    Sides become ceil(side / ratio). Float32, or float64 of float64; where all of ``ratio`` is 1 it
    is ``volume`` to the bit.

    Raises:
        InputError: A ratio is larger than its side.
    """
    _check_ratio(ratio, volume.shape)
    volume = volume.astype(np.promote_types(volume.dtype, np.float32), copy=False)
    for axis, by in enumerate(ratio):
        if by > 1:
            way = _coarsening(side := volume.shape[axis], math.ceil(side / by), profile)
            volume = np.moveaxis(np.tensordot(way.astype(volume.dtype), volume, (1, axis)), 0, axis)
    return np.ascontiguousarray(volume)


def coarse_grid(fine: Grid, ratio: Sequence[int]) -> Grid:
    """Where the voxels of :func:`coarse` lie, for a volume on the grid ``fine``."""
    shape = tuple(math.ceil(side / by) for side, by in zip(fine.shape_zyx, ratio, strict=True))
    longer = [n / kept for n, kept in zip(fine.shape_zyx, shape, strict=True)][::-1]
    to_fine = np.diag([*longer, 1.0])
    to_fine[:3, 3] = [(by - 1) / 2 for by in longer]
    return Grid(shape, fine.affine @ to_fine)  # type: ignore[arg-type]


def _check_ratio(ratio: Sequence[int], shape: Sequence[int]) -> None:
    """Refuse voxels that are larger than a side of ``shape``, axis by axis.

    Raises:
        InputError: A ratio is larger than its side.
    """
    for axis, (by, side) in enumerate(zip(ratio, shape, strict=True)):
        if by > side:
            raise InputError(
                f"degrade.ratio {tuple(ratio)} asks for voxels of {by} along axis {axis}, which "
                f"has {side}; take a smaller ratio"
            )


def _coarsening(side: int, kept: int, profile: str = "kspace") -> np.ndarray:
    """(kept, side) float64: what makes ``kept`` coarse voxels of ``side`` fine ones.

    A constant stays, the mean stays, energy per voxel never grows (Feng et al. 2024, whose
    reference code rescales each coarse image by itself instead).
    """
    return _WAYS[profile](side, kept)


def _by_kspace(side: int, kept: int) -> np.ndarray:
    """The signal's lowest frequencies, read at the middles of ``kept`` voxels."""
    where = (np.arange(kept) + 0.5) * side / kept - 0.5
    turns = np.arange(1, kept // 2 + 1) * 2 * np.pi / side
    there, here = where[:, None] * turns, np.arange(side)[:, None] * turns
    weight = np.full(kept // 2, 2.0)
    if kept % 2 == 0:
        weight[-1:] = 1.0  # the outermost frequency is there once, not with both signs
    waves = (np.cos(there) * weight) @ np.cos(here).T + (np.sin(there) * weight) @ np.sin(here).T
    return np.asarray((1 + waves) / side)


def _by_slices(side: int, kept: int) -> np.ndarray:
    """Means over intervals of side / kept voxels."""
    edges, voxel = np.arange(kept + 1) * side / kept, np.arange(side)
    low, high = np.maximum(edges[:-1, None], voxel), np.minimum(edges[1:, None], voxel + 1)
    return np.asarray((high - low).clip(0) * kept / side)


_WAYS: dict[str, Callable[[int, int], np.ndarray]] = {"kspace": _by_kspace, "slices": _by_slices}
