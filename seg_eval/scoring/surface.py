"""How far two surfaces are apart: HD95 and normalised surface distance of two masks.

The surface of a mask is the set of its voxels that have a face neighbour outside it; beyond the
volume is outside. A surface voxel stands at its centre, in millimetres, and counts once, whatever
the spacing.

This is MONAI's definition (``compute_hausdorff_distance(percentile=95)`` and
``compute_surface_dice`` without subvoxels). BraTS's own script takes surface-distance by DeepMind,
which lays elements between the voxels and weighs them by their area: within a voxel on most pairs,
further away where a small false positive lies far off. MedPy pools both directions before
it takes the percentile, which is a third definition.

Neighbours are found by a Euclidean distance transform of the box around both surfaces, or, where
that box is large for the surface that is searched, by a k-d tree over its voxels; both are exact.
One stray voxel in a corner costs the transform the whole volume and the tree nothing; a prediction
that fills the head costs the tree most, whose voxels are all about equally far away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

EMPTY_HD95_MM = 374.0
"""HD95 where one mask of two is empty, as BraTS ranks it: about a BraTS volume's diagonal."""

TOLERANCE_MM = 1.0
"""Default tolerance of the normalised surface distance: one voxel of BraTS."""

HEADER_ROUNDING = 1e-5
"""Relative slack of limits in mm and mm^3: a header's 1.0000001 mm must not move a score."""

VOXELS_PER_TARGET = 40
"""A box with more voxels than this for each voxel of the surface searched is left to the tree."""


@dataclass(frozen=True)
class Distances:
    """Distances in mm from each surface voxel to the nearest one of the other surface.

    One for each voxel of a surface; infinite where the other mask is empty.
    """

    of_reference: np.ndarray
    of_prediction: np.ndarray


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box around a bool mask; None for an empty one."""
    return ndimage.find_objects(mask.view(np.uint8), 1)[0]


def surface_voxels(mask: np.ndarray) -> np.ndarray:
    """Indices (N, 3) as (z, y, x) of the voxels of a bool mask (D, H, W) that are its surface."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, 3), dtype=np.intp)
    edge = mask[box] & np.logical_not(ndimage.binary_erosion(mask[box]))
    return np.argwhere(edge) + [part.start for part in box]


def surface_distances(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]
) -> Distances:
    """Both directed sets of distances between the surfaces of two bool masks (D, H, W)."""
    return nearest(surface_voxels(reference), surface_voxels(prediction), spacing_mm)


def nearest(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]
) -> Distances:
    """:func:`surface_distances` of surfaces given as voxel indices (N, 3) and (M, 3)."""
    if not (len(reference) and len(prediction)):
        return Distances(*(np.full(len(each), np.inf) for each in (reference, prediction)))
    return Distances(
        _to_nearest(reference, prediction, spacing_mm),
        _to_nearest(prediction, reference, spacing_mm),
    )


def _to_nearest(points: np.ndarray, targets: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance in mm (N,) from each of ``points`` (N, 3) to the nearest of ``targets`` (M, 3)."""
    low = np.minimum(points.min(axis=0), targets.min(axis=0))
    shape = np.maximum(points.max(axis=0), targets.max(axis=0)) - low + 1
    if int(shape.prod()) <= VOXELS_PER_TARGET * len(targets):
        away = np.ones(shape, dtype=bool)
        away[tuple((targets - low).T)] = False
        distance: Any = ndimage.distance_transform_edt(away, sampling=tuple(spacing_mm))
        return distance[tuple((points - low).T)]
    size = np.asarray(spacing_mm, dtype=np.float64)
    return KDTree(targets * size, leafsize=32).query(points * size)[0]


def hausdorff_95(distances: Distances) -> float:
    """HD95 in mm: the larger of the two directed 95th percentiles (linear interpolation).

    Two empty masks are 0 apart, one empty mask :data:`EMPTY_HD95_MM`.
    """
    pair = (distances.of_reference, distances.of_prediction)
    if not (pair[0].size or pair[1].size):
        return 0.0
    if not (pair[0].size and pair[1].size):
        return EMPTY_HD95_MM
    return max(float(np.percentile(each, 95)) for each in pair)


def normalised_surface_distance(distances: Distances, tolerance_mm: float = TOLERANCE_MM) -> float:
    """Share of all surface voxels of both masks that lie within the tolerance of the other surface.

    (|{r in R: d(r, P) <= t}| + |{p in P: d(p, R) <= t}|) / (|R| + |P|), for surfaces R and P:
    Nikolov et al. 2021 with voxels for elements. In [0, 1], 1 is best; two empty masks score 1,
    one empty mask 0. With a tolerance below the spacing only surface voxels that both share count.
    """
    every = np.concatenate([distances.of_reference, distances.of_prediction])
    limit = tolerance_mm * (1 + HEADER_ROUNDING)
    return float(np.mean(every <= limit)) if every.size else 1.0
