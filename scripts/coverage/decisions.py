"""How often each decision is taken, and wrongly."""

from collections.abc import Sequence

import numpy as np

from scripts.coverage.cohorts import everywhere, names_of, simulate
from seg_eval.analysis import Facts, Question, RegionFacts, Rival, judge, non_inferiority, recovery
from seg_eval.arms import Arm
from synth3d.scoring import Crossed


def decide(
    values: np.ndarray, rivals: Sequence[tuple[str, np.ndarray]], crossed: Crossed, synthetic: int
) -> str:
    """The answer of the certificate for one synthetic arm of so many.

    ``values`` (patients, trainings, 3) are full, zero and the arm; ``rivals`` are kinds and their
    Dice (patients, trainings).
    """
    full, zero, arm = np.moveaxis(values, -1, 0)
    of_leads = Question([Arm(str(i), "synthetic") for i in range(synthetic)]).of_leads
    others = [
        Rival(f"{kind}{i}", kind, crossed.mean(arm, of_leads, less=theirs), float(theirs.mean()))
        for i, (kind, theirs) in enumerate([("zero", zero), *rivals])
    ]
    found = recovery(full, zero, arm, crossed)
    region = RegionFacts(found.gap, found.reason, found.ratio, found.loss)
    mean = float(arm.mean())
    return judge(Facts(["t2f"], "arm", mean, {"WT": region}, others, crossed.patients)).worth


def decisions(
    patients: int, lead: float, cheap: int, synthetic: int, trials: int
) -> dict[str, float]:
    """Share of trials in which any of ``synthetic`` arms is worth it (yes), or none is (no).

    Each is ahead of each of ``cheap`` arms by ``lead`` in truth; all differ by patient and by
    training. Three trainings of the segmenter.
    """
    generator, shape = np.random.default_rng(7), (patients, 3)
    crossed, answers = Crossed(names_of(patients), 3), {"yes": 0, "no": 0}

    def wobble() -> np.ndarray:
        by_patient = 0.06 * generator.normal(size=(patients, 1))
        by_training = 0.01 * generator.normal(size=(1, 3))
        return by_patient + by_training + 0.03 * generator.normal(size=shape)

    for _ in range(trials):
        values = simulate(generator, (1, *shape))[0]
        level = values[..., 2].copy()
        rivals = [("boosted", level - lead + wobble()) for _ in range(cheap)]
        made = [level + wobble() for _ in range(synthetic)]
        told = set()
        for number, values[..., 2] in enumerate(made):
            others = [("synthetic", each) for each in made[:number] + made[number + 1 :]]
            told.add(decide(values, rivals + others, crossed, synthetic))
        answers["yes"] += "yes" in told
        answers["no"] += told == {"no"}
    return {answer: count / trials for answer, count in answers.items()}


def not_inferior(patients: int, trainings: int, loss: float, trials: int) -> float:
    """Share of trials in which any of three regions is called not inferior to the real sequence.

    Of the plain cohort, moved so that each region loses ``loss`` in truth.
    """
    generator, crossed = np.random.default_rng(7), Crossed(names_of(patients), trainings)
    margin, more, called = Question([]).margin, everywhere()["loss"] - loss, 0
    for _ in range(trials):
        regions = simulate(generator, (3, patients, trainings))
        called += any(
            non_inferiority(each[..., 0], each[..., 2] + more, crossed, margin, len(regions))[1]
            for each in regions
        )
    return called / trials
