"""Scores as arrays (cases, seeds) or (cases, seeds, replicates) by arm."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seg_eval.arms import Arm
from seg_eval.scoring import Score
from synth3d.scoring import FEWEST_CENTRES, Crossed, Over, clusters_by_patient


@dataclass(frozen=True)
class Clusters:
    """Which cases are alike, by case: those of one centre; or, of a cross-validation, of one fold.

    The cases of a fold share its networks, which no other case is judged by. ``of`` has all cases
    or none.
    """

    of: Mapping[str, str] = field(default_factory=dict)
    are_folds: bool = False


INDEPENDENT = Clusters()


@dataclass(frozen=True)
class ScoreTable:
    """One score by arm, NaN where it is not defined; and whose the rows are.

    ``apart`` holds (cases, seeds, replicates), one replicate but where several trainings of a
    synthesiser are one arm; ``values`` are their means, (cases, seeds). ``clusters`` has the centre
    of each case, or its fold, if they are known.
    """

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    seeds: tuple[int, ...]
    values: dict[str, np.ndarray]
    apart: dict[str, np.ndarray]
    clusters: tuple[str, ...] = ()
    are_folds: bool = False

    @property
    def by_patient(self) -> dict[str, str]:
        """The cluster of each patient, in alphabetical order, as intervals have it; or nothing.

        A patient who was examined in two centres is of a cluster of both.
        """
        return clusters_by_patient(self.patients, self.clusters) if self.clusters else {}

    @property
    def alike(self) -> tuple[str, ...]:
        """The same without names; empty below three clusters."""
        told = tuple(self.by_patient.values())
        return told if len({*told}) >= FEWEST_CENTRES else ()

    def crossed(self, over: Over | None = None, inside: np.ndarray | None = None) -> Crossed:
        """Its patients and seeds, of the cases ``inside`` (bool) alone if so; ``over`` as there.

        Unless said, over folds where clusters are folds, else over trainings.
        """
        over = over or ("folds" if self.are_folds else "trainings")
        alike = () if self.are_folds and over != "folds" else self.clusters
        chosen = range(len(self.cases)) if inside is None else np.flatnonzero(inside)
        mine = ([told[at] for at in chosen] if told else () for told in (self.patients, alike))
        patients, clusters = mine
        return Crossed(patients, len(self.seeds), over, clusters)


def tabulate(
    scores: Iterable[Score],
    arms: Sequence[Arm],
    regions: Sequence[str],
    metric: str = "dice",
    clusters: Clusters = INDEPENDENT,
) -> ScoreTable:
    """Per case, seed and arm the score, averaged over those of ``regions`` that have one.

    Raises:
        ValueError: An arm has other cases or seeds than the others, or a row comes twice.
    """
    cells: dict[tuple[str, str, int, str], dict[str, float]] = {}
    patients: dict[str, str] = {}
    replicates: dict[str, dict[str, None]] = {}
    for row in scores:
        if row.region in regions:
            value = getattr(row, metric)
            cell = cells.setdefault((row.arm, row.case, row.seed, row.replicate), {})
            replicates.setdefault(row.arm, {})[row.replicate] = None
            if row.region in cell:
                raise ValueError(f"two scores for {row.arm}, {row.case}, seed {row.seed}")
            cell[row.region] = np.nan if value is None else value
            patients[row.case] = row.patient
    cases = tuple(sorted(patients))
    seeds = tuple(sorted({seed for _, _, seed, _ in cells}))
    wanted = {
        (arm.name, case, seed, replicate)
        for arm in arms for case in cases for seed in seeds
        for replicate in replicates.get(arm.name, ("",))
    }  # fmt: skip
    if absent := sorted(wanted - cells.keys()):
        raise ValueError(f"no score for arm and case {absent[0][:2]} with seed {absent[0][2]}")

    def mean(*key: Any) -> float:
        return float(known_mean(np.array([*cells[key].values()], float), 0))

    apart = {
        name: np.array([
            [[mean(name, case, seed, each) for each in replicates[name]] for seed in seeds]
            for case in cases
        ])
        for name in [arm.name for arm in arms]
    }  # fmt: skip
    values = {name: known_mean(each, 2) for name, each in apart.items()}
    owners, where = (
        tuple(told[case] for case in cases) if told else () for told in (patients, clusters.of)
    )
    return ScoreTable(cases, owners, seeds, values, apart, where, clusters.are_folds)


def known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean along ``axis`` of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
