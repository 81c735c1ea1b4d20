"""How often intervals hold the truth."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.coverage.cohorts import everywhere, names_of, replicate, simulate, true_values, volumes
from seg_eval.analysis import agree, concordance, recovery
from synth3d.scoring import FEWEST_TRAININGS, Crossed, Estimate

QUANTITIES = ("ratio", "gap", "loss")
POPULATION = 4000
"""Further patients of the same trainings, whose mean is the truth for these trainings."""


class Tally:
    """How often intervals hold the truth, by quantity, where there is an interval."""

    def __init__(self) -> None:
        self.given: Counter[str] = Counter()
        self.held: Counter[str] = Counter()

    def add(self, name: str, estimate: Estimate | None, true: Any) -> None:
        """One interval of a trial, if there is one."""
        if estimate is not None:
            self.given[name] += 1
            self.held[name] += bool(estimate.low <= true <= estimate.high)

    def shares(self) -> dict[str, float]:
        """Of those given, by quantity."""
        return {name: self.held[name] / count for name, count in self.given.items()}


def count_held(
    designs: Sequence[Crossed], trials: int, centres: Sequence[int] = (), **cohort: Any
) -> list[Tally]:
    """For each design, how often its intervals hold the truth, in the same trials.

    Where the statement is about these trainings, the truth is that of each trial's own. A
    recovered share is given only where the gap is measurable, and counts among these.
    """
    generator, tallies = np.random.default_rng(7), [Tally() for _ in designs]
    patients, trainings = designs[0].cases, designs[0].trainings
    rest = POPULATION if designs[0].over == "patients" else 0
    true = {} if rest else everywhere(**cohort)
    for _ in range(trials):
        shape = 1, patients + rest, trainings
        values = simulate(generator, shape, centres=centres, **cohort)[0]
        true = true_values(values[patients:]) if rest else true
        full, zero, arm = np.moveaxis(values[:patients], -1, 0)
        for tally, crossed in zip(tallies, designs, strict=True):
            found = recovery(full, zero, arm, crossed)
            for name in QUANTITIES:
                tally.add(name, getattr(found, name), true[name])
    return tallies


def coverage(
    patients: int, trainings: int, trials: int, over: str = "trainings", **cohort: Any
) -> dict[str, float]:
    """Share of trials whose interval holds the truth, by quantity."""
    drawn = "patients" if over == "patients" else "trainings"
    crossed = Crossed(names_of(patients), trainings, drawn)
    return count_held([crossed], trials, **cohort)[0].shares()


def coverage_of_replicates(
    patients: int, trainings: int, replicates: int, trials: int
) -> dict[str, float]:
    """The same as :func:`coverage` of the plain cohort, over trainings of the synthesiser.

    ``lead`` is that of one arm over another that is as good in truth. Fewer than three trainings,
    of segmenter or synthesiser, are as given: the truth is that of each trial's own.
    """
    generator, tally = np.random.default_rng(7), Tally()
    crossed = Crossed(names_of(patients), trainings)
    rest = POPULATION if trainings < FEWEST_TRAININGS else 0
    known = [(1, 1), (1, 0)] if rest else [(1, 1)]
    for _ in range(trials):
        values = simulate(generator, (1, patients + rest, trainings))[0]
        true = true_values(values[patients:]) if rest else everywhere()
        full, zero, arm = np.moveaxis(values[:patients], -1, 0)
        (own, above), (other, beyond) = (replicate(generator, arm, replicates) for _ in range(2))
        mine = theirs = 0.0
        if replicates < FEWEST_TRAININGS:
            mine, theirs = (sum(each[key] for key in known) for each in (above, beyond))
        found = recovery(full, zero, own, crossed)
        tally.add("ratio", found.ratio, true["ratio"] + mine / true["gap"])
        tally.add("loss", found.loss, true["loss"] - mine)
        tally.add("lead", crossed.mean(own, less=other), mine - theirs)
    return tally.shares()


def coverage_of_volumes(patients: int, errors: str, trials: int) -> dict[str, float]:
    """Share of trials whose interval holds the truth, by quantity; one training."""
    generator, tally, names = np.random.default_rng(7), Tally(), names_of(patients)
    everyone = volumes(np.random.default_rng(99), 1_000_000, errors)
    bias, spread = (each(everyone[0] - everyone[1]) for each in (np.mean, np.std))
    true = {
        "bias": bias,
        "lower limit": bias - 1.96 * spread,
        "upper limit": bias + 1.96 * spread,
        "concordance": concordance(*everyone),
    }
    crossed = Crossed(names)
    for _ in range(trials):
        made, reference = (each[:, None, None] for each in volumes(generator, patients, errors))
        found = agree(made, reference, names, crossed)
        limits = found["limits"]
        found |= {"lower limit": limits["low"], "upper limit": limits["high"]}
        for name, goal in true.items():
            if found[name]["low"] is not None:
                tally.add(name, Estimate(**({"value": 0.0} | found[name])), goal)
    return tally.shares()
