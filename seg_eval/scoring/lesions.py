"""Lesion-wise Dice and HD95 by the rule of BraTS 2023, and how many lesions were found.

Plain Dice of a case with one large and three small lesions hardly moves when all three small ones
are missed. BraTS 2023 therefore scores each lesion on its own and takes the mean:

1. The reference is dilated; what then hangs together (26 neighbours) is one lesion. Its voxels
   are those of the undilated reference.
2. All components (26 neighbours) of the prediction that touch the dilated lesion belong to it. One
   that touches two lesions belongs to both.
3. Reference lesions of at most 50 mm^3 are left out; a component that touches one is no
   false alarm.
4. A missed lesion, and each component that touches none however small it is, counts with Dice 0
   and HD95 374 mm.
5. Nothing to count at all: Dice 1, HD95 0.

Re-implemented after rachitsaluja/BraTS-2023-Metrics. There, sizes of the dilation are voxels of
1 mm; here they are millimetres, with the same result on such voxels: ``n`` steps of the
18-neighbour element reach exactly the voxels whose largest offset is n and whose offsets sum
to 2 n. At any other size it is another rule, and every table says so (:func:`rule_of`). HD95 is
that of :mod:`seg_eval.scoring.surface`, not DeepMind's.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from seg_eval.scoring.surface import (
    EMPTY_HD95_MM,
    HEADER_ROUNDING,
    Distances,
    bounding_box,
    hausdorff_95,
    nearest,
    surface_voxels,
)

NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class LesionRule:
    """The choices that BraTS makes per challenge; the defaults are those for adult glioma.

    Attributes:
        dilation_mm: Lesions nearer than about twice this are one; a predicted component
            within it belongs to the lesion. 3 for GLI, SSA and PED, 1 for MEN and MET.
        smallest_mm3: Reference lesions up to this volume are left out. 50, for MET 2.
    """

    dilation_mm: float = 3.0
    smallest_mm3: float = 50.0


BRATS_GLIOMA = LesionRule()

OFFICIAL, OURS = "brats-2023", "ours"
"""What rows call the rule: that of BraTS itself, or ours after it."""


def rule_of(spacing_mm: Sequence[float]) -> str:
    """:data:`OFFICIAL` on voxels of 1 mm, for which BraTS counts in voxels; else :data:`OURS`."""
    sides = (*spacing_mm, float(np.prod(spacing_mm)))
    return OFFICIAL if all(abs(side - 1) <= HEADER_ROUNDING for side in sides) else OURS


@dataclass(frozen=True)
class LesionScores:
    """Means over lesions and false components of one region in one case, and their counts.

    Attributes:
        lesions: Reference lesions that count.
        found: How many of them a predicted component touches.
        false: Predicted components that touch no reference lesion.
    """

    dice: float
    hd95_mm: float
    lesions: int
    found: int
    false: int


def lesion_scores(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Sequence[float],
    rule: LesionRule = BRATS_GLIOMA,
    whole: Distances | None = None,
) -> LesionScores:
    """Score the lesions of one region, from two masks and the size of a voxel.

    Distances between the ``whole`` masks, if they are known already, save the search where all
    there is is one lesion.
    """
    box = bounding_box(reference | prediction)
    if box is None:
        return LesionScores(1.0, 0.0, 0, 0, 0)
    reference, prediction = reference[box], prediction[box]
    territory, lesions = _territories(reference, dilation_offsets(spacing_mm, rule.dilation_mm))
    components, parts = _label(prediction)

    both = territory.astype(np.int64)[prediction] * (parts + 1) + components[prediction]
    lesion_of, part_of = np.divmod(np.unique(both), parts + 1)
    lesion_of, part_of = lesion_of[lesion_of > 0], part_of[lesion_of > 0]
    false = parts - np.unique(part_of).size

    size = np.bincount(territory[reference], minlength=lesions + 1)
    overlap = np.bincount(territory[reference & prediction], minlength=lesions + 1)
    part_size = np.bincount(components[prediction], minlength=parts + 1)
    claimed = np.bincount(lesion_of, part_size[part_of], lesions + 1)
    smallest = rule.smallest_mm3 * (1 + HEADER_ROUNDING)
    counted = np.flatnonzero(size * float(np.prod(spacing_mm)) > smallest)
    if not counted.size + false:
        return LesionScores(1.0, 0.0, 0, 0, 0)

    found = counted[claimed[counted] > 0]
    if whole is not None and found.size == lesions == 1 and not false:
        far = [hausdorff_95(whole)]
    else:
        belongs = (lesion_of, part_of)
        far = _hd95_each((reference, prediction), (territory, components), found, belongs,
                         spacing_mm)  # fmt: skip
    penalties = (counted.size - found.size + false) * EMPTY_HD95_MM
    dice = 2 * overlap[counted] / (size[counted] + claimed[counted])
    return LesionScores(
        dice=float(dice.sum()) / (counted.size + false),
        hd95_mm=(sum(far) + penalties) / (counted.size + false),
        lesions=int(counted.size),
        found=int(found.size),
        false=int(false),
    )


def dilation_offsets(spacing_mm: Sequence[float], dilation_mm: float) -> np.ndarray:
    """Offsets (K, 3) in voxels that a dilation of ``dilation_mm`` reaches, (0, 0, 0) among them.

    At most ``dilation_mm`` along each axis and at most twice that in sum.
    """
    limit = dilation_mm * (1 + HEADER_ROUNDING)
    spans = [np.arange(-int(limit // side), int(limit // side) + 1) for side in spacing_mm]
    offsets = np.array(list(itertools.product(*spans)))
    return offsets[(np.abs(offsets) * spacing_mm).sum(axis=1) <= 2 * limit]


def _territories(mask: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, int]:
    """The dilated ``mask``, numbered by what hangs together, within its own box; the count."""
    margin = offsets.max(axis=0)
    grown = np.pad(np.ascontiguousarray(mask), margin[:, None])
    inner = tuple(slice(room, room + side) for room, side in zip(margin, mask.shape, strict=True))
    base = np.ravel_multi_index(tuple((surface_voxels(mask) + margin).T), grown.shape)
    strides = np.array(grown.strides)  # in voxels, since one is a byte
    flat = grown.reshape(-1)
    for step in offsets @ strides:  # whatever dilation adds lies around a surface voxel
        flat[base + step] = True
    labels, count = _label(grown)
    return labels[inner], count


def _label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """``mask`` numbered by what hangs together, and the count."""
    found: Any = ndimage.label(mask, NEIGHBOURS_26)
    return found


def _hd95_each(
    masks: tuple[np.ndarray, np.ndarray],
    numbers: tuple[np.ndarray, np.ndarray],
    lesions: np.ndarray,
    belongs: tuple[np.ndarray, np.ndarray],
    spacing_mm: Sequence[float],
) -> list[float]:
    """HD95 of each of ``lesions`` against the components that belong to it.

    Neither lesions nor components touch one another, so each takes its part of the surface of
    the whole mask.
    """
    edges = [surface_voxels(mask) for mask in masks]
    lesion_at, part_at = (
        number[tuple(edge.T)] for number, edge in zip(numbers, edges, strict=True)
    )
    lesion_of, part_of = belongs

    def far(lesion: int) -> float:
        own = np.isin(part_at, part_of[lesion_of == lesion])
        return hausdorff_95(nearest(edges[0][lesion_at == lesion], edges[1][own], spacing_mm))

    return list(map(far, lesions))
