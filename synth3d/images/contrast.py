"""What contrast agent does between two T1-weighted images of a head: brighten, never darken.

Vessels, choroid plexus, dura and enhancing tumour are few voxels and gain much, so the logarithm of
after / before has a long upper tail and no lower one. That needs no training and no unit, and is
exactly reversed where the two images are exchanged.
"""

from collections.abc import Sequence

import numpy as np

from synth3d.images.alignment import BLOCK_MM, FEWEST_VOXELS, blocks
from synth3d.images.intensity import background_of

RIM_MM = 3.0
"""So near to the head's surface, masks and partial volume rule."""

SMOOTH_MM, BROAD_MM = 2.0, 20.0
"""Deviations of what is smoothed away: noise, and the coils' sensitivity."""

TAIL = 0.002
"""The share of voxels beyond which a tail is measured."""


def enhancement(
    before: np.ndarray, after: np.ndarray, head: np.ndarray, spacing_mm: Sequence[float]
) -> float | None:
    """How much longer the tail of voxels brighter in ``after`` is than that of darker ones.

    Args:
        before: (D, H, W), T1-weighted, in any unit.
        after: (D, H, W) on the same grid, T1-weighted with contrast agent.
        head: (D, H, W) bool, where both show something.
        spacing_mm: Voxel edges (z, y, x).

    Returns:
        In interquartile ranges of log(after / before): 1.7 to 40 in real cases, 0 where neither has
        agent, and with its sign changed where the two are exchanged. None where there is too little
        to tell, or values lie below the background so that there are no logarithms.
    """
    from scipy import ndimage

    by = tuple(max(1, round(BLOCK_MM / edge)) for edge in spacing_mm)
    spacing = np.multiply(spacing_mm, by)
    inside = np.pad(blocks(head, by) > 0.5, 1)  # the box's border is a surface, too
    depth = np.asarray(ndimage.distance_transform_edt(inside, sampling=spacing))
    inner = depth[1:-1, 1:-1, 1:-1] > RIM_MM
    if inner.sum() < FEWEST_VOXELS:
        return None
    logs = []
    for volume in (before, after):
        smooth = ndimage.gaussian_filter(
            blocks(volume - np.float32(background_of(volume)), by), SMOOTH_MM / spacing
        )
        middle = float(np.median(smooth[inner]))
        if middle <= 0 or (smooth[inner] <= 0).mean() > TAIL:
            return None
        logs.append(np.log(np.maximum(smooth, 1e-3 * middle)))
    ratio = np.where(inner, logs[1] - logs[0], 0).astype(np.float32)
    weight = ndimage.gaussian_filter(inner.astype(np.float32), BROAD_MM / spacing)
    ratio -= ndimage.gaussian_filter(ratio, BROAD_MM / spacing) / np.maximum(weight, 1e-3)
    shares = [TAIL, 0.25, 0.5, 0.75, 1 - TAIL]
    low, quarter, middle, three_quarters, high = np.quantile(ratio[inner], shares)
    spread = float(three_quarters - quarter)
    return float(high + low - 2 * middle) / spread if spread > 1e-4 else None
