"""From score rows to what they mean: means, recovery, the plumbing check, a verdict.

Everything ends in plain JSON values (``summary.json``), and the report is rendered from those
alone, so it can be printed again without any image.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seg_eval.arms import PLUMBING, RIVALS, SYNTHETIC, Arm
from seg_eval.recovery import Estimate, difference, recovery
from seg_eval.regions import REGIONS
from seg_eval.scores import EMPTY_RULES, Score, counted
from synth3d.bootstrap import FEW_CASES, RESAMPLES

PLUMBING_TOLERANCE = 0.002
"""The real image through the export path may change the mean Dice by this much."""


@dataclass(frozen=True)
class DiceTable:
    """Dice by arm for one set of cases.

    Attributes:
        cases: The rows' case names.
        patients: Patient of each case.
        columns: Per arm the Dice of each case.
    """

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    columns: dict[str, list[float]]


def tabulate(scores: Iterable[Score], arms: Sequence[Arm], regions: Sequence[str]) -> DiceTable:
    """Per case and arm the Dice, averaged over those of ``regions`` that have a row.

    Raises:
        ValueError: An arm has other cases than the others.
    """
    cells: dict[tuple[str, str], list[float]] = {}
    patients: dict[str, str] = {}
    for row in scores:
        if row.region in regions:
            cells.setdefault((row.arm, row.case), []).append(row.dice)
            patients[row.case] = row.patient
    cases = tuple(sorted(patients))
    expected = {(arm.name, case) for arm in arms for case in cases}
    if absent := sorted(expected - cells.keys()):
        raise ValueError(f"no score for arm and case {absent[0]}")
    means = {arm.name: [float(np.mean(cells[arm.name, case])) for case in cases] for arm in arms}
    return DiceTable(cases, tuple(patients[case] for case in cases), means)


def summarise(
    scores: Sequence[Score],
    images: Sequence[dict[str, Any]],
    arms: Sequence[Arm],
    empty: str = "brats",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The meaning of an experiment's rows as plain JSON values.

    Args:
        scores: All Dice rows.
        images: All image-score rows.
        arms: The arms, ``full`` and ``zero`` among them.
        empty: Rule for regions that a case does not have.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.

    Raises:
        ValueError: An arm lacks cases.
    """
    used = counted(list(scores), empty)
    regions = {
        region: _summarise_region(used, region, arms, seed, resamples)
        for region in REGIONS
        if any(row.region == region for row in used)
    }
    defined = [name for name, region in regions.items() if region["gap_defined"]]
    return {
        "arms": [{"name": arm.name, "kind": arm.kind} for arm in arms],
        "regions": regions,
        "images": _mean_images(images, arms),
        "plumbing": _check_plumbing(regions, arms),
        "verdict": _verdict(used, arms, list(regions), defined, seed, resamples),
        "empty_rule": EMPTY_RULES[empty],
        "bootstrap": {"resamples": resamples, "seed": seed, "unit": "patient"},
        "warnings": _warnings(used, regions),
    }


def _summarise_region(
    scores: Sequence[Score], region: str, arms: Sequence[Arm], seed: int, resamples: int
) -> dict[str, Any]:
    table = tabulate(scores, arms, [region])
    full, zero = table.columns["full"], table.columns["zero"]
    found = {
        name: recovery(full, zero, column, table.patients, resamples, seed)
        for name, column in table.columns.items()
    }
    floor = found["zero"]
    no_region = {r.case for r in scores if r.region == region and not r.reference_voxels}
    return {
        "cases": len(table.cases),
        "patients": len(set(table.patients)),
        "cases_without_region": sorted(no_region),
        "gap": asdict(floor.gap),
        "gap_defined": not floor.reason,
        "gap_reason": floor.reason,
        "arms": {
            name: {
                "dice": r.arm,
                "gain": asdict(r.gain),
                "recovery": _plain(r.ratio),
            }
            for name, r in found.items()
        },
    }


def _plain(ratio: Estimate | None) -> dict[str, float | None] | None:
    """JSON knows no infinity: an unbounded end of the interval becomes null."""
    if ratio is None:
        return None
    return {key: value if math.isfinite(value) else None for key, value in asdict(ratio).items()}


def _mean_images(images: Sequence[dict[str, Any]], arms: Sequence[Arm]) -> dict[str, Any]:
    """Mean of each image score over the cases that have it, by arm."""
    means: dict[str, Any] = {}
    for arm in arms:
        rows = [row for row in images if row["arm"] == arm.name]
        names = [name for name in rows[0] if name not in ("case", "patient", "arm")] if rows else []
        for name in names:
            values = [row[name] for row in rows if row[name] is not None]
            means.setdefault(arm.name, {})[name] = float(np.mean(values)) if values else None
    return means


def _check_plumbing(regions: dict[str, Any], arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Whether the real image survives the export path; None without that arm."""
    if PLUMBING not in {arm.name for arm in arms}:
        return None
    change = {
        name: region["arms"][PLUMBING]["dice"] - region["arms"]["full"]["dice"]
        for name, region in regions.items()
    }
    passed = all(abs(value) <= PLUMBING_TOLERANCE for value in change.values())
    return {"passed": passed, "tolerance": PLUMBING_TOLERANCE, "dice_change": change}


def _warnings(scores: Sequence[Score], regions: dict[str, Any]) -> list[str]:
    count = len({row.case for row in scores})
    found = []
    if count < FEW_CASES:
        found.append(
            f"only {count} test cases: with fewer than {FEW_CASES} the intervals are too narrow, "
            "read them as a lower bound of the uncertainty"
        )
    for name, region in regions.items():
        if none := region["cases_without_region"]:
            found.append(f"{name}: {len(none)} case(s) without this region: {', '.join(none)}")
        if region["arms"]["full"]["dice"] < 0.5:
            found.append(
                f"{name}: the segmenter reaches only {region['arms']['full']['dice']:.2f} with all "
                "real sequences; recovery says little about a better segmenter"
            )
    return found


def _verdict(
    scores: Sequence[Score],
    arms: Sequence[Arm],
    regions: list[str],
    defined: list[str],
    seed: int,
    resamples: int,
) -> list[str]:
    """One plain sentence for each synthetic arm: did it beat the cheap rivals here?"""
    synthetic = [arm.name for arm in arms if arm.kind == SYNTHETIC]
    rivals = [arm.name for arm in arms if arm.kind in RIVALS]
    if not defined:
        return [
            "Leaving the sequence out costs no measurable Dice in any region here, so there is "
            "nothing for synthesis to win back."
        ]
    table = tabulate(scores, arms, defined)
    mean = {name: float(np.mean(column)) for name, column in table.columns.items()}
    where = f"mean Dice over {', '.join(defined)}"
    sentences = []
    for name in synthetic:
        against = max(rivals, key=lambda rival: mean[rival]) if rivals else "zero"
        pair = (table.columns[name], table.columns[against])
        estimate = difference(*pair, table.patients, resamples, seed)
        figures = f"{where} {mean[name]:.3f} against {mean[against]:.3f}, {_signed(estimate)}"
        figures += f" on {len(table.cases)} cases"
        if len(table.cases) < FEW_CASES:
            figures += " (few: a hint, not a proof)"
        sentences.append(_sentence(name, against, estimate, figures))
    return sentences


def _signed(e: Estimate) -> str:
    return f"{e.value:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"


def _sentence(name: str, against: str, estimate: Estimate, figures: str) -> str:
    rival = f"the best cheap rival ({against})" if against != "zero" else "leaving it out"
    if estimate.low > 0:
        return f"Synthesis {name} beats {rival}: {figures}; it is worth its cost here."
    if estimate.value > 0:
        return (
            f"Synthesis {name} is ahead of {rival}, but not beyond doubt: {figures}; "
            "more cases are needed to tell."
        )
    if estimate.high >= 0:
        return (
            f"Synthesis {name} does not beat {rival}: {figures}; on this evidence the cheaper one "
            "will do."
        )
    return f"Synthesis {name} loses to {rival}: {figures}; it is not worth its cost here."
