"""Scores as arrays (cases, seeds) by arm."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from seg_eval.arms import Arm
from seg_eval.scoring import Score


@dataclass(frozen=True)
class ScoreTable:
    """One score (cases, seeds) by arm, NaN where it is not defined; and whose the rows are."""

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    seeds: tuple[int, ...]
    values: dict[str, np.ndarray]


def tabulate(
    scores: Iterable[Score], arms: Sequence[Arm], regions: Sequence[str], metric: str = "dice"
) -> ScoreTable:
    """Per case, seed and arm the score, averaged over those of ``regions`` that have one.

    Raises:
        ValueError: An arm has other cases or seeds than the others, or a row comes twice.
    """
    cells: dict[tuple[str, str, int], dict[str, float]] = {}
    patients: dict[str, str] = {}
    for row in scores:
        if row.region in regions:
            value = getattr(row, metric)
            cell = cells.setdefault((row.arm, row.case, row.seed), {})
            if row.region in cell:
                raise ValueError(f"two scores for {row.arm}, {row.case}, seed {row.seed}")
            cell[row.region] = np.nan if value is None else value
            patients[row.case] = row.patient
    cases = tuple(sorted(patients))
    seeds = tuple(sorted({seed for _, _, seed in cells}))
    wanted = {(arm.name, case, seed) for arm in arms for case in cases for seed in seeds}
    if absent := sorted(wanted - cells.keys()):
        raise ValueError(f"no score for arm and case {absent[0][:2]} with seed {absent[0][2]}")

    def mean(arm: Arm, case: str, seed: int) -> float:
        return float(known_mean(np.array([*cells[arm.name, case, seed].values()], float), 0))

    values = {
        arm.name: np.array([[mean(arm, case, seed) for seed in seeds] for case in cases])
        for arm in arms
    }
    return ScoreTable(cases, tuple(patients[case] for case in cases), seeds, values)


def known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean along ``axis`` of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
