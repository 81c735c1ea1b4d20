"""What a Bland-Altman plot shows: volumes of each case, and the bias and limits of each arm."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seg_eval.scoring import Score


@dataclass(frozen=True)
class VolumePanel:
    """Volumes of one region that the segmenter finds with one arm, against the expert's label.

    Attributes:
        region: As ``WT``.
        arm: Whose.
        points: By case the mean of both volumes and predicted minus the label's, mL; predicted
            volumes are means over the segmenter's seeds.
        bias: Mean difference in mL.
        low: Lower limit of agreement; None for one case.
        high: The upper one.
    """

    region: str
    arm: str
    points: dict[str, tuple[float, float]]
    bias: float
    low: float | None
    high: float | None


def volume_panels(
    scores: Sequence[Score], agreement: Sequence[Mapping[str, Any]], arms: Sequence[str]
) -> list[VolumePanel]:
    """A panel for each region and each of ``arms``, in this order, that has rows in ``scores``.

    ``agreement`` is ``volumes`` of ``summary.json``.
    """
    made: dict[tuple[str, str], dict[str, list[Score]]] = {}
    for row in scores:
        made.setdefault((row.region, row.arm), {}).setdefault(row.case, []).append(row)
    found = []
    for row in agreement:
        cases = made.get((row["region"], row["arm"]), {})
        if row["against"] != "label" or row["arm"] not in arms or not cases:
            continue
        points = {}
        for case, each in sorted(cases.items()):
            predicted, label = statistics.fmean(r.predicted_ml for r in each), each[0].reference_ml
            points[case] = (predicted + label) / 2, predicted - label
        ends = [row["limits"] and row["limits"][side]["value"] for side in ("low", "high")]
        found.append(VolumePanel(row["region"], row["arm"], points, row["bias"]["value"], *ends))
    return found
