"""Heads for the phantom: MNI152 tissue maps, bent into one subject after another.

The maps are the ICBM 2009a symmetric averages that nilearn carries in its package (Fonov et al.
2011); nothing is downloaded. An average brain is blurred, so each subject gets sulci of its own:
the tissue odds are sharpened and shaken by a smooth random field. All arrays are (z, y, x) on a
cube of ``FIELD_OF_VIEW_MM``, with x towards left, y towards posterior, z towards superior, as
BraTS files lie. No tumour and no image intensity lives here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

FIELD_OF_VIEW_MM = 192.0
"""Edge of the cube that holds the head."""

MIDDLE_MM = np.array([0.0, -17.0, 5.0], dtype=np.float32)
"""Middle of the cube in MNI space, (x, y, z) in mm."""

COARSE_MM = 3
"""Grid step of the template's smooth maps."""


@dataclass(frozen=True)
class Template:
    """MNI152, arrays (x, y, z) in RAS+: fractions in [0, 1] on the 1 mm grid.

    On the coarse grid, the distances to the brain's surface (0 outside) and to the lateral and
    third ventricles. ``origin_mm`` is the MNI position of the first voxel of both grids.
    """

    grey: np.ndarray
    white: np.ndarray
    brain: np.ndarray
    depth_mm: np.ndarray
    ventricle_mm: np.ndarray
    origin_mm: np.ndarray


@dataclass
class Anatomy:
    """One head without disease; arrays (z, y, x), float32.

    The tissue fractions add up to 1, all CSF outside the head; ``brain`` is 1 inside, 0 outside,
    fractions on its surface. ``mni_mm`` (3, z, y, x) is the MNI position each voxel shows.
    """

    white: np.ndarray
    grey: np.ndarray
    csf: np.ndarray
    brain: np.ndarray
    depth_mm: np.ndarray
    ventricle_mm: np.ndarray
    mni_mm: np.ndarray


@lru_cache(maxsize=1)
def load_template() -> Template:
    """The maps from nilearn's package, read once per process."""
    from nilearn import datasets

    brain_image = datasets.load_mni152_brain_mask(resolution=1)
    brain = np.asarray(brain_image.dataobj).astype(bool)
    grey, white = (
        np.asarray(load(resolution=1).dataobj, dtype=np.float32) * brain
        for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    origin = brain_image.affine[:3, 3].astype(np.float32)
    step = (slice(None, None, COARSE_MM),) * 3
    solid = ndimage.binary_fill_holes(brain[step])
    depth = np.asarray(ndimage.distance_transform_edt(solid, sampling=COARSE_MM))
    fluid = ndimage.uniform_filter(brain - grey - white, COARSE_MM)[step]
    x, y, z = COARSE_MM * np.indices(depth.shape) + origin.reshape(3, 1, 1, 1)
    # Deep fluid below the callosum and above the cisterns: the ventricles, near enough.
    near = (np.abs(x) < 45) & (y > -60) & (y < 40) & (z > -8) & (z < 32) & (depth > 30)
    ventricle = near & (fluid > 0.45)
    away = np.asarray(ndimage.distance_transform_edt(~ventricle, sampling=COARSE_MM))
    whole, depth, away = (field.astype(np.float32) for field in (brain, depth, away))
    return Template(grey, white, whole, depth, away, origin)


def grid_mm(n: int) -> np.ndarray:
    """(3, n, n, n): position (x, y, z) in mm of each voxel (z, y, x), RAS+, middle at 0."""
    line = ((np.arange(n) + 0.5) / n - 0.5).astype(np.float32) * np.float32(FIELD_OF_VIEW_MM)
    z, y, x = np.meshgrid(line, -line, -line, indexing="ij")
    return np.stack((x, y, z))


def smooth_field(rng: np.random.Generator, n: int, cell_mm: float) -> np.ndarray:
    """A smooth random (n, n, n) field, mean 0 and deviation 1, with bumps of ``cell_mm``.

    Cubic B-splines over white noise; the same generator state gives the same field, in mm, on
    every grid.
    """
    knots = int(np.ceil(FIELD_OF_VIEW_MM / cell_mm)) + 3
    field = rng.standard_normal((knots,) * 3, dtype=np.float32)
    basis = _spline_basis(n, knots, cell_mm)
    for _ in range(3):
        field = np.tensordot(field, basis, axes=(0, 1))  # the new axis comes last: a rotation
    return field / np.float32((151 / 315) ** 1.5)


@lru_cache(maxsize=32)
def _spline_basis(n: int, knots: int, cell_mm: float) -> np.ndarray:
    """(n, knots): weights of the cubic B-splines at the voxels of a line."""
    at = (np.arange(n) + 0.5) * FIELD_OF_VIEW_MM / n / cell_mm
    away = np.abs(at[:, None] - (np.arange(knots)[None, :] - 1))
    near, far = 2 / 3 - away**2 + away**3 / 2, np.clip(2 - away, 0, None) ** 3 / 6
    return np.where(away < 1, near, far).astype(np.float32)


def resample(
    field: np.ndarray, n: int, shift: Iterable[float] = (0, 0, 0), thick: float = 1
) -> np.ndarray:
    """``field``, a cube over the field of view, on ``n`` voxels a side, each the mean of a box.

    The boxes are moved by ``shift`` (z, y, x) and are ``thick`` along z, in voxels of the result.
    """
    for moved, wide in zip(shift, (thick, 1, 1), strict=True):
        field = np.tensordot(field, _boxes(field.shape[0], n, float(moved), float(wide)), (0, 1))
    return field


def _boxes(source: int, n: int, shift: float, thickness: float) -> np.ndarray:
    """(n, source): share of each source voxel in each box; the edge voxel goes on outside."""
    middle = (np.arange(n) + 0.5 + shift) / n * source
    half = max(thickness * source / n, 1.0) / 2  # never narrower than the source's own voxels
    edges = np.arange(source + 1, dtype=float)
    edges[0], edges[-1] = -np.inf, np.inf
    low = np.maximum((middle - half)[:, None], edges[None, :-1])
    high = np.minimum((middle + half)[:, None], edges[None, 1:])
    return (np.clip(high - low, 0, None) / (2 * half)).astype(np.float32)


def at_mm(values: np.ndarray, mni_mm: np.ndarray, step_mm: float = 1) -> np.ndarray:
    """A template map at MNI positions (3, ...), linear; 0 outside, or the edge's value."""
    origin = load_template().origin_mm.reshape(3, *[1] * (mni_mm.ndim - 1))
    mode = "constant" if step_mm == 1 else "nearest"
    at = (mni_mm - origin) / np.float32(step_mm)
    return ndimage.map_coordinates(values, at, order=1, mode=mode)


def make_subject(rng: np.random.Generator, n: int) -> np.ndarray:
    """MNI position (3, n, n, n) in mm that each voxel of a new subject shows.

    Position, tilt and size of the head vary, its parts are bent smoothly by some millimetres,
    and the ventricles are wider in some.
    """
    position = grid_mm(n)
    scale, tilt = rng.uniform(0.97, 1.07, 3), np.deg2rad(rng.normal(0, 2.5, 3))
    turn = Rotation.from_euler("XYZ", tilt).as_matrix() @ np.diag(scale)
    mni = np.tensordot(turn.astype(np.float32), position, 1)
    mni += (MIDDLE_MM + rng.normal(0, 2, 3).astype(np.float32)).reshape(3, 1, 1, 1)
    widening = np.float32(rng.beta(1.5, 2) * 4)
    mni += widening * _towards_ventricles(n)
    for cell_mm, size_mm in ((48.0, 3.0), (24.0, 1.3)):
        mni += np.stack([np.float32(size_mm) * smooth_field(rng, n, cell_mm) for _ in range(3)])
    return mni


@lru_cache(maxsize=2)
def _towards_ventricles(n: int) -> np.ndarray:
    """(3, n, n, n): pull towards the ventricles, 1 at their wall, fading over 15 mm."""
    distance = load_template().ventricle_mm
    smooth = ndimage.gaussian_filter(distance, 1.5)
    slope = [np.gradient(smooth, COARSE_MM, axis=i) for i in range(3)]
    pull = np.stack(slope) * -np.exp(-smooth / 15)
    mni = grid_mm(n) + MIDDLE_MM.reshape(3, 1, 1, 1)
    return np.stack([at_mm(pull[i].astype(np.float32), mni, COARSE_MM) for i in range(3)])


def make_anatomy(rng: np.random.Generator, mni_mm: np.ndarray) -> Anatomy:
    """The tissues that a subject's voxels hold, with sulci and gyri of its own."""
    template, n = load_template(), mni_mm.shape[-1]
    brain = at_mm(template.brain, mni_mm)
    grey, white = at_mm(template.grey, mni_mm), at_mm(template.white, mni_mm)
    csf = np.clip(1 - grey - white, 0, 1)
    atrophy = np.float32(rng.uniform(-0.1, 0.7))
    # Odds to the power of 1.7, times a random factor: sharper than the average of 152 heads.
    ribbon = 0.55 * smooth_field(rng, n, 7.0) + 0.25 * smooth_field(rng, n, 12.0)
    sulci = 0.6 * smooth_field(rng, n, 6.0) + atrophy
    odds = [white**1.7 * np.exp(ribbon), grey**1.7, csf**1.7 * np.exp(sulci)]
    total = np.maximum(sum(odds), np.float32(1e-6))
    white, grey = odds[0] / total * (brain > 0), odds[1] / total * (brain > 0)
    return Anatomy(
        white=white,
        grey=grey,
        csf=1 - white - grey,
        brain=brain,
        depth_mm=at_mm(template.depth_mm, mni_mm, COARSE_MM),
        ventricle_mm=at_mm(template.ventricle_mm, mni_mm, COARSE_MM),
        mni_mm=mni_mm,
    )


def white_matter_lesions(rng: np.random.Generator, anatomy: Anatomy) -> np.ndarray:
    """Share of the white matter that is hyperintense with age: caps at the ventricles, spots."""
    n = anatomy.white.shape[0]
    burden = np.float32(rng.beta(1.2, 2.2))
    wall = np.exp(-np.clip(anatomy.ventricle_mm - 1, 0, None) / (1 + 3 * burden))
    caps = wall * np.clip(burden + 0.35 * smooth_field(rng, n, 14.0), 0, 1)
    spots = np.clip(2 * (smooth_field(rng, n, 8.0) - 3.6 + 1.4 * burden), 0, 1)
    return np.clip(caps + spots * (anatomy.depth_mm > 12), 0, 0.9)


def vessels(rng: np.random.Generator, anatomy: Anatomy) -> np.ndarray:
    """Share of the fluid that is blood or choroid plexus, which take up contrast agent.

    Arteries and veins of the surface are the lines where two smooth random fields are both
    zero; the great sinuses run along the middle of the vault.
    """
    n = anatomy.white.shape[0]
    first, second = smooth_field(rng, n, 15.0), smooth_field(rng, n, 15.0)
    lines = np.exp(-(first**2 + second**2) / np.float32(0.13**2))
    x, y, z = anatomy.mni_mm
    outer = (anatomy.depth_mm < 7) & ((z > 15) | (y < -75))
    sinus = np.exp(-((x / 3) ** 2)) * outer
    plexus = np.clip(smooth_field(rng, n, 7.0), 0, 1) * (anatomy.ventricle_mm < 1) * (y < 5)
    return np.clip(np.where(anatomy.ventricle_mm < 4, 0.6 * plexus, lines + sinus), 0, 0.9)
