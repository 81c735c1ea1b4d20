"""Whole sentences stand here alone: each page as text in a file of ``golden/``.

After a deliberate change of words write them anew, and read the difference:

    REGENERATE=1 python -m pytest tests/seg_eval/report/test_golden.py && git diff tests
"""

import html
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_eval.analysis.verdict import Facts, RegionFacts, Rival, judge
from seg_eval.arms.kinds import ARM_KINDS, asked_kinds, floor_of
from seg_eval.report.context import asked
from seg_eval.report.outputs import render, render_overview, write_index
from seg_eval.report.page import say
from seg_eval.report.viewer import page
from synth3d.scoring.intervals import Estimate

GOLDEN = Path(__file__).with_name("golden")


def compare(name, text):
    path = GOLDEN / name
    if os.environ.get("REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def text_of(page):
    """What a reader of the page sees: a line for each paragraph, row or item."""
    page = re.sub(r"<(style|script|title)\b.*?</\1>", "", page, flags=re.DOTALL)
    page = re.sub(r"\s+", " ", page)
    page = re.sub(r"</(p|tr|li|h\d|dt|dd|caption|figcaption|pre|blockquote|summary)>", "\n", page)
    page = re.sub(r"<[^>]*>", "", re.sub(r"</t[dh]>", " | ", page))
    lines = (" ".join(html.unescape(line).split()).strip("| ") for line in page.splitlines())
    return "\n".join(line for line in lines if line) + "\n"


def without_et(row):
    """One case lacks ET, where copy and other-tool paint some all the same."""
    if (row.case, row.region) != ("Brats18_P03_1", "ET"):
        return row
    voxels = {"copy": 50, "other-tool": 20 + 60 * row.seed}.get(row.arm, 0)
    found = {"predicted_voxels": voxels, "predicted_ml": voxels / 125, "dice": float(not voxels)}
    return replace(row, reference_voxels=0, reference_ml=0.0, volume_error_ml=voxels / 125, **found)


@pytest.fixture(scope="module")
def small(make_scores, images):
    """Rows of six cases with two seeds, and their images."""
    scores = list(map(without_et, make_scores(cases=6, seeds=2)))
    return scores, [row for row in images if row["case"] in {row.case for row in scores}]


def test_the_reports_of_an_experiment(small, make_summary):
    scores, images = small
    summary = make_summary(scores, images)
    compare("report.md", render(summary))
    compare("report.txt", text_of(page(summary, scores, images, [], ["Brats18_P03_1"])))


def test_the_overview_of_several(small, make_scores, make_summary, tmp_path):
    free = make_scores(cases=16, seeds=1, shares=dict.fromkeys(("full", "zero", "copy"), 1.0))
    broken = {"full": 1.0, "zero": 0.0, "copy": 0.2, "plumbing": 0.6}
    summaries = {
        "t2f": make_summary(*small),
        "t1n": make_summary(free, missing=["t1n"]),
        "t1n-t2w": make_summary(make_scores(16, 3, broken), missing=["t1n", "t2w"]),
    }
    compare("overview.md", render_overview(list(summaries.values())))
    links = {name: (f"{name}/report.html", summary) for name, summary in summaries.items()}
    compare("index.txt", text_of(write_index(tmp_path, links).read_text("utf-8")))


def around(value, half=0.01):
    return Estimate(value, value - half, value + half)


def region(gap=0.3, share=0.88, loss=0.03, defined=True):
    found = Estimate(share, share - 0.09, share + 0.07) if defined else None
    return RegionFacts(around(gap), None if defined else "small_gap", found, around(loss, 0.005))


def facts(rivals=(), zero=0.3, arm="agi", regions=(), patients=40, missing=("t2f",)):
    """Facts about an arm; rivals as kind and lead, or kind, lead and half its interval."""
    made = [Rival(kind, kind, around(*lead), 0.8) for kind, *lead in (("zero", zero), *rivals)]
    return Facts(missing, arm, 0.85, dict(regions) or {"WT": region()}, made, patients)


def poor(rivals=(), floor=0.3, arm="sr", **more):
    """The same about a restored arm of a degraded sequence."""
    found = facts(rivals, floor, arm, **more)
    thick = replace(found.rivals[0], name="degraded", kind="degraded")
    kind = "restored" if arm else "synthetic"
    return replace(found, rivals=[thick, *found.rivals[1:]], degraded=True, kind=kind)


FREE = {"WT": region(0.004, defined=False), "ET": region(-0.001, defined=False)}
REMARKS = (
    "worse",
    "nothing_back",
    "mostly_lost",
    "partly_lost",
    "open",
    "harmed",
    "untold",
    "free",
)
WIDE = RegionFacts(Estimate(0.3, -0.01, 0.6), "gap_may_be_zero")
UNBOUNDED = RegionFacts(around(0.3), None, Estimate(0.8, 0.5, math.inf), around(0.01))
CHEAP = ("boosted", 0.05)
JUDGED = (
    facts(regions=FREE, missing=("t1n",)),
    facts(regions=FREE, missing=("t1n", "t2f"), patients=6),
    facts([("copy", 0.1)], regions={"WT": WIDE}),
    facts([("boosted", -0.2)], 0.0, None),
    facts([], 0.0, None),
    facts([("copy", -0.05)], -0.1, regions={"WT": region(share=-0.3, loss=0.4)}),
    facts([], 0.005),
    facts([("boosted", -0.002), ("ridge", 0.05)]),
    facts([("copy", 0)]),
    facts([("ridge", -0.05)]),
    facts([("boosted", 0.004)], missing=("t1n", "t1c")),
    facts([CHEAP]),
    facts([CHEAP, ("specialist", 0.02)]),
    facts([CHEAP, ("specialist", -0.005)]),
    facts([CHEAP, ("specialist", -0.012, 0.008)]),
    facts([("boosted", -0.001), ("specialist", -0.03)]),
    facts([CHEAP, ("dropout", -0.03)]),
    facts([CHEAP, ("retrained", -0.03)]),
    facts([CHEAP, ("synthetic", -0.04)]),
    facts([CHEAP], patients=1),
    facts([CHEAP], regions={"WT": region(share=0.95), "TC": region(0.01, defined=False),
                            "ET": region(share=0.2, loss=0.24)}, missing=("t1c",)),
    facts([CHEAP], regions={"ET": region(share=0.7, loss=0.09), "TC": WIDE}),
    facts([CHEAP], regions={"WT": UNBOUNDED}),
    facts([("copy", 0.1)], regions={"WT": region(), "ET": region(0.001, loss=0.08, defined=False)}),
)  # fmt: skip
LIFTED = ("spline", 0.05)
THICK = (
    poor(regions=FREE),
    poor(regions=FREE, patients=6),
    poor([LIFTED], regions={"WT": WIDE}),
    poor([("spline", -0.2)], 0.0, None),
    poor([], 0.0, None),
    poor([("spline", -0.05)], -0.1, regions={"WT": region(share=-0.3, loss=0.4)}),
    poor([("spline", 0.1)], 0.005),
    poor([LIFTED]),
    poor([LIFTED, ("synthetic", -0.04)]),
    poor([LIFTED, ("synthetic", 0.02)]),
    poor([("ridge", -0.05)]),
    poor([LIFTED, ("specialist", -0.03)]),
    poor([LIFTED], regions={"WT": region(), "ET": region(0.001, loss=0.08, defined=False)}),
)  # fmt: skip
TWO = (
    facts(regions=FREE),
    facts([("copy", 0.1)], regions={"WT": WIDE}),
    facts([CHEAP]),
    facts([CHEAP, ("synthetic", -0.04)]),
    facts([("boosted", -0.001), ("synthetic", -0.04)]),
    facts([("copy", 0)]),
    facts([("ridge", -0.05)]),
    facts([("boosted", 0.004)], missing=("t1n", "t1c")),
    facts([("boosted", 0.02, 0.1)]),
    facts([("copy", -0.05)], -0.1, regions={"WT": region(share=-0.3, loss=0.4)}),
    facts([], 0.0),
    facts([]),
    facts([("copy", 0.1)], regions={"WT": region(), "ET": region(0.001, loss=0.08, defined=False)}),
    facts([CHEAP, ("specialist", -0.03)]),
    facts([CHEAP, ("retrained", -0.03)]),
)  # fmt: skip
"""With two synthesisers."""
MISSING = (("t2f",), ("t1c",), ("t1n", "t1c"), ("t1n", "t1c", "t2f"))
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\d)")
lead = st.tuples(st.floats(-0.3, 0.3), st.floats(0.001, 0.2))


@st.composite
def judgeable(draw):
    """Facts of any kind, as an experiment may have them."""
    degraded = draw(st.booleans())
    kinds = [k.name for k in asked_kinds(degraded) if k.compared and k.group != "synthesis"]
    tried = draw(st.lists(st.sampled_from([*kinds, "synthetic"]), unique=True))
    regions = {}
    for name in draw(st.lists(st.sampled_from(["WT", "TC", "ET"]), min_size=1, unique=True)):
        loss = around(draw(st.floats(-0.1, 0.4)), 0.01)
        if draw(st.booleans()):
            share, gap = around(draw(st.floats(-1, 2)), 0.1), around(draw(st.floats(0.02, 0.5)))
            gain = around(share.value * gap.value, draw(st.sampled_from([0.01, 0.2])))
            regions[name] = RegionFacts(gap, None, share, loss, gain=gain)
        else:
            gap = around(draw(st.floats(-0.1, 0.1)), 0.15)
            gain = around(draw(st.floats(-0.2, 0.2)), 0.05)
            regions[name] = RegionFacts(gap, "gap_may_be_zero", None, loss, gain=gain)
    rivals = [
        Rival(kind, kind, around(*draw(lead)), 0.8)
        for kind in dict.fromkeys((floor_of(degraded), *tried))
    ]
    defined = any(region.defined for region in regions.values())
    arm = draw(st.sampled_from(["agi", "agi", None]))
    patients = draw(st.sampled_from([1, 6, 14, 15, 40]))
    missing = ("t2f",) if degraded else draw(st.sampled_from(MISSING))
    return Facts(
        missing, arm, 0.8, regions, rivals if defined else [], patients, degraded,
        "restored" if degraded and arm else "synthetic",
    )  # fmt: skip


def dice_of(verdict):
    """Dice that belong to a verdict, of the region that loses most."""
    facts, against = verdict.facts, (verdict.in_enough or verdict).against
    found = facts.regions
    name = max(facts.defined or found, key=lambda region: found[region].gap.value)
    filled = 0.9 - (found[name].loss or around(0.1)).value
    other = filled - against.ahead.value if against else 0.9 - found[name].gap.value
    return {"region": name, "real": 0.9, "against": max(other, 0), "filled": max(filled, 0)}


def badge_of(verdict):
    head = {"worth": verdict.worth, "likely": verdict.likely, "primary": verdict.facts.arm}
    return say("badge", head=head | {"better": verdict.better and verdict.better.name})


def told(verdict):
    """The badge and the sentence of a verdict."""
    return badge_of(verdict), say("headline", v=verdict, dice=dice_of(verdict))


@settings(max_examples=400)
@given(judgeable())
def test_a_verdict_is_one_short_sentence_that_agrees_with_its_badge(facts):
    verdict = judge(facts)
    badge, sentence = told(verdict)
    advice = say("advice", v=verdict, label="other")
    assert len(sentence.split()) <= 25
    assert len(NUMBER.findall(sentence)) <= 2
    assert sentence.endswith(".")
    assert sentence.count(". ") == advice.count(". ") == 0
    doubts = ("not proven", "no proven", "few patients", "not tested", "was tested", "likely",
              "another synth", "falls in", "may do")  # fmt: skip
    doubtful = [words for words in doubts if words in sentence]
    retrained = verdict.better is not None and verdict.better.about.needs_synthesis
    is_open = badge.startswith(("Not proven", "Synthesis not tested", "Another way"))
    assert is_open == (verdict.worth == "unclear")
    assert badge.startswith("Another way") == (is_open and verdict.better is not None)
    assert bool(doubtful) == (verdict.worth == "unclear") or retrained
    if badge == "Worth it":
        assert "clearly ahead" in sentence or retrained
        assert "harm" not in sentence
    if badge == "Not worth it":
        assert any(word in sentence for word in ("does", "do", "too small", "no better", "nothing"))
    if facts.is_hint:
        assert badge not in ("Worth it", "Not worth it", "Nothing to gain")
        assert "patients" in sentence or "proven" in sentence or "tested" in sentence
        enough = judge(replace(facts, patients=15))
        assert (enough.worth == "unclear") == ("likely" not in badge)


OPEN = ("gain_unproven", "harm_unproven", "lead_unproven", "lag_unproven", "no_cheap_rival")
DOES_BETTER = (
    "retrained_better",
    "segmenter_better",
    "cheap_better",
    "no_better",
    "lead_too_small",
)


@settings(max_examples=400)
@given(judgeable())
def test_badge_sentence_and_advice_tell_one_story(facts):
    verdict = judge(replace(facts, arm="agi"))
    pointed = verdict.in_enough or verdict
    badge, sentence = told(verdict)
    advice, other = say("advice", v=verdict, label="other"), pointed.advice and pointed.advice.arm
    fills = re.match("(Fill in|Restore|Test more patients before (filling|restoring))", advice)
    assert ("Worth it" in badge or "but likely worth it" in badge) == (pointed.worth == "yes")
    if pointed.worth in ("no", "nothing to win"):
        assert not fills
        assert advice[:7] in ("Leave t", "Take th", "Use the", "Train a", "Until m") or other
    if fills:
        assert pointed.finding in ("ahead", "region_harmed")
    if pointed.finding in DOES_BETTER:
        assert pointed.against is other, "the rival of the sentence is the one that is advised"
    if pointed.finding == "ahead":
        assert pointed.worth == "yes"
    if verdict.in_enough:
        assert advice.startswith(
            ("Until more patients", "Test more patients", "Judge", "Until then")
        )
        assert ("Until more patients" in advice) <= (pointed.finding not in OPEN)
        assert "too few" in sentence or "proven" in sentence or "few patients" in sentence


NAMED = {"agi": "ours", "synthetic": "team-b"}
"""How the two synthesisers of the facts are called."""


def told_of_two(facts, lead=0.031, proven=True, first="agi"):
    """The badge of a verdict, and the sentence where the other synthesiser is told of, too."""
    verdict, second = judge(facts), next(name for name in NAMED if name != first)
    pair = {"arm": first, "against": second, "lead": {"value": lead}, "proven": proven}
    return told(verdict)[0], say("several", v=verdict, pair=pair, labels=NAMED)


@settings(max_examples=400)
@given(judgeable(), st.floats(0, 0.4), st.booleans(), st.sampled_from(sorted(NAMED)))
def test_of_several_it_says_first_who_is_ahead_and_whether_that_is_proven(
    facts, lead, proven, first
):
    facts = replace(facts, arm="agi")
    verdict = judge(facts)
    badge, sentence = told_of_two(facts, lead, proven and not facts.is_hint, first)
    ahead, standing = sentence.split("; ", 1)
    assert len(sentence.split()) <= 25
    assert len(NUMBER.findall(sentence)) <= 2
    assert (sentence[-1], sentence.count(". ")) == (".", 0)
    names = [NAMED[first], *sorted({*NAMED.values()} - {NAMED[first]})]
    assert ahead.split()[0] == names[0]
    assert names[1] in ahead
    if f"{lead:.3f}" == "0.000":
        assert "ahead" not in ahead
    elif facts.is_hint:
        assert "too few patients for proof" in standing
    else:
        assert ahead.endswith("is proven" if proven else "is not proven")
    doubts = (
        "no proven",
        "not proven",
        "few patients",
        "was tested",
        "falls in",
        "likely",
        "may do",
    )
    doubtful = [words for words in doubts if words in standing]
    other = verdict.better is not None and verdict.better.about.needs_synthesis
    assert bool(doubtful) == (verdict.worth == "unclear") or other
    if badge == "Worth it":
        assert "clearly ahead" in standing or other
    if badge == "Not worth it":
        assert any(word in standing for word in ("does", "too small", "nothing"))


GAP = {"gap": around(0.01), "smallest": 0.02}
OTHERS = (
    ("no_gap", {"reason": "small_gap", **GAP}),
    ("no_gap", {"reason": "gap_may_be_zero", **GAP}),
    ("no_gap", {"reason": "one_patient", **GAP}),
    ("few_patients", {"cases": 2, "patients": 1, "enough": 15}),
    ("without_region", {"region": "ET", "cases": ["a"], "empty": "brats"}),
    ("without_region", {"region": "ET", "cases": ["a", "b"], "empty": "skip"}),
    ("weak_segmenter", {"region": "ET", "dice": 0.4}),
    ("same_pictures", {"names": ["ours", "theirs"]}),
    ("copies_of_real", {"arm": "theirs", "cases": ["a", "b"]}),
    ("real_is_worse", {"region": "ET", "floor": "zero", "without": 0.8, "real": 0.5}),
    ("real_is_worse", {"region": "ET", "floor": "degraded", "without": 0.8, "real": 0.5}),
    ("contrast_agent", {}),
    ("hopeless_tests", {"family": 9}),
    ("large_voxels", {"side": 2.0, "tolerance": 1.0}),
    ("other_lesion_rule", {}),
    ("rivals_not_run", {"kinds": ["specialist", "dropout"], "degraded": False}),
    ("rivals_not_run", {"kinds": ["specialist", "dropout"], "degraded": True}),
    ("other_slices", {"name": "sr", "ratio": [1, 1, 2], "profile": "kspace"}),
    ("foreign_segmenter", {"name": "theirs"}),
    ("rivals_of_another_preset", {"preset": "cpu-small"}),
    ("unknown_training", {"names": ["a", "b"]}),
    ("retrained_on_files", {"name": "a"}),
    ("interval_method", {"found": {"seeds": [0], "over": "patients"}}),
    ("interval_method", {"found": {"seeds": [0, 1, 2], "over": "trainings"}}),
    (
        "interval_method",
        {
            "found": {
                "seeds": [0, 1, 2],
                "over": "trainings",
                "replicates": {
                    "agi": {"names": [*"abc"], "over": "trainings"},
                    "l1": {"names": [*"de"], "over": "these"},
                },
            }
        },
    ),
    (
        "interval_method",
        {"found": {"seeds": [0], "over": "patients", "centres": {"a": 9, "b": 4, "c": 2}}},
    ),
    ("few_centres", {"centres": 2, "least": 3}),
    ("untold_centres", {"cases": ["a", "b"]}),
    ("trainings_of", {"names": [*"abc"]}),
    ("replicates", {}),
    ("leads", {}),
    ("these_weights", {"names": ["a", "b"]}),
    ("plumbing", {"check": {"passed": True, "dice_change": {"WT": -0.0001}, "tolerance": 0.002}}),
    ("views_fit", {"slices": 48}),
    ("views_too_large", {"count": 2}),
    ("volumes_gone", {"cases": ["a", "b"]}),
    ("orientation", {"known": True, "tilt": None}),
    ("orientation", {"known": True, "tilt": 20.0}),
    ("orientation", {"known": False, "tilt": None}),
    *(("remark", {"code": code}) for code in REMARKS),
    ("settle", {"needs": ["a", "b", "c"]}),
    ("need_lead", {"count": {"patients": 1200}, "here": 20, "label": "ridge"}),
    ("need_lead", {"count": {"patients": None}, "here": 20, "label": "ridge"}),
    ("need_synthesis", {}),
    ("need_segmenter", {}),
    ("need_cheap", {}),
    ("transfer", {"other": {"preset": "cpu-mini-resenc", "seeds": [0, 1]}}),
)


SLICES = {"missing": ["t2f"], "degraded": {"ratio": [1, 1, 4], "profile": "kspace"}}
OF_SLICES = tuple(
    (name, {"q": SLICES, **values})
    for name, values in (
        ("title", {}),
        (
            "gap",
            {
                "region": {
                    "exploratory": False,
                    "gap_defined": True,
                    "gap": around(0.1),
                    "cases": 9,
                    "patients": 9,
                }
            },
        ),
        ("recovered", {}),
        ("images", {}),
        ("group", {"name": "reference"}),
        ("group", {"name": "naive"}),
        *(
            ("column", {"role": role, "label": "sr"})
            for role in ("degraded", "filled", "full", "rival", "better")
        ),
        ("hero_picture", {"name": "full"}),
        ("hero_picture", {"name": ""}),
        ("hero_mask", {"name": "degraded", "dice": 0.9}),
        ("hero_mask", {"name": "", "dice": 0.9}),
        ("dice_picture", {"cases": 9}),
        ("slice_picture", {"case": "a"}),
        ("scatter_picture", {}),
        ("channel", {}),
    )
)


def test_every_sentence_of_a_verdict_and_the_rarer_ones(make_summary, small):
    text = [
        f"- {'. '.join(told(judge(f)))} {say('advice', v=judge(f), label='other')}\n"
        f"  {say('standing', v=judge(f), labels=labels)}"
        for few in (40, 6)
        for f in (replace(f, patients=min(f.patients, few)) for f in (*JUDGED, *THICK))
        for labels in [{f.arm: f.arm} | {rival.name: rival.name for rival in f.rivals}]
    ]
    text += [
        f"- {'. '.join(told_of_two(replace(f, patients=few), *pair))}"
        for few in (40, 6)
        for f in TWO
        for pair in ((0.031, few == 40), (0.004, False, "synthetic"))
    ]
    rarer = (*OTHERS, *OF_SLICES)
    text += [f"- {name}: {say(name, **values)}" for name, values in rarer]
    summary = make_summary(*small, segmenter="models/theirs")
    text.append(say("setting", s=summary, config=summary["config"], whole=250_000))
    untested = {"s": summary | {"tests": [], "noninferiority": []}, "patients": 6}
    text += [say("methods", **untested, q=q) for q in (asked(summary), SLICES)]
    text += [kind.what.format(missing="FLAIR") for kind in ARM_KINDS.values()]
    compare("sentences.txt", "\n".join(text) + "\n")
