"""Cases that lack a region, by both rules, and what is painted in them all the same.

Counted as BraTS does it, such a case has Dice 1 where the prediction is empty, too, and 0 where it
holds a single voxel: one false alarm may decide a share. Left out, the question is another one. So
both are told, whichever rule the experiment goes by, and false alarms apart.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from seg_eval.analysis.region import plain, recover
from seg_eval.analysis.tables import INDEPENDENT, Clusters, tabulate
from seg_eval.arms import Arm
from seg_eval.scoring import EMPTY_RULES, REGIONS, Score, counted


def tell_absent(
    scores: Sequence[Score], arms: Sequence[Arm], floor: str, clusters: Clusters = INDEPENDENT
) -> list[dict[str, Any]]:
    """An entry for each region that some case lacks, as ``summary.json`` has it under ``absent``.

    Args:
        scores: All rows, those that the experiment's own rule leaves out among them.
        arms: With ``full`` and the floor.
        floor: The arm that recovers nothing by definition.
        clusters: Which cases are alike.
    """
    found = []
    for region in REGIONS:
        rows = [row for row in scores if row.region == region]
        lacking = sorted({row.case for row in rows if not row.reference_voxels})
        if not lacking:
            continue
        about = arms, floor, clusters
        rules = {rule: _by_rule(counted(rows, rule), *about) for rule in EMPTY_RULES}
        each = {
            arm.name: {rule: told and told[arm.name] for rule, told in rules.items()}
            | {"false_alarms": _false_alarms([row for row in rows if row.arm == arm.name])}
            for arm in arms
        }
        found.append({"region": region, "cases": lacking, "arms": each})
    return found


def _by_rule(
    rows: Sequence[Score], arms: Sequence[Arm], floor: str, clusters: Clusters
) -> Mapping[str, dict[str, Any]] | None:
    """Dice, loss and recovery by arm over the rows of one region; None without any."""
    if not rows:
        return None
    table = tabulate(rows, arms, [rows[0].region], clusters=clusters)
    recovered = recover(table, floor, table.crossed())
    return {
        name: {
            "cases": len(table.cases),
            "dice": found.arm,
            "loss": plain(found.loss),
            "recovery": found.ratio and plain(found.ratio),
        }
        for name, found in recovered.items()
    }


def _false_alarms(rows: Sequence[Score]) -> dict[str, Any]:
    """Of the cases without the region, those in which any seed's segmenter paints some of it.

    Their volume is a mean over trainings: ``ml`` on average over these cases, ``most_ml`` at most.
    """
    painted: dict[str, list[float]] = {}
    for row in rows:
        if not row.reference_voxels and row.predicted_voxels:
            painted.setdefault(row.case, []).append(row.predicted_ml)
    trainings = len({(row.seed, row.replicate) for row in rows})
    volumes = [sum(each) / trainings for each in painted.values()]
    return {
        "cases": len(volumes),
        "ml": fmean(volumes) if volumes else 0.0,
        "most_ml": max(volumes, default=0.0),
    }
