"""How often the certificate's intervals hold the truth, on simulated cohorts that know it.

Three cohorts. *plain*: Dice-like values, bounded, skewed, correlated between arms through how hard
a patient is; losses differ from patient to patient, trainings of the segmenter as a whole and from
patient to patient. *floor*: what a blank channel leaves differs from training to training, from
next to nothing to half of the Dice. *failures*: in 6 % of patients synthesis brings little. With
``--replicates`` the synthesiser has several trainings, too, which differ as a whole, from patient
to patient and from one segmenter to the next.
"""

import argparse
import sys
from typing import Any

import numpy as np
from scipy.special import expit

from seg_eval.analysis import Facts, Question, RegionFacts, Rival, judge, recovery
from seg_eval.arms import Arm
from synth3d.scoring import FEWEST_TRAININGS, Crossed

EXAMPLES = """examples:
  python scripts/coverage.py                 the table of docs/summary-schema.md (twenty minutes)
  python scripts/coverage.py --decisions     how often each decision is taken, and wrongly
  python scripts/coverage.py --replicates    with several trainings of the synthesiser (six minutes)
  python scripts/coverage.py --trials 300    rougher ones
"""

COHORTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "floor": {"floor": True},
    "failures": {"failures": 0.06},
}
PATIENTS, TRAININGS = (6, 8, 12, 20, 40), (1, 2, 3, 5)
QUANTITIES = ("ratio", "gap", "loss")
GAP_VARIES, RECOVERY_VARIES = 0.2, 0.1
"""Spread between trainings, on the logit of the loss and of what is won back."""
REPLICATES = 3, 5
REPLICATES_VARY = {(1, 1): 0.02, (0, 1): 0.02, (1, 0): 0.005, (0, 0): 0.01}
"""Spread in Dice between trainings of a synthesiser: as a whole, with (0) patients, segmenters."""
POPULATION = 1000
"""Further patients of the same trainings, whose mean is the truth for these trainings."""


def simulate(
    generator: np.random.Generator,
    shape: tuple[int, int, int],
    varies: float = 1.0,
    absent: float = 0.0,
    floor: bool = False,
    failures: float = 0.0,
) -> np.ndarray:
    """Dice of full, zero and arm: (trials, patients, trainings, 3), for the first three.

    Args:
        generator: Of all random numbers.
        shape: Trials, patients, trainings.
        varies: Factor on how much trainings differ as a whole.
        absent: Share of patients who do not have the region: 1 or 0 by chance.
        floor: Whether what the blank channel leaves is the training's luck.
        failures: Share of patients for whom synthesis brings next to nothing.
    """
    trials, patients, trainings = shape

    def each_patient() -> np.ndarray:
        return generator.normal(size=(trials, patients, 1))

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


def everywhere(**cohort: Any) -> dict[str, np.ndarray]:
    """The true values over all patients and trainings of a cohort."""
    values = simulate(np.random.default_rng(99), (40_000, 4, 3), **cohort)
    return true_values(values.reshape(-1, 1, 3))


def coverage(
    patients: int, trainings: int, trials: int, over: str = "trainings", **cohort: Any
) -> dict[str, float]:
    """Share of trials whose interval holds the truth, by quantity.

    A recovered share is given only where the gap is measurable, and counts among these.
    ``over`` ``patients``: the truth is that of each trial's own trainings.
    """
    generator, names = np.random.default_rng(7), [f"{i:03d}" for i in range(patients)]
    crossed = Crossed(names, trainings, "patients" if over == "patients" else "trainings")
    hits, given = dict.fromkeys(QUANTITIES, 0), dict.fromkeys(QUANTITIES, 0)
    rest = POPULATION if over == "patients" else 0
    true = {} if rest else everywhere(**cohort)
    for _ in range(trials):
        values = simulate(generator, (1, patients + rest, trainings), **cohort)[0]
        true = true_values(values[patients:]) if rest else true
        full, zero, arm = np.moveaxis(values[:patients], -1, 0)
        found = recovery(full, zero, arm, crossed)
        for name in QUANTITIES:
            estimate = getattr(found, name)
            given[name] += estimate is not None
            hits[name] += estimate is not None and estimate.low <= true[name] <= estimate.high
    return {name: hits[name] / max(given[name], 1) for name in QUANTITIES}


def replicate(generator: np.random.Generator, arm: np.ndarray, replicates: int) -> np.ndarray:
    """(patients, trainings) of an arm as (patients, trainings, replicates) that differ."""
    made = arm[..., None]
    for alike, spread in REPLICATES_VARY.items():
        shape = [1 if one else size for one, size in zip(alike, arm.shape, strict=True)]
        made = made + spread * generator.normal(size=(*shape, replicates))
    return made


def coverage_of_replicates(
    patients: int, trainings: int, replicates: int, trials: int
) -> dict[str, float]:
    """The same as :func:`coverage` of the plain cohort, over trainings of the synthesiser.

    ``lead`` is that of one arm over another that is as good in truth. Below three trainings of the
    segmenter the truth is that of each trial's own.
    """
    generator, names = np.random.default_rng(7), [f"{i:03d}" for i in range(patients)]
    crossed, hits = Crossed(names, trainings), {"ratio": 0, "loss": 0, "lead": 0}
    rest = POPULATION if trainings < FEWEST_TRAININGS else 0
    true = {} if rest else everywhere()
    for _ in range(trials):
        values = simulate(generator, (1, patients + rest, trainings))[0]
        true = (true_values(values[patients:]) if rest else true) | {"lead": 0.0}
        full, zero, arm = np.moveaxis(values[:patients], -1, 0)
        own, other = (replicate(generator, arm, replicates) for _ in range(2))
        found = recovery(full, zero, own, crossed)
        estimates = {"loss": found.loss, "lead": crossed.mean(own, less=other)}
        estimates["ratio"] = crossed.ratio(own - zero[..., None], (full - zero)[..., None])
        for name, each in estimates.items():
            hits[name] += bool(each.low <= true[name] <= each.high)
    return {name: count / trials for name, count in hits.items()}


def table_of_replicates(trials: int) -> str:
    """Coverage of share / loss / lead in per cent as a table in Markdown."""
    rows = [(segmenters, made) for segmenters in (1, 3, 5) for made in REPLICATES]
    head = [f"{segmenters} of the segmenter, {made} of synthesis" for segmenters, made in rows]
    lines = [f"| patients | {' | '.join(head)} |", f"|--:|{'--:|' * len(head)}"]
    for patients in PATIENTS:
        cells = []
        for segmenters, made in rows:
            found = coverage_of_replicates(patients, segmenters, made, trials)
            cells.append(" / ".join(f"{100 * found[n]:.0f}" for n in ("ratio", "loss", "lead")))
        lines.append(f"| {patients} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


def table(trials: int) -> str:
    """The coverage of every cohort as a table in Markdown."""
    head = [f"{n} training{'s' if n > 1 else ''}" for n in TRAININGS]
    lines = [f"| cohort | patients | {' | '.join(head)} |", f"|---|--:|{'--:|' * len(head)}"]
    for name, cohort in COHORTS.items():
        for patients in PATIENTS:
            cells = []
            for trainings in TRAININGS:
                over = "trainings" if trainings >= FEWEST_TRAININGS else "patients"
                found = coverage(patients, trainings, trials, over, **cohort)
                cells.append(" / ".join(f"{100 * found[each]:.0f}" for each in QUANTITIES))
            lines.append(f"| {name} | {patients} | {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


def decide(values: np.ndarray, cheap: np.ndarray, crossed: Crossed, synthetic: int) -> str:
    """The answer of the certificate for one synthetic arm of so many.

    ``values`` (patients, trainings, 3) are full, zero and the arm; ``cheap`` (arms, patients,
    trainings).
    """
    full, zero, arm = np.moveaxis(values, -1, 0)
    of_leads = Question([Arm(str(i), "synthetic") for i in range(synthetic)]).of_leads
    rivals = [
        Rival(kind, kind, crossed.mean(arm - theirs, of_leads), float(theirs.mean()))
        for kind, theirs in [("zero", zero), *(("boosted", each) for each in cheap)]
    ]
    gap, loss = crossed.mean(full - zero), crossed.mean(full - arm)
    regions = {"WT": RegionFacts(gap, None, crossed.ratio(arm - zero, full - zero), loss)}
    return judge(Facts(["t2f"], "arm", 0.8, regions, rivals, crossed.patients)).worth_if_frozen


def decisions(
    patients: int, lead: float, cheap: int, synthetic: int, trials: int
) -> dict[str, float]:
    """Share of trials in which any of ``synthetic`` arms is worth it (yes), or none is (no).

    Each is ahead of each of ``cheap`` arms by ``lead`` in truth; all differ by patient and by
    training. Three trainings of the segmenter.
    """
    generator, shape = np.random.default_rng(7), (patients, 3)
    crossed, answers = Crossed([f"{i:03d}" for i in range(patients)], 3), {"yes": 0, "no": 0}

    def wobble() -> np.ndarray:
        by_patient = 0.06 * generator.normal(size=(patients, 1))
        by_training = 0.01 * generator.normal(size=(1, 3))
        return by_patient + by_training + 0.03 * generator.normal(size=shape)

    for _ in range(trials):
        values = simulate(generator, (1, *shape))[0]
        level = values[..., 2].copy()
        rivals = np.stack([level - lead + wobble() for _ in range(cheap)])
        told = set()
        for _ in range(synthetic):
            values[..., 2] = level + wobble()
            told.add(decide(values, rivals, crossed, synthetic))
        answers["yes"] += "yes" in told
        answers["no"] += told == {"no"}
    return {answer: count / trials for answer, count in answers.items()}


def table_of_decisions(trials: int) -> str:
    """Yes / no in per cent as a table in Markdown; what is left is open."""
    leads, rows = (0.0, 0.02, 0.05), [(1, 1), (1, 4), (6, 4)]
    head = [f"{synthetic} of synthesis, {cheap} cheap" for synthetic, cheap in rows]
    lines = [f"| true lead | patients | {' | '.join(head)} |", f"|--:|--:|{'--:|' * len(head)}"]
    for lead in leads:
        for patients in (6, 12, 20, 40):
            cells = []
            for synthetic, cheap in rows:
                found = decisions(patients, lead, cheap, synthetic, trials)
                cells.append(f"{100 * found['yes']:.0f} / {100 * found['no']:.0f}")
            lines.append(f"| {lead:g} | {patients} | {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print a table; 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=2000, help="cohorts a cell")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--decisions", action="store_true", help="that table instead")
    which.add_argument("--replicates", action="store_true", help="that table instead")
    given = parser.parse_args(arguments)
    make = table_of_replicates if given.replicates else table
    print((table_of_decisions if given.decisions else make)(given.trials))
    return 0


if __name__ == "__main__":
    sys.exit(main())
