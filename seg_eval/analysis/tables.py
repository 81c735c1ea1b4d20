"""Scores as arrays (cases, seeds) by arm, and what kinds of arm there are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from seg_eval.scoring import Score

ABOUT_KINDS: dict[str, tuple[str, str]] = {
    "full": ("reference", "every sequence real: the ceiling"),
    "zero": ("reference", "{missing} blanked with zeros: the floor"),
    "copy": ("naive", "a copy of the sequence most like {missing} in its place"),
    "template": ("naive", "the training cases' mean {missing} in its place"),
    "ridge": ("voxel-wise", "{missing} by ridge regression, voxel by voxel"),
    "boosted": ("voxel-wise", "{missing} by boosted trees, voxel by voxel"),
    "synthetic": ("synthesis", "{missing} made by this synthesiser"),
    "specialist": ("rival", "a segmenter of its own, trained without {missing}: no synthesis"),
    "dropout": (
        "rival", "{missing} blanked, for a segmenter of its own trained to do without channels",
    ),
    "retrained": (
        "rival", "synthetic {missing}, for a segmenter of its own retrained on synthetic images",
    ),
    "plumbing": ("check", "the real {missing} sent through the export path: must equal full"),
}  # fmt: skip
"""Kind of arm to its group and one plain sentence on what it is."""


class ArmLike(Protocol):
    """What the statistics need to know of an arm; :class:`seg_eval.arms.kinds.Arm` is one."""

    @property
    def name(self) -> str:
        """Unique in the experiment."""
        ...

    @property
    def kind(self) -> str:
        """One of :data:`ABOUT_KINDS`."""
        ...

    @property
    def segmenter(self) -> str:
        """``frozen``, or the training that is its own."""
        ...


@dataclass(frozen=True)
class ScoreTable:
    """One score by arm for one set of cases and seeds.

    Attributes:
        cases: The rows' case names.
        patients: Patient of each case.
        seeds: The columns' segmenter seeds.
        values: Per arm (cases, seeds); NaN where the score is not defined.
    """

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    seeds: tuple[int, ...]
    values: dict[str, np.ndarray]

    @property
    def columns(self) -> dict[str, list[float]]:
        """Per arm the mean over seeds of each case; NaN where no seed has one."""
        return {arm: known_mean(values, 1).tolist() for arm, values in self.values.items()}


def tabulate(
    scores: Iterable[Score],
    arms: Sequence[ArmLike],
    regions: Sequence[str],
    metric: str = "dice",
) -> ScoreTable:
    """Per case, seed and arm the score, averaged over those of ``regions`` that have one.

    Args:
        scores: Rows; those of other regions are passed over.
        arms: Which arms to have.
        regions: Which regions to average.
        metric: A name of :data:`seg_eval.scoring.scores.METRICS`.

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
    values = {
        arm.name: np.array(
            [[_mean(cells[arm.name, case, seed].values()) for seed in seeds] for case in cases]
        )
        for arm in arms
    }
    return ScoreTable(cases, tuple(patients[case] for case in cases), seeds, values)


def known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean along ``axis`` of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _mean(values: Iterable[float]) -> float:
    return float(known_mean(np.array(list(values), float), 0))
