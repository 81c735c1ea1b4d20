"""How often intervals of a cross-validation hold the truth, on simulated cohorts that know it.

Every patient is judged once, by networks of its own fold, of which each has its own luck: a shift
of the loss and of what is won back that all patients of the fold share. The truth is that over all
patients and all trainings. *folds* is what ``seg_eval pool`` does; *patients* is what the same rows
would say if patients were taken for independent.
"""

import argparse
import sys

import numpy as np
from scipy.special import expit

from seg_eval.analysis import recovery
from synth3d.scoring import Crossed, Estimate

EXAMPLES = """examples:
  python scripts/coverage_folds.py                  the table of docs/summary-schema.md (a minute)
  python scripts/coverage_folds.py --trials 100     a rougher one
"""
VARIES = (0.0, 0.2, 0.5, 1.0)
"""Spread between the trainings of folds, as a share of that between patients."""
QUANTITIES = ("ratio", "gap", "loss")


def simulate(generator: np.random.Generator, fold: np.ndarray, varies: float) -> np.ndarray:
    """Dice of full, zero and arm, (3, patients), of patients whose ``fold`` is a number."""

    def each(patients: float) -> np.ndarray:
        own = patients * generator.normal(size=len(fold))
        return own + varies * patients * generator.normal(size=fold.max() + 1)[fold]

    full = expit(2.2 + each(0.7))
    zero = full * (1 - expit(-0.7 + each(0.8)))
    arm = zero + 1.2 * expit(1.0 + each(0.9)) * (full - zero)
    return np.stack([full, zero, np.clip(arm, 0, 1)])


def true_values(varies: float) -> dict[str, float]:
    """Over all patients and trainings: a fold for each patient."""
    full, zero, arm = simulate(np.random.default_rng(99), np.arange(400_000), varies).mean(1)
    return {"gap": full - zero, "ratio": (arm - zero) / (full - zero), "loss": full - arm}


def coverage(patients: int, folds: int, trials: int, varies: float) -> dict[str, dict[str, float]]:
    """Share of trials whose interval holds the truth, by what is drawn at random and quantity."""
    generator, true = np.random.default_rng(7), true_values(varies)
    fold = np.arange(patients) % folds
    names = [f"{i:03d}" for i in range(patients)]
    ways = {
        "folds": Crossed(names, 1, "folds", [*map(str, fold)]),
        "patients": Crossed(names, 1, "patients"),
    }
    held = {way: {name: [0, 0] for name in QUANTITIES} for way in ways}
    for _ in range(trials):
        full, zero, arm = simulate(generator, fold, varies)[..., None]
        for way, crossed in ways.items():
            found = recovery(full, zero, arm, crossed)
            for name in QUANTITIES:
                estimate: Estimate | None = getattr(found, name)
                if estimate is not None:
                    held[way][name][0] += estimate.low <= true[name] <= estimate.high
                    held[way][name][1] += 1
    return {way: {n: a / max(b, 1) for n, (a, b) in each.items()} for way, each in held.items()}


def main(argv: list[str] | None = None) -> int:
    """Print the table; the exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--trials", type=int, default=300, help="cohorts of a cell (300)")
    parser.add_argument("--patients", type=int, default=30, help="of a cohort (30)")
    args = parser.parse_args(argv)
    print("| folds | spread of trainings | over folds | over patients alone |\n|--:|--:|--:|--:|")
    for folds in (3, 5, 10):
        for varies in VARIES:
            found = coverage(args.patients, folds, args.trials, varies)
            cells = [
                " / ".join(f"{100 * found[way][name]:.0f}" for name in QUANTITIES)
                for way in ("folds", "patients")
            ]
            print(f"| {folds} | {varies:g} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
