"""Slices without end: a fresh small head for every draw, known between its pixels, too.

What bends a head is a sum of plane waves, and nothing of it is drawn on a grid. So a scan of a head
that lies elsewhere is computed there and not interpolated, whatever fraction of a pixel it is off.
Tissues, contrasts and protocols are those of the phantom's scanner; the anatomy is nobody's.
"""

from dataclasses import dataclass

import numpy as np

from synth3d.errors import InputError
from synth3d.phantom.scanner import make_patient, make_protocol, signal

SOURCES, TARGET = ("t1n", "t2w"), "t2f"
"""What is given, of which the last is moved, and what is to be made."""

SMALLEST_SIDE = 32
NOISE = 0.01
"""Deviation of the sources' noise, where healthy white matter is 1/2."""

MIXED = ("white", "grey", "csf", "oedema", "necrosis")
PATCHY = {"t1n": -0.05, "t2w": 0.12, "t2f": 0.15}
"""Effect of one deviation of the patchy tissue water, which T2 tells best of the sources."""

WAVES = 24
LENGTHS = ((10, 30), (7, 16), (14, 40), (5, 12))
"""Shortest and longest waves of gyri, sulci, rims and water, in 64ths of a side."""


@dataclass(frozen=True)
class Slices:
    """A batch of slices, float32; white matter is about 1/2, and outside the head all is 0.

    Attributes:
        sources: (B, 2, H, W), T1 and T2, of which the last is moved.
        target: (B, 1, H, W), FLAIR, in the place of the first source.
        shift: (B, 2) pixels (y, x); positive moves the picture to larger indices, as a roll does.
    """

    sources: np.ndarray
    target: np.ndarray
    shift: np.ndarray


def draw_slices(
    rng: np.random.Generator, shift: np.ndarray, side: int = 64, noise: float = NOISE
) -> Slices:
    """As many new heads as ``shift`` (B, 2) has rows, the second source moved so far.

    One state of ``rng`` gives the same heads and the same noise whatever the shifts.

    Raises:
        InputError: Slices of fewer than 32 pixels a side.
    """
    if side < SMALLEST_SIDE:
        raise InputError(f"a slice must have {SMALLEST_SIDE} pixels a side or more, got {side}")
    shift = np.asarray(shift, np.float32).reshape(-1, 2)
    heads = _Heads(rng, len(shift), side)
    grain = noise * rng.standard_normal((len(shift), 2, side, side), dtype=np.float32)
    still, moved = heads.seen(np.zeros_like(shift)), heads.seen(shift)
    sources = np.stack([heads.scan(SOURCES[0], *still), heads.scan(SOURCES[1], *moved)], axis=1)
    sources = np.where(sources > 0, np.maximum(sources + grain, FAINTEST), 0)
    return Slices(sources, heads.scan(TARGET, *still)[:, None], shift)


FAINTEST = np.float32(1e-3)
"""The least that is not background."""


class _Heads:
    """Heads as functions of the plane; arrays begin with (B, ...)."""

    def __init__(self, rng: np.random.Generator, count: int, side: int) -> None:
        def even(low: float, high: float, *shape: int) -> np.ndarray:
            return rng.uniform(low, high, (count, *shape)).astype(np.float32)

        self.side, fields = side, len(LENGTHS)
        self.axes, self.centre = even(0.36, 0.44, 2) * side, even(-2, 2, 2)
        self.lesion = even(-0.55, 0.55, 2) * self.axes
        self.radius, self.ventricle = even(0.06, 0.16) * side, even(0.05, 0.1) * side
        ends = np.log(np.array(LENGTHS, np.float32) * side / 64)[:, :, None]
        length = np.exp(ends[:, 0] + even(0, 1, fields, WAVES) * (ends[:, 1] - ends[:, 0]))
        turn = even(0, 2 * np.pi, fields, WAVES)
        self.waves = np.stack([np.sin(turn), np.cos(turn)], 1) * (2 * np.pi / length)[:, None]
        self.phase = even(0, 2 * np.pi, fields, WAVES)
        patients = [make_patient(rng) for _ in range(count)]
        protocols = [make_protocol(rng, patient["csf"].t1_ms) for patient in patients]
        self.levels = {name: np.zeros((count, len(MIXED)), np.float32) for name in PATCHY}
        for name, levels in self.levels.items():
            for row, patient, protocol in zip(levels, patients, protocols, strict=True):
                row[:] = [signal(patient[tissue], name, protocol) for tissue in MIXED]
            levels /= 2 * levels[:, :1]

    def seen(self, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shares of the tissues (B, 5, H, W), tissue water and the head (B, H, W), moved."""
        line = np.arange(self.side, dtype=np.float32) - np.float32((self.side - 1) / 2)
        place = line - (self.centre + shift)[:, :, None]  # (B, 2, side)
        y, x = place[:, 0, :, None], place[:, 1, None, :]
        folds, sulci, rim, water = self._fields(place)
        a, b = self.axes[:, :, None, None].swapaxes(0, 1)
        depth = (1 - np.hypot(y / a, x / b)) * (a + b) / 2 + rim
        radius, ventricle = self.radius[:, None, None], self.ventricle[:, None, None]
        inner = np.hypot(y, np.float32(1.6) * x) - ventricle * (1 + 0.3 * rim)
        fluid = np.maximum(
            _soft(2.5 * (sulci - 1.3 + 2 * np.exp(-np.maximum(depth, -9) / 3))), _soft(-inner / 0.7)
        )
        white = _soft(4 * (folds + (depth - 7) / 4)) * (1 - fluid)
        v, u = self.lesion[:, :, None, None].swapaxes(0, 1)
        off = np.hypot(y - v, x - u) - radius * (1 + 0.3 * rim + 0.2 * sulci)
        ill = _soft(-off / 0.8)
        core = ill * _soft(-(off + 0.55 * radius) / 0.7)
        healthy = [white, 1 - white - fluid, fluid]
        shares = np.stack([*(each * (1 - ill) for each in healthy), ill - core, core], axis=1)
        return shares, water, _soft(depth / 0.7)

    def scan(
        self, name: str, shares: np.ndarray, water: np.ndarray, head: np.ndarray
    ) -> np.ndarray:
        """(B, H, W), 0 outside the head and nowhere else."""
        image = np.einsum("bt,bthw->bhw", self.levels[name], shares)
        image = image * (1 + np.float32(PATCHY[name]) * water * (1 - shares[:, 2])) * head
        return np.where(head > 0.05, np.maximum(image, FAINTEST), 0)

    def _fields(self, place: np.ndarray) -> np.ndarray:
        """Each smooth random function, mean 0 and deviation 1, at ``place`` (B, 2, side)."""
        along = self.waves.swapaxes(0, 1)[..., None] * place.swapaxes(0, 1)[:, :, None, None]
        rows, columns = along[0] + self.phase[..., None], along[1]  # (B, 4, waves, side)
        rows = np.concatenate([np.cos(rows), -np.sin(rows)], axis=2)
        columns = np.concatenate([np.cos(columns), np.sin(columns)], axis=2)
        found = np.sqrt(np.float32(2 / WAVES)) * (rows.swapaxes(2, 3) @ columns)
        return found.swapaxes(0, 1)


def _soft(t: np.ndarray) -> np.ndarray:
    """From 0 to 1, 1/2 at 0."""
    return 0.5 + 0.5 * np.tanh(t)
