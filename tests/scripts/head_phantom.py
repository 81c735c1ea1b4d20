"""A head known at every point of space, scanned in three contrasts on any grid.

The anatomy lies in the world (RAS+ mm) and is evaluated, not resampled: a scan after a motion of
the head is exact, whatever the grid.
"""

from pathlib import Path

import numpy as np

from synth3d.images.grids import Grid
from synth3d.images.volumes import write_new

# centre (x, y, z), half axes, mm; later ones are painted over earlier ones
PARTS = (
    ("scalp", (0, 0, 0), (66, 80, 62)),
    ("skull", (0, 0, 0), (61, 75, 57)),
    ("grey", (0, 0, 0), (56, 70, 52)),
    ("white", (0, -3, 2), (46, 58, 42)),
    ("fluid", (11, 5, 8), (7, 24, 9)),
    ("fluid", (-11, 5, 8), (7, 24, 9)),
    ("grey", (19, 2, -4), (8, 12, 8)),
    ("grey", (-19, 2, -4), (8, 12, 8)),
    ("fluid", (25, 30, 20), (9, 7, 11)),
    ("grey", (-20, -38, -18), (12, 9, 8)),
    ("fluid", (2, -52, -28), (5, 6, 9)),
)
CONTRASTS = {
    "T1": {"air": 0, "scalp": 700, "skull": 60, "grey": 330, "white": 480, "fluid": 110},
    "T2": {"air": 0, "scalp": 300, "skull": 40, "grey": 420, "white": 300, "fluid": 900},
    "PD": {"air": 0, "scalp": 450, "skull": 50, "grey": 620, "white": 500, "fluid": 680},
}
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
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(4)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    matrix[:3, 3] = shift_mm
    return matrix


def scan(contrast: str, grid: Grid, moved: np.ndarray, seed: int, fine: int = 2) -> np.ndarray:
    """(D, H, W) of the head after ``moved``; each voxel is the mean of ``fine``³ points."""
    values = CONTRASTS[contrast]
    d, h, w = grid.shape_zyx
    back = np.linalg.inv(moved) @ grid.affine
    total = np.zeros(grid.shape_zyx)
    offsets = (np.arange(fine) + 0.5) / fine - 0.5
    for dz, dy, dx in np.stack(np.meshgrid(offsets, offsets, offsets), -1).reshape(-1, 3):
        z, y, x = np.meshgrid(
            np.arange(d) + dz, np.arange(h) + dy, np.arange(w) + dx, indexing="ij"
        )
        place = np.stack([x, y, z], -1) @ back[:3, :3].T + back[:3, 3]
        picture = np.full(grid.shape_zyx, float(values["air"]))
        for tissue, centre, axes in PARTS:
            picture[((((place - centre) / axes) ** 2).sum(-1)) < 1] = values[tissue]
        total += picture
    noise = np.random.default_rng(seed).normal(0, 12, grid.shape_zyx)
    return np.abs(total / fine**3 + noise)


def write_ixi_case(folder: Path, name: str, moved: np.ndarray, seed: int = 0) -> None:
    """T1 after ``moved``, T2 and PD before it, in IXI's folders and names."""
    for number, (contrast, grid, motions) in enumerate(
        (("T1", T1_GRID, moved), ("T2", T2_GRID, np.eye(4)), ("PD", T2_GRID, np.eye(4)))
    ):
        picture = scan(contrast, grid, motions, 10 * seed + number)
        path = folder / f"IXI-{contrast}" / f"{name}-{contrast}.nii.gz"
        write_new(path, picture, grid.affine, np.int16)
