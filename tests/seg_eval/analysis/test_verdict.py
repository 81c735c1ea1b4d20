from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_eval.analysis.caveats import remarks_on
from seg_eval.analysis.verdict import Facts, RegionFacts, Rival, judge
from synth3d.scoring.intervals import Estimate


def around(value, half=0.01):
    return Estimate(value, value - half, value + half)


def region(gap=0.3, share=0.88, loss=0.03, defined=True):
    found = Estimate(share, share - 0.09, share + 0.07) if defined else None
    return RegionFacts(around(gap), None if defined else "small_gap", found, around(loss, 0.005))


def rival(kind, ahead, half=0.01, name=None):
    return Rival(name or kind, kind, around(ahead, half), 0.8)


BLANK = rival("zero", 0.3)
WIDE = RegionFacts(Estimate(0.3, -0.01, 0.6), "gap_may_be_zero")
FREE = {"WT": region(0.004, defined=False), "ET": region(-0.001, defined=False)}
BLIND = {name: replace(each, full=0.3) for name, each in FREE.items()}


def facts(*rivals, regions=None, arm="agi", patients=40, zero=BLANK):
    return Facts(("t2f",), arm, 0.85, regions or {"WT": region()}, (zero, *rivals), patients)


def decided(verdict):
    """Worth, worth if frozen, and the name of the better arm."""
    better = verdict.better.name if verdict.better else None
    return verdict.worth, verdict.worth_if_frozen, better


def codes(verdict):
    """The advice with its arm and, of ``train``, what else."""
    advice, arms = verdict.advice, [verdict.advice.arm, getattr(verdict.advice.otherwise, "arm", 0)]
    told = [advice.code, advice.otherwise.code] if advice.otherwise else [advice.code]
    return [*told, *(arm.name for arm in arms if arm)]


@pytest.mark.parametrize(
    ("regions", "reason", "worth"),
    [
        (FREE, "no_loss", "nothing to win"),
        ({"WT": WIDE}, "unknown_loss", "unclear"),
        (BLIND, "weak_segmenter", "unclear"),
        (BLIND | {"WT": FREE["WT"]}, "no_loss", "nothing to win"),
        ({"WT": RegionFacts(Estimate(0.001, -0.1, 0.12), "small_gap")}, "unknown_loss", "unclear"),
    ],
    ids=[
        "nothing is lost",
        "a large gap that is unsure",
        "no region is found",
        "one is",
        "an interval that reaches far",
    ],
)
def test_without_a_measurable_loss_nothing_is_compared(regions, reason, worth):
    verdict = judge(facts(rival("copy", 0.1), regions=regions))
    assert (verdict.reason, decided(verdict)) == (reason, (worth, worth, None))
    assert verdict.finding == ""
    assert judge(facts(regions=regions, patients=6)).worth != "nothing to win"


@pytest.mark.parametrize(
    ("rivals", "best"),
    [((rival("copy", -0.1), rival("boosted", -0.2)), "boosted"), ((), None),
     ((rival("copy", 0.1),), None)],
)  # fmt: skip
def test_without_a_synthesiser_the_best_that_was_tried_is_named(rivals, best):
    regions = {"WT": RegionFacts(around(0.3), None)}
    verdict = judge(Facts(("t2f",), None, 0.6, regions, rivals, 40))
    assert (verdict.reason, decided(verdict)) == ("no_synthesis", ("unclear", "unclear", None))
    assert (verdict.advice.arm.name if verdict.advice else None) == best


BETTER_GAN = rival("synthetic", -0.04, name="gan")
CHEAP_LOSES = rival("boosted", 0.05)


@pytest.mark.parametrize(
    ("rivals", "decision", "advice"),
    [
        ((), ("unclear", "unclear", None), ["cheap_rivals"]),
        ((rival("boosted", -0.002), rival("ridge", 0.05)), ("no", "no", "boosted"),
         ["will_do", "boosted"]),
        ((rival("ridge", -0.05),), ("no", "no", "ridge"), ["use", "ridge"]),
        ((rival("boosted", 0.004, 0.02),), ("unclear", "unclear", None), ["more_cases"]),
        ((rival("boosted", -0.004, 0.03),), ("unclear", "unclear", None), ["more_cases"]),
        ((rival("boosted", 0.009),), ("no", "no", "boosted"), ["will_do", "boosted"]),
        ((CHEAP_LOSES,), ("yes", "yes", None), ["worth_it_untrained"]),
        ((CHEAP_LOSES, rival("specialist", 0.02)), ("yes", "yes", None), ["worth_it"]),
        ((CHEAP_LOSES, rival("specialist", -0.005)), ("yes", "yes", None), ["worth_it"]),
        ((CHEAP_LOSES, rival("specialist", -0.012, 0.008)), ("no", "yes", "specialist"),
         ["train", "worth_it", "specialist"]),
        ((rival("boosted", -0.001), rival("specialist", -0.03)), ("no", "no", "specialist"),
         ["train", "will_do", "specialist", "boosted"]),
        ((CHEAP_LOSES, rival("dropout", -0.03)), ("no", "yes", "dropout"),
         ["train", "worth_it", "dropout"]),
        # a segmenter retrained on synthetic images is still synthesis
        ((CHEAP_LOSES, rival("retrained", -0.03)), ("yes", "yes", "retrained"),
         ["train", "worth_it", "retrained"]),
        ((CHEAP_LOSES, rival("retrained", -0.03), rival("specialist", -0.02)),
         ("unclear", "yes", "retrained"), ["train", "worth_it", "retrained"]),
        ((rival("boosted", -0.005), rival("retrained", -0.04)), ("unclear", "no", "retrained"),
         ["train", "will_do", "retrained", "boosted"]),
        ((CHEAP_LOSES, BETTER_GAN), ("yes", "yes", "gan"), ["other_synthesis", "gan"]),
        ((rival("boosted", -0.005), BETTER_GAN), ("unclear", "unclear", "gan"),
         ["other_synthesis", "gan"]),
    ],
)  # fmt: skip
def test_what_is_worth_it_and_what_is_advised(rivals, decision, advice):
    verdict = judge(facts(*rivals))
    assert decided(verdict) == decision
    assert codes(verdict) == advice
    assert not verdict.facts.is_hint


@pytest.mark.parametrize(
    ("lead", "finding", "decision"),
    [(-0.1, "harm", ("no", "no", "zero")), (0.005, "gain_too_small", ("no", "no", "zero")),
     (-0.005, "no_gain", ("no", "no", "zero")), (0.011, "ahead", ("yes", "yes", None))],
)  # fmt: skip
def test_synthesis_that_is_not_surely_above_blanking_wins_nothing(lead, finding, decision):
    verdict = judge(facts(rival("copy", 0.05), zero=rival("zero", lead)))
    assert (verdict.finding, decided(verdict)) == (finding, decision)


def test_a_rival_that_may_be_ahead_is_not_preferred_to_one_that_surely_is():
    verdict = judge(facts(rival("boosted", -0.05, 0.2), rival("ridge", -0.04, 0.01)))
    assert verdict.better.name == "ridge"


@pytest.mark.parametrize(("patients", "is_hint"), [(1, True), (14, True), (15, False)])
def test_few_patients_are_a_hint(patients, is_hint):
    verdict = judge(facts(CHEAP_LOSES, patients=patients))
    assert verdict.facts.is_hint is is_hint
    assert verdict.worth == verdict.worth_if_frozen == ("unclear" if is_hint else "yes")
    assert verdict.likely == "yes"


LEADS = st.tuples(st.floats(-0.5, 0.5), st.floats(0, 0.3))


@given(st.lists(st.tuples(st.sampled_from(["boosted", "ridge", "copy", "specialist", "retrained"]),
                          LEADS), max_size=4), LEADS, st.integers(1, 40))  # fmt: skip
def test_badge_sentence_and_advice_come_from_one_decision(rivals, floor, patients):
    """Whatever the facts: what is said never goes beyond what is decided."""
    others = [rival(kind, *lead, name=f"{kind}{i}") for i, (kind, lead) in enumerate(rivals)]
    verdict = judge(facts(*others, zero=rival("zero", *floor), patients=patients))
    advice = verdict.advice
    said = advice.otherwise or advice
    enough = judge(facts(*others, zero=rival("zero", *floor), patients=max(patients, 15)))
    assert verdict.likely == enough.worth
    if patients < 15:
        assert decided(verdict) == ("unclear", "unclear", None)
        assert codes(verdict) == ["more_cases"]
    if verdict.worth_if_frozen != "yes":
        assert not said.code.startswith("worth_it")
    if said.code.startswith("worth_it"):
        cheap = [each for each in verdict.facts.rivals if each.about.is_cheap]
        assert all(each.ahead.low > 0 for each in [*cheap, verdict.facts.floor])
    if verdict.worth_if_frozen == "no":
        assert any(each.suffices for each in verdict.facts.rivals)
        assert enough.finding not in ("ahead", "lead_unproven", "no_cheap_rival")
    if enough.finding in ("lead_unproven", "lag_unproven"):
        assert enough.worth_if_frozen == "unclear"
        assert enough.beside.ahead.low <= 0 < enough.beside.ahead.high
    if enough.finding == "ahead":
        assert enough.worth_if_frozen == "yes"


UNSURE_LOSS = RegionFacts(around(0.3), None, Estimate(0.7, 0.3, 1.1), around(0.06, 0.1))


@pytest.mark.parametrize(
    ("found", "code"),
    [(region(share=0.2, loss=0.24), "mostly_lost"), (region(share=0.7, loss=0.09), "partly_lost"),
     (region(share=-0.05, loss=0.3), "nothing_back"),
     (replace(region(loss=0.15), recovery=Estimate(0.49, -0.81, 0.75)), "open"),
     (replace(region(loss=0.15), recovery=Estimate(0.49, 0.2, 0.75)), "partly_lost"),
     (replace(region(share=-0.1), gain=around(-0.03)), "worse"),
     (replace(WIDE, gain=around(-0.04)), "worse"),
     (replace(region(share=-0.3, loss=0.4), gain=around(-0.09)), "harmed"),
     (replace(WIDE, gain=around(-0.07)), "harmed"), (replace(WIDE, gain=around(0.1)), "untold"),
     (UNSURE_LOSS, None), (region(0.001, defined=False), "free"), (WIDE, "untold"),
     (region(0.001, loss=0.08, defined=False), "harmed")],
)  # fmt: skip
def test_what_a_good_mean_would_hide_is_remarked(found, code):
    regions = {"WT": region(), "TC": region(0.01, defined=False), "ET": found}
    verdict = judge(facts(CHEAP_LOSES, regions=regions))
    remarks, free = [*remarks_on(verdict.facts).items()], ("TC", "free")
    told = [free, ("ET", code)] if code in ("free", "untold") else [("ET", code), free]
    assert remarks == (told if code else [free])  # what stays lost comes first
    assert (verdict.worth == "yes") == (code != "harmed")
    if code == "harmed":
        assert (codes(verdict), verdict.finding) == (["mixed"], "region_harmed")


@pytest.mark.parametrize("unsure", ["the floor", "a cheap arm"])
def test_who_is_not_surely_ahead_is_not_said_to_win_in_some_regions(unsure):
    regions = {"WT": region(), "ET": region(0.001, loss=0.08, defined=False)}
    wide = rival("zero", 0.03, 0.04) if unsure == "the floor" else BLANK
    cheap = rival("copy", 0.03, 0.04) if unsure == "a cheap arm" else rival("copy", 0.05)
    verdict = judge(facts(cheap, regions=regions, zero=wide))
    assert (verdict.facts.harmed, codes(verdict)) == (["ET"], ["more_cases"])


@pytest.mark.parametrize(
    ("lead", "finding"),
    [(0.05, "ahead"), (0.005, "lead_too_small"), (-0.005, "no_better"), (-0.05, "cheap_better")],
)
def test_each_synthetic_arm_stands_beside_the_best_cheap_rival(lead, finding):
    verdict = judge(facts(rival("ridge", lead), rival("copy", lead + 0.1)))
    open_ = judge(facts(rival("ridge", lead, 0.2), rival("copy", lead + 0.1)))
    assert open_.finding == ("lead_unproven" if lead > 0 else "lag_unproven")
    assert (verdict.beside.name, verdict.finding) == ("ridge", finding)
    alone = judge(facts())
    assert (alone.beside.name, alone.finding) == ("zero", "no_cheap_rival")


def test_a_cheap_arm_that_surely_does_better_is_not_hidden_by_one_that_may():
    noisy, better = rival("copy", -0.05, 0.2), rival("ridge", -0.04, 0.01)
    verdict = judge(facts(noisy, better))
    assert (verdict.worth, verdict.finding, verdict.better) == ("no", "cheap_better", better)
    # Nor is a win told where one of them may do better.
    verdict = judge(facts(rival("ridge", 0.04), rival("copy", 0.06, 0.2)))
    assert (verdict.worth, verdict.finding) == ("unclear", "lead_unproven")
    assert verdict.beside.name == "copy"
