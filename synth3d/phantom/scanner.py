"""The phantom's scanner: relaxation times, signal equations and what goes wrong on the way.

Signal equations from Bernstein, King, Zhou, "Handbook of MRI pulse sequences" (2004), sections
14.1 (gradient echo), 14.2 (inversion recovery), 14.3 (spin echo). Relaxation times of
healthy tissue near those of Wansapura et al. 1999 (3 T); tumours lie above them in the order that
Just and Thelen 1988 found, spread widely over patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from synth3d.phantom.anatomy import resample, smooth_field


@dataclass(frozen=True)
class Tissue:
    """What makes a tissue's signal: relaxation times at 3 T, and protons relative to water.

    ``agent`` is concentration times relaxivity of the contrast agent after injection, 1/s.
    """

    t1_ms: float
    t2_ms: float
    density: float
    agent: float


TISSUES: Mapping[str, Tissue] = {
    "white": Tissue(850, 72, 0.70, 0.03),
    "grey": Tissue(1350, 92, 0.81, 0.05),
    "csf": Tissue(4200, 1800, 1.00, 0.01),
    "oedema": Tissue(1550, 165, 0.89, 0.03),
    "necrosis": Tissue(1700, 200, 0.92, 0.10),
    "cyst": Tissue(3100, 500, 0.97, 0.05),
    "low_grade": Tissue(1750, 175, 0.90, 0.03),
    "enhancing": Tissue(1500, 135, 0.86, 0.9),
    "solid": Tissue(1550, 150, 0.88, 0.15),
    "lesion": Tissue(1250, 118, 0.80, 0.02),  # white matter hyperintensity
    "blood": Tissue(1700, 25, 0.85, 1.40),  # flowing: hardly any echo
}
"""Every tissue a voxel may hold."""

VARIED = {"necrosis": 0.22, "low_grade": 0.20, "oedema": 0.12, "enhancing": 0.12, "lesion": 0.1}
"""Deviation of the log of T1 and T2 between patients; ``ORDINARY`` for the rest."""

ORDINARY = 0.04

TEXTURE = {"t1n": -0.02, "t1c": -0.02, "t2w": 0.035, "t2f": 0.03}
"""Effect of one deviation of the patchy tissue water on each modality."""


@dataclass(frozen=True)
class Protocol:
    """One patient's session: repetition, echo and inversion times in ms, flip angle in degrees.

    ``spin_echo``: both T1-weighted scans are spin echoes, otherwise spoiled gradient echoes.
    """

    spin_echo: bool
    t1_tr: float
    t1_te: float
    t1_flip: float
    t2_tr: float
    t2_te: float
    flair_tr: float
    flair_te: float
    flair_ti: float


def spin_echo(tissue: Tissue, tr: float, te: float) -> float:
    """PD (1 - exp(-TR/T1)) exp(-TE/T2): Bernstein et al. 2004, section 14.3."""
    return tissue.density * (1 - np.exp(-tr / tissue.t1_ms)) * np.exp(-te / tissue.t2_ms)


def gradient_echo(tissue: Tissue, tr: float, flip: float) -> float:
    """PD sin(a) (1 - E1) / (1 - cos(a) E1), E1 = exp(-TR/T1): Bernstein et al. 2004, 14.1."""
    e1, angle = np.exp(-tr / tissue.t1_ms), np.deg2rad(flip)
    return tissue.density * np.sin(angle) * (1 - e1) / (1 - np.cos(angle) * e1)


def inversion_recovery(tissue: Tissue, tr: float, te: float, ti: float) -> float:
    """PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2): Bernstein et al. 2004, section 14.2."""
    recovered = 1 - 2 * np.exp(-ti / tissue.t1_ms) + np.exp(-tr / tissue.t1_ms)
    return tissue.density * abs(recovered) * np.exp(-te / tissue.t2_ms)


def nulling_time(t1_ms: float, tr: float) -> float:
    """TI at which a tissue gives no signal: T1 (ln 2 - ln(1 + exp(-TR/T1)))."""
    return float(t1_ms * (np.log(2) - np.log1p(np.exp(-tr / t1_ms))))


def make_patient(rng: np.random.Generator) -> dict[str, Tissue]:
    """``TISSUES`` as one patient has them, in a magnet of 1.5 or 3 T."""
    field = 0.80 if rng.random() < 0.4 else 1.0  # T1 is shorter at 1.5 T
    patient = {}
    for name, tissue in TISSUES.items():
        spread = VARIED.get(name, ORDINARY)
        wet, apart = rng.normal(0, spread, 2)  # more water lengthens both times
        t1, t2 = tissue.t1_ms * np.exp(wet), tissue.t2_ms * np.exp(0.8 * wet + 0.6 * apart)
        t1 *= 1.0 if name == "csf" else field
        agent = tissue.agent * float(np.exp(rng.normal(0, 0.3)))
        density = tissue.density * float(np.exp(rng.normal(0, 0.015)))
        patient[name] = Tissue(float(t1), float(t2), density, agent)
    return patient


def make_protocol(rng: np.random.Generator, csf_t1_ms: float) -> Protocol:
    """A session as a radiographer might plan it; FLAIR nulls CSF to within a few per cent."""
    echo = bool(rng.random() < 0.35)
    flair_tr = float(rng.uniform(8000, 10500))
    return Protocol(
        spin_echo=echo,
        t1_tr=float(rng.uniform(480, 680) if echo else rng.uniform(8, 11)),
        t1_te=float(rng.uniform(9, 16)),
        t1_flip=float(rng.uniform(16, 26)),
        t2_tr=float(rng.uniform(3200, 6000)),
        t2_te=float(rng.uniform(82, 112)),
        flair_tr=flair_tr,
        flair_te=float(rng.uniform(95, 135)),
        flair_ti=nulling_time(csf_t1_ms, flair_tr) * float(rng.normal(1, 0.02)),
    )


def signal(tissue: Tissue, modality: str, protocol: Protocol) -> float:
    """The signal of a voxel full of ``tissue`` in one of the four modalities."""
    if modality == "t2w":
        return spin_echo(tissue, protocol.t2_tr, protocol.t2_te)
    if modality == "t2f":
        return inversion_recovery(tissue, protocol.flair_tr, protocol.flair_te, protocol.flair_ti)
    if modality == "t1c":
        # 1/T1 grows by relaxivity times concentration
        t1_ms = 1 / (1 / tissue.t1_ms + tissue.agent / 1000)
        tissue = Tissue(t1_ms, tissue.t2_ms, tissue.density, 0)
    if protocol.spin_echo:
        return spin_echo(tissue, protocol.t1_tr, protocol.t1_te)
    return gradient_echo(tissue, protocol.t1_tr, protocol.t1_flip)


@dataclass(frozen=True)
class Head:
    """What lies in the scanner: tissue names to shares of each voxel (z, y, x) of a fine grid.

    ``texture`` is patchy tissue water on that grid, mean 0, deviation 1; ``brain`` (bool) lies on
    the grid of the scans.
    """

    fractions: Mapping[str, np.ndarray]
    tissues: Mapping[str, Tissue]
    texture: np.ndarray
    brain: np.ndarray


def scan(
    rng: np.random.Generator, modality: str, head: Head, protocol: Protocol, moved: bool
) -> np.ndarray:
    """One scan: int16 on the grid of the head's brain, 0 outside, at least 1 inside.

    ``moved``: the patient moved by up to a voxel before it.
    """
    brain, n = head.brain, head.brain.shape[0]
    ideal = sum(share * np.float32(signal(head.tissues[name], modality, protocol))
                for name, share in head.fractions.items())  # fmt: skip
    ideal = ideal * (1 + np.float32(TEXTURE[modality]) * head.texture)
    shift = rng.uniform(-0.6, 0.6, 3) if moved else rng.normal(0, 0.05, 3)
    image = resample(ideal.astype(np.float32), n, shift, rng.choice([1.0, 1.0, 1.6]))
    image = image * np.exp(np.float32(rng.uniform(0.05, 0.17)) * smooth_field(rng, n, 80.0))
    own = smooth_field(rng, n, 9.0) + smooth_field(rng, n, 25.0)  # what no other scan knows
    image = image * (1 + np.float32(rng.uniform(0.01, 0.04)) * own)
    peak = np.exp(rng.uniform(np.log(250), np.log(2000)))
    sigma = np.float32(rng.uniform(0.012, 0.035)) * image[brain].mean()
    real, imaginary = sigma * rng.standard_normal((2, n, n, n), dtype=np.float32)
    image = np.sqrt((image + real) ** 2 + imaginary**2)  # Rician, Gudbjartsson and Patz 1995
    image *= np.float32(peak) / np.quantile(image[brain], 0.9995)
    return np.where(brain, np.clip(np.rint(image), 1, 32767), 0).astype(np.int16)
