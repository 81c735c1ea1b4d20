"""What a reader has to know beside the verdict: caveats of the rows, and of single regions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seg_eval.analysis.recovery import SMALLEST_GAP
from seg_eval.analysis.tables import ScoreTable
from seg_eval.analysis.verdict import WEAK_DICE, Facts
from seg_eval.arms import Arm
from seg_eval.scoring import OFFICIAL, Conditions
from synth3d.scoring import FEW_CASES, FEWEST_CENTRES, FEWEST_TRAININGS, Estimate

FLOOR_VARIES = 0.1
"""Where the floor's Dice differs by more from training to training, its recovered share is luck."""

SAME_MAE = 0.002
"""A synthetic brain this near the real one, each on its own scale, is the real one in other units:
rounding to integers costs less, and synthesis at its best errs by five times as much."""


HALF = 0.5
"""Of the Dice that the missing sequence costs."""


@dataclass(frozen=True)
class Caveat:
    """Something that limits the conclusions: which it is, and its figures by name."""

    code: str
    figures: dict[str, Any]


def remarks_on(facts: Facts) -> dict[str, str]:
    """What a good mean would hide, by region: those that stay lost, then those with nothing to win.

    ``worse``, ``nothing_back``, ``mostly_lost``, ``partly_lost``, ``open``, ``harmed``, ``untold``
    or ``free``. How much comes back is said as far as its interval shows it.
    """
    lost, free = {}, {}
    for name, region in facts.regions.items():
        if name in facts.harmed:
            lost[name] = "harmed"
        elif region.gets_worse:
            lost[name] = "worse"
        elif region.loses_much and region.recovery is not None:
            lost[name] = _shown(region.recovery)
        elif not region.defined:
            free[name] = "untold" if name in facts.untold else "free"
    return lost | free


def _shown(recovery: Estimate) -> str:
    """What is shown of how much comes back where much stays lost; half is what divides."""
    if recovery.value <= 0:
        return "nothing_back"
    if recovery.high < HALF:
        return "mostly_lost"
    return "partly_lost" if recovery.low > 0 else "open"


def of_copies(images: Sequence[Mapping[str, Any]], arms: Sequence[Arm]) -> list[Caveat]:
    """Synthetic arms that hold the real sequence, and in which cases."""
    found = []
    for arm in arms if images else ():
        mine = [r for r in images if r["arm"] == arm.name and arm.about.group == "synthesis"]
        errors = [(row["case"], row.get("mae_brain@own-scale")) for row in mine]
        cases = sorted({case for case, error in errors if error is not None and error < SAME_MAE})
        if cases:
            found.append(Caveat("copies_of_real", {"arm": arm.name, "cases": cases}))
    return found


def of_twins(images: Sequence[Mapping[str, Any]], arms: Sequence[Arm]) -> list[Caveat]:
    """Synthetic arms with the same image scores in every case, so with the same pictures."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for arm in arms:
        mine = [row for row in images if row["arm"] == arm.name]
        if mine and arm.about.group == "synthesis":
            scores = sorted(str({**row, "arm": "", "replicate": ""}) for row in mine)
            alike.setdefault(tuple(scores), []).append(arm.name)
    return [Caveat("same_pictures", {"names": names}) for names in alike.values() if names[1:]]


def of_sample(table: ScoreTable, centres: Mapping[str, str]) -> list[Caveat]:
    """Few patients, trainings, folds or centres; ``centres`` of cases whose folds are clusters."""
    found, patients = [], len(set(table.patients))
    if patients < FEW_CASES:
        about = {"cases": len(table.cases), "patients": patients, "enough": FEW_CASES}
        found.append(Caveat("few_patients", about))
    if len(table.seeds) < FEWEST_TRAININGS and not table.are_folds:
        found.append(
            Caveat("few_trainings", {"seeds": len(table.seeds), "least": FEWEST_TRAININGS})
        )
    if 0 < (count := len({*table.by_patient.values()})) < FEWEST_CENTRES:
        of = "folds" if table.are_folds else "centres"
        found.append(Caveat(f"few_{of}", {of: count, "least": FEWEST_CENTRES}))
    if table.are_folds and len({*centres.values()}) > 1:
        found.append(Caveat("centres_in_folds", {"centres": len({*centres.values()})}))
    return found


def of_regions(regions: Mapping[str, Any], floor: str, empty: str) -> list[Caveat]:
    """Of each region of ``summary.json``: what varies, is absent, weak, or the wrong way round."""
    found = []
    for name, region in regions.items():
        if np.ptp(region["floor_per_seed"]) > FLOOR_VARIES:
            ends = {"low": min(region["floor_per_seed"]), "high": max(region["floor_per_seed"])}
            found.append(Caveat("floor_varies", {"region": name, "floor": floor, **ends}))
        if none := region["cases_without_region"]:
            found.append(Caveat("without_region", {"region": name, "cases": none, "empty": empty}))
        if (dice := region["arms"]["full"]["dice"]) < WEAK_DICE:
            found.append(Caveat("weak_segmenter", {"region": name, "dice": dice}))
        if (region["gap"]["high"] or 0) < 0 and region["gap"]["value"] <= -SMALLEST_GAP:
            without = region["arms"][floor]["dice"]
            about = {"region": name, "floor": floor, "without": without, "real": dice}
            found.append(Caveat("real_is_worse", about))
    return found


def of_contrast(arms: Sequence[Arm], missing: Sequence[str]) -> list[Caveat]:
    """No other sequence shows what takes up contrast agent."""
    filled_in = any(arm.kind == "synthetic" for arm in arms)
    return [Caveat("contrast_agent", {})] if "t1c" in missing and filled_in else []


def of_voxels(scored: Conditions) -> list[Caveat]:
    """Voxels at which a surface or a lesion is not what its rule means."""
    found = []
    if scored.exceeds_tolerance:
        about = {"side": scored.longest_side_mm, "tolerance": scored.nsd_tolerance_mm}
        found.append(Caveat("large_voxels", about))
    if scored.lesion_rule != OFFICIAL:
        found.append(Caveat("other_lesion_rule", {}))
    return found
