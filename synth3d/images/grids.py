"""Where the voxels of an image lie, and whether two images lie on the same grid."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

TOLERANCE_VOXELS = 0.05
"""Two grids are the same when no corner of the volume moves by more than this many voxels."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape and place of a volume.

    Attributes:
        shape_zyx: (D, H, W).
        affine: (4, 4), voxel (x, y, z) to mm, RAS+; its first three columns are independent.
    """

    shape_zyx: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edges (z, y, x) in mm."""
        x, y, z = (float(edge) for edge in np.linalg.norm(self.affine[:3, :3], axis=0))
        return z, y, x

    @property
    def orientation(self) -> str:
        """The body axis nearest to x, y and z of the file, such as ``LPS``."""
        cosines = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        axes = max(permutations(range(3)), key=lambda p: np.abs(cosines[p, range(3)]).sum())
        return "".join(
            "LPI"[axis] if cosines[axis, column] < 0 else "RAS"[axis]
            for column, axis in enumerate(axes)
        )

    def difference(self, other: "Grid") -> str | None:
        """In what ``other`` differs, in words, or None when it is the same grid."""
        if self.shape_zyx != other.shape_zyx:
            return f"shape (z, y, x) {other.shape_zyx} against {self.shape_zyx}"
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape_zyx[::-1]], (1,)), -1)
        moved = np.abs(corners.reshape(-1, 4) @ (self.affine - other.affine).T).max()
        if moved <= TOLERANCE_VOXELS * min(self.spacing_mm):
            return None
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=0.01):
            return f"spacing (z, y, x) {_mm(other.spacing_mm)} against {_mm(self.spacing_mm)} mm"
        if self.orientation != other.orientation:
            return f"orientation {other.orientation} against {self.orientation}"
        return f"origin or direction (corners lie up to {moved:.2f} mm apart)"


def grid_misfits(grids: Mapping[Path, Grid]) -> tuple[Path, list[str]]:
    """The first file on the commonest of ``grids``, and a clause for each file on another."""
    if not grids:
        raise ValueError("no grids to compare")
    votes = {
        path: sum(one.difference(other) is None for other in grids.values())
        for path, one in grids.items()
    }
    reference = max(votes, key=votes.__getitem__)
    differences = {path: grids[reference].difference(one) for path, one in grids.items()}
    return reference, [
        f"{path} differs from {reference.name} in {difference}"
        for path, difference in differences.items()
        if difference
    ]


def _mm(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
