"""How many patients and trainings a clearer answer would take, by an experiment's variances."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from seg_eval.analysis.recovery import Recovery
from seg_eval.analysis.tables import ScoreTable, known_mean
from synth3d.scoring import CONFIDENCE, FEWEST_TRAININGS, mean_squares

NARROW = 0.05
"""Half of the width that an interval of the recovered share should have."""

SMALLEST_LEAD, OFTEN = 0.002, 0.7
"""Less of a lead is none to be told; and an interval of so much of it on either side excludes 0 in
four of five such experiments, one of all of it in every other."""

TRAININGS = (3, 5, 10)
MOST = 2000
"""More patients than that are said to be out of reach."""


@dataclass(frozen=True)
class Components:
    """Variances between patients, between trainings, and of what is left, of one score."""

    patients: float
    trainings: float
    rest: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Components":
        """Of values (patients, trainings), at least two patients; one training has no variance.

        By the mean squares of the two-way layout (Searle, Casella, McCulloch 1992, §4.3), none
        below 0.
        """
        count, seeds = values.shape
        between, apart, chance = mean_squares(values)
        return cls(max(between - chance, 0.0) / seeds, max(apart - chance, 0.0) / count, chance)

    def half_width(self, patients: int, trainings: int) -> float:
        """Of the interval that as many are expected to give, over trainings from three on.

        Skewness is not reckoned with, so this is a little too good.
        """
        count, seeds = max(patients, 2), trainings
        chance = self.rest
        between = chance + seeds * self.patients
        square, parts = between, between**2 / (count - 1)
        if seeds >= FEWEST_TRAININGS:
            excess = count * self.trainings
            square, parts = square + excess, parts + excess * (excess + chance) / (seeds - 1)
        if square <= 0:
            return 0.0
        error = np.sqrt(square / (count * seeds))
        return float(stdtrit(square**2 / parts, (1 + CONFIDENCE) / 2) * error)

    def needed(self, trainings: int, half_width: float) -> int | None:
        """The fewest patients for an interval no wider; None beyond :data:`MOST`."""
        widths = (self.half_width(count, trainings) for count in range(2, MOST + 1))
        return next((n for n, width in enumerate(widths, 2) if width <= half_width), None)


def needed(
    table: ScoreTable, found: Mapping[str, Recovery], floor: str, arm: str, cheap: str | None
) -> list[dict[str, Any]]:
    """Rows of ``power`` in ``summary.json`` for one region and the arm in question.

    ``goal`` ``share`` is the recovered share to ± :data:`NARROW`; ``lead`` is telling the arm from
    the best cheap one in four of five experiments, if their difference is what it was here.
    ``patients`` is by trainings of the segmenter, ``these`` being those at hand, and of folds these
    alone. Empty for one patient.
    """
    owners = np.unique(table.patients)
    if len(owners) < 2:
        return []
    full, low, own = (table.values[name] for name in ("full", floor, arm))
    goals: list[tuple[str, np.ndarray, float]] = []
    if (ratio := found[arm].ratio) is not None:
        gap = full - low
        goals.append(("share", (own - low - ratio.value * gap) / gap.mean(), NARROW))
    if cheap is not None:
        lead = own - table.values[cheap]
        if (size := abs(float(lead.mean()))) > SMALLEST_LEAD:
            goals.append(("lead", lead, OFTEN * size))
    rows = []
    for goal, influence, width in goals:
        names = np.asarray(table.patients)
        several = TRAININGS if len(table.seeds) > 1 and not table.are_folds else ()
        by_patient = np.array([known_mean(influence[names == name], 0) for name in owners])
        parts = Components.of(by_patient)
        here = Components.of(by_patient.mean(1, keepdims=True))
        wanted = {str(n): parts.needed(n, width) for n in several}
        rows.append({
            "goal": goal,
            "half_width": width,
            "patients": {"these": here.needed(1, width), **wanted},
        })  # fmt: skip
    return rows
