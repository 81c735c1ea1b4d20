"""From score rows to what they mean: means, recovery, tests, checks, decisions.

All figures end in plain JSON values, the keys of ``summary.json`` (``docs/summary-schema.md``) that
hold no sentence; :mod:`seg_eval.report` adds those.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from seg_eval.analysis.comparisons import compare_arms, compare_with_full, hopeless
from seg_eval.analysis.recovery import SMALLEST_HD95_GAP_MM, Recovery, recovery
from seg_eval.analysis.significance import MARGIN, by_patient
from seg_eval.analysis.tables import ScoreTable, known_mean, tabulate
from seg_eval.analysis.verdict import Caveat, Facts, RegionFacts, Rival, Verdict, judge
from seg_eval.arms import Arm, floor_of
from seg_eval.scoring import METRICS, REGIONS, Score, counted, exceeds_tolerance, voxel_volumes
from synth3d.scoring import CONFIDENCE, FEW_CASES, RESAMPLES, Estimate, PairedBootstrap

SCHEMA = 2
PLUMBING_TOLERANCE = 0.002
"""The real image through the export path may change the mean Dice by this much."""

WEAK_DICE = 0.5
"""A segmenter below this with all real sequences says little about a better one."""

BENEFIT_SCORES = ("mae_tumour", "ssim_tumour", "psnr_tumour")
"""Image scores that are held against the Dice that stays lost."""

IMAGE_KEYS = ("case", "patient", "arm", "modality", "seed")
"""Columns of ``image_scores.csv`` that are not scores."""


@dataclass(frozen=True)
class Question:
    """What an experiment asks of its rows; ``seed`` and ``resamples`` are of the bootstrap.

    Attributes:
        arms: The arms, ``full`` and the floor among them; the first synthetic one is the primary.
        missing: The sequences that are missing, as ``t2f``, or the one that is degraded.
        empty: Rule for regions that a case does not have, of ``EMPTY_RULES``.
        margin: Mean Dice that may be lost and still be called not inferior to ``full``.
        degraded: ``ratio`` and ``profile`` of the thick slices; None where a sequence is missing.
    """

    arms: Sequence[Arm]
    missing: Sequence[str] = ("t2f",)
    empty: str = "brats"
    margin: float = MARGIN
    seed: int = 0
    resamples: int = RESAMPLES
    degraded: Mapping[str, Any] | None = None

    @property
    def floor(self) -> str:
        """The arm that recovers nothing by definition."""
        return floor_of(self.degraded is not None)


@dataclass(frozen=True)
class Findings:
    """What the rows mean, without words.

    The figures are the keys of ``summary.json`` that hold no sentence. There is a verdict for each
    synthetic arm, the first of the primary; one without any.
    """

    figures: dict[str, Any]
    verdicts: tuple[Verdict, ...]
    caveats: tuple[Caveat, ...]


def summarise(
    scores: Sequence[Score], images: Sequence[Mapping[str, Any]], question: Question
) -> Findings:
    """The meaning of an experiment's rows, at least one of which counts.

    Raises:
        ValueError: An arm lacks cases or seeds.
    """
    arms = question.arms
    used = counted(scores, question.empty)
    names = [name for name in REGIONS if any(row.region == name for row in used)]
    tables = {name: tabulate(used, arms, [name]) for name in names}
    draws = {name: _bootstrap(table, question) for name, table in tables.items()}
    floor = question.floor
    found = {name: _recover(table, floor, draws[name]) for name, table in tables.items()}
    regions = {
        name: _summarise_region([row for row in used if row.region == name], question, found[name],
                                tables[name], draws[name])
        for name in names
    }  # fmt: skip
    synthetic = [arm.name for arm in arms if arm.about.group == "synthesis"]
    verdicts = tuple(judge(_gather(used, question, found, arm)) for arm in synthetic or [None])
    tests = compare_arms(tables, arms)
    table, voxels = tabulate(used, arms, names), voxel_volumes(used)
    figures = {
        "schema": SCHEMA,
        "regions": regions,
        "tests": tests,
        "noninferiority": compare_with_full(tables, arms, draws, question.margin),
        "images": _mean_images(images, arms),
        "image_benefit": _image_benefit(used, images, arms, verdicts[0].facts.defined or names),
        "plumbing": _check_plumbing(regions, arms),
        "bootstrap": {
            "resamples": question.resamples,
            "seed": question.seed,
            "unit": "patient",
            "seeds": list(table.seeds),
            "confidence": CONFIDENCE,
        },
        "voxel_mm3": voxels,
    }
    caveats = _caveats(table, regions, question)
    if family := hopeless(tests):
        caveats.append(Caveat("hopeless_tests", {"family": family}))
    if exceeds_tolerance(voxels):
        caveats.append(Caveat("large_voxels", {"voxel_mm3": voxels[-1]}))
    return Findings(figures, verdicts, tuple(caveats))


def _bootstrap(table: ScoreTable, question: Question) -> PairedBootstrap:
    seeds, resamples = len(table.seeds), question.resamples
    return PairedBootstrap(table.patients, seeds, resamples, question.seed)


def _recover(
    table: ScoreTable, floor: str, draws: PairedBootstrap, **how: Any
) -> dict[str, Recovery]:
    full, low = table.values["full"], table.values[floor]
    return {name: recovery(full, low, mine, draws, **how) for name, mine in table.values.items()}


def _summarise_region(
    rows: Sequence[Score],
    question: Question,
    found: Mapping[str, Recovery],
    dice: ScoreTable,
    draws: PairedBootstrap,
) -> dict[str, Any]:
    region = [rows[0].region]
    tables = {"dice": dice} | {
        metric: tabulate(rows, question.arms, region, metric)
        for metric in METRICS
        if metric != "dice"
    }
    floor, of_distances = found[question.floor], {"smallest": SMALLEST_HD95_GAP_MM}
    hd95 = _recover(tables["hd95_mm"], question.floor, draws, **of_distances, lower_is_better=True)
    return {
        "cases": len(dice.cases),
        "patients": draws.patients,
        "cases_without_region": sorted({r.case for r in rows if not r.reference_voxels}),
        "gap": asdict(floor.gap),
        "gap_per_seed": known_mean(dice.values["full"] - dice.values[question.floor], 0).tolist(),
        "gap_defined": floor.reason is None,
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
                "hd95_recovery": _plain(hd95[name].ratio),
            }
            for name, r in found.items()
        },
    }


def _distribution(values: np.ndarray, draws: PairedBootstrap) -> dict[str, Any]:
    """A score over cases, each the mean over its seeds."""
    by_case = known_mean(values, 1)
    by_case = by_case[~np.isnan(by_case)]
    found: dict[str, Any] = dict.fromkeys(("mean", "median", "sd", "low", "high"))
    if len(by_case):
        mean = draws.mean(values)
        found |= {"mean": mean.value, "median": float(np.median(by_case))}
        found |= {"low": _finite(mean.low), "high": _finite(mean.high)}
    if len(by_case) > 1:
        found["sd"] = float(by_case.std(ddof=1))
    per_seed = [_finite(value) for value in known_mean(values, 0).tolist()]
    return found | {"n": len(by_case), "per_seed": per_seed}


def _plain(ratio: Estimate | None) -> dict[str, float | None] | None:
    return {key: _finite(value) for key, value in asdict(ratio).items()} if ratio else None


def _finite(value: float) -> float | None:
    """JSON knows neither infinity nor NaN."""
    return value if math.isfinite(value) else None


def _gather(
    scores: Sequence[Score],
    question: Question,
    found: Mapping[str, Mapping[str, Recovery]],
    name: str | None,
) -> Facts:
    """What is decided upon, for one synthetic arm or for none."""
    missing, about = question.missing, {}
    for region, arms in found.items():
        floor, own = arms[question.floor], arms[name] if name else None
        share, loss = (own.ratio, own.loss) if own else (None, None)
        about[region] = RegionFacts(floor.gap, floor.reason, share, loss)
    defined = [region for region, facts in about.items() if facts.defined]
    patients = max(arms[question.floor].patients for arms in found.values())
    degraded = question.degraded is not None
    kind = next((arm.kind for arm in question.arms if arm.name == name), "synthetic")
    if not defined:
        return Facts(missing, name, math.nan, about, [], patients, degraded, kind)
    table = tabulate(scores, question.arms, defined)
    draws = _bootstrap(table, question)
    own = table.values[name or question.floor]
    rivals = []
    for arm in question.arms:
        if arm.name != name and (arm.kind == question.floor or arm.about.compared):
            theirs = table.values[arm.name]
            ahead = draws.mean(own - theirs)
            rivals.append(Rival(arm.name, arm.kind, ahead, float(theirs.mean())))
    mean = float(own.mean())
    return Facts(missing, name, mean, about, rivals, draws.patients, degraded, kind)


def _mean_images(images: Sequence[Mapping[str, Any]], arms: Sequence[Arm]) -> dict[str, Any]:
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
    images: Sequence[Mapping[str, Any]],
    arms: Sequence[Arm],
    regions: Sequence[str],
) -> list[dict[str, Any]]:
    """Spearman's correlation of image scores with the Dice lost, over patients."""
    table = tabulate(scores, arms, regions)
    found = []
    for arm in arms:
        rows = [row for row in images if row["arm"] == arm.name]
        if not rows or not arm.about.compared:
            continue
        loss = by_patient(table.values["full"] - table.values[arm.name], table.patients)
        for name in [name for name in BENEFIT_SCORES if name in rows[0]]:
            known = [
                [r[name] for r in rows if r["case"] == case and r[name] is not None]
                for case in table.cases
            ]
            by_case = np.array([[np.mean(values) if values else np.nan] for values in known])
            score = by_patient(by_case, table.patients)
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
    found: Any = spearmanr(first, second)
    return {"spearman": float(found.statistic), "n": count, "p": float(found.pvalue)}


def _check_plumbing(regions: dict[str, Any], arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Whether the real image survives the export path; None without that arm."""
    check = next((arm.name for arm in arms if arm.about.is_check), None)
    if check is None:
        return None
    of_arms = {name: region["arms"] for name, region in regions.items()}
    change = {name: arms[check]["dice"] - arms["full"]["dice"] for name, arms in of_arms.items()}
    passed = all(abs(value) <= PLUMBING_TOLERANCE for value in change.values())
    return {"passed": passed, "tolerance": PLUMBING_TOLERANCE, "dice_change": change}


def _caveats(table: ScoreTable, regions: dict[str, Any], question: Question) -> list[Caveat]:
    found, patients = [], len(set(table.patients))
    if patients < FEW_CASES:
        about = {"cases": len(table.cases), "patients": patients, "enough": FEW_CASES}
        found.append(Caveat("few_patients", about))
    if len(table.seeds) == 1:
        found.append(Caveat("one_seed", {}))
    for name, region in regions.items():
        if none := region["cases_without_region"]:
            about = {"region": name, "cases": none, "empty": question.empty}
            found.append(Caveat("without_region", about))
        if (dice := region["arms"]["full"]["dice"]) < WEAK_DICE:
            found.append(Caveat("weak_segmenter", {"region": name, "dice": dice}))
    filled_in = any(arm.kind == "synthetic" for arm in question.arms)
    if "t1c" in question.missing and filled_in:
        found.append(Caveat("contrast_agent", {}))
    return found
