"""Thick slices: told by the voxels' edges, or, once they are interpolated, by an empty spectrum.

Converters bring 5 mm slices onto a grid of 1 mm, and the header no longer says so. What was never
scanned is still not there: along one axis the fine detail is missing that the others have. Limits
were set on real cases: sequences scanned in 3-D had a factor of 4 at most between axes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from synth3d.images import Grid, edges_in

WINDOW = 16
"""Voxels along an axis whose spectrum is taken at once; all must lie inside the head."""

FEWEST, MOST = 200, 20_000
"""Windows that tell anything, and that are looked at of one place along an axis."""

ANISOTROPIC = 2.0
"""Voxels longer than so many times their shortest edge are thick slices by their header."""

LONGER = 1.5
"""Voxels longer than so many of the case's are thick slices by their header."""

ENOUGH = 0.5
"""Of a thickness that is to be restored: where the truth is so thick itself, half of it is lost."""

EMPTY, LESS = 10**-0.7, 10**-0.5
"""An axis is empty somewhere in its spectrum where it holds such a share of the others' power, and
begins to be so where it first falls under the second."""


def thick_axes(
    volume: np.ndarray, head: np.ndarray, spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Along which axes (``z``, ``y``, ``x``) slices are thick, and how thick, in the grid's voxels.

    For voxels that are long themselves it is their length in shortest edges. Of interpolated slices
    it is what the spectrum surely shows: they are so thick or thicker.

    Args:
        volume: (D, H, W), any unit.
        head: Bool, where there is an image; its border, which is sharp in all directions, and
            whatever lies outside do not count.
        spacing_mm: Voxel edges (z, y, x).

    Returns:
        Nothing for a volume scanned in 3-D, and for one too small to tell.
    """
    shortest = min(spacing_mm)
    found = {
        axis: edge / shortest
        for axis, edge in zip("zyx", spacing_mm, strict=True)
        if edge > ANISOTROPIC * shortest
    }
    spectra = _spectra(volume, head)
    if found or spectra is None:
        return found
    for at, axis in enumerate("zyx"):
        others = np.exp(np.log(np.delete(spectra, at, 0)).mean(0))
        share = spectra[at] / others
        # The lowest frequency is the window's own, the highest every interpolation's.
        if share[1:-1].min() < EMPTY:
            first = int(np.argmax(share < LESS)) + 1
            found[axis] = WINDOW / 2 / first
    return found


def too_thick(volume: np.ndarray, head: np.ndarray, ratio: Sequence[int]) -> dict[str, float]:
    """As :func:`thick_axes`, in voxels, of a truth that is too thick for slices of ``ratio``.

    That is where, along an axis that ``ratio`` (z, y, x) makes coarser, it is at least ``ENOUGH``
    as thick; else nothing.
    """
    thick, by = thick_axes(volume, head, (1.0, 1.0, 1.0)), dict(zip("zyx", ratio, strict=True))
    bad = any(by[axis] > 1 and thick[axis] >= ENOUGH * by[axis] for axis in thick)
    return thick if bad else {}


def thickness_in_words(thick: Mapping[str, float]) -> str:
    """``2.7 voxels along z``, of what :func:`thick_axes` found."""
    return " and ".join(f"{edge:.2g} voxels along {axis}" for axis, edge in thick.items())


def ratio_found(
    own: Grid, grid: Grid, volume: np.ndarray, head: np.ndarray
) -> tuple[tuple[float, float, float], str]:
    """How thick the slices of a poor sequence are, (z, y, x) in voxels of its case's grid.

    Args:
        own: Where the voxels of its file lie.
        grid: That of the case.
        volume: The sequence on the latter, (D, H, W), any unit.
        head: Bool, where there is an image.

    Returns:
        The ratio and by what it was found: ``header``, or ``spectrum`` of a file that was
        interpolated already, which shows that they are so thick or thicker; 1 where it shows
        nothing.
    """
    edges = edges_in(own, grid)
    if max(edges) > LONGER:
        return edges, "header"
    found = thick_axes(volume, head, (1.0, 1.0, 1.0))
    return (found.get("z", 1.0), found.get("y", 1.0), found.get("x", 1.0)), "spectrum"


def ratio_disagrees(found: Sequence[float], by: str, asked: Sequence[float]) -> bool:
    """Whether slices are more than twice as thick, or thin, as a run was trained for.

    A spectrum shows the least thickness, and none of a factor of 2.
    """
    if by == "header":
        return any(max(f / a, a / f) > 2 for f, a in zip(found, asked, strict=True))
    return any(f > 2 * a or (f == 1 and a > 2) for f, a in zip(found, asked, strict=True))


def _spectra(volume: np.ndarray, head: np.ndarray) -> np.ndarray | None:
    """(3, WINDOW / 2): along each axis the power at 1, 2, ... turns a window, as shares."""
    from scipy import ndimage

    inner = ndimage.binary_erosion(head, iterations=2)
    taper = np.hanning(WINDOW + 2)[1:-1, None]
    spectra = []
    for axis in range(3):
        image, inside = (np.moveaxis(array, axis, 0) for array in (volume, inner))
        power, count = np.zeros(WINDOW // 2), 0
        for start in range(0, len(image) - WINDOW + 1, WINDOW // 2):
            part = slice(start, start + WINDOW)
            whole = np.argwhere(inside[part].all(0))
            whole = whole[:: max(1, len(whole) // MOST)]
            rows = image[part][:, whole[:, 0], whole[:, 1]].astype(np.float64)
            rows = (rows - rows.mean(0)) * taper if len(whole) else rows
            power += (np.abs(np.fft.rfft(rows, axis=0)) ** 2).sum(1)[1:]
            count += len(whole)
        if count < FEWEST or not power[:2].sum():
            return None
        spectra.append(np.maximum(power / power[:2].sum(), 1e-12))
    return np.stack(spectra)
