"""What the uncertainty of pictures tells of cases: volumes as intervals, and whom not to trust.

A case's uncertainty is a number that needs no label: the map beside its picture, where the tumour
was found. Volumes get intervals by conformal prediction over the other patients of the experiment,
on the ratio of predicted and reference volume, in shares of that uncertainty. So they hold for a
new patient from where these come from, and are never told by a case's own label.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from seg_eval.scoring import Score
from synth3d.scoring import fewest_patients, patientwise_quantiles

LEVELS = (0.9, 0.8)
"""Of intervals of volume: the first for which there are patients enough."""

OFFSET_ML = 1.0
"""Added to volumes before their ratio is taken: tumours that are not there have none."""

BOUND = 2.0
"""A volume that may be off by more than this factor, with the offset, is not to be used."""

Sizes = Mapping[str, float]
"""Case → its uncertainty, above 0."""


def tell_uncertainty(scores: Iterable[Score], arm: str, sizes: Sizes) -> dict[str, Any]:
    """What ``sizes``, the uncertainty of each case of ``arm``, is good for; plain JSON values.

    ``arm``; ``level`` of the intervals, None where there are too few patients for any; ``patients``
    and ``needed`` for one; ``bound``; ``volumes``: a row for each region and case with
    ``predicted_ml``, ``low_ml``, ``high_ml``, ``reference_ml``, ``uncertainty`` and ``use``, False
    where the volume may be off by more than the bound; ``coverage`` by region, the mean over cases;
    ``curve``: see :func:`risk_coverage`. Seeds are averaged.

    Raises:
        ValueError: A case of ``sizes`` has no scores in ``arm`` or in ``full``.
    """
    rows = [row for row in scores if row.case in sizes and row.arm in (arm, "full")]
    regions = list(dict.fromkeys(row.region for row in rows))
    patients = {row.case: row.patient for row in rows}
    if lacking := sorted(sizes.keys() - patients.keys()):
        raise ValueError(f"no scores of {arm} for {', '.join(lacking)}")
    count = len({*patients.values()})
    level = next((one for one in LEVELS if count - 1 >= fewest_patients(one)), None)
    volumes = []
    for region in regions:
        mine = [row for row in rows if row.region == region and row.arm == arm]
        volumes += _intervals(mine, region, sizes, level)
    told = [row for row in volumes if row["low_ml"] is not None]
    inside = {
        region: [r["low_ml"] <= r["reference_ml"] <= r["high_ml"] for r in told
                 if r["region"] == region]
        for region in regions
    }  # fmt: skip
    return {
        "arm": arm,
        "level": level,
        "patients": count,
        "needed": fewest_patients(LEVELS[-1]) + 1,
        "bound": BOUND,
        "volumes": volumes,
        "coverage": {name: float(np.mean(each)) if each else None for name, each in inside.items()},
        "curve": risk_coverage(_losses(rows, arm), sizes),
    }


def risk_coverage(losses: Mapping[str, float], sizes: Sizes) -> dict[str, Any]:
    """The mean loss of the surest cases, for every number of them that is kept.

    ``kept`` are shares of the cases, ``loss`` the means; ``area`` is the mean of ``loss`` over all
    shares, ``random`` that of cases in any order, and ``best`` that of cases sorted by their loss,
    which nobody can know: an uncertainty that tells something is below ``random``.
    """
    names = sorted(losses, key=lambda case: (sizes[case], case))
    steps = np.arange(1, len(names) + 1)

    def means(order: Sequence[str]) -> np.ndarray:
        return np.cumsum([losses[case] for case in order]) / steps

    mine, best = means(names), means(sorted(losses, key=lambda case: losses[case]))
    return {
        "cases": names,
        "kept": (steps / len(names)).tolist() if names else [],
        "loss": mine.tolist(),
        "area": float(mine.mean()) if names else None,
        "random": float(np.mean([*losses.values()])) if names else None,
        "best": float(best.mean()) if names else None,
    }


def _losses(rows: Sequence[Score], arm: str) -> dict[str, float]:
    """By case the Dice lost against the real sequence, over regions and seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        found.setdefault(row.case, {}).setdefault(row.arm, []).append(row.dice)
    return {
        case: float(np.mean(each["full"]) - np.mean(each[arm]))
        for case, each in found.items()
        if {"full", arm} <= each.keys()
    }


def _intervals(
    rows: Sequence[Score], region: str, sizes: Sizes, level: float | None
) -> list[dict[str, Any]]:
    """A row for each case: its volume, and the interval that the other patients tell."""
    cases = {row.case: row.patient for row in rows}
    predicted, reference = (
        {c: float(np.mean([getattr(r, name) for r in rows if r.case == c])) for c in cases}
        for name in ("predicted_ml", "reference_ml")
    )
    scores = {c: abs(_log(predicted[c]) - _log(reference[c])) / sizes[c] for c in cases}
    found = []
    for case, patient in sorted(cases.items()):
        others: dict[str, list[float]] = {}
        for other, whose in cases.items():
            if whose != patient:
                others.setdefault(whose, []).append(scores[other])
        reach = math.inf
        if level is not None:
            lists = [np.asarray(each) for each in others.values()]
            reach = patientwise_quantiles(lists, [level])[0] * sizes[case]
        known = math.isfinite(reach)
        low, high = (_ml(_log(predicted[case]) + side * reach) for side in (-1, 1))
        found.append({
            "region": region, "case": case, "patient": patient,
            "predicted_ml": predicted[case],
            "low_ml": low if known else None, "high_ml": high if known else None,
            "reference_ml": reference[case], "uncertainty": sizes[case],
            "use": reach <= math.log(BOUND) if known else None,
        })  # fmt: skip
    return found


def _log(volume_ml: float) -> float:
    return math.log(volume_ml + OFFSET_ML)


def _ml(log: float) -> float:
    """The inverse, no volume below 0; of what is beyond all heads the largest number."""
    return max(math.exp(min(log, 100.0)) - OFFSET_ML, 0.0)
