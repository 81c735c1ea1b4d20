import dataclasses
import json

import numpy as np
import pytest

from seg_eval.analysis.summary import Question, summarise
from seg_eval.arms.kinds import ARM_KINDS, Arm, ArmKind
from seg_eval.scoring.scores import METRICS, Score

MEANS = {"full": 0.9, "zero": 0.3, "copy": 0.4, "ridge": 0.6, "agi": 0.75, "plumbing": 0.9}
ARMS = [Arm(name, "synthetic" if name == "agi" else name) for name in MEANS]
GAN = [*ARMS, Arm("gan", "synthetic")]


def make_score(case, arm, dice, region="WT", seed=0, patient=None, voxels=10):
    return Score(
        case, patient or f"p{case}", arm, seed, region, dice,
        hd95_mm=30 * (1 - dice), nsd=dice, lesion_dice=dice, lesion_hd95_mm=40 * (1 - dice),
        lesions=1, found_lesions=1, false_lesions=0, sensitivity=dice, precision=None,
        reference_ml=voxels / 1000, predicted_ml=0.009, volume_error_ml=0.009 - voxels / 1000,
        reference_voxels=voxels, predicted_voxels=9,
        nsd_tolerance_mm=1.0, lesion_rule="brats-2023", longest_side_mm=1.0,
    )  # fmt: skip


def make_scores(means=MEANS, cases=6, wobble=0.01, region="WT", seeds=1):
    return [
        make_score(f"c{i:02d}", arm, mean + wobble * (i % 3 - 1) + 0.002 * seed, region, seed)
        for arm, mean in means.items()
        for i in range(cases)
        for seed in range(seeds)
    ]


def find(scores, images=(), arms=ARMS, **more):
    return summarise(scores, images, Question(arms, **more))


def find_means(cases=6, seeds=1, **changed):
    return find(make_scores({**MEANS, **changed}, cases=cases, seeds=seeds))


def figures(scores, **more):
    return find(scores, **more).figures


def changed(scores, wanted, **changes):
    """The rows, those that are ``wanted`` with other values."""
    return [dataclasses.replace(s, **changes) if wanted(s) else s for s in scores]


def caveats(findings):
    """Codes and figures of what limits the conclusions."""
    return {caveat.code: caveat.figures for caveat in findings.caveats}


def test_recovery_and_dice_stand_beside_each_other():
    region = find_means().figures["regions"]["WT"]
    assert region["arms"]["agi"]["dice"] == pytest.approx(0.75)
    assert region["arms"]["agi"]["recovery"]["value"] == pytest.approx(0.75)
    assert region["arms"]["agi"]["loss"]["value"] == pytest.approx(0.15)
    assert region["gap_defined"]


def test_beside_the_share_of_the_blanks_loss_stands_that_of_what_cheap_arms_leave():
    region = find_means(cases=15).figures["regions"]["WT"]
    assert region["best_cheap"] == "ridge"  # 0.6 of 0.9, and agi is 0.75
    beyond = region["arms"]["agi"]["beyond_cheap"]
    assert beyond["lead"]["value"] == pytest.approx(0.15)
    assert beyond["left"]["value"] == pytest.approx(0.3)
    assert beyond["recovery"]["value"] == pytest.approx(0.5)
    assert region["arms"]["ridge"]["beyond_cheap"]["recovery"]["value"] == 0
    close = find_means(cases=15, ridge=0.89).figures["regions"]["WT"]["arms"]["agi"]["beyond_cheap"]
    assert (close["recovery"], close["reason"]) == (None, "small_gap")


def test_from_three_trainings_both_kinds_of_interval_stand_side_by_side():
    """Trainings that differ by as much as the second half of their Dice."""
    shift = {0: -0.05, 1: 0.0, 2: 0.05}
    scores = [
        dataclasses.replace(s, dice=s.dice + (shift[s.seed] if s.arm == "agi" else 0))
        for s in make_scores(cases=15, seeds=3)
    ]
    found = figures(scores)
    arm = found["regions"]["WT"]["arms"]["agi"]
    assert found["intervals"]["over"] == "trainings"
    width, these = (
        each["high"] - each["low"] for each in (arm["loss"], arm["these_trainings"]["loss"])
    )
    assert width > 5 * these
    assert arm["loss"]["freedom"] < 3 < arm["these_trainings"]["loss"]["freedom"]
    two = figures([s for s in scores if s.seed < 2])
    assert two["intervals"]["over"] == "patients"
    assert two["regions"]["WT"]["arms"]["agi"]["these_trainings"] is None


def test_a_floor_that_is_the_trainings_luck_is_a_caveat():
    scores = make_scores(cases=15, seeds=3)
    luck = [
        dataclasses.replace(s, dice=0.1 * s.seed) if s.arm == "zero" else s for s in scores
    ]  # fmt: skip
    found = caveats(find(luck))["floor_varies"]
    assert (found["region"], found["low"], found["high"]) == ("WT", 0.0, pytest.approx(0.2))
    assert "floor_varies" not in caveats(find(scores))


def test_empty_masks_are_counted_and_leave_distances_alone():
    scores = changed(
        make_scores(cases=4, seeds=2), lambda s: (s.arm, s.case) == ("agi", "c00"),
        predicted_voxels=0, hd95_mm=374.0,
    )  # fmt: skip
    scores = changed(scores, lambda s: s.case == "c03", reference_voxels=0, hd95_mm=374.0)
    found = figures(scores)["regions"]["WT"]["arms"]["agi"]
    assert found["masks"] == {"of": 8, "missed": 2, "false_alarms": 2, "absent": 2}
    rest = [s.hd95_mm for s in scores if s.arm == "agi" and s.case in ("c01", "c02")]
    assert found["metrics"]["hd95_mm"]["mean"] == pytest.approx(np.mean(rest))
    assert found["metrics"]["hd95_mm"]["n"] == 2


def test_one_patient_that_carries_the_mean_shows_in_its_range():
    scores = changed(
        make_scores(cases=5, wobble=0), lambda s: (s.arm, s.case) == ("agi", "c00"), dice=0.0
    )
    loss = figures(scores)["regions"]["WT"]["arms"]["agi"]["loss"]
    assert loss["value"] == pytest.approx((4 * 0.15 + 0.9) / 5)
    assert loss["median"] == pytest.approx(0.15)
    assert loss["without_one"] == [pytest.approx(0.15), pytest.approx((3 * 0.15 + 0.9) / 4)]
    assert loss["patients_above"] == {"loss": 0.05, "patients": 5}


def test_scores_are_described_over_cases_after_their_seeds_are_averaged():
    scores = changed(
        make_scores(cases=2, wobble=0, seeds=2),
        lambda s: (s.arm, s.case, s.seed) == ("agi", "c00", 1), dice=1.0,
    )  # fmt: skip
    found = figures(scores)["regions"]["WT"]["arms"]["agi"]["metrics"]
    dice = found["dice"]
    by_case = [(0.75 + 1.0) / 2, (0.75 + 0.752) / 2]
    assert dice["mean"] == pytest.approx(np.mean(by_case))
    assert dice["median"] == pytest.approx(np.median(by_case))
    assert dice["sd"] == pytest.approx(np.std(by_case, ddof=1))
    assert dice["per_seed"] == pytest.approx([0.75, 0.876])
    assert dice["n"] == 2
    assert dice["low"] <= dice["mean"] <= dice["high"]
    nothing = dict.fromkeys(("mean", "median", "sd", "low", "high"))
    assert found["precision"] == nothing | {"n": 0, "per_seed": [None, None]}
    assert list(found) == list(METRICS)


def test_a_score_that_some_cases_lack_is_averaged_over_the_others_and_plain_json():
    scores = changed(make_scores(), lambda s: s.case == "c00", sensitivity=None, precision=0.5)
    summary = figures(scores)
    found = summary["regions"]["WT"]["arms"]["full"]["metrics"]
    rest = [s.dice for s in scores if s.arm == "full" and s.case != "c00"]
    assert found["sensitivity"]["n"] == 5
    assert found["sensitivity"]["mean"] == pytest.approx(np.mean(rest))
    precision = found["precision"]
    assert (precision["mean"], precision["high"], precision["n"]) == (0.5, 0.5, 1)
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(
    ("means", "decision", "finding"),
    [({}, ("yes", None), "ahead"), ({"agi": 0.5}, ("no", "ridge"), "cheap_better"),
     ({"agi": 0.6}, ("no", "ridge"), "no_better"), ({"zero": 0.9}, ("nothing to win", None), "")],
)  # fmt: skip
def test_synthesis_is_judged_by_its_means(means, decision, finding):
    findings = find_means(cases=15, **means)
    (verdict,) = findings.verdicts
    assert (verdict.worth, verdict.better and verdict.better.name) == decision
    assert (verdict.facts.arm, verdict.finding) == ("agi", finding)
    has_gap = "zero" not in means
    recovered = findings.figures["regions"]["WT"]["arms"]["agi"]["recovery"]
    assert (recovered is not None) == has_gap


def test_without_a_synthesiser_the_experiment_still_means_something():
    arms = [arm for arm in ARMS if arm.kind != "synthetic"]
    findings = find(make_scores(cases=15), arms=arms)
    (verdict,) = findings.verdicts
    assert (verdict.reason, verdict.advice.arm.name) == ("no_synthesis", "ridge")
    assert verdict.advice.arm.ahead.value == pytest.approx(-0.3)
    assert findings.figures["tests"] == []
    assert findings.figures["noninferiority"] != []


def test_leads_are_over_all_regions_whatever_the_data_say_of_them():
    worse_there = make_scores({**MEANS, "zero": 0.9, "agi": 0.2}, cases=15, region="TC")
    findings = find([*make_scores(cases=15), *worse_there])
    (verdict,) = findings.verdicts
    assert (verdict.facts.defined, verdict.facts.harmed) == (["WT"], ["TC"])
    assert verdict.facts.mean == pytest.approx((0.75 + 0.2) / 2)
    assert verdict.facts.floor.ahead.value == pytest.approx((0.45 - 0.7) / 2)
    assert findings.figures["primary"]["regions"] == ["WT", "TC"]


def test_tests_are_corrected_over_regions_and_comparisons():
    scores = [*make_scores(cases=6), *make_scores(cases=6, region="ET")]
    rows = figures(scores)["tests"]
    assert [(r["region"], r["against"], r["alternative"]) for r in rows] == [
        (name, *against)
        for name in ("WT", "ET")
        for against in (
            ("zero", "greater"), ("copy", "greater"), ("ridge", "greater"), ("full", "two-sided")
        )
    ]  # fmt: skip
    assert rows[0]["p"] == pytest.approx(1 / 64)
    assert rows[3]["p"] == pytest.approx(2 / 64)
    assert rows[0]["p_holm"] == pytest.approx(8 / 64)  # the smallest of eight
    assert rows[3]["p_holm"] == pytest.approx(8 / 64)  # never below the one before it
    assert not rows[0]["significant"]
    assert rows[0]["mean_difference"] == pytest.approx(0.45)


def test_synthetic_arms_are_one_family_and_the_first_is_the_question():
    found, alone = find(make_scores({**MEANS, "gan": 0.7}), arms=GAN), find_means()
    rows, fewer = found.figures["tests"], alone.figures["tests"]
    assert len(rows) == 2 * len(fewer)
    assert rows[0]["p"] == fewer[0]["p"]
    assert rows[0]["p_holm"] == pytest.approx(2 * fewer[0]["p_holm"])
    assert [verdict.facts.arm for verdict in found.verdicts] == ["agi", "gan"]
    assert found.figures["primary"]["arm"] == "agi"
    scores = make_scores({**MEANS, "gan": 0.7})
    uneven = changed(scores, lambda s: (s.arm, s.case) == ("agi", "c00"), dice=0.7)
    leads = [find(uneven, arms=arms).verdicts[0].facts.floor.ahead for arms in (ARMS, GAN)]
    assert leads[0].value == pytest.approx(leads[1].value)
    assert leads[1].high - leads[1].low > 1.05 * (leads[0].high - leads[0].low)
    told = [each.figures["intervals"]["confidence_of_leads"] for each in (alone, found)]
    assert told == [pytest.approx(0.95), pytest.approx(0.975)]


def led(found):
    """The leads of the mean over regions."""
    return [row for row in found["leads"] if row["region"] == "mean"]


def test_the_lead_over_a_cheap_arm_is_that_of_the_verdict():
    scores = changed(make_scores({**MEANS, "gan": 0.7}), lambda s: s.case == "c00", dice=0.7)
    found = find(scores, arms=GAN)
    told = {(row["arm"], row["against"]): row["lead"] for row in led(found.figures)}
    for rival in found.verdicts[0].facts.rivals:
        if (pair := ("agi", rival.name)) in told:
            assert told[pair]["low"] == pytest.approx(rival.ahead.low)
    assert {("agi", "copy"), ("agi", "ridge"), ("gan", "copy")} <= {*told}
    assert all(row["proven"] is None for row in found.figures["leads"] if row["region"] != "mean")


@pytest.mark.parametrize(("agi", "gan", "first"), [(0.75, 0.7, "agi"), (0.7, 0.75, "gan")])
def test_of_two_synthetic_arms_the_better_one_is_named_first_with_its_paired_lead(agi, gan, first):
    scores = make_scores({**MEANS, "agi": agi, "gan": gan}, cases=15)
    scores = changed(scores, lambda s: s.case == "c00" and s.arm == first, dice=0.8)
    pair = led(figures(scores, arms=GAN))[0]
    assert {pair["arm"], pair["against"]} == {"agi", "gan"}
    assert pair["arm"] == first
    assert pair["lead"]["value"] == pytest.approx((14 * 0.05 + 0.8 - 0.69) / 15)
    assert pair["lead"]["median"] == pytest.approx(0.05)
    assert pair["proven"]
    few = led(figures([s for s in scores if s.case != "c14"], arms=GAN))[0]
    assert few["lead"]["low"] > 0
    assert not few["proven"]
    assert "leads" not in figures(make_scores(cases=15))


def test_a_lead_that_patients_do_not_agree_on_is_not_proven():
    scores = make_scores({**MEANS, "agi": 0.75, "gan": 0.7}, cases=16)
    torn = changed(scores, lambda s: s.arm == "gan" and s.case < "c08", dice=0.79)
    pair = led(figures(torn, arms=GAN))[0]
    assert pair["lead"]["low"] < 0 < pair["lead"]["value"]
    assert not pair["proven"]


def test_with_many_synthetic_arms_their_pairs_are_the_larger_family():
    means = {**MEANS, "gan": 0.7, "c": 0.6, "d": 0.5}
    arms = [*GAN, Arm("c", "synthetic"), Arm("d", "synthetic")]
    found = figures(make_scores(means, cases=15), arms=arms)
    pairs = [(row["arm"], row["against"]) for row in led(found)]
    assert [pair for pair in pairs if pair[1] in means and pair[1] not in ("copy", "ridge")] == [
        ("agi", "gan"), ("agi", "c"), ("agi", "d"), ("gan", "c"), ("gan", "d"), ("c", "d"),
    ]  # fmt: skip
    assert found["intervals"]["confidence_of_leads"] == pytest.approx(1 - 0.05 / 6)


def test_non_inferiority_has_the_margin_that_was_asked_for():
    scores = make_scores({**MEANS, "agi": 0.87}, cases=15, seeds=3)
    by_arm = {row["arm"]: row for row in figures(scores, margin=0.05)["noninferiority"]}
    assert (by_arm["agi"]["passed"], by_arm["ridge"]["passed"]) == (True, False)
    for less in ({"cases": 14, "seeds": 3}, {"cases": 15, "seeds": 2}):
        few = figures(make_scores({**MEANS, "agi": 0.87}, **less), margin=0.05)["noninferiority"]
        assert {row["passed"] for row in few} == {None}
    assert by_arm["agi"]["margin"] == 0.05
    assert set(by_arm) == {"copy", "ridge", "agi"}


def test_only_judged_regions_decide_and_the_others_are_exploratory():
    """Synthesis is far ahead in WT, and harms ET, in which nothing is lost without it."""
    won = make_scores(cases=20, seeds=3)
    harmed = make_scores({**dict.fromkeys(MEANS, 0.9), "agi": 0.6}, 20, region="ET", seeds=3)
    both = [*won, *harmed]
    alone, every, one = find(won), find(both), find(both, regions=("WT",))
    assert every.verdicts[0].worth != one.verdicts[0].worth == alone.verdicts[0].worth == "yes"
    assert one.verdicts[0].facts.rivals == alone.verdicts[0].facts.rivals
    assert one.figures["primary"]["regions"] == ["WT"]
    assert [*one.exploratory.regions] == ["ET"]
    assert one.exploratory.harmed == ["ET"]
    assert not every.exploratory.regions
    rows = {
        (row["region"], row["arm"]): row for row in one.figures["noninferiority"]
    }  # fmt: skip
    of_alone = {row["arm"]: row for row in alone.figures["noninferiority"]}
    assert all(rows["WT", arm] == row for arm, row in of_alone.items())
    assert {row["passed"] for (region, _), row in rows.items() if region == "ET"} == {None}
    assert {row["passed"] for row in every.figures["noninferiority"]} == {True, False}
    with pytest.raises(ValueError, match="no rows of TC"):
        find(both, regions=("TC",))


@pytest.mark.parametrize(("change", "passed"), [(0.0019, True), (-0.0019, True), (0.0021, False)])
def test_plumbing_may_change_dice_by_two_thousandths(change, passed):
    assert find_means(plumbing=0.9 + change).figures["plumbing"]["passed"] is passed
    assert figures(make_scores(), arms=ARMS[:-1])["plumbing"] is None


def test_few_patients_one_seed_and_a_weak_segmenter_are_caveats():
    found = caveats(find_means(cases=7, full=0.4))
    assert list(found) == ["few_patients", "few_trainings", "weak_segmenter"]
    assert found["few_patients"] == {"cases": 7, "patients": 7, "enough": 15}
    assert found["weak_segmenter"]["region"] == "WT"
    assert caveats(find_means(cases=15, seeds=3)) == {}


def test_voxels_longer_than_the_tolerance_of_the_surface_distance_are_a_caveat():
    scores = make_scores(cases=15, seeds=3)
    sizes = {"reference_ml": 0.08, "predicted_ml": 0.072, "longest_side_mm": 2.0}
    at_2_mm = changed(scores, lambda s: True, **sizes)
    findings = find(at_2_mm)
    assert findings.figures["voxel_mm3"] == [8.0, 8.0]
    assert caveats(findings) == {"large_voxels": {"side": 2.0, "tolerance": 1.0}}
    assert caveats(find(changed(at_2_mm, lambda s: True, nsd_tolerance_mm=2.0))) == {}
    empty = changed(at_2_mm, lambda s: True, reference_voxels=0, predicted_voxels=0)
    assert figures(empty)["voxel_mm3"] == []


def test_one_case_of_other_voxels_makes_lesion_scores_ours():
    scores = make_scores(cases=15, seeds=3)
    assert figures(scores)["lesion_rule"] == "brats-2023"
    mixed = find(changed(scores, lambda s: s.case == "c03", lesion_rule="ours"))
    assert mixed.figures["lesion_rule"] == "ours"
    assert caveats(mixed) == {"other_lesion_rule": {}}


def test_tests_that_cannot_succeed_are_a_caveat():
    assert caveats(find_means(cases=5, seeds=3))["hopeless_tests"] == {"family": 4}
    seven = find_means(cases=7, seeds=3)
    assert "hopeless_tests" not in caveats(seven)
    assert min(row["p_holm"] for row in seven.figures["tests"]) < 0.05


def test_patients_are_counted_not_cases():
    scores = [dataclasses.replace(s, patient=s.case[-1:]) for s in make_scores(cases=20, seeds=3)]
    findings = find(scores)
    assert caveats(findings)["few_patients"] == {"cases": 20, "patients": 10, "enough": 15}
    assert findings.verdicts[0].facts.is_hint
    assert findings.figures["regions"]["WT"]["patients"] == 10
    (one,) = find_means(cases=1).verdicts
    assert (one.reason, one.facts.regions["WT"].no_ratio) == ("unknown_loss", "one_patient")


def test_regions_that_cases_lack_are_named_or_left_out():
    scores = make_scores(cases=15, seeds=3)
    scores = changed(scores, lambda s: s.case == "c01", reference_voxels=0)
    kept = find(scores)
    assert kept.figures["regions"]["WT"]["cases_without_region"] == ["c01"]
    without = {"region": "WT", "cases": ["c01"], "empty": "brats"}
    assert caveats(kept)["without_region"] == without
    left_out = find(scores, empty="skip")
    assert left_out.figures["regions"]["WT"]["cases"] == 14
    assert caveats(left_out)["few_patients"]["cases"] == 14


def test_a_missing_contrast_agent_is_a_caveat_of_synthesis():
    scores = make_scores(cases=15, seeds=3)
    assert list(caveats(find(scores, missing=("t1c",)))) == ["contrast_agent"]
    without = [arm for arm in ARMS if arm.kind != "synthetic"]
    assert not caveats(find(scores, arms=without, missing=("t1c",)))


def test_a_new_kind_of_arm_is_compared_tested_and_averaged_by_its_record(monkeypatch):
    toy = ArmKind("toy", "voxel-wise", "{missing} by a toy", "a toy", tested="greater")
    monkeypatch.setitem(ARM_KINDS, "toy", toy)
    scores = make_scores({**MEANS, "toy": 0.8}, cases=15)
    findings = find(scores, image_rows(15, "toy"), arms=[*ARMS, Arm("toy", "toy")])
    assert findings.verdicts[0].better.name == "toy"
    assert {r["against"] for r in findings.figures["tests"]} == {
        "zero",
        "copy",
        "ridge",
        "toy",
        "full",
    }
    assert {r["arm"] for r in findings.figures["noninferiority"]} >= {"toy"}
    assert {r["arm"] for r in findings.figures["image_benefit"]} == {"toy"}


SCORES = make_scores(seeds=2)


@pytest.mark.parametrize(
    ("scores", "told"),
    [(SCORES[:-2], r"no score for arm and case \('plumbing', 'c05'\) with seed 0"),
     (SCORES[:-1], "with seed 1"), ([*SCORES, SCORES[0]], "two scores for full, c00, seed 0")],
)  # fmt: skip
def test_rows_that_are_not_one_for_each_case_and_seed_are_an_error(scores, told):
    with pytest.raises(ValueError, match=told):
        find(scores)


def image_rows(cases=6, arm="agi"):
    return [
        {"case": f"c{i:02d}", "patient": f"pc{i:02d}", "arm": arm, "modality": "t2f",
         "psnr_brain@own-scale": 20.0 + i if i else None, "ssim_brain@own-scale": None,
         "mae_tumour@own-scale": 0.1 + 0.01 * i}
        for i in range(cases)
    ]  # fmt: skip


def test_image_scores_are_averaged_over_cases_that_have_them():
    means = figures(make_scores(), images=image_rows())["images"]["agi"]
    assert means == {
        "psnr_brain@own-scale": 23.0,
        "ssim_brain@own-scale": None,
        "mae_tumour@own-scale": pytest.approx(0.125),
    }


def test_image_error_is_held_against_the_dice_that_stays_lost_where_there_is_a_gap():
    free = make_scores({**MEANS, "zero": 0.9}, wobble=0, region="TC")
    scores = [
        dataclasses.replace(s, dice=0.6 + {"WT": -0.02, "TC": 0.05}[s.region] * int(s.case[1:]))
        if s.arm == "agi" else s
        for s in [*make_scores(wobble=0), *free]
    ]  # fmt: skip
    (row,) = figures(scores, images=image_rows())["image_benefit"]
    assert (row["arm"], row["score"], row["n"]) == ("agi", "mae_tumour@own-scale", 6)
    assert row["spearman"] == pytest.approx(1)


def test_no_correlation_is_claimed_of_few_or_equal_values():
    few = figures(make_scores(cases=4), images=image_rows(4))["image_benefit"]
    assert few == [
        {"arm": "agi", "score": "mae_tumour@own-scale", "against": "dice_loss"}
        | {"spearman": None, "n": 4, "p": None}
    ]
    equal = [row | {"mae_tumour@own-scale": 0.1} for row in image_rows()]
    found = figures(make_scores(), images=equal)["image_benefit"]
    assert found[0]["spearman"] is None
