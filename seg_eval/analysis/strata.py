"""Dice that stays lost, apart for small and large tumours and for each centre.

A mean over all patients hides for whom synthesis fails. Groups are looked at, not tested: they are
small, and there are many.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seg_eval.analysis.region import plain
from seg_eval.analysis.tables import INDEPENDENT, Clusters, ScoreTable, tabulate
from seg_eval.arms import Arm
from seg_eval.scoring import Score

THIRDS = ("smallest", "middle", "largest")
FEWEST = 6
"""Patients for thirds, two for each."""


def loss_by_size(
    scores: Sequence[Score],
    arms: Sequence[Arm],
    regions: Sequence[str],
    clusters: Clusters = INDEPENDENT,
) -> list[dict[str, Any]]:
    """Mean loss (full - arm) in each third of a region's volume in the expert's labels.

    Cases without the region have no size and belong to no third; equal sizes lie in one third, so
    that there may be fewer than three. Nothing of a region with fewer than :data:`FEWEST` patients
    or with one size alone.
    """
    found = []
    for region in regions:
        rows = [row for row in scores if row.region == region and row.reference_voxels]
        if len({row.patient for row in rows}) < FEWEST:
            continue
        table = tabulate(rows, arms, [region], clusters=clusters)
        sizes = {row.case: row.reference_ml for row in rows}
        ml = np.array([sizes[case] for case in table.cases])
        which = np.searchsorted(np.quantile(ml, (1 / 3, 2 / 3)), ml)
        if len(groups := np.unique(which)) < 2:
            continue
        for group in groups:
            inside = which == group
            about = {"region": region, "third": THIRDS[group]}
            about |= {"low_ml": float(ml[inside].min()), "high_ml": float(ml[inside].max())}
            found += _losses(table, arms, inside, about)
    return found


def loss_by_centre(
    scores: Sequence[Score],
    arms: Sequence[Arm],
    regions: Sequence[str],
    centres: Mapping[str, str],
    clusters: Clusters = INDEPENDENT,
) -> list[dict[str, Any]]:
    """Mean loss (full - arm) for each centre of ``centres``, which has them by case.

    Cases without one are a group of their own, None. Nothing where all cases are of one group.
    """
    if len({centres.get(row.case) for row in scores}) < 2:
        return []
    found = []
    for region in regions:
        rows = [row for row in scores if row.region == region]
        table = tabulate(rows, arms, [region], clusters=clusters)
        owners = np.array([centres.get(case, "") for case in table.cases])
        for name in sorted(set(owners), key=lambda name: (not name, name)):
            about = {"region": region, "centre": name or None}
            found += _losses(table, arms, owners == name, about)
    return found


def _losses(
    table: ScoreTable, arms: Sequence[Arm], inside: np.ndarray, about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A row for each arm but ``full``, of the cases ``inside`` (bool)."""
    crossed = table.crossed(inside=inside)
    count = {"cases": int(inside.sum()), "patients": crossed.patients}
    return [
        {**about, "arm": arm.name, **count,
         "loss": plain(crossed.mean((table.apart["full"] - table.apart[arm.name])[inside]))}
        for arm in arms if arm.kind != "full"
    ]  # fmt: skip
