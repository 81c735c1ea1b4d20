"""Structural similarity (SSIM) as a map: one window, one pair of volumes, any axes.

Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", eq. 13
with K1 = 0.01 and K2 = 0.03. What differs between tools is the window, the divisor of the variance
and what lies beyond the edge; :class:`Window` names all three.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Window:
    """What SSIM sees around a voxel.

    Attributes:
        shape: ``uniform`` or ``gaussian`` weights.
        radius: The side is 2 ``radius`` + 1 voxels.
        sigma: Of the Gaussian, in voxels.
        sample: Divide the variances by N - 1 (sample) instead of N, for N voxels in a window.
        edge: Beyond the volume it is mirrored, with the edge voxel repeated (``reflect``) or
            not (``mirror``), as scipy names them.
    """

    shape: Literal["uniform", "gaussian"]
    radius: int
    sigma: float = 0.0
    sample: bool = False
    edge: Literal["reflect", "mirror"] = "reflect"

    def average(self, volume: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        """The weighted mean around each voxel of ``volume`` along ``axes``, same shape."""
        if self.shape == "uniform":
            size = 2 * self.radius + 1
            return ndimage.uniform_filter(volume, size, mode=self.edge, axes=tuple(axes))
        return ndimage.gaussian_filter(
            volume, self.sigma, mode=self.edge, radius=self.radius, axes=tuple(axes)
        )


SCIKIT_IMAGE = Window("uniform", radius=3, sample=True, edge="reflect")
"""``skimage.metrics.structural_similarity`` with nothing but a data range."""

TORCHMETRICS = Window("gaussian", radius=5, sigma=1.5, sample=False, edge="mirror")
"""``torchmetrics.image.StructuralSimilarityIndexMeasure`` with its defaults."""


def similarity_map(
    real: np.ndarray,
    synthetic: np.ndarray,
    data_range: float,
    window: Window = SCIKIT_IMAGE,
    axes: Sequence[int] = (0, 1, 2),
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """SSIM around every voxel.

    Where a window sees no difference the value is exactly 1, so only the box around the
    differences is computed: what two volumes share costs nothing.

    Args:
        real: (D, H, W).
        synthetic: The same shape.
        data_range: The L of C1 = (K1 L)^2 and C2 = (K2 L)^2, at least 0.
        window: What is averaged over; it may be wider than the volume, which is then mirrored
            more than once.
        axes: The axes it extends along: (0, 1, 2) is 3-D, (1, 2) slice by slice.
        known: Another synthetic volume and its map against ``real``, made with the same window and
            range: only the box around what differs from it is computed.

    Returns:
        (D, H, W) float64, at most 1; NaN where a range of 0 leaves 0 / 0.

    Raises:
        ValueError: The shapes differ.
    """
    if real.shape != synthetic.shape:
        raise ValueError(f"volumes of one case must agree: {real.shape} and {synthetic.shape}")
    other, found = known or (real, np.ones(real.shape))
    found = found.copy()
    differs = other != synthetic
    if not differs.any():
        return found
    touched = box_around(differs, window.radius, axes)
    seen = box_around(differs, 2 * window.radius, axes)
    inner = tuple(
        slice(part.start - whole.start, part.stop - whole.start)
        for part, whole in zip(touched, seen, strict=True)
    )
    first, second = (volume[seen].astype(np.float64) for volume in (real, synthetic))
    found[touched] = _map(first, second, data_range, window, axes)[inner]
    return found


def box_around(mask: np.ndarray, margin: int, axes: Sequence[int] = (0, 1, 2)) -> tuple[slice, ...]:
    """The bounding box of a non-empty ``mask``, ``margin`` wider along ``axes`` if there is room.

    Raises:
        ValueError: The mask is empty.
    """
    found = ndimage.find_objects(mask.view(np.uint8))
    if not found:
        raise ValueError("an empty mask has no box")
    room = [margin if axis in axes else 0 for axis in range(mask.ndim)]
    return tuple(
        slice(max(part.start - more, 0), min(part.stop + more, side))
        for part, more, side in zip(found[0], room, mask.shape, strict=True)
    )


def _map(
    x: np.ndarray, y: np.ndarray, data_range: float, window: Window, axes: Sequence[int]
) -> np.ndarray:
    voxels = (2 * window.radius + 1) ** len(axes)
    unbias = voxels / (voxels - 1) if window.sample else 1.0
    mean_x, mean_y = window.average(x, axes), window.average(y, axes)
    variances = unbias * (
        window.average(x * x, axes) - mean_x**2 + window.average(y * y, axes) - mean_y**2
    )
    covariance = unbias * (window.average(x * y, axes) - mean_x * mean_y)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return above / below
