"""One region's figures: what each arm scores, what it brings back and what stays lost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from seg_eval.analysis.recovery import Recovery, recovery
from seg_eval.analysis.significance import by_patient
from seg_eval.analysis.tables import ScoreTable, known_mean, tabulate
from seg_eval.arms import Arm
from seg_eval.scoring import METRICS, Score
from synth3d.scoring import FEWEST_TRAININGS, Crossed, Estimate

MUCH = 0.05
"""A patient's Dice that stays lost and must be counted, however much others win back."""


def recover(table: ScoreTable, floor: str, crossed: Crossed) -> dict[str, Recovery]:
    """By arm, what it brings back of what ``floor`` costs."""
    full, low = table.values["full"], table.values[floor]
    return {name: recovery(full, low, mine, crossed) for name, mine in table.apart.items()}


def best_cheap(table: ScoreTable, arms: Sequence[Arm]) -> str | None:
    """The cheap arm of the highest mean Dice; None without any."""
    cheap = [arm.name for arm in arms if arm.about.is_cheap]
    return max(cheap, key=lambda name: float(table.values[name].mean()), default=None)


def summarise_region(
    rows: Sequence[Score],
    arms: Sequence[Arm],
    floor: str,
    found: Mapping[str, Recovery],
    dice: ScoreTable,
) -> dict[str, Any]:
    """The keys of ``regions.<region>`` in ``summary.json``; ``rows`` are of one region."""
    crossed = dice.crossed()
    tables = {"dice": dice} | {
        metric: tabulate(_measured(rows, metric), arms, [rows[0].region], metric)
        for metric in METRICS
        if metric != "dice"
    }
    cheap, gap = best_cheap(dice, arms), found[floor]
    these = None
    replicates = max(each.shape[2] for each in dice.apart.values())
    if crossed.over != "patients" or (replicates >= FEWEST_TRAININGS and not dice.are_folds):
        these = recover(dice, floor, dice.crossed("patients"))
    return {
        "cases": len(dice.cases),
        "patients": crossed.patients,
        "cases_without_region": sorted({r.case for r in rows if not r.reference_voxels}),
        "gap": plain(gap.gap),
        "gap_per_seed": known_mean(dice.values["full"] - dice.values[floor], 0).tolist(),
        "gap_defined": gap.reason is None,
        "floor_per_seed": known_mean(dice.values[floor], 0).tolist(),
        "best_cheap": cheap,
        "arms": {
            name: {
                "dice": r.arm,
                "metrics": {
                    metric: _distribution(of_metric.apart[name], crossed)
                    for metric, of_metric in tables.items()
                },
                "masks": _masks([row for row in rows if row.arm == name]),
                "gain": plain(r.gain),
                "loss": plain(r.loss) | _losses(dice, name),
                "recovery": r.ratio and plain(r.ratio),
                "recovery_per_seed": list(r.per_seed),
                **_per_replicate(r),
                "beyond_cheap": _beyond(dice, cheap, name, crossed),
                "these_trainings": these and _three(these[name]),
            }
            for name, r in found.items()
        },
    }


def _per_replicate(found: Recovery) -> dict[str, list[float | None]]:
    """Of an arm of several trainings what each alone wins back; nothing of any other."""
    several = len(found.per_replicate) > 1
    return {"recovery_per_replicate": list(found.per_replicate)} if several else {}


def _measured(rows: Sequence[Score], metric: str) -> list[Score]:
    """Rows whose distance was measured: none is to or from an empty mask."""
    if metric != "hd95_mm":
        return list(rows)
    both = [row.reference_voxels > 0 and row.predicted_voxels > 0 for row in rows]
    return [r if there else replace(r, hd95_mm=None) for r, there in zip(rows, both, strict=True)]


def _masks(rows: Sequence[Score]) -> dict[str, int]:
    """Of one arm's predictions (cases x seeds): how many miss all, or find what is not there."""
    there = [row for row in rows if row.reference_voxels]
    absent = [row for row in rows if not row.reference_voxels]
    return {
        "of": len(rows),
        "missed": sum(not row.predicted_voxels for row in there),
        "false_alarms": sum(row.predicted_voxels > 0 for row in absent),
        "absent": len(absent),
    }


def _losses(dice: ScoreTable, name: str) -> dict[str, Any]:
    """What the mean loss hides, and how many lose much."""
    losses = by_patient(dice.values["full"] - dice.values[name], dice.patients)
    above = {"loss": MUCH, "patients": int((losses > MUCH).sum())}
    return over_patients(losses) | {"patients_above": above}


def over_patients(values: np.ndarray) -> dict[str, Any]:
    """What a mean over patients hides: their median, and the mean without any one of them."""
    known = values[~np.isnan(values)]
    rest = (known.sum() - known) / (len(known) - 1) if len(known) > 1 else known
    return {
        "median": float(np.median(known)),
        "without_one": [float(rest.min()), float(rest.max())],
    }


def _beyond(
    dice: ScoreTable, cheap: str | None, name: str, crossed: Crossed
) -> dict[str, Any] | None:
    """What an arm wins back of what the best cheap one leaves; None without that."""
    if cheap is None:
        return None
    found = recovery(dice.values["full"], dice.values[cheap], dice.apart[name], crossed)
    lead, left = plain(found.gain), plain(found.gap)
    return {
        "lead": lead,
        "left": left,
        "recovery": found.ratio and plain(found.ratio),
        "reason": found.reason,
    }


def _three(found: Recovery) -> dict[str, Any]:
    return {
        "gain": plain(found.gain),
        "loss": plain(found.loss),
        "recovery": found.ratio and plain(found.ratio),
    }


def _distribution(values: np.ndarray, crossed: Crossed) -> dict[str, Any]:
    """A score (cases, seeds, replicates) over cases, each the mean over all its trainings."""
    by_case = known_mean(values.reshape(len(values), -1), 1)
    by_case = by_case[~np.isnan(by_case)]
    found: dict[str, Any] = dict.fromkeys(("mean", "median", "sd", "low", "high"))
    if len(by_case):
        mean = crossed.mean(values)
        found |= {"mean": mean.value, "median": float(np.median(by_case))}
        found |= {"low": _finite(mean.low), "high": _finite(mean.high)}
    if len(by_case) > 1:
        found["sd"] = float(by_case.std(ddof=1))
    found |= {"n": len(by_case), "per_seed": _means(values, 1)}
    return found | ({"per_replicate": _means(values, 2)} if values.shape[2] > 1 else {})


def _means(values: np.ndarray, axis: int) -> list[float | None]:
    """Of each place along ``axis`` the mean over all others; None where nothing is known."""
    lines = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    return [_finite(value) for value in known_mean(lines, 1).tolist()]


def plain(estimate: Estimate) -> dict[str, float | None]:
    """As JSON has it, null for an unbounded end."""
    ends = {key: _finite(value) for key, value in asdict(estimate).items() if value is not None}
    return asdict(estimate) | ends


def _finite(value: float) -> float | None:
    """JSON knows neither infinity nor NaN."""
    return value if math.isfinite(value) else None
