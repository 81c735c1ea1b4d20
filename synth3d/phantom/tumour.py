"""Gliomas for the phantom: where they sit, how they grow, what they push aside.

A glioma spreads along white matter, is held up by cortex and stopped by fluid; here it is a
front that travels from its seed with tissue-dependent speed, roughened by smooth random fields
(the eikonal picture of reaction-diffusion growth, Konukoglu et al. 2010). No intensity lives here.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from synth3d.phantom.anatomy import (
    COARSE_MM,
    FIELD_OF_VIEW_MM,
    Anatomy,
    load_template,
    resample,
    smooth_field,
)

FRONT_CELLS, REACH_CELLS = 48, 16
"""The front travels on so many cells a side (4 mm), and so far to each side of its seed."""

FAR_MM = 500.0
"""Arrival where the front never comes."""


@dataclass(frozen=True)
class Plan:
    """What a glioma will be, before it meets the anatomy.

    Attributes:
        low_grade: A diffuse core without necrosis; little or no enhancement.
        seeds_mm: MNI positions (x, y, z) of the main and, perhaps, a satellite lesion.
        radii_mm: Of each lesion's core.
        oedema_mm: Reach of the oedema beyond the core, in white matter.
        rim_mm: Thickness of the enhancing rim.
        push_mm: How far the tissue around the core is pushed outwards.
    """

    low_grade: bool
    seeds_mm: tuple[np.ndarray, ...]
    radii_mm: tuple[float, ...]
    oedema_mm: float
    rim_mm: float
    push_mm: float


@dataclass(frozen=True)
class Tumour:
    """A grown glioma; arrays (z, y, x), membership in [0, 1], on the anatomy's grid.

    BraTS labels 1 (in a low-grade glioma the non-enhancing core), 2 and 3.
    """

    necrosis: np.ndarray
    oedema: np.ndarray
    enhancing: np.ndarray


def plan_tumour(rng: np.random.Generator, low_grade: bool) -> Plan:
    """A random glioma somewhere in the white matter of the hemispheres."""
    if low_grade:
        radius, oedema, rim = rng.uniform(21, 36), rng.uniform(4, 14), rng.uniform(0.5, 1.5)
    else:
        radius, oedema, rim = rng.uniform(12, 30), rng.uniform(7, 27), rng.uniform(2.5, 7.0)
    sites = _sites()
    main = sites[rng.integers(len(sites))]
    seeds, radii = [main], [float(radius)]
    distance = np.linalg.norm(sites - main, axis=1)
    near = sites[(distance > radius + 10) & (distance < radius + 26)]
    if rng.random() < 0.3 and not low_grade and len(near):
        seeds.append(near[rng.integers(len(near))])
        radii.append(float(rng.uniform(4, 8)))
    push = float(rng.uniform(0, 0.35) * radius)
    return Plan(low_grade, tuple(seeds), tuple(radii), float(oedema), float(rim), push)


def _sites() -> np.ndarray:
    """(N, 3) MNI positions of supratentorial white matter, (x, y, z) in mm."""
    template = load_template()
    white = template.white[::COARSE_MM, ::COARSE_MM, ::COARSE_MM]
    sites = np.argwhere((white > 0.6) & (template.depth_mm > 12)) * COARSE_MM + template.origin_mm
    x, y, z = sites.T
    brainstem, cerebellum = (np.abs(x) < 14) & (z < 5), (z < -5) & (y < -38)
    return sites[(z > -25) & (np.abs(x) > 7) & ~brainstem & ~cerebellum].astype(np.float32)


def push_aside(mni_mm: np.ndarray, plan: Plan) -> np.ndarray:
    """``mni_mm`` (3, z, y, x) with the tissue around the main lesion moved outwards.

    Steepest, ``push / radius``, in the middle: always below 1, so nothing folds.
    """
    away = mni_mm - plan.seeds_mm[0].reshape(3, 1, 1, 1)
    square = np.einsum("czyx,czyx->zyx", away, away) / np.float32((1.7 * plan.radii_mm[0]) ** 2)
    return mni_mm - away * (np.float32(plan.push_mm / plan.radii_mm[0]) * np.exp(-square))


def grow_tumour(rng: np.random.Generator, anatomy: Anatomy, plan: Plan) -> Tumour:
    """The glioma of ``plan`` in a head; it fills tissue and sulci but not the ventricles."""
    n = anatomy.white.shape[0]
    slowness = _slowness(rng, anatomy)
    core = np.full((n,) * 3, FAR_MM, dtype=np.float32)  # mm from the core's surface, inside < 0
    front = core.copy()
    for seed_mm, radius in zip(plan.seeds_mm, plan.radii_mm, strict=True):
        away = anatomy.mni_mm - seed_mm.reshape(3, 1, 1, 1)
        arrival = _arrival(away, slowness, n)
        ragged = 0.27 * smooth_field(rng, n, 17.0) + 0.15 * smooth_field(rng, n, 9.0)
        own = 0.55 * _ellipsoid_mm(rng, away) + 0.45 * arrival
        own -= np.float32(radius) + np.float32(min(radius, 20)) * ragged
        core = np.minimum(core, own)
        front = np.minimum(front, arrival - np.float32(radius))
    solid = _inside(core, 2.0) * (1 - _inside(anatomy.ventricle_mm - 1, 2.0) * anatomy.csf)
    solid *= anatomy.brain
    rim = _rim_mm(rng, n, plan)
    necrosis = solid * np.minimum(_inside(core + rim, 1.5), 1)
    reach = np.float32(plan.oedema_mm) * (1 + 0.45 * smooth_field(rng, n, 22.0))
    tissue = np.maximum(anatomy.white + anatomy.grey, np.float32(1e-3))
    reach = reach * (0.4 + 0.75 * anatomy.white / tissue)  # fingers in the gyri, cortex spared
    oedema = _inside(front - reach, 5.0) * (1 - anatomy.csf) * anatomy.brain * (1 - solid)
    return Tumour(necrosis, oedema, solid - necrosis)


def _inside(distance_mm: np.ndarray, width_mm: float) -> np.ndarray:
    """1 where the distance is negative, 0 where positive, a ramp of ``width_mm`` between."""
    return np.clip(0.5 - distance_mm / np.float32(width_mm), 0, 1)


def _rim_mm(rng: np.random.Generator, n: int, plan: Plan) -> np.ndarray:
    """Thickness of the enhancing rim; a low-grade glioma has at most a few spots."""
    patches = smooth_field(rng, n, 14.0)
    if plan.low_grade:
        return np.float32(plan.rim_mm) * np.clip(4 * (patches - 1.6), -2, 4) - 1
    return np.float32(plan.rim_mm) * np.clip(1 + 0.55 * patches, 0, 2.5)


def _ellipsoid_mm(rng: np.random.Generator, away_mm: np.ndarray) -> np.ndarray:
    """Distance to the seed with random, turned axes of mean length 1."""
    axes = np.exp(rng.normal(0, 0.22, 3))
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    matrix = (np.diag(axes / np.prod(axes) ** (1 / 3)) @ turn).astype(np.float32)
    turned = np.tensordot(matrix, away_mm, 1)
    return np.sqrt(np.einsum("czyx,czyx->zyx", turned, turned))


def _slowness(rng: np.random.Generator, anatomy: Anatomy) -> np.ndarray:
    """How many mm of white matter one mm is worth to the front, on the front's cells."""
    cost = anatomy.white + 2.2 * anatomy.grey + 7.0 * anatomy.csf + 30.0 * (1 - anatomy.brain)
    uneven = np.exp(0.35 * smooth_field(rng, FRONT_CELLS, 12.0))
    return resample(cost.astype(np.float32), FRONT_CELLS) * uneven


def _arrival(away_mm: np.ndarray, slowness: np.ndarray, n: int) -> np.ndarray:
    """(n, n, n): when the front reaches each voxel, as mm of white matter."""
    square = np.einsum("czyx,czyx->zyx", away_mm, away_mm)
    seed = np.unravel_index(int(resample(square, FRONT_CELLS).argmin()), slowness.shape)
    box = tuple(slice(max(0, s - REACH_CELLS), s + REACH_CELLS + 1) for s in seed)
    arrival = np.full(slowness.shape, FAR_MM, dtype=np.float32)
    arrival[seed] = 0
    arrival[box] = _travel(arrival[box], slowness[box])
    return resample(arrival, n)


def _travel(arrival: np.ndarray, slowness: np.ndarray) -> np.ndarray:
    """Shortest travel over the 26 neighbours, by sweeps until nothing improves."""
    cell_mm = FIELD_OF_VIEW_MM / FRONT_CELLS
    steps = [step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]
    pairs = []
    for step in steps:
        here = tuple(slice(1, None) if s < 0 else slice(-1 if s else None) for s in step)
        there = tuple(slice(1, None) if s > 0 else slice(-1 if s else None) for s in step)
        length = np.float32(cell_mm * np.sqrt(sum(s * s for s in step)) / 2)
        pairs.append((here, there, length * (slowness[here] + slowness[there])))
    while True:
        before = arrival.copy()
        for here, there, cost in pairs:
            np.minimum(arrival[there], arrival[here] + cost, out=arrival[there])
            np.minimum(arrival[here], arrival[there] + cost, out=arrival[here])
        if np.array_equal(before, arrival):
            return arrival
