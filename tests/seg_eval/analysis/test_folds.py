"""Folds of a cross-validation: their patients share networks, so they are clusters."""

from dataclasses import replace

import numpy as np
import pytest

from seg_eval.analysis.summary import Question, summarise
from synth3d.scoring import Crossed
from tests.seg_eval.analysis.test_summary import ARMS, make_scores

CASES = [f"c{i:02d}" for i in range(30)]


def folds(count):
    return {case: f"fold{i % count}" for i, case in enumerate(CASES)}


def rows(seeds=1, apart=0.04, count=5):
    """Dice of the arm differs from fold to fold, from patient to patient and by seed."""
    draw = np.random.default_rng(2)
    luck, own = draw.normal(0, apart, count), draw.normal(0, 0.02, len(CASES))
    return [
        replace(row, dice=row.dice + luck[i % count] + own[i] + 0.01 * row.seed)
        if row.arm == "agi" else row
        for row in make_scores(cases=len(CASES), seeds=seeds) for i in [CASES.index(row.case)]
    ]  # fmt: skip


def found(scores, **more):
    return summarise(scores, (), Question(ARMS, **more))


def loss(findings):
    return findings.figures["regions"]["WT"]["arms"]["agi"]["loss"]


def test_folds_are_clusters_and_what_was_trained_in_one_counts_as_its_mean():
    scores = rows(seeds=3)
    pooled = found(scores, folds=folds(5))
    table = np.array([
        [next(r.dice for r in scores if (r.arm, r.case, r.seed) == (arm, case, seed)) for seed in
         range(3)]
        for arm in ("full", "agi") for case in CASES
    ]).reshape(2, 30, 3)  # fmt: skip
    by_hand = Crossed(CASES, 1, "patients", [*folds(5).values()]).mean(
        (table[0] - table[1]).mean(1)
    )
    mine = loss(pooled)
    assert (mine["low"], mine["high"]) == pytest.approx((by_hand.low, by_hand.high))
    intervals = pooled.figures["intervals"]
    assert intervals["over"] == "folds"
    assert intervals["folds"] == {f"fold{i}": 6 for i in range(5)}
    assert "centres" not in intervals


def test_networks_that_differ_by_fold_make_intervals_wider_than_patients_alone():
    pooled, alone = found(rows(), folds=folds(5)), found(rows())
    width, less = (each["high"] - each["low"] for each in map(loss, (pooled, alone)))
    assert width > 1.3 * less
    these = pooled.figures["regions"]["WT"]["arms"]["agi"]["these_trainings"]["loss"]
    assert these["high"] - these["low"] == pytest.approx(less)
    assert loss(pooled)["value"] == pytest.approx(loss(alone)["value"])


@pytest.mark.parametrize(
    ("count", "over", "codes"),
    [(2, "patients", {"few_folds"}), (3, "folds", set()), (5, "folds", set())],
)
def test_two_folds_are_these_trainings_and_the_report_is_told(count, over, codes):
    pooled = found(rows(count=count), folds=folds(count))
    assert pooled.figures["intervals"]["over"] == over
    told = {caveat.code for caveat in pooled.caveats}
    assert told & {"few_folds", "few_trainings", "few_centres"} == codes


def test_an_arm_may_be_called_no_worse_over_folds_though_each_trained_once():
    scores = rows(apart=0.0)
    scores = [replace(r, dice=r.dice + 0.15) if r.arm == "agi" else r for r in scores]

    def passed(**more):
        each = found(scores, **more).figures["noninferiority"]
        return next(row["passed"] for row in each if row["arm"] == "agi")

    assert passed(folds=folds(5)) is True
    assert passed(folds=folds(2)) is None
    assert passed() is None


def test_centres_are_still_told_apart_and_that_they_are_no_clusters_is_said():
    where = {case: "north" if i < 12 else "south" for i, case in enumerate(CASES)}
    pooled = found(rows(), folds=folds(5), centres=where)
    assert {row["centre"] for row in pooled.figures["loss_by_centre"]} == {"north", "south"}
    assert {"centres_in_folds"} <= {caveat.code for caveat in pooled.caveats}
    assert pooled.figures["intervals"]["over"] == "folds"
