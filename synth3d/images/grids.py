"""Where the voxels of an image lie, and whether two images lie on the same grid."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

from synth3d.images.geometry import CORRECTED

TOLERANCE_VOXELS = 0.05
"""Two grids are the same when no corner of the volume moves by more than this many voxels."""

TOLERANCE_EDGES = 1e-5
"""nnU-Net refuses siblings whose voxel edges differ by a larger share, wherever they lie."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape and place of a volume.

    Attributes:
        shape_zyx: (D, H, W).
        affine: (4, 4), voxel (x, y, z) to mm, RAS+; its first three columns are independent.
        other: What the header's other form says, where it has two; None where it has one.
        lost: Whether the header says nothing of its own, so that ``affine`` is a default.
        uncoded: Whether it has neither form, so that the axes are assumed.
    """

    shape_zyx: tuple[int, int, int]
    affine: np.ndarray
    other: np.ndarray | None = None
    lost: bool = False
    uncoded: bool = False

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

    @property
    def tolerance_mm(self) -> float:
        """Corners no farther apart than this are at the same place."""
        return TOLERANCE_VOXELS * min(self.spacing_mm)

    def apart_mm(self, one: np.ndarray, another: np.ndarray) -> float:
        """How far a corner of the volume moves, along one axis, from one affine to another."""
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape_zyx[::-1]], (1,)), -1)
        return float(np.abs(corners.reshape(-1, 4) @ (one - another).T).max())

    @property
    def conflict_mm(self) -> float:
        """How far the header's two forms put a corner apart; 0 where they agree or one is set."""
        apart = 0.0 if self.other is None else self.apart_mm(self.affine, self.other)
        return apart if apart > self.tolerance_mm else 0.0

    def difference(self, other: "Grid") -> str | None:
        """In what ``other`` differs, in words, or None when it is the same grid."""
        if self.shape_zyx != other.shape_zyx:
            return f"shape (z, y, x) {other.shape_zyx} against {self.shape_zyx}"
        moved = self.apart_mm(self.affine, other.affine)
        if moved <= self.tolerance_mm:
            if np.allclose(self.spacing_mm, other.spacing_mm, rtol=TOLERANCE_EDGES, atol=0):
                return None
            off = np.abs(np.divide(other.spacing_mm, self.spacing_mm) - 1).max()
            return f"spacing by a share of {off:.1g}, which nnU-Net takes for another"
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


def remedies(grids: Mapping[Path, Grid], reference: Path, whole: bool = True) -> str:
    """What is to be done about each of ``grids`` that is not the one of ``reference``.

    Unless they are a ``whole`` case's, no copies with corrected headers can be had for them.
    """
    goal, found = grids[reference], []
    for path, one in grids.items():
        if (difference := goal.difference(one)) is None:
            continue
        if one.shape_zyx == goal.shape_zyx and one.lost != goal.lost:
            names = (path, reference) if one.lost else (reference, path)
            found.append(
                f"the header of {names[0].name} has lost its place, so give it that of "
                f"{names[1].name} and leave the voxels{f'; {CORRECTED}' if whole else ''}"
            )
        elif one.shape_zyx == goal.shape_zyx and _agree_otherwise(goal, one):
            found.append(
                f"the qform and the sform of a header disagree, and by the other one the files "
                f"lie on one grid; {CORRECTED}"
            )
        elif difference.startswith("spacing by a share"):
            found.append(CORRECTED)
        else:
            found.append("resample the case to one grid, as with ANTs")
    return "; ".join(dict.fromkeys(found))


def _agree_otherwise(one: Grid, another: Grid) -> bool:
    """Whether two grids of one shape are the same by another form of either header."""
    if not (one.conflict_mm or another.conflict_mm):
        return False
    forms = [[g.affine, *([] if g.other is None else [g.other])] for g in (one, another)]
    return any(one.apart_mm(a, b) <= one.tolerance_mm for a in forms[0] for b in forms[1])


def _mm(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
