"""From score rows to what they mean: means, recovery, tests, checks, a headline.

Everything ends in plain JSON values (``summary.json``, described in ``docs/summary-schema.md``),
and the report is rendered from those alone, so it can be printed again without any image.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from seg_eval.analysis.comparisons import compare_arms, compare_with_full, hopeless
from seg_eval.analysis.names import spoken
from seg_eval.analysis.recovery import SMALLEST_HD95_GAP_MM, Recovery, recovery
from seg_eval.analysis.significance import MARGIN, by_patient
from seg_eval.analysis.tables import ArmLike, ScoreTable, known_mean, tabulate
from seg_eval.analysis.verdict import Facts, RegionFacts, Rival, compare_with_cheap, headline
from seg_eval.arms import ARM_KINDS
from seg_eval.scoring import (
    EMPTY_RULES,
    METRICS,
    REGIONS,
    Score,
    counted,
    voxel_volumes,
    warn_of_voxels,
)
from synth3d.scoring import CONFIDENCE, FEW_CASES, RESAMPLES, Estimate, PairedBootstrap

SCHEMA = 2
PLUMBING_TOLERANCE = 0.002
"""The real image through the export path may change the mean Dice by this much."""

BENEFIT_SCORES = ("mae_tumour", "ssim_tumour", "psnr_tumour")
"""Image scores that are held against the Dice that stays lost."""

IMAGE_KEYS = ("case", "patient", "arm", "modality", "seed")
"""Columns of ``image_scores.csv`` that are not scores."""


def summarise(
    scores: Sequence[Score],
    images: Sequence[dict[str, Any]],
    arms: Sequence[ArmLike],
    empty: str = "brats",
    seed: int = 0,
    resamples: int = RESAMPLES,
    margin: float = MARGIN,
    missing: Sequence[str] = ("t2f",),
) -> dict[str, Any]:
    """The meaning of an experiment's rows as plain JSON values.

    Args:
        scores: All rows; every arm with the same cases and segmenter seeds.
        images: All image-score rows.
        arms: The arms, ``full`` and ``zero`` among them; the first synthetic one is the primary.
        empty: Rule for regions that a case does not have.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.
        margin: Mean Dice that may be lost and still be called not inferior to ``full``.
        missing: The sequences that are missing, as ``t2f``.

    Raises:
        ValueError: There are no scores, or an arm lacks cases, seeds, or its kind is unknown.
    """
    used = counted(list(scores), empty)
    names = [name for name in REGIONS if any(row.region == name for row in used)]
    if not names:
        raise ValueError("expected scores of at least one region, got none")
    tables = {name: tabulate(used, arms, [name]) for name in names}
    draws = {name: _bootstrap(table, resamples, seed) for name, table in tables.items()}
    regions = {
        name: _summarise_region(used, name, arms, tables[name], draws[name]) for name in names
    }
    synthetic = [arm.name for arm in arms if arm.kind == "synthetic"]
    facts = [
        _gather(used, arms, regions, name, missing, (resamples, seed)) for name in synthetic
    ] or [_gather(used, arms, regions, None, missing, (resamples, seed))]
    table = tabulate(used, arms, names)
    return {
        "schema": SCHEMA,
        "title": f"Dice recovery without {spoken(missing)} ({', '.join(missing)})",
        "headline": headline(facts[0]),
        "arms": [_describe_arm(arm, missing) for arm in arms],
        "regions": regions,
        "tests": (tests := compare_arms(tables, arms)),
        "noninferiority": compare_with_full(tables, arms, draws, margin),
        "images": _mean_images(images, arms),
        "image_benefit": _image_benefit(used, images, arms, facts[0].defined or names),
        "plumbing": _check_plumbing(regions, arms),
        "verdict": list(dict.fromkeys(compare_with_cheap(of_arm) for of_arm in facts)),
        "empty_rule": EMPTY_RULES[empty],
        "bootstrap": {
            "resamples": resamples,
            "seed": seed,
            "unit": "patient",
            "seeds": list(table.seeds),
            "confidence": CONFIDENCE,
            "interval": "expanded percentile (Hesterberg 2015) with the acceleration of BCa; "
            f"{'patients and segmenter seeds both' if len(table.seeds) > 1 else 'patients'} drawn "
            "with replacement",
        },
        "voxel_mm3": (voxels := voxel_volumes(used)),
        "warnings": [
            *_warnings(table, regions, arms, missing, empty),
            *hopeless(tests),
            *warn_of_voxels(voxels),
        ],
    }


def _bootstrap(table: ScoreTable, resamples: int, seed: int) -> PairedBootstrap:
    return PairedBootstrap(table.patients, len(table.seeds), resamples, seed)


def _describe_arm(arm: ArmLike, missing: Sequence[str]) -> dict[str, str]:
    if arm.kind not in ARM_KINDS:
        raise ValueError(f"expected an arm of {', '.join(ARM_KINDS)}, got {arm.kind!r}")
    group, what = ARM_KINDS[arm.kind].group, ARM_KINDS[arm.kind].what
    what = what.format(missing=spoken(missing))
    return {
        "name": arm.name,
        "kind": arm.kind,
        "segmenter": arm.segmenter,
        "group": group,
        "what": what,
    }


def _summarise_region(
    scores: Sequence[Score],
    region: str,
    arms: Sequence[ArmLike],
    table: ScoreTable,
    draws: PairedBootstrap,
) -> dict[str, Any]:
    tables = {"dice": table} | {
        metric: tabulate(scores, arms, [region], metric) for metric in METRICS if metric != "dice"
    }
    full, zero = table.values["full"], table.values["zero"]
    found = {name: recovery(full, zero, mine, draws) for name, mine in table.values.items()}
    floor = found["zero"]
    gaps = known_mean(full - zero, 0)
    rows = [r for r in scores if r.region == region]
    return {
        "cases": len(table.cases),
        "patients": draws.patients,
        "cases_without_region": sorted({r.case for r in rows if not r.reference_voxels}),
        "gap": asdict(floor.gap),
        "gap_per_seed": gaps.tolist(),
        "gap_defined": not floor.reason,
        "gap_reason": floor.reason,
        "arms": {
            name: {
                "dice": r.arm,
                "metrics": {
                    metric: _distribution(of_metric.values[name], draws)
                    for metric, of_metric in tables.items()
                },
                "gain": asdict(r.gain),
                "loss": asdict(r.loss),
                "recovery": _plain(r.ratio),
                "recovery_per_seed": list(r.per_seed),
                "hd95_recovery": _plain(_hd95(tables["hd95_mm"], name, draws).ratio),
            }
            for name, r in found.items()
        },
    }


def _hd95(table: ScoreTable, arm: str, draws: PairedBootstrap) -> Recovery:
    columns = (table.values[name] for name in ("full", "zero", arm))
    return recovery(*columns, draws, SMALLEST_HD95_GAP_MM, lower_is_better=True)


def _distribution(values: np.ndarray, draws: PairedBootstrap) -> dict[str, Any]:
    """A score over cases, each the mean over its seeds."""
    by_case = known_mean(values, 1)
    by_case = by_case[~np.isnan(by_case)]
    per_seed = [None if math.isnan(v) else v for v in known_mean(values, 0).tolist()]
    empty = dict.fromkeys(("mean", "median", "sd", "low", "high"))
    if not len(by_case):
        return empty | {"n": 0, "per_seed": per_seed}
    mean = draws.mean(values)
    return {
        "mean": mean.value,
        "median": float(np.median(by_case)),
        "sd": float(by_case.std(ddof=1)) if len(by_case) > 1 else None,
        "low": mean.low if math.isfinite(mean.low) else None,
        "high": mean.high if math.isfinite(mean.high) else None,
        "n": len(by_case),
        "per_seed": per_seed,
    }


def _plain(ratio: Estimate | None) -> dict[str, float | None] | None:
    """JSON knows no infinity: an unbounded end of the interval becomes null."""
    if ratio is None:
        return None
    return {key: value if math.isfinite(value) else None for key, value in asdict(ratio).items()}


def _gather(
    scores: Sequence[Score],
    arms: Sequence[ArmLike],
    regions: dict[str, Any],
    name: str | None,
    missing: Sequence[str],
    drawing: tuple[int, int],
) -> Facts:
    """What the sentences on one synthetic arm (or on none) are made from."""
    about = {}
    for region, found in regions.items():
        mine = found["arms"][name] if name else None
        share, loss = (mine["recovery"], mine["loss"]) if mine else (None, None)
        about[region] = RegionFacts(
            Estimate(**found["gap"]), found["gap_defined"], _bounded(share), _bounded(loss)
        )
    defined = [region for region, found in about.items() if found.defined]
    patients = max(found["patients"] for found in regions.values())
    if not defined:
        return Facts(missing, name, math.nan, about, [], patients)
    table = tabulate(scores, arms, defined)
    draws = _bootstrap(table, *drawing)
    own = table.values[name or "zero"]
    rivals = [
        Rival(
            arm.name,
            arm.kind,
            draws.mean(own - table.values[arm.name]),
            float(table.values[arm.name].mean()),
        )
        for arm in arms
        if arm.name != name and arm.kind not in ("full", "plumbing")
    ]
    return Facts(missing, name, float(own.mean()), about, rivals, draws.patients)


def _bounded(estimate: dict[str, float | None] | None) -> Estimate | None:
    if estimate is None:
        return None
    ends = {"low": -math.inf, "high": math.inf}
    return Estimate(**{k: ends[k] if v is None else v for k, v in estimate.items()})


def _mean_images(images: Sequence[dict[str, Any]], arms: Sequence[ArmLike]) -> dict[str, Any]:
    """Mean of each image score over the rows that have it, by arm."""
    means: dict[str, Any] = {}
    for arm in arms:
        rows = [row for row in images if row["arm"] == arm.name]
        for name in [name for name in (rows[0] if rows else ()) if name not in IMAGE_KEYS]:
            values = [row[name] for row in rows if row[name] is not None]
            means.setdefault(arm.name, {})[name] = float(np.mean(values)) if values else None
    return means


def _image_benefit(
    scores: Sequence[Score],
    images: Sequence[dict[str, Any]],
    arms: Sequence[ArmLike],
    regions: Sequence[str],
) -> list[dict[str, Any]]:
    """Spearman's correlation of image scores with the Dice lost, over patients."""
    table = tabulate(scores, arms, regions)
    found = []
    for arm in arms:
        rows = [row for row in images if row["arm"] == arm.name]
        if not rows or arm.kind in ("full", "zero", "plumbing"):
            continue
        loss = by_patient(table.values["full"] - table.values[arm.name], table.patients)
        for name in [name for name in BENEFIT_SCORES if name in rows[0]]:
            by_case = {case: [r[name] for r in rows if r["case"] == case] for case in table.cases}
            known = [[v for v in by_case[c] if v is not None] for c in table.cases]
            score = by_patient(
                np.array([np.mean(v) if v else np.nan for v in known]), table.patients
            )
            both = ~(np.isnan(score) | np.isnan(loss))
            found.append(
                {"arm": arm.name, "score": name, "against": "dice_loss"}
                | _spearman(score[both], loss[both])
            )
    return found


def _spearman(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """None below five patients, or where one of the two does not vary."""
    count = len(first)
    if count < 5 or min(np.ptp(first), np.ptp(second)) < 1e-12:
        return {"spearman": None, "n": count, "p": None}
    rho, p = spearmanr(first, second)
    return {"spearman": float(rho), "n": count, "p": float(p)}


def _check_plumbing(regions: dict[str, Any], arms: Sequence[ArmLike]) -> dict[str, Any] | None:
    """Whether the real image survives the export path; None without that arm."""
    names = [arm.name for arm in arms if arm.kind == "plumbing"]
    if not names:
        return None
    change = {
        name: region["arms"][names[0]]["dice"] - region["arms"]["full"]["dice"]
        for name, region in regions.items()
    }
    passed = all(abs(value) <= PLUMBING_TOLERANCE for value in change.values())
    return {"passed": passed, "tolerance": PLUMBING_TOLERANCE, "dice_change": change}


def _warnings(
    table: ScoreTable,
    regions: dict[str, Any],
    arms: Sequence[ArmLike],
    missing: Sequence[str],
    empty: str,
) -> list[str]:
    found, patients = [], len(set(table.patients))
    if patients < FEW_CASES:
        text = f"only {len(table.cases)} test case{'s'[: len(table.cases) != 1]} of {patients} "
        text += f"patient{'s'[: patients != 1]}: with fewer than {FEW_CASES} patients the "
        text += "intervals are too narrow, take everything as a hint"
        if patients == 1:
            text += "; one patient has no interval at all: brackets hold the seeds' spread at most"
        found.append(text)
    if len(table.seeds) == 1:
        found.append(
            "one segmenter seed: the intervals hold for this training alone, another one may have "
            "quite another gap; train three seeds or more"
        )
    for name, region in regions.items():
        if none := region["cases_without_region"]:
            text = f"{name}: {len(none)} case{'s'[: len(none) != 1]} without this region: "
            text += ", ".join(none)
            if empty == "brats":
                text += "; their Dice is 0 or 1, which makes its intervals too narrow"
            found.append(text)
        if region["arms"]["full"]["dice"] < 0.5:
            found.append(
                f"{name}: the segmenter reaches only {region['arms']['full']['dice']:.2f} with all "
                "real sequences; recovery says little about a better segmenter"
            )
    if "t1c" in missing and any(arm.kind == "synthetic" for arm in arms):
        found.append(
            "what takes up contrast agent cannot be read from sequences without it: published "
            "networks made for a missing contrast-enhanced T1 lose 21 to 29 points of Dice of the "
            "enhancing tumour; read ET by itself, and no synthetic enhancement as a finding"
        )
    return found
