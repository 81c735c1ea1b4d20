"""Where the header of a NIfTI file puts its voxels, by the rule of ITK, with which nnU-Net reads.

NIfTI has two places for the geometry, the qform and the sform, each with a code that is 0 where
it is not set. nibabel takes the sform wherever it is set. ITK takes it where its code is 1 or
there is no qform, and only if its directions are orthonormal; edges always come from ``pixdim``,
in the header's own unit; with neither form the axes are taken for LPS. What the two programs see
may differ, and nobody notices: so this is the one place that decides, and it keeps the other
reading for whoever compares.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

ORTHONORMAL = 1e-4
"""ITK takes directions whose products are off by no more than this."""

EDGES_MM = (0.02, 50.0)
"""A voxel edge beyond these is damage, or a unit that is not meant."""

CODES = range(6)
"""What NIfTI knows of a form; 0 is not set. Of others nibabel makes 0, and ITK takes the form."""

MM = 2
"""The unit."""
MM_PER_UNIT = {1: 1000.0, 3: 0.001}
"""Of the spatial units metre and micron; all other codes are read as mm."""

CORRECTED = "synth3d audit FOLDER --fix-headers OUT writes corrected copies"


@dataclass(frozen=True, eq=False)
class Place:
    """What a header says of the place of its voxels.

    Attributes:
        affine: (4, 4), voxel (x, y, z) to mm, RAS+, as ITK reads it; None where ``fault`` says why
            not.
        fault: What is wrong, a clause with its remedy; None where nothing is.
        sform: The sform in mm, whatever the unit where that is absurd; None where it is not set or
            cannot be used.
        qform: The qform, likewise.
        codes: Of qform and sform.
    """

    affine: np.ndarray | None
    fault: str | None
    sform: np.ndarray | None
    qform: np.ndarray | None
    codes: tuple[int, int]

    @property
    def lost(self) -> bool:
        """Whether nothing is said: no usable form, or the one that programs write by default."""
        if self.codes == (0, 0) or self.affine is None:
            return self.codes == (0, 0) or (self.sform is None and self.qform is None)
        return np.array_equal(np.abs(self.affine), np.eye(4))

    @property
    def other(self) -> np.ndarray | None:
        """The form that ITK does not take, if it can be used."""
        if self.affine is None or self.qform is None:
            return self.sform
        taken = np.allclose(self.affine, self.qform, atol=1e-6)
        return self.sform if taken else self.qform


@np.errstate(all="ignore")  # what becomes infinite cannot be used
def place_of(header: Any) -> Place:
    """The place that a nibabel NIfTI-1 or -2 header gives; whatever it holds, nothing is raised."""
    q, s = codes = int(header["qform_code"]), int(header["sform_code"])
    if unknown := [code for code in codes if code not in CODES]:
        known = q if q in CODES else 0, s if s in CODES else 0
        codes = known if any(known) else (int(q > 0), int(s > 0))
    unit = MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    edges = np.asarray(header["pixdim"][1:4], dtype=np.float64) * unit
    fault, affine = _bad_edges(edges, unit), None
    if fault and _bad_edges(edges / unit, 1.0) is None:  # the numbers were meant in mm
        edges, unit = edges / unit, 1.0
    if unknown:
        fault = f"has a code for its place that NIfTI does not know, {unknown[0]}; {CORRECTED}"
    sform = _sform(header, unit) if codes[1] > 0 else None
    qform = _qform(header, edges, unit) if codes[0] > 0 else None
    takes_sform = codes[1] > 0 and (codes[1] == 1 or codes[0] <= 0)
    if not takes_sform and _mirrored(sform, qform):
        fault = fault or f"has forms in its header that mirror each other; {CORRECTED}"
    if fault is None and takes_sform and _directions(sform) is not None:
        assert sform is not None
        affine, fault = _with_edges(sform, edges)
    elif fault is None and codes[0] > 0:
        affine = qform
        fault = None if qform is not None else f"has a damaged qform in its header; {CORRECTED}"
    elif fault is None and takes_sform:
        fault = _bad_directions(sform)
    elif fault is None:
        affine = np.diag([-edges[0], -edges[1], edges[2], 1.0])
    return Place(affine, fault, sform, qform, codes)


def nearest_upright(affine: np.ndarray) -> np.ndarray:
    """``affine`` (4, 4) with the nearest orthonormal directions, the same edges and first voxel."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, vt = np.linalg.svd(affine[:3, :3] / edges)
    straight = np.eye(4)
    straight[:3, :3], straight[:3, 3] = (u @ vt) * edges, affine[:3, 3]
    return straight


def can_be_written(affine: np.ndarray) -> bool:
    """Whether ``affine`` (4, 4) is finite, and its directions are orthonormal, as ITK needs."""
    return _directions(np.asarray(affine, dtype=np.float64)) is not None


def _sform(header: Any, unit: float) -> np.ndarray | None:
    rows = np.stack([header["srow_x"], header["srow_y"], header["srow_z"]]).astype(np.float64)
    return _usable(np.vstack([rows * unit, [0, 0, 0, 1]]))


def _qform(header: Any, edges: np.ndarray, unit: float) -> np.ndarray | None:
    vector = np.array([float(header[f"quatern_{axis}"]) for axis in "bcd"])
    if not np.isfinite(vector).all() or vector @ vector > 1 + 1e-5:
        return None
    from scipy.spatial.transform import Rotation

    real = np.sqrt(max(0.0, 1 - vector @ vector))  # rounding leaves some a little too long
    turn = Rotation.from_quat([*vector, real]).as_matrix()
    affine = np.eye(4)
    handed = -1 if float(header["pixdim"][0]) < 0 else 1
    affine[:3, :3] = turn * edges * (1, 1, handed)
    affine[:3, 3] = [float(header[f"qoffset_{axis}"]) * unit for axis in "xyz"]
    return _usable(affine)


def _mirrored(sform: np.ndarray | None, qform: np.ndarray | None) -> bool:
    """Whether the two differ in the sense of an axis alone: ITK then takes them for the same."""
    if sform is None or qform is None or not np.allclose(sform[:3, 3], qform[:3, 3], atol=0.01):
        return False
    one, other = (form[:3, :3] / np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform))
    cosines = (one * other).sum(0)
    return bool((np.abs(cosines) > 0.999).all() and (cosines < 0).any())


def _usable(affine: np.ndarray) -> np.ndarray | None:
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        return None
    return affine


def _directions(affine: np.ndarray | None) -> np.ndarray | None:
    """The unit vectors (3, 3) along x, y and z; None where ITK refuses them."""
    if affine is None or _usable(affine) is None:
        return None
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return unit if np.abs(unit @ unit.T - np.eye(3)).max() <= ORTHONORMAL else None


def _with_edges(sform: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """The sform if ``edges`` say the same lengths; ITK would mix the two, nobody else does."""
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if np.allclose(lengths, edges, rtol=1e-3):
        return sform, None
    return None, (
        f"has voxel edges (x, y, z) of {_mm(edges)} mm by the pixdim of its header, which nnU-Net "
        f"reads, and of {_mm(lengths)} mm by its sform; {CORRECTED}"
    )


def _bad_edges(edges: np.ndarray, unit: float) -> str | None:
    least, most = EDGES_MM
    if np.isfinite(edges).all() and (edges >= least).all() and (edges <= most).all():
        return None
    said = {1000.0: ", its unit being metres", 0.001: ", its unit being microns"}.get(unit, "")
    return f"has voxel edges (x, y, z) of {_mm(edges)} mm in its header{said}; {CORRECTED}"


def _bad_directions(sform: np.ndarray | None) -> str:
    if sform is None:
        return f"has an affine in its header that cannot be used; {CORRECTED}"
    unit = sform[:3, :3] / np.linalg.norm(sform[:3, :3], axis=0)
    cosine = np.abs(unit.T @ unit - np.eye(3)).max()
    lean = np.degrees(np.arcsin(min(1.0, cosine)))
    return (
        f"has a sheared sform in its header (axes lean by {lean:.2g} degrees), which nnU-Net "
        f"cannot read; {CORRECTED}"
    )


def _mm(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
