"""From score rows to what they mean: means, recovery, tests, checks, decisions.

All figures end in plain JSON values, the keys of ``summary.json`` (``docs/summary-schema.md``) that
hold no sentence; :mod:`seg_eval.report` adds those.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from seg_eval.analysis.absent import tell_absent
from seg_eval.analysis.agreement import volume_agreement
from seg_eval.analysis.comparisons import compare_arms, compare_with_full, hopeless, leads
from seg_eval.analysis.power import needed
from seg_eval.analysis.recovery import Recovery
from seg_eval.analysis.region import recover, summarise_region
from seg_eval.analysis.significance import MARGIN, by_patient
from seg_eval.analysis.strata import loss_by_centre, loss_by_size
from seg_eval.analysis.tables import Clusters, ScoreTable, tabulate
from seg_eval.analysis.verdict import (
    USEFUL,
    Caveat,
    Facts,
    RegionFacts,
    Rival,
    Verdict,
    judge,
)
from seg_eval.arms import Arm, floor_of
from seg_eval.scoring import (
    OFFICIAL,
    REGIONS,
    Conditions,
    Score,
    conditions,
    counted,
    voxel_volumes,
)
from synth3d.scoring import CONFIDENCE, FEW_CASES, FEWEST_CENTRES, FEWEST_TRAININGS

SCHEMA = 4
PLUMBING_TOLERANCE = 0.002
"""The real image through the export path may change the mean Dice by this much."""

FLOOR_VARIES = 0.1
"""Where the floor's Dice differs by more from training to training, its recovered share is luck."""

WEAK_DICE = 0.5
"""A segmenter below this with all real sequences says little about a better one."""

BENEFIT_SCORES = ("mae_tumour@own-scale", "ssim_tumour@own-scale", "psnr_tumour@own-scale")
"""Image scores, on the segmenter's scale, that are held against the Dice that stays lost."""

IMAGE_KEYS = ("case", "patient", "arm", "modality", "seed", "replicate")
"""Columns of ``image_scores.csv`` that are not scores."""


@dataclass(frozen=True)
class Question:
    """What an experiment asks of its rows.

    Attributes:
        arms: The arms, ``full`` and the floor among them; the first synthetic one is the primary.
        missing: The sequences that are missing, as ``t2f``, or the one that is degraded.
        empty: Rule for regions that a case does not have, of ``EMPTY_RULES``.
        margin: Mean Dice that may be lost and still be called not inferior to ``full``.
        degraded: ``ratio`` and ``profile`` of the thick slices; None where a sequence is missing.
        centres: Where each case was acquired, if that is known of all of them; else empty.
        folds: Of a cross-validation, by case whose networks judged it; else empty.
    """

    arms: Sequence[Arm]
    missing: Sequence[str] = ("t2f",)
    empty: str = "brats"
    margin: float = MARGIN
    degraded: Mapping[str, Any] | None = None
    centres: Mapping[str, str] = field(default_factory=dict)
    folds: Mapping[str, str] = field(default_factory=dict)

    @property
    def clusters(self) -> Clusters:
        """Which cases are alike: those of a fold, which share its networks, else of a centre."""
        return Clusters(self.folds or self.centres, bool(self.folds))

    @property
    def of_leads(self) -> float:
        """The confidence of leads: 95 % for all synthetic arms together (Bonferroni)."""
        count = sum(arm.about.group == "synthesis" for arm in self.arms)
        return 1 - (1 - CONFIDENCE) / max(count, 1)

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
    clusters = question.clusters
    tables = {name: tabulate(used, arms, [name], clusters=clusters) for name in names}
    crossed = {name: table.crossed() for name, table in tables.items()}
    floor = question.floor
    found = {name: recover(table, floor, crossed[name]) for name, table in tables.items()}
    regions = {
        name: summarise_region(
            [row for row in used if row.region == name], arms, floor, found[name], table
        )
        for name, table in tables.items()
    }
    synthetic = [arm.name for arm in arms if arm.about.group == "synthesis"]
    verdicts = tuple(judge(_gather(used, question, found, arm)) for arm in synthetic or [None])
    tests = compare_arms(tables, arms)
    table, scored = tabulate(used, arms, names, clusters=clusters), conditions(used)
    figures = {
        "schema": SCHEMA,
        "regions": regions,
        "tests": tests,
        "noninferiority": compare_with_full(tables, arms, crossed, question.margin),
        "power": [
            {"region": name, **row}
            for name, table in tables.items()
            for arm in synthetic[:1]
            for row in needed(table, found[name], floor, arm, regions[name]["best_cheap"])
        ],
        "images": _mean_images(images, arms),
        "image_benefit": _image_benefit(used, images, arms, verdicts[0].facts.defined or names),
        "plumbing": _check_plumbing(regions, arms),
        "absent": tell_absent(scores, arms, floor, clusters),
        **_volumes_and_groups(used, names, question),
        "intervals": _intervals(table, used, question),
        "primary": {
            "arm": verdicts[0].facts.arm,
            "regions": names,
            "margin": question.margin,
            "useful": USEFUL,
        },
        "voxel_mm3": voxel_volumes(used),
        **asdict(scored),
    }
    if replicates_of(used):
        figures["leads"] = leads({"mean": table, **tables}, arms)
    if table.clusters:
        whose = Counter(dict(zip(table.patients, table.clusters, strict=True)).values())
        named = "folds" if table.are_folds else "centres"
        figures["intervals"] |= {named: dict(sorted(whose.items()))}
    caveats = _caveats(table, regions, question)
    if family := hopeless(tests):
        caveats.append(Caveat("hopeless_tests", {"family": family}))
    return Findings(figures, verdicts, (*caveats, *_about_voxels(scored)))


def _intervals(table: ScoreTable, used: Sequence[Score], question: Question) -> dict[str, Any]:
    replicates = {name: _drawn(runs, table.are_folds) for name, runs in replicates_of(used).items()}
    return {
        "over": table.crossed().over,
        "unit": "patient",
        "seeds": list(table.seeds),
        "confidence": CONFIDENCE,
        "confidence_of_leads": question.of_leads,
        **({"replicates": replicates} if replicates else {}),
    }


def _volumes_and_groups(
    used: Sequence[Score], regions: Sequence[str], question: Question
) -> dict[str, Any]:
    arms, clusters = question.arms, question.clusters
    return {
        "volumes": volume_agreement(used, arms, regions, clusters),
        "loss_by_size": loss_by_size(used, arms, regions, clusters),
        "loss_by_centre": loss_by_centre(used, arms, regions, question.centres, clusters),
    }


def _about_voxels(scored: Conditions) -> list[Caveat]:
    found = []
    if scored.exceeds_tolerance:
        about = {"side": scored.longest_side_mm, "tolerance": scored.nsd_tolerance_mm}
        found.append(Caveat("large_voxels", about))
    if scored.lesion_rule != OFFICIAL:
        found.append(Caveat("other_lesion_rule", {}))
    return found


def replicates_of(scores: Sequence[Score]) -> dict[str, list[str]]:
    """By arm that is several trainings of one recipe, their names; nothing of other arms."""
    found: dict[str, dict[str, None]] = {}
    for row in scores:
        if row.replicate:
            found.setdefault(row.arm, {})[row.replicate] = None
    return {arm: list(names) for arm, names in found.items()}


def _drawn(names: Sequence[str], in_folds: bool) -> dict[str, Any]:
    over = "trainings" if len(names) >= FEWEST_TRAININGS else "these"
    return {"names": list(names), "over": "folds" if in_folds else over}


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
    table = tabulate(scores, question.arms, list(about), clusters=question.clusters)
    crossed = table.crossed()
    own = table.apart[name or question.floor]
    rivals = []
    for arm in question.arms:
        if arm.name != name and (arm.kind == question.floor or arm.about.compared):
            theirs = table.apart[arm.name]
            ahead = crossed.mean(own, question.of_leads, less=theirs)
            rivals.append(Rival(arm.name, arm.kind, ahead, float(theirs.mean())))
    mean = float(own.mean())
    return Facts(missing, name, mean, about, rivals, crossed.patients, degraded, kind)


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
    if len(table.seeds) < FEWEST_TRAININGS and not table.are_folds:
        found.append(
            Caveat("few_trainings", {"seeds": len(table.seeds), "least": FEWEST_TRAININGS})
        )
    if 0 < (count := len({*table.clusters})) < FEWEST_CENTRES:
        of = "folds" if table.are_folds else "centres"
        found.append(Caveat(f"few_{of}", {of: count, "least": FEWEST_CENTRES}))
    if table.are_folds and len({*question.centres.values()}) > 1:
        found.append(Caveat("centres_in_folds", {"centres": len({*question.centres.values()})}))
    for name, region in regions.items():
        if np.ptp(region["floor_per_seed"]) > FLOOR_VARIES:
            ends = {"low": min(region["floor_per_seed"]), "high": max(region["floor_per_seed"])}
            found.append(Caveat("floor_varies", {"region": name, "floor": question.floor, **ends}))
        if none := region["cases_without_region"]:
            about = {"region": name, "cases": none, "empty": question.empty}
            found.append(Caveat("without_region", about))
        if (dice := region["arms"]["full"]["dice"]) < WEAK_DICE:
            found.append(Caveat("weak_segmenter", {"region": name, "dice": dice}))
    filled_in = any(arm.kind == "synthetic" for arm in question.arms)
    if "t1c" in question.missing and filled_in:
        found.append(Caveat("contrast_agent", {}))
    return found
