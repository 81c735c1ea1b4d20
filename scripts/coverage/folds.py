"""Whether intervals of a cross-validation hold the truth."""

import numpy as np
from scipy.special import expit

from scripts.coverage.cohorts import names_of, true_values
from scripts.coverage.held import QUANTITIES, Tally
from seg_eval.analysis import recovery
from synth3d.scoring import Crossed


def simulate_folds(generator: np.random.Generator, fold: np.ndarray, varies: float) -> np.ndarray:
    """Dice of full, zero and arm, (patients, 1, 3), of patients whose ``fold`` is a number from 0.

    The networks of a fold have luck of their own: a shift of the loss and of what is won back that
    all patients of the fold share, with ``varies`` times the spread between patients.
    """

    def each(patients: float) -> np.ndarray:
        own = patients * generator.normal(size=len(fold))
        return own + varies * patients * generator.normal(size=fold.max() + 1)[fold]

    full = expit(2.2 + each(0.7))
    zero = full * (1 - expit(-0.7 + each(0.8)))
    arm = zero + 1.2 * expit(1.0 + each(0.9)) * (full - zero)
    return np.stack([full, zero, np.clip(arm, 0, 1)], -1)[:, None]


def coverage_of_folds(
    patients: int, folds: int, varies: float, trials: int
) -> dict[str, dict[str, float]]:
    """Share of trials whose interval holds the truth over all patients and trainings, by quantity.

    By what is drawn at random: ``folds`` as ``seg_eval pool`` has it, or ``patients``, as if the
    same rows were of independent patients. Each patient is judged once, by networks of its fold.
    """
    generator, fold = np.random.default_rng(7), np.arange(patients) % folds
    everybody = simulate_folds(np.random.default_rng(99), np.arange(400_000), varies)
    names, true = names_of(patients), true_values(everybody)
    ways = {
        "folds": Crossed(names, 1, "folds", [*map(str, fold)]),
        "patients": Crossed(names, 1, "patients"),
    }
    tallies = {way: Tally() for way in ways}
    for _ in range(trials):
        full, zero, arm = np.moveaxis(simulate_folds(generator, fold, varies), -1, 0)
        for way, crossed in ways.items():
            found = recovery(full, zero, arm, crossed)
            for name in QUANTITIES:
                tallies[way].add(name, getattr(found, name), true[name])
    return {way: tally.shares() for way, tally in tallies.items()}
