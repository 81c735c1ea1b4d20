import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from seg_eval.analysis.summary import summarise
from seg_eval.analysis.tables import ABOUT_KINDS, tabulate
from seg_eval.arms import kinds as real_arms
from seg_eval.scoring.scores import METRICS, Score

SCHEMA = Path(__file__).parents[3] / "docs" / "summary-schema.md"


@dataclass(frozen=True)
class Arm:
    name: str
    kind: str
    segmenter: str = "frozen"


MEANS = {"full": 0.9, "zero": 0.3, "copy": 0.4, "ridge": 0.6, "agi": 0.75, "plumbing": 0.9}
ARMS = [Arm(name, "synthetic" if name == "agi" else name) for name in MEANS]
ALL_ARMS = [*ARMS, Arm("template", "template"), Arm("boosted", "boosted"), Arm("gan", "synthetic")]
ALL_ARMS += [Arm(kind, kind, kind) for kind in ("specialist", "dropout", "retrained")]


def make_score(case, arm, dice, region="WT", seed=0, patient=None, voxels=10):
    return Score(
        case, patient or f"p{case}", arm, seed, region, dice,
        hd95_mm=30 * (1 - dice), nsd=dice, lesion_dice=dice, lesion_hd95_mm=40 * (1 - dice),
        lesions=1, found_lesions=1, false_lesions=0, sensitivity=dice, precision=None,
        reference_ml=voxels / 1000, predicted_ml=0.009, volume_error_ml=0.009 - voxels / 1000,
        reference_voxels=voxels, predicted_voxels=9,
    )  # fmt: skip


def make_scores(means=MEANS, cases=6, wobble=0.01, region="WT", seeds=1):
    return [
        make_score(f"c{i:02d}", arm, mean + wobble * (i % 3 - 1) + 0.002 * seed, region, seed)
        for arm, mean in means.items()
        for i in range(cases)
        for seed in range(seeds)
    ]


def summarise_means(cases=6, seeds=1, **changed):
    scores = make_scores({**MEANS, **changed}, cases=cases, seeds=seeds)
    return summarise(scores, [], ARMS, resamples=500)


def test_recovery_and_dice_stand_beside_each_other():
    region = summarise_means()["regions"]["WT"]
    assert region["arms"]["agi"]["dice"] == pytest.approx(0.75)
    assert region["arms"]["agi"]["recovery"]["value"] == pytest.approx(0.75)
    assert region["arms"]["agi"]["loss"]["value"] == pytest.approx(0.15)
    assert region["arms"]["agi"]["hd95_recovery"]["value"] == pytest.approx(0.75)
    assert region["gap_defined"]


def test_scores_are_described_over_cases_after_their_seeds_are_averaged():
    scores = [
        make_score("a", arm, dice + (0.3 if arm == "agi" else 0) * seed, seed=seed)
        if case == "a"
        else make_score("b", arm, dice, seed=seed)
        for arm, dice in MEANS.items()
        for case in "ab"
        for seed in (0, 1)
    ]
    scores = [dataclasses.replace(s, dice=min(s.dice, 1.0)) for s in scores]
    found = summarise(scores, [], ARMS, resamples=50)["regions"]["WT"]["arms"]["agi"]["metrics"]
    dice = found["dice"]
    by_case = [(0.75 + 1.0) / 2, 0.75]
    assert dice["mean"] == pytest.approx(np.mean(by_case))
    assert dice["median"] == pytest.approx(np.median(by_case))
    assert dice["sd"] == pytest.approx(np.std(by_case, ddof=1))
    assert dice["per_seed"] == pytest.approx([0.75, 0.875])
    assert dice["n"] == 2
    assert dice["low"] <= dice["mean"] <= dice["high"]
    assert found["precision"] == {
        "mean": None, "median": None, "sd": None, "low": None, "high": None, "n": 0,
        "per_seed": [None, None],
    }  # fmt: skip
    assert list(found) == list(METRICS)


def test_a_score_that_some_cases_lack_is_averaged_over_the_others():
    scores = [
        dataclasses.replace(s, sensitivity=None) if s.case == "c00" else s for s in make_scores()
    ]
    found = summarise(scores, [], ARMS, resamples=50)["regions"]["WT"]["arms"]["full"]["metrics"]
    assert found["sensitivity"]["n"] == 5
    rest = [s.dice for s in scores if s.arm == "full" and s.case != "c00"]
    assert found["sensitivity"]["mean"] == pytest.approx(np.mean(rest))


def test_synthesis_that_wins_is_said_to_win():
    summary = summarise_means(cases=15)
    assert summary["verdict"][0].startswith("Synthesis agi beats the best cheap rival (ridge)")
    assert summary["headline"]["worth"] == "yes"
    assert summary["headline"]["primary"] == "agi"
    assert "more than ridge regression (+0.150" in summary["headline"]["sentence"]


def test_synthesis_that_loses_is_said_to_lose():
    summary = summarise_means(cases=15, agi=0.5)
    assert "loses to the best cheap rival (ridge)" in summary["verdict"][0]
    assert (summary["headline"]["worth"], summary["headline"]["better"]) == ("no", "ridge")


def test_equal_arms_are_not_called_a_win():
    (sentence,) = summarise_means(agi=0.6)["verdict"]
    assert "does not beat" in sentence


def test_an_uncertain_lead_is_called_uncertain():
    spread = [0.39, -0.3, 0.3, -0.2, 0.35, -0.2]
    scores = [
        dataclasses.replace(s, dice=0.6 + spread[int(s.case[1:])]) if s.arm == "agi" else s
        for s in make_scores()
    ]
    (sentence,) = summarise(scores, [], ARMS, resamples=500)["verdict"]
    assert "not beyond doubt" in sentence


def test_without_a_loss_there_is_nothing_to_win_back():
    summary = summarise_means(zero=0.9, cases=15)
    assert "nothing for synthesis to win back" in summary["verdict"][0]
    assert summary["headline"]["worth"] == "nothing to win"
    assert summary["regions"]["WT"]["arms"]["agi"]["recovery"] is None


def test_without_a_synthesiser_the_experiment_still_means_something():
    arms = [arm for arm in ARMS if arm.kind != "synthetic"]
    summary = summarise(make_scores(cases=15), [], arms, resamples=200)
    assert "no synthesiser was among the arms" in summary["headline"]["sentence"]
    assert "ridge regression did best (+0.300" in summary["headline"]["sentence"]
    assert summary["tests"] == []
    assert summary["noninferiority"] != []


def test_regions_without_a_gap_do_not_enter_the_comparison():
    worse_there = make_scores({**MEANS, "zero": 0.9, "agi": 0.2}, cases=15, region="TC")
    summary = summarise([*make_scores(cases=15), *worse_there], [], ARMS, resamples=500)
    assert not summary["regions"]["TC"]["gap_defined"]
    assert "mean Dice over WT 0.750" in summary["verdict"][0]
    assert "is harmed by synthesis (0.700" in summary["headline"]["sentence"]


def test_tests_are_corrected_over_regions_and_comparisons():
    scores = [*make_scores(cases=6), *make_scores(cases=6, region="ET")]
    summary = summarise(scores, [], ARMS, resamples=100)
    rows = summary["tests"]
    assert [(r["region"], r["against"], r["alternative"]) for r in rows] == [
        ("WT", "zero", "greater"), ("WT", "copy", "greater"), ("WT", "full", "two-sided"),
        ("ET", "zero", "greater"), ("ET", "copy", "greater"), ("ET", "full", "two-sided"),
    ]  # fmt: skip
    assert rows[0]["p"] == pytest.approx(1 / 64)
    assert rows[2]["p"] == pytest.approx(2 / 64)
    assert rows[0]["p_holm"] == pytest.approx(6 / 64)  # the smallest of six
    assert rows[2]["p_holm"] == pytest.approx(6 / 64)  # never below the one before it
    assert not rows[0]["significant"]
    assert rows[0]["mean_difference"] == pytest.approx(0.45)
    assert {r["family"] for r in rows} == {"agi"}


def test_each_synthetic_arm_is_a_family_of_its_own():
    arms = [*ARMS, Arm("gan", "synthetic")]
    rows = summarise(make_scores({**MEANS, "gan": 0.7}), [], arms, resamples=100)["tests"]
    alone = summarise(make_scores(), [], ARMS, resamples=100)["tests"]
    assert [r for r in rows if r["family"] == "agi"] == alone
    assert len(rows) == 2 * len(alone)


def test_non_inferiority_has_the_margin_that_was_asked_for():
    rows = summarise(make_scores({**MEANS, "agi": 0.87}), [], ARMS, resamples=100, margin=0.05)
    by_arm = {row["arm"]: row for row in rows["noninferiority"]}
    assert by_arm["agi"]["passed"]
    assert not by_arm["ridge"]["passed"]
    assert by_arm["agi"]["margin"] == 0.05
    assert set(by_arm) == {"copy", "ridge", "agi"}


@pytest.mark.parametrize(("change", "passed"), [(0.0019, True), (-0.0019, True), (0.0021, False)])
def test_plumbing_may_change_dice_by_two_thousandths(change, passed):
    assert summarise_means(plumbing=0.9 + change)["plumbing"]["passed"] is passed


def test_without_the_plumbing_arm_nothing_is_claimed():
    assert summarise(make_scores(), [], ARMS[:-1], resamples=500)["plumbing"] is None


def test_few_patients_one_seed_and_a_weak_segmenter_are_warned_of():
    warnings = summarise_means(full=0.4)["warnings"]
    assert warnings[0].startswith("only 6 test cases of 6 patients")
    assert warnings[1].startswith("one segmenter seed")
    assert any("reaches only 0.40" in text for text in warnings)
    assert summarise_means(cases=15, seeds=3)["warnings"] == []


def test_voxels_longer_than_the_tolerance_of_the_surface_distance_are_warned_of():
    at_2_mm = [
        dataclasses.replace(s, reference_ml=0.08, predicted_ml=0.072)
        for s in make_scores(cases=15, seeds=2)
    ]
    summary = summarise(at_2_mm, [], ARMS, resamples=50)
    assert summary["voxel_mm3"] == [8.0, 8.0]
    (warning,) = summary["warnings"]
    assert warning.startswith("voxels of 8 mm³: a side is longer than the 1 mm that NSD tolerates")
    empty = [dataclasses.replace(s, reference_voxels=0, predicted_voxels=0) for s in at_2_mm]
    assert summarise(empty, [], ARMS, resamples=50)["voxel_mm3"] == []


def test_a_score_that_hardly_any_case_has_is_still_plain_json():
    scores = [
        dataclasses.replace(s, precision=0.5 if s.case == "c00" else None) for s in make_scores()
    ]
    summary = summarise(scores, [], ARMS, resamples=50)
    found = summary["regions"]["WT"]["arms"]["full"]["metrics"]["precision"]
    assert (found["mean"], found["high"], found["n"]) == (0.5, None, 1)
    json.dumps(summary, allow_nan=False)


def test_tests_that_cannot_succeed_are_warned_of():
    (warning,) = [w for w in summarise_means(cases=5, seeds=3)["warnings"] if "significant" in w]
    assert warning.startswith("no test can come out significant with so few patients: over 3 tests")
    assert not [w for w in summarise_means(cases=6, seeds=3)["warnings"] if "significant" in w]
    assert min(t["p_holm"] for t in summarise_means(cases=6, seeds=3)["tests"]) < 0.05


def test_the_interval_is_of_what_was_drawn():
    assert summarise_means()["bootstrap"]["interval"].endswith("; patients drawn with replacement")
    both = "patients and segmenter seeds both drawn with replacement"
    assert summarise_means(seeds=2)["bootstrap"]["interval"].endswith(both)


def test_what_holds_for_every_synthesiser_is_said_once():
    arms = [*ARMS, Arm("gan", "synthetic")]
    scores = make_scores({**MEANS, "zero": 0.9, "gan": 0.7}, cases=15)
    assert len(summarise(scores, [], arms, resamples=50)["verdict"]) == 1
    scores = make_scores({**MEANS, "gan": 0.7}, cases=15)
    assert len(summarise(scores, [], arms, resamples=50)["verdict"]) == 2


def test_one_patient_has_no_interval_and_no_verdict():
    summary = summarise_means(cases=1)
    assert summary["warnings"][0].startswith("only 1 test case of 1 patient: with fewer")
    assert "no interval at all" in summary["warnings"][0]
    assert summary["headline"]["worth"] == "unclear"
    assert "it cannot be told whether anything is lost" in summary["headline"]["sentence"]
    assert "nothing measurable is lost" not in summary["headline"]["sentence"]


def test_patients_are_counted_not_cases():
    scores = [dataclasses.replace(s, patient=s.case[-1:]) for s in make_scores(cases=20, seeds=3)]
    summary = summarise(scores, [], ARMS, resamples=100)
    assert "20 test cases of 10 patients" in summary["warnings"][0]
    assert summary["headline"]["hint"]
    assert summary["regions"]["WT"]["patients"] == 10


def test_regions_that_cases_lack_are_named_or_left_out():
    scores = [
        dataclasses.replace(s, reference_voxels=0) if s.case == "c01" else s
        for s in make_scores(cases=15, seeds=2)
    ]
    kept = summarise(scores, [], ARMS, resamples=50)
    assert kept["regions"]["WT"]["cases_without_region"] == ["c01"]
    assert "WT: 1 case without this region: c01; their Dice is 0 or 1" in kept["warnings"][0]
    left_out = summarise(scores, [], ARMS, empty="skip", resamples=50)
    assert left_out["regions"]["WT"]["cases"] == 14
    assert left_out["warnings"][0].startswith("only 14 test cases")


def test_a_missing_contrast_agent_is_warned_of():
    scores = make_scores(cases=15, seeds=2)
    (warning,) = summarise(scores, [], ARMS, resamples=50, missing=("t1c",))["warnings"]
    assert "contrast agent cannot be read" in warning


def test_an_arm_without_a_case_or_seed_is_an_error():
    with pytest.raises(ValueError, match="no score for arm and case .'plumbing', 'c05'. with seed"):
        summarise(make_scores()[:-1], [], ARMS, resamples=500)
    with pytest.raises(ValueError, match="with seed 1"):
        summarise(make_scores(seeds=2)[:-1], [], ARMS, resamples=500)


def test_a_row_that_comes_twice_is_an_error():
    scores = make_scores()
    with pytest.raises(ValueError, match="two scores for full, c00, seed 0"):
        summarise([*scores, scores[0]], [], ARMS)


def test_nothing_to_summarise_is_an_error():
    with pytest.raises(ValueError, match="at least one region"):
        summarise([], [], ARMS)
    arms = [*ARMS, Arm("x", "magic")]
    with pytest.raises(ValueError, match="got 'magic'"):
        summarise(make_scores({**MEANS, "x": 0.5}), [], arms, resamples=10)


def test_every_kind_of_arm_is_known():
    assert set(ABOUT_KINDS) == set(real_arms.ARM_KINDS)


def test_columns_of_a_table_are_means_over_seeds():
    table = tabulate(make_scores(cases=2, seeds=2), ARMS, ["WT"])
    assert table.values["full"].shape == (2, 2)
    assert table.columns["full"] == pytest.approx([0.891, 0.901])


def image_rows(cases=6, arm="agi"):
    return [
        {"case": f"c{i:02d}", "patient": f"pc{i:02d}", "arm": arm, "modality": "t2f",
         "psnr_brain": 20.0 + i if i else None, "ssim_brain": None, "mae_tumour": 0.1 + 0.01 * i}
        for i in range(cases)
    ]  # fmt: skip


def test_image_scores_are_averaged_over_cases_that_have_them():
    means = summarise(make_scores(), image_rows(), ARMS, resamples=100)["images"]["agi"]
    assert means == {"psnr_brain": 23.0, "ssim_brain": None, "mae_tumour": pytest.approx(0.125)}


def test_image_error_is_held_against_the_dice_that_stays_lost():
    scores = [
        dataclasses.replace(s, dice=0.8 - 0.03 * int(s.case[1:])) if s.arm == "agi" else s
        for s in make_scores(wobble=0)
    ]
    (row,) = summarise(scores, image_rows(), ARMS, resamples=100)["image_benefit"]
    assert (row["arm"], row["score"], row["n"]) == ("agi", "mae_tumour", 6)
    assert row["spearman"] == pytest.approx(1)


def test_a_region_without_a_gap_does_not_blur_the_correlation():
    def falling(scores, slope):
        return [
            dataclasses.replace(s, dice=0.6 + slope * int(s.case[1:])) if s.arm == "agi" else s
            for s in scores
        ]

    free = make_scores({**MEANS, "zero": 0.9}, wobble=0, region="TC")
    scores = [*falling(make_scores(wobble=0), -0.02), *falling(free, 0.05)]
    (row,) = summarise(scores, image_rows(), ARMS, resamples=100)["image_benefit"]
    assert row["spearman"] == pytest.approx(1)


def test_no_correlation_is_claimed_of_few_or_equal_values():
    few = summarise(make_scores(cases=4), image_rows(4), ARMS, resamples=50)["image_benefit"]
    assert few == [
        {"arm": "agi", "score": "mae_tumour", "against": "dice_loss"}
        | {"spearman": None, "n": 4, "p": None}
    ]
    equal = [row | {"mae_tumour": 0.1} for row in image_rows()]
    found = summarise(make_scores(), equal, ARMS, resamples=50)["image_benefit"]
    assert found[0]["spearman"] is None


ADDED = {
    "config", "notes", "seconds", "peak_memory_mb", "versions", "hashes", "commands", "pictures",
    "cases",
}  # fmt: skip
PLACEHOLDERS = {"regions": "<region>", "arms": "<arm>", "metrics": "<metric>"}


def paths_of(value, path=""):
    """Every key of a summary, as the document writes it."""
    if isinstance(value, dict):
        parent = path.rsplit(".", 1)[-1]
        for key, inside in value.items():
            name = PLACEHOLDERS.get(parent, key)
            name = {"images": "<arm>", "dice_change": "<region>"}.get(parent, name)
            name = "<score>" if path == "images.<arm>" else name
            yield from paths_of(inside, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inside in value:
            yield from paths_of(inside, path + "[]")
    else:
        yield path


def documented(section):
    """Keys of the document's tables; "`a.b`, `.c`" stands for a.b and a.c."""
    text = SCHEMA.read_text(encoding="utf-8").split(f"\n## {section}")[1].split("\n## ")[0]
    found = []
    for line in re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE):
        first, *others = re.findall(r"`(.*?)`", line)
        found += [first, *(first.rsplit(".", 1)[0] + other for other in others)]
    return found


def full_summary():
    means = MEANS | {a.name: 0.7 for a in ALL_ARMS if a.name not in MEANS}
    scores = make_scores(means, cases=8, seeds=2)
    scores = [
        dataclasses.replace(s, reference_voxels=0) if s.case == "c01" else s for s in scores
    ]  # fmt: skip
    return summarise(scores, image_rows(8), ALL_ARMS, resamples=100)


def test_the_document_names_every_key_and_no_other():
    summary = json.loads(json.dumps(full_summary(), allow_nan=False))
    real = set(paths_of(summary))
    named = [key for key in documented("Keys") if key != "plumbing"]  # the object or null
    assert len(named) == len(set(named))
    assert set(named) - ADDED == real
    assert set(named) >= ADDED


def test_the_document_names_every_column_of_the_results():
    assert documented("`results.csv`") == list(Score.__dataclass_fields__)


def test_a_summary_is_plain_json_and_the_same_each_time():
    first, second = full_summary(), full_summary()
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)
    assert first["schema"] == 2
    assert first["title"] == "Dice recovery without FLAIR (t2f)"
