"""Simulated cohorts whose truth is known."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

COHORTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "floor": {"floor": True},
    "failures": {"failures": 0.06},
    "absent": {"absent": 0.05},
}
GAP_VARIES, RECOVERY_VARIES = 0.2, 0.1
"""Spread between trainings, on the logit of the loss and of what is won back."""
REPLICATES_VARY = {(1, 1): 0.02, (0, 1): 0.02, (1, 0): 0.005, (0, 0): 0.01}
"""Spread in Dice between trainings of a synthesiser: as a whole, with (0) patients, segmenters."""
MISSED = 1 / 16


def simulate(
    generator: np.random.Generator,
    shape: tuple[int, int, int],
    varies: float = 1.0,
    absent: float = 0.0,
    floor: bool = False,
    failures: float = 0.0,
    centres: Sequence[int] = (),
) -> np.ndarray:
    """Dice of full, zero and arm: (trials, patients, trainings, 3), for the first three.

    Args:
        generator: Of all random numbers.
        shape: Trials, patients, trainings.
        varies: Factor on how much trainings differ as a whole.
        absent: Share of patients who do not have the region: 1 or 0 by chance.
        floor: Whether what the blank channel leaves is the training's luck.
        failures: Share of patients for whom synthesis brings next to nothing.
        centres: How many of the first patients are of each centre, which has half of the variance
            between patients; all others have one each. As a whole patients vary as without.
    """
    trials, patients, trainings = shape

    def each_patient() -> np.ndarray:
        own = generator.normal(size=(trials, patients, 1))
        if centres:
            shared = generator.normal(size=(trials, len(centres), 1)).repeat(centres, 1)
            of_these = own[:, : shared.shape[1]]
            own[:, : shared.shape[1]] = (of_these + shared) / np.sqrt(2)
        return own

    def each_training(spread: float) -> np.ndarray:
        apart = generator.normal(size=(trials, 1, trainings)) * spread * varies
        return apart + 0.3 * generator.normal(size=shape)

    hard = each_patient()
    full = expit(2.2 + 0.7 * hard + 0.5 * each_training(GAP_VARIES))
    lost = expit(-0.7 + 0.8 * each_patient() + 0.3 * hard + each_training(GAP_VARIES))
    won = 1.2 * expit(1.0 + 0.9 * each_patient() + 0.5 * each_training(2 * RECOVERY_VARIES))
    zero = full * (1 - lost)
    if floor:
        zero = zero * generator.random((trials, 1, trainings)) ** 2
    won = np.where(generator.random((trials, patients, 1)) < failures, 0.1 * won, won)
    arm = zero + won * (full - zero) + 0.03 * generator.normal(size=shape)
    values = np.stack([full, zero, np.clip(arm, 0, 1)], -1)
    none = generator.random((trials, patients, 1, 1)) < absent
    guess = generator.random(values.shape) < [0.97, 0.4, 0.5]
    return np.where(none, guess.astype(float), values)


def true_values(values: np.ndarray) -> dict[str, np.ndarray]:
    """What the estimates aim at, of values (…, patients, trainings, 3), for each …."""
    full, zero, arm = np.moveaxis(values.mean((-3, -2)), -1, 0)
    return {"gap": full - zero, "ratio": (arm - zero) / (full - zero), "loss": full - arm}


@functools.cache
def everywhere(**cohort: Any) -> dict[str, np.ndarray]:
    """The true values over all patients and trainings of a cohort."""
    values = simulate(np.random.default_rng(99), (100_000, 4, 3), **cohort)
    return true_values(values.reshape(-1, 1, 3))


def names_of(patients: int) -> list[str]:
    """Of patients, in order."""
    return [f"{number:03d}" for number in range(patients)]


def replicate(
    generator: np.random.Generator, arm: np.ndarray, replicates: int
) -> tuple[np.ndarray, dict[tuple[int, int], float]]:
    """(patients, trainings) of an arm as (patients, trainings, replicates) that differ.

    And, by the keys of REPLICATES_VARY, by how much these replicates are above all others.
    """
    made, above = arm[..., None], {}
    for alike, spread in REPLICATES_VARY.items():
        shape = [1 if one else size for one, size in zip(alike, arm.shape, strict=True)]
        apart = spread * generator.normal(size=(*shape, replicates))
        made, above[alike] = made + apart, float(apart.mean())
    return made, above


def volumes(generator: np.random.Generator, patients: int, errors: str) -> np.ndarray:
    """Predicted and reference volumes in mL, (2, patients), none below 0."""
    reference = 10 + generator.gamma(2, 20, patients)
    apart = generator.normal(size=patients)
    made = reference * np.exp(0.2 * apart) if errors == "grow" else reference + 5 * apart
    if errors == "missed":
        made[generator.random(patients) < MISSED] = 0
    return np.stack([np.maximum(made, 0), reference])
