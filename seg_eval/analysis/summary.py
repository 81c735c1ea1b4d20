"""From score rows to what they mean: means, recovery, tests, checks, decisions.

All figures end in plain JSON values, the keys of ``summary.json`` (``docs/summary-schema.md``) that
hold no sentence; :mod:`seg_eval.report` adds those.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from seg_eval.analysis.absent import tell_absent
from seg_eval.analysis.agreement import volume_agreement
from seg_eval.analysis.caveats import (
    Caveat,
    of_contrast,
    of_copies,
    of_regions,
    of_sample,
    of_twins,
    of_voxels,
)
from seg_eval.analysis.comparisons import (
    compare_arms,
    compare_with_full,
    hopeless,
    leads,
    of_synthesis,
)
from seg_eval.analysis.power import needed
from seg_eval.analysis.recovery import Recovery
from seg_eval.analysis.region import recover, summarise_region
from seg_eval.analysis.significance import MARGIN, by_patient
from seg_eval.analysis.strata import loss_by_centre, loss_by_size
from seg_eval.analysis.tables import Clusters, ScoreTable, tabulate
from seg_eval.analysis.verdict import (
    USEFUL,
    Facts,
    RegionFacts,
    Rival,
    Verdict,
    judge,
)
from seg_eval.arms import Arm, floor_of
from seg_eval.scoring import (
    REGIONS,
    Score,
    conditions,
    counted,
    voxel_volumes,
)
from synth3d.scoring import CONFIDENCE, FEWEST_TRAININGS

SCHEMA = 6
PLUMBING_TOLERANCE = 0.002
"""The real image through the export path may change the mean Dice by this much."""

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
        regions: Those that are judged, of :data:`REGIONS`; all others are exploratory.
        folds: Of a cross-validation, by case whose networks judged it; else empty.
    """

    arms: Sequence[Arm]
    missing: Sequence[str] = ("t2f",)
    empty: str = "brats"
    margin: float = MARGIN
    degraded: Mapping[str, Any] | None = None
    centres: Mapping[str, str] = field(default_factory=dict)
    regions: Sequence[str] = REGIONS
    folds: Mapping[str, str] = field(default_factory=dict)

    @property
    def clusters(self) -> Clusters:
        """Which cases are alike: those of a fold, which share its networks, else of a centre."""
        return Clusters(self.folds or self.centres, bool(self.folds))

    @property
    def of_leads(self) -> float:
        """The confidence of leads: 95 % for all synthetic arms together (Bonferroni).

        Each is held against what is no synthesis, and against every other: whichever are more.
        """
        count = len(of_synthesis(self.arms))
        return 1 - (1 - CONFIDENCE) / max(count, count * (count - 1) // 2, 1)

    @property
    def floor(self) -> str:
        """The arm that recovers nothing by definition."""
        return floor_of(self.degraded is not None)


@dataclass(frozen=True)
class Findings:
    """What the rows mean, without words.

    The figures are the keys of ``summary.json`` that hold no sentence. There is a verdict for each
    synthetic arm, the first of the primary; one without any. ``exploratory`` has the facts of the
    regions that no verdict is about, with the arm of the first.
    """

    figures: dict[str, Any]
    verdicts: tuple[Verdict, ...]
    caveats: tuple[Caveat, ...]
    exploratory: Facts


def summarise(
    scores: Sequence[Score], images: Sequence[Mapping[str, Any]], question: Question
) -> Findings:
    """The meaning of an experiment's rows, at least one of which counts.

    Raises:
        ValueError: An arm lacks cases or seeds, or no region in question has rows.
    """
    arms = question.arms
    used = counted(scores, question.empty)
    names = [name for name in REGIONS if any(row.region == name for row in used)]
    clusters, floor = question.clusters, question.floor
    tables = {name: tabulate(used, arms, [name], clusters=clusters) for name in names}
    crossed = {name: table.crossed() for name, table in tables.items()}
    found = {name: recover(table, floor, crossed[name]) for name, table in tables.items()}
    regions = {
        name: summarise_region(
            [row for row in used if row.region == name], arms, floor, found[name], table
        )
        for name, table in tables.items()
    }
    synthetic = [arm.name for arm in of_synthesis(arms)]
    judged = {name: found[name] for name in names if name in question.regions}
    if not judged:
        raise ValueError(f"no rows of {' or '.join(question.regions)}")
    verdicts = tuple(judge(_gather(used, question, judged, arm)) for arm in synthetic or [None])
    tests = compare_arms({name: tables[name] for name in judged}, arms)
    table, scored = tabulate(used, arms, names, clusters=clusters), conditions(used)
    figures = {
        "schema": SCHEMA,
        "regions": regions,
        "tests": tests,
        "noninferiority": compare_with_full(tables, arms, crossed, question.margin, [*judged]),
        "power": [
            {"region": name, **row}
            for name, table in tables.items()
            for arm in synthetic[:1]
            for row in needed(table, found[name], floor, arm, regions[name]["best_cheap"])
        ],
        "images": _mean_images(images, arms),
        "image_benefit": _image_benefit(used, images, arms, verdicts[0].facts.defined or [*judged]),
        "plumbing": _check_plumbing(regions, arms),
        "absent": tell_absent(scores, arms, floor, clusters),
        **_volumes_and_groups(used, names, question),
        "intervals": _intervals(table, used, question),
        "primary": _fixed(verdicts[0].facts.arm, [*judged], question.margin),
        "voxel_mm3": voxel_volumes(used),
        **asdict(scored),
    }
    if len(synthetic) > 1 or (synthetic and replicates_of(used)):
        mean = tabulate(used, arms, [*judged], clusters=clusters)
        figures["leads"] = leads({"mean": mean, **tables}, arms, question.of_leads)
    figures["intervals"] |= _sizes(table)
    caveats = [
        *of_copies(images, arms),
        *of_twins(images, arms),
        *of_sample(table, question.centres),
        *of_regions(regions, floor, question.empty),
        *of_contrast(arms, question.missing),
        *([Caveat("hopeless_tests", {"family": family})] if (family := hopeless(tests)) else []),
        *of_voxels(scored),
    ]
    beside = {name: arms for name, arms in found.items() if name not in judged}
    exploratory = replace(verdicts[0].facts, regions=_about(beside, floor, verdicts[0].facts.arm))
    return Findings(figures, verdicts, tuple(caveats), exploratory)


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


def _fixed(arm: str | None, regions: Sequence[str], margin: float) -> dict[str, Any]:
    """What was fixed before anything was scored."""
    return {"arm": arm, "regions": [*regions], "margin": margin, "useful": USEFUL}


def _sizes(table: ScoreTable) -> dict[str, Any]:
    """Patients of each fold or centre, where they are known."""
    if not table.clusters:
        return {}
    whose = Counter(table.by_patient.values())
    return {"folds" if table.are_folds else "centres": dict(sorted(whose.items()))}


def _volumes_and_groups(
    used: Sequence[Score], regions: Sequence[str], question: Question
) -> dict[str, Any]:
    arms, clusters = question.arms, question.clusters
    return {
        "volumes": volume_agreement(used, arms, regions, clusters),
        "loss_by_size": loss_by_size(used, arms, regions, clusters),
        "loss_by_centre": loss_by_centre(used, arms, regions, question.centres, clusters),
    }


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
    missing, about = question.missing, _about(found, question.floor, name)
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


def _about(
    found: Mapping[str, Mapping[str, Recovery]], floor: str, name: str | None
) -> dict[str, RegionFacts]:
    """Each region, for the arm of that name or for none."""
    about = {}
    for region, arms in found.items():
        lost, own = arms[floor], arms[name] if name else None
        share, loss, gain = (own.ratio, own.loss, own.gain) if own else (None, None, None)
        about[region] = RegionFacts(lost.gap, lost.reason, share, loss, arms["full"].arm, gain)
    return about


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
