"""Badge, sentence, table and what would settle a question say one thing, whatever the figures."""

import dataclasses
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_eval.analysis.verdict import USEFUL, Facts, RegionFacts, Rival, judge
from seg_eval.report.certificate import levels_told
from seg_eval.report.context import describe
from seg_eval.scoring.image_scores import IMAGE_SCORES
from synth3d.scoring.intervals import Estimate
from tests.seg_eval.report.conftest import PRIMARY, make_score

REGIONS = ("WT", "TC", "ET")


@pytest.fixture
def first_screen(make_summary):
    """(region → Dice of full, zero, copy and the synthetic arm) → summary, first screen."""

    def show(levels, cases=16, empty="brats", absent=()):
        rows = [
            make_score(f"P{case:02}", arm, seed, region, dice + 0.004 * (case % 3) * (dice > 0))
            for case in range(cases)
            for region, dices in levels.items()
            for arm, dice in zip(("full", "zero", "copy", PRIMARY), dices, strict=True)
            for seed in (0, 1, 2)
        ]
        rows = [dataclasses.replace(r, reference_voxels=0, reference_ml=0.0)
                if r.region in absent else r for r in rows]  # fmt: skip
        summary = make_summary(rows, empty=empty)
        return summary, describe(summary, rows, [])["certificate"]

    return show


@pytest.mark.parametrize("lost", [0.3, 0.0])
def test_without_a_synthesiser_the_first_screen_shows_what_was_tried(make_summary, lost):
    rows = [
        make_score(f"P{case}", arm, 0, "WT", 0.8 - lost * (arm != "full") + 0.01 * (case % 3))
        for case in range(4) for arm in ("full", "zero", "copy")
    ]  # fmt: skip
    screen = describe(make_summary(rows, regions=("WT",)), rows, [])["certificate"]
    assert any("copy" in head for head in screen["regions"]["heads"])


def numbers(summary):
    words = summary["headline"]["sentence"].split()
    return [float(word.strip(",:;")) for word in words if word[0].isdigit()]


@pytest.mark.parametrize("cases", [16, 5])
@pytest.mark.parametrize(
    ("others", "told"),
    [
        ((0.8, 0.8, 0.8, 0.6), "harm"), ((0.8, 0.8, 0.8, 0.655), "too small"),
        ((0.8, 0.8, 0.8, 0.8), "ahead"),
    ],
)  # fmt: skip
def test_the_numbers_of_the_sentence_lead_where_the_verdict_does(first_screen, cases, others, told):
    levels = {"WT": (0.85, 0.5, 0.5, 0.8), "TC": others, "ET": others}
    summary, _ = first_screen(levels, cases)
    sentence = summary["headline"]["sentence"]
    assert told in sentence
    filled, without = numbers(summary)
    least = {"harm": (-1, 0), "too small": (-0.02, 0.02), "ahead": (0.02, 1)}[told]
    assert least[0] <= filled - without <= least[1]


def test_a_region_that_gains_nothing_is_not_called_clearly_ahead(first_screen):
    levels = {"WT": (0.85, 0.7, 0.7, 0.84), "TC": (0.8, 0.5, 0.5, 0.5), "ET": (0.8, 0.7, 0.7, 0.79)}
    summary, _ = first_screen(levels)
    filled, without = numbers(summary)
    assert summary["headline"]["worth"] == "yes"
    assert filled > without + 0.02


@pytest.mark.parametrize("cases", [16, 1])
def test_a_segmenter_that_finds_nothing_proves_no_loss_and_no_lack_of_one(first_screen, cases):
    summary, page = first_screen(dict.fromkeys(REGIONS, (0.01, 0.0, 0.0, 0.0)), cases)
    head = summary["headline"]
    assert (head["worth"], head["likely"]) == ("unclear", "unclear")
    assert head["badge"] == "Not proven"
    assert "segmenter" in head["sentence"]
    assert "blank" not in head["advice"]
    assert "segmenter" in page["settle"]
    (told,) = summary["verdict"]
    assert "nothing to gain" not in told


def test_it_is_said_that_real_images_do_worse_than_none(first_screen):
    found = [
        any("check that files" in text for text in first_screen(levels)[0]["warnings"])
        for levels in (
            dict.fromkeys(REGIONS, (0.55, 0.8, 0.8, 0.6)),
            dict.fromkeys(REGIONS, (0.80, 0.801, 0.8, 0.8)),
        )
    ]
    assert found == [True, False]


def test_a_real_sequence_that_is_called_synthetic_is_warned_of(make_scores, make_summary):
    def warned(error, arm):
        rows = make_scores(cases=4)
        image = {"arm": arm, "modality": "t2f"} | dict.fromkeys(IMAGE_SCORES, 0.9)
        images = [image | {"case": row.case, "patient": row.case, "mae_brain@own-scale": error}
                  for row in rows[:1]]  # fmt: skip
        return any("in other units" in text for text in make_summary(rows, images)["warnings"])

    assert warned(0.0004, PRIMARY)
    assert not warned(0.01, PRIMARY)
    assert not warned(None, PRIMARY)
    assert not warned(0.0, "plumbing")  # which is the real one, and says so


@pytest.mark.parametrize(("theirs", "warned"), [(0.03, True), (0.031, False), (None, False)])
def test_one_synthesiser_under_two_names_is_warned_of(make_scores, make_summary, theirs, warned):
    rows = make_scores(cases=4)
    images = [
        {"arm": arm, "case": row.case, "patient": row.case, "modality": "t2f", "seed": None}
        | dict.fromkeys(IMAGE_SCORES, 0.9) | {"mae_brain@own-scale": error}
        for row in rows[:1]
        for arm, error in ((PRIMARY, 0.03), ("other-tool", theirs), ("plumbing", 0.03))
    ]  # fmt: skip
    told = [text for text in make_summary(rows, images)["warnings"] if "same pictures" in text]
    assert bool(told) == warned
    assert all("other-tool" in text and "plumbing" not in text for text in told)


def test_no_sentence_is_about_a_region_that_no_case_has(first_screen):
    levels = {"WT": (0.8, 0.6, 0.65, 0.75), "TC": (0.8, 0.7, 0.7, 0.78), "ET": (1, 0, 0, 1)}
    for empty in ("brats", "skip"):
        summary, _ = first_screen(levels, empty=empty, absent=("ET",))
        assert summary["headline"]["sentence"].startswith(("Whole", "All"))


DICE = st.floats(0.1, 0.9)
HALF = st.floats(0.001, 0.3)


@st.composite
def judged_figures(draw):
    """Facts whose leads are means of Dice over regions, and these as in ``summary.json``."""
    kinds = draw(
        st.lists(st.sampled_from(["copy", "boosted", "specialist", "retrained"]), unique=True)
    )
    names = draw(st.lists(st.sampled_from(REGIONS), min_size=1, unique=True))
    dice = {arm: [draw(DICE) for _ in names] for arm in ("full", "zero", *kinds, "agi")}
    mean = {arm: statistics.fmean(values) for arm, values in dice.items()}

    def rival(kind):
        lead, half = mean["agi"] - mean[kind], draw(HALF)
        return Rival(kind, kind, Estimate(lead, lead - half, lead + half), mean[kind])

    regions, facts = {}, {}
    for i, name in enumerate(names):
        gap, loss = (dice["full"][i] - dice[arm][i] for arm in ("zero", "agi"))
        sure = (
            Estimate(gap, gap / 2, 2 * gap) if gap > 0.02 else Estimate(gap, gap - 0.1, gap + 0.1)
        )
        share = Estimate(0.5, 0.4, 0.6) if gap > 0.02 else None
        facts[name] = RegionFacts(sure, None if share else "small_gap", share,
                                  Estimate(loss, loss - 0.01, loss + 0.01))  # fmt: skip
        regions[name] = {
            "exploratory": False, "gap_defined": bool(share), "gap": {"value": gap}, "cases": 9,
            "cases_without_region": [], "arms": {arm: {"dice": dice[arm][i]} for arm in dice},
        }  # fmt: skip
    rivals = [rival(kind) for kind in ("zero", *kinds)]
    return Facts(("t2f",), "agi", mean["agi"], facts, rivals, 40), regions


BELOW = ("harm", "no_gain", "cheap_better", "no_better", "segmenter_better", "retrained_better",
         "harm_unproven")  # fmt: skip


@settings(max_examples=300)
@given(judged_figures())
def test_the_two_numbers_of_any_sentence_bear_out_what_was_found(made):
    facts, regions = made
    verdict = judge(facts)
    if verdict.reason != "compared":
        return
    told = levels_told(regions, "zero", verdict)
    lead = told["filled"] - told["against"]
    if verdict.finding in BELOW:
        assert lead <= 0
    else:
        assert lead > 0
    if verdict.finding.endswith("too_small"):
        assert lead < USEFUL
