"""What nnU-Net's z-scores take of a case as a whole, and no patch of it can know."""

from collections.abc import MutableMapping, Sequence

import numpy as np
from scipy.ndimage import binary_fill_holes

from synth3d.cohort import Modality
from synth3d.data.cache.packed import BRAIN, Packed
from synth3d.errors import InputError
from synth3d.images import xyz_to_zyx

LEAST_DEVIATION = 1e-8
"""What nnU-Net divides by at the least."""


Levels = MutableMapping[str, np.ndarray]
"""What :func:`scored` has found of a case."""


def scored(
    packed: Packed, names: Sequence[Modality], kind: str, known: Levels
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`levels_of` and :func:`region_of` a case; ``known`` keeps what takes long."""
    if not known:
        known["holes"] = holes_of(head_in(packed))
        region = region_of(packed, kind, known["holes"])
        known["levels"] = levels_of(packed, names, region)
    return known["levels"], region_of(packed, kind, known["holes"])


def head_in(packed: Packed) -> np.ndarray:
    """(d, h, w) bool in the case's box: where it has brain."""
    return xyz_to_zyx(packed.marks) & BRAIN > 0


def region_of(packed: Packed, kind: str, holes: np.ndarray | None = None) -> np.ndarray:
    """(d, h, w) bool in the case's box: where nnU-Net takes z-scores.

    ``kind`` is ``head``, its holes filled, or ``box``, the smallest around it. ``holes`` are those
    of :func:`holes_of`, if they are known; to find them takes a second.
    """
    head = head_in(packed)
    if kind == "box":
        return np.ones_like(head)
    region = np.array(head)
    region.flat[holes_of(head) if holes is None else holes] = True
    return region


def holes_of(head: np.ndarray) -> np.ndarray:
    """Flat indices of the voxels that ``head`` encloses; hardly any."""
    return np.flatnonzero(binary_fill_holes(head) & ~head)


def levels_of(packed: Packed, names: Sequence[Modality], region: np.ndarray) -> np.ndarray:
    """(C, 3) float32 for each of ``names``: slope, offset, and the z-score of the background.

    A voxel's z-score is slope × x + offset, x being its value in the network's scale where the
    shoulder is undone. What the case lacks has zeros, as nnU-Net makes of an empty channel.

    Raises:
        InputError: Voxels were clipped, so that their z-scores are lost; or the background is not
            0, which a segmenter would not see as background.
    """
    found = np.zeros((len(names), 3), np.float32)
    for row, name in zip(found, names, strict=True):
        if name not in packed.codes:
            continue
        scale = packed.scales[name]
        if scale.clips or scale.background != 0:
            said = "data.intensity = paper clips it" if scale.clips else (
                f"its background is {scale.background:.6g}, and a segmenter's is exactly 0"
            )  # fmt: skip
            raise InputError(
                f"{name} cannot be shown to a coupled segmenter: {said}; train without "
                "train.coupling, or mend that"
            )
        values = scale.invert(packed.values[name], np.ones(1, bool)).astype(np.float64)
        values[0] = 0  # that of the background
        counts = np.bincount(packed.codes[name][region].ravel(), minlength=len(values))
        mean = counts @ values / max(counts.sum(), 1)
        variance = counts @ (values - mean) ** 2 / max(counts.sum(), 1)
        deviation = max(float(np.sqrt(variance)), LEAST_DEVIATION)
        row[:] = scale.width / deviation, (scale.low - mean) / deviation, -mean / deviation
    return found
