"""Whether a label looks like a tumour, and like one that is read in a certain scheme.

What is judged: its share of the head, whether oedema is its outer layer, and what is bright in the
picture after contrast. Arrays are (D, H, W) = (z, y, x).
"""

from collections.abc import Mapping

import numpy as np

from synth3d.cohort.labels.schemes import LabelScheme, values_in
from synth3d.images import foreground

MOST_OF_HEAD = 0.5
"""A label that covers more of the head is no tumour but a mask or a map of tissues."""

MOST_ML = 700.0
"""So is a label of more than this; brains have 800 mL and more, tumours with oedema under 500."""

LEAST_HEAD_ML = 20.0
"""What shows less of a head is a cut-out, which a tumour may fill."""

LEAST_OF_BOX = 0.05
"""Below this share of the volume a label is not compared with the head: it is no mask of it."""

LEAST_VOXELS = 10
"""Fewer voxels of a tissue say nothing."""

LEAST_OEDEMA = 0.02
"""Oedema that is less of the tumour than this may lie anywhere."""

LEAST_OUTSIDE = 0.1
"""Oedema is the outer layer when at least this share of its surface faces healthy tissue."""

BRIGHT, DARK = 1.1, 1.0
"""After contrast, as times the brain's median: over the one is bright, under the other dark."""


def covers_too_much(label: np.ndarray, head: np.ndarray | None, voxel_ml: float) -> str | None:
    """How a label is too large for a tumour, as in ``98 % of the head``; None where it is not.

    Args:
        label: Integers.
        head: Where the head is, of the same shape; None where no image tells.
        voxel_ml: Volume of a voxel.
    """
    tumour = label != 0
    count = int(np.count_nonzero(tumour))
    if head is not None and (inside := int(np.count_nonzero(head))):
        share = np.count_nonzero(tumour & head) / inside
        if share > MOST_OF_HEAD and inside * voxel_ml > LEAST_HEAD_ML:
            return f"{share:.0%} of the head"
    return f"{count * voxel_ml:.0f} mL" if count * voxel_ml > MOST_ML else None


def oedema_is_inside(label: np.ndarray, scheme: LabelScheme) -> bool:
    """Whether oedema, as ``scheme`` has it, is enclosed by the core, which it surrounds in truth.

    False, too, where there is too little of it, or no core, to tell.
    """
    tumour = np.isin(label, [n for n, tissue in scheme.tissues.items() if tissue != "cavity"])
    if not tumour.any():
        return False
    box = tuple(
        slice(max(int(found.min()) - 1, 0), int(found.max()) + 2) for found in np.nonzero(tumour)
    )
    tumour = np.pad(tumour[box], 1)
    oedema = np.pad(np.isin(label[box], scheme.oedema), 1)
    count, whole = np.count_nonzero(oedema), np.count_nonzero(tumour)
    if count < max(LEAST_VOXELS, LEAST_OEDEMA * whole) or count == whole:
        return False
    outside = inside = 0
    for axis in range(3):
        for step in (1, -1):
            neighbour = np.roll(tumour, step, axis), np.roll(oedema, step, axis)
            outside += int(np.count_nonzero(oedema & ~neighbour[0]))
            inside += int(np.count_nonzero(oedema & neighbour[0] & ~neighbour[1]))
    return outside < LEAST_OUTSIDE * (outside + inside)


def necrosis_in_rim(label: np.ndarray, scheme: LabelScheme) -> bool:
    """Whether necrosis, as ``scheme`` has it, borders more on enhancing tumour than on all else."""
    core, rim = np.isin(label, scheme.necrosis), np.isin(label, scheme.enhancing)
    if min(np.count_nonzero(core), np.count_nonzero(rim)) < LEAST_VOXELS:
        return False
    core, rim = np.pad(core, 1), np.pad(rim, 1)
    faces = touching = 0
    for axis in range(3):
        for step in (1, -1):
            border = core & ~np.roll(core, step, axis)
            faces += int(np.count_nonzero(border))
            touching += int(np.count_nonzero(border & np.roll(rim, step, axis)))
    return touching > faces / 2


def contrast(label: np.ndarray, t1c: np.ndarray) -> dict[int, float]:
    """How bright each integer is in ``t1c``, T1 after contrast, as times the brain's median.

    Medians, of voxels in the head alone; integers of too few voxels are left out.
    """
    head = foreground(t1c)
    healthy = t1c[head & (label == 0)]
    if healthy.size < LEAST_VOXELS or not (middle := float(np.median(healthy))) > 0:
        return {}
    found = {value: t1c[head & (label == value)] for value in values_in(label) if value}
    return {
        value: float(np.median(voxels)) / middle
        for value, voxels in found.items()
        if voxels.size >= LEAST_VOXELS
    }


def enhances(scheme: LabelScheme, brightness: Mapping[int, float]) -> bool | None:
    """Whether what enhances by ``scheme`` is what is bright after contrast; None if unclear.

    Args:
        scheme: How the integers are read.
        brightness: As :func:`contrast` gives it.
    """
    bright = [v for value, v in brightness.items() if value in scheme.enhancing]
    others = [v for value, v in brightness.items() if value not in scheme.enhancing]
    brightest = max(others, default=0.0)
    if bright:
        if max(bright) > max(BRIGHT, brightest):
            return True
        return False if max(bright) < DARK and brightest > BRIGHT else None
    return False if brightest > BRIGHT else True if 0 < brightest < DARK else None
