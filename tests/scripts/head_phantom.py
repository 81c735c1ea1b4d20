"""A head known at every point of space, scanned in three contrasts on any grid.

The anatomy lies in the world (RAS+ mm) and is evaluated, not resampled: a scan after a motion of
the head is exact, whatever the grid.
"""

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from synth3d.images.grids import Grid
from synth3d.images.volumes import write_new

TISSUES = ("air", "scalp", "skull", "grey", "white", "fluid")
# tissue, centre (x, y, z), half axes, mm; later ones are painted over earlier ones
PARTS = (
    (1, (0, 0, 0), (66, 80, 62)), (2, (0, 0, 0), (61, 75, 57)), (3, (0, 0, 0), (56, 70, 52)),
    (4, (0, -3, 2), (46, 58, 42)), (5, (11, 5, 8), (7, 24, 9)), (5, (-11, 5, 8), (7, 24, 9)),
    (3, (19, 2, -4), (8, 12, 8)), (3, (-19, 2, -4), (8, 12, 8)), (5, (25, 30, 20), (9, 7, 11)),
    (3, (-20, -38, -18), (12, 9, 8)), (5, (2, -52, -28), (5, 6, 9)),
)  # fmt: skip
CONTRASTS = {
    "T1": (0, 700, 60, 330, 480, 110),
    "T2": (0, 300, 40, 420, 300, 900),
    "PD": (0, 450, 50, 620, 500, 680),
}
"""Of ``TISSUES``."""
T2_GRID = Grid(
    (40, 52, 46), np.array([[3.4, 0, 0, -76], [0, 3.4, 0, -88], [0, 0, 3.6, -70], [0, 0, 0, 1.0]])
)
"""Half as many voxels along each axis as IXI has would be enough; these are fewer still."""
T1_GRID = Grid(
    (52, 56, 48), np.array([[0, 0, 3.2, -80], [3.2, 0, 0, -74], [0, -3.4, 0, 92], [0, 0, 0, 1.0]])
)
"""Sagittal slices: another orientation, shape and spacing."""


def motion(shift_mm: tuple[float, ...], degrees: tuple[float, ...]) -> np.ndarray:
    """(4, 4): turns about x, then y, then z through the world's origin, then the shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def scan(contrast: str, grid: Grid, moved: np.ndarray, seed: int) -> np.ndarray:
    """(D, H, W) of the head after ``moved``; each voxel is the mean of 2³ points."""
    back = np.linalg.inv(moved) @ grid.affine
    total = np.zeros(grid.shape_zyx)
    for offset in np.ndindex(2, 2, 2):
        zyx = np.moveaxis(np.indices(grid.shape_zyx), 0, -1) + (np.array(offset) / 2 - 0.25)
        place = zyx[..., ::-1] @ back[:3, :3].T + back[:3, 3]
        tissue = np.zeros(grid.shape_zyx, int)
        for painted, centre, axes in PARTS:
            tissue[((((place - centre) / axes) ** 2).sum(-1)) < 1] = painted
        total += np.array(CONTRASTS[contrast], float)[tissue]
    noise = np.random.default_rng(seed).normal(0, 12, grid.shape_zyx)
    return np.abs(total / 8 + noise)


def write_ixi_case(folder: Path, name: str, moved: np.ndarray, seed: int = 0) -> None:
    """T1 after ``moved``, T2 and PD before it, in IXI's folders and names."""
    for number, contrast in enumerate(CONTRASTS):
        grid, motions = (T1_GRID, moved) if contrast == "T1" else (T2_GRID, np.eye(4))
        picture = scan(contrast, grid, motions, 10 * seed + number)
        path = folder / f"IXI-{contrast}" / f"{name}-{contrast}.nii.gz"
        write_new(path, picture, grid.affine, np.int16)
