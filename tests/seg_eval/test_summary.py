import json

import pytest

from seg_eval.arms import Arm
from seg_eval.report import render
from seg_eval.scores import Score
from seg_eval.summary import summarise

ARMS = [Arm(n, n) for n in ("full", "zero", "ridge")] + [
    Arm("agi", "synthetic"),
    Arm("plumbing", "plumbing"),
]
MEANS = {"full": 0.9, "zero": 0.3, "ridge": 0.6, "agi": 0.75, "plumbing": 0.9}


def make_scores(means=MEANS, cases=6, wobble=0.01, region="WT"):
    return [
        Score(f"c{i}", f"p{i}", arm, region, mean + wobble * (i % 3 - 1), 10, 10)
        for arm, mean in means.items()
        for i in range(cases)
    ]


def summarise_means(**changed):
    return summarise(make_scores({**MEANS, **changed}), [], ARMS, resamples=500)


def test_recovery_and_dice_stand_beside_each_other():
    region = summarise_means()["regions"]["WT"]
    assert region["arms"]["agi"]["dice"] == pytest.approx(0.75)
    assert region["arms"]["agi"]["recovery"]["value"] == pytest.approx(0.75)
    assert region["gap_defined"]


def test_synthesis_that_wins_is_said_to_win():
    (sentence,) = summarise_means()["verdict"]
    assert sentence.startswith("Synthesis agi beats the best cheap rival (ridge)")


def test_synthesis_that_loses_is_said_to_lose():
    (sentence,) = summarise_means(agi=0.5)["verdict"]
    assert "loses to the best cheap rival (ridge)" in sentence
    assert "not worth its cost" in sentence


def test_equal_arms_are_not_called_a_win():
    (sentence,) = summarise_means(agi=0.6)["verdict"]
    assert "does not beat" in sentence


def test_an_uncertain_lead_is_called_uncertain():
    scores = make_scores()
    spread = [0.5, -0.4, 0.3, -0.3, 0.4, -0.3]
    scores = [
        Score(s.case, s.patient, s.arm, s.region, 0.6 + spread[int(s.case[1])], 10, 10)
        if s.arm == "agi"
        else s
        for s in scores
    ]
    (sentence,) = summarise(scores, [], ARMS, resamples=500)["verdict"]
    assert "not beyond doubt" in sentence


def test_without_a_loss_there_is_nothing_to_win_back():
    summary = summarise_means(zero=0.9)
    assert "nothing for synthesis to win back" in summary["verdict"][0]
    assert summary["regions"]["WT"]["arms"]["agi"]["recovery"] is None


@pytest.mark.parametrize(("change", "passed"), [(0.0019, True), (-0.0019, True), (0.0021, False)])
def test_plumbing_may_change_dice_by_two_thousandths(change, passed):
    assert summarise_means(plumbing=0.9 + change)["plumbing"]["passed"] is passed


def test_without_the_plumbing_arm_nothing_is_claimed():
    assert summarise(make_scores(), [], ARMS[:-1], resamples=500)["plumbing"] is None


def test_few_cases_and_a_weak_segmenter_are_warned_of():
    summary = summarise_means(full=0.4)
    assert "only 6 test cases" in summary["warnings"][0]
    assert any("reaches only 0.40" in text for text in summary["warnings"])
    many = summarise(make_scores(cases=15), [], ARMS, resamples=500)
    assert many["warnings"] == []


def test_an_arm_without_a_case_is_an_error():
    with pytest.raises(ValueError, match="no score for arm and case"):
        summarise(make_scores()[:-1], [], ARMS, resamples=500)


def test_image_scores_are_averaged_over_cases_that_have_them():
    rows = [
        {"case": "a", "patient": "a", "arm": "agi", "psnr_brain": value, "ssim_brain": None}
        for value in (20.0, None, 22.0)
    ]
    means = summarise(make_scores(), rows, ARMS, resamples=100)["images"]["agi"]
    assert means == {"psnr_brain": 21.0, "ssim_brain": None}


def test_the_report_is_rendered_from_plain_json_and_says_all():
    summary = summarise_means() | {
        "config": {"missing": "t2f", "test": ["a"], "train": ["b"], "data": "D", "seed": 0}
        | {"preset": "cpu-mini"},
        "notes": {"copy": "copies t2w", "ridge": ""},
    }  # fmt: skip
    text = render(json.loads(json.dumps(summary, allow_nan=False)))
    assert "75 % [" in text
    assert "ceiling" in text
    assert "blanking it costs 0.600 Dice" in text
    assert "Plumbing check passed" in text
    assert "Warning: only 6 test cases" in text
    assert "copies t2w" in text
    assert max(map(len, text.splitlines())) < 220
