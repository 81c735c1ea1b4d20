import math

import pytest

from seg_eval.analysis.names import listed, percent, signed, spoken
from seg_eval.analysis.verdict import Facts, RegionFacts, Rival, compare_with_cheap, headline
from synth3d.scoring.bootstrap import Estimate


def around(value, half=0.01):
    return Estimate(value, value - half, value + half)


def region(gap=0.3, share=0.88, loss=0.03, defined=True):
    found = Estimate(share, share - 0.09, share + 0.07) if defined else None
    return RegionFacts(around(gap), defined, found, around(loss, 0.005))


def rival(kind, ahead, half=0.01):
    return Rival(kind, kind, around(ahead, half), 0.8)


BLANK = rival("zero", 0.3)


def facts(*rivals, regions=None, arm="agi", patients=40, missing=("t2f",)):
    regions = regions or {"WT": region()}
    return Facts(missing, arm, 0.85, regions, (BLANK, *rivals), patients)


def test_nothing_to_win():
    lost = {"WT": region(0.004, defined=False), "ET": region(-0.001, defined=False)}
    found = headline(facts(regions=lost, missing=("t1n",)))
    assert found["sentence"] == (
        "Without T1, nothing measurable is lost (whole tumour +0.004 [-0.006, +0.014] Dice, "
        "enhancing tumour -0.001 [-0.011, +0.009] Dice), so there is nothing for synthesis to win "
        "back: leave the channel blank."
    )
    assert (found["worth"], found["better"]) == ("nothing to win", None)


def test_without_a_synthesiser_the_best_that_was_tried_is_named():
    found = headline(
        Facts(
            ("t2f",), None, 0.6, {"WT": RegionFacts(around(0.3), True)},
            (rival("copy", -0.1), rival("boosted", -0.2)), 40,
        )
    )  # fmt: skip
    assert found["sentence"] == (
        "Without FLAIR, the loss of Dice is 0.300 in whole tumour, and no synthesiser was among "
        "the arms; of what was tried, boosted trees did best (+0.200 [+0.190, +0.210] mean Dice)."
    )
    assert (found["worth"], found["primary"]) == ("unclear", None)


def test_without_anything_tried_that_is_said():
    found = headline(Facts(("t2f",), None, 0.6, {"WT": RegionFacts(around(0.3), True)}, (), 40))
    assert "nothing that was tried did better than leaving the channel blank" in found["sentence"]


def test_synthesis_that_harms():
    harmful = Facts(("t2f",), "agi", 0.5, {"WT": region(share=-0.3, loss=0.4)},
                    (rival("zero", -0.1), rival("copy", -0.05)), 40)  # fmt: skip
    found = headline(harmful)
    assert found["sentence"] == (
        "Without FLAIR, synthesis (agi) does harm (-0.100 [-0.110, -0.090] mean Dice against "
        "blanking), while a copy of the most similar sequence does better (+0.050 "
        "[+0.040, +0.060] Dice): leave the channel blank; whole tumour mostly stays lost (0.400 "
        "[0.395, 0.405] Dice below the real image)."
    )
    assert (found["worth"], found["better"]) == ("no", "zero")


def test_a_lead_over_blanking_that_is_not_sure_is_no_verdict():
    unsure = Facts(("t2f",), "agi", 0.6, {"WT": region()}, (rival("zero", 0.005),), 40)
    found = headline(unsure)
    assert "wins back nothing for sure (+0.005 [-0.005, +0.015]" in found["sentence"]
    assert found["sentence"].endswith("cheap rivals are needed to tell.")
    assert (found["worth"], found["better"]) == ("unclear", None)
    assert "more cases are needed to tell" in compare_with_cheap(unsure)


def test_a_cheap_rival_that_does_as_well_is_enough():
    found = headline(facts(rival("boosted", -0.002), rival("ridge", 0.05)))
    assert found["sentence"] == (
        "Without FLAIR, synthesis (agi) wins back 88 % [79, 95] of the Dice lost in whole tumour, "
        "but boosted trees do better, if not surely (+0.002 [-0.008, +0.012] Dice): boosted trees "
        "will do."
    )
    assert (found["worth"], found["better"]) == ("no", "boosted")
    same = headline(facts(rival("copy", 0)))["sentence"]
    assert "a copy of the most similar sequence does as well (+0.000" in same


def test_a_cheap_rival_that_does_better_is_better():
    found = headline(facts(rival("ridge", -0.05)))
    assert "but ridge regression does better (+0.050 [+0.040, +0.060] Dice)" in found["sentence"]
    assert found["sentence"].endswith(": use ridge regression instead.")
    assert (found["worth"], found["better"]) == ("no", "ridge")


def test_the_arm_that_is_advised_is_the_one_that_was_compared():
    found = headline(facts(rival("boosted", -0.05, 0.2), rival("ridge", -0.04, 0.01)))
    assert found["better"] == "ridge"
    assert "but ridge regression does better (+0.040 [+0.030, +0.050] Dice)" in found["sentence"]


def test_a_lead_over_the_cheap_that_is_not_sure():
    found = headline(facts(rival("boosted", 0.004)))
    assert "not surely more than boosted trees (+0.004 [-0.006, +0.014] Dice)" in found["sentence"]
    assert "more cases are needed to tell" in found["sentence"]
    assert (found["worth"], found["better"]) == ("unclear", None)


def test_without_a_cheap_rival_it_cannot_be_told():
    assert headline(facts())["worth"] == "unclear"


def test_better_than_the_cheap_but_below_a_specialist():
    found = headline(facts(rival("boosted", 0.05), rival("specialist", -0.012, 0.008)))
    assert found["sentence"] == (
        "Without FLAIR, synthesis (agi) wins back 88 % [79, 95] of the Dice lost in whole tumour, "
        "more than boosted trees (+0.050 [+0.040, +0.060] Dice), but a specialist trained without "
        "FLAIR does better (+0.012 [+0.004, +0.020] Dice): train a specialist without FLAIR if "
        "you can, otherwise synthesis is worth it."
    )
    assert (found["worth"], found["worth_if_frozen"]) == ("no", "yes")
    assert found["better"] == "specialist"


def test_below_both_the_cheap_and_the_specialist():
    found = headline(facts(rival("boosted", -0.001), rival("specialist", -0.03)))
    assert found["sentence"].endswith(
        "but boosted trees do better, if not surely (+0.001 [-0.009, +0.011] Dice) and a "
        "specialist trained without FLAIR does better (+0.030 [+0.020, +0.040] Dice): train a "
        "specialist without FLAIR if you can, otherwise boosted trees will do."
    )


def test_channel_dropout_is_advised_in_words():
    found = headline(facts(rival("boosted", 0.05), rival("dropout", -0.03)))
    assert "train a segmenter with channel dropout if you can" in found["sentence"]


def test_a_segmenter_retrained_on_synthetic_images_is_still_synthesis():
    found = headline(facts(rival("boosted", 0.05), rival("retrained", -0.03)))
    assert "train a segmenter on synthetic images if you can" in found["sentence"]
    assert (found["worth"], found["better"]) == ("yes", "retrained")
    both = headline(
        facts(rival("boosted", 0.05), rival("retrained", -0.03), rival("specialist", -0.02))
    )
    assert (both["worth"], both["better"]) == ("unclear", "retrained")


def test_best_of_all():
    found = headline(facts(rival("boosted", 0.05), rival("specialist", 0.02)))
    assert found["sentence"] == (
        "Without FLAIR, synthesis (agi) wins back 88 % [79, 95] of the Dice lost in whole tumour, "
        "more than boosted trees (+0.050 [+0.040, +0.060] Dice) and more than a specialist trained "
        "without FLAIR (+0.020 [+0.010, +0.030] Dice): it is worth it here."
    )
    assert (found["worth"], found["worth_if_frozen"], found["better"]) == ("yes", "yes", None)


def test_a_specialist_that_only_may_be_better_is_not_called_better():
    found = headline(facts(rival("boosted", 0.05), rival("specialist", -0.005)))
    assert (
        "but a specialist trained without FLAIR does better, if not surely (+0.005"
        in found["sentence"]
    )
    assert found["sentence"].endswith(": it is worth it here.")
    assert (found["worth"], found["better"]) == ("yes", None)


def test_an_honest_rival_that_was_not_tried_is_said_to_be_missing():
    found = headline(facts(rival("boosted", 0.05)))
    assert found["sentence"].endswith(
        ": it is worth it here, if the segmenter cannot be trained anew (not tried)."
    )


def test_another_synthesiser_may_be_the_better_choice():
    other = Rival("gan", "synthetic", around(-0.04), 0.9)
    found = headline(facts(rival("boosted", 0.05), other))
    assert "synthesis (gan) does better (+0.040" in found["sentence"]
    assert "use gan instead" in found["sentence"]
    assert found["better"] == "gan"


def test_synthesis_is_not_ruled_out_where_another_kind_of_it_is_advised():
    gan = Rival("gan", "synthetic", around(-0.04), 0.9)
    other = headline(facts(rival("boosted", -0.005), gan))
    assert other["sentence"].endswith(": use gan instead.")
    assert (other["worth"], other["worth_if_frozen"]) == ("unclear", "unclear")
    trained = headline(facts(rival("boosted", -0.005), rival("retrained", -0.04)))
    assert "train a segmenter on synthetic images if you can" in trained["sentence"]
    assert (trained["worth"], trained["worth_if_frozen"]) == ("unclear", "no")


@pytest.mark.parametrize(("patients", "text"), [(14, "14 patients"), (1, "1 patient:")])
def test_few_patients_are_a_hint(patients, text):
    found = headline(facts(rival("boosted", 0.05), patients=patients))
    assert text in found["sentence"]
    assert found["sentence"].endswith("a hint, not a proof).")
    assert (found["worth"], found["hint"]) == ("unclear", True)
    assert not headline(facts(rival("boosted", 0.05), patients=15))["hint"]


def test_a_region_that_stays_lost_is_named_however_good_the_others_are():
    regions = {"WT": region(share=0.95), "TC": region(0.01, defined=False),
               "ET": region(share=0.2, loss=0.24)}  # fmt: skip
    found = headline(facts(rival("boosted", 0.05), regions=regions, missing=("t1c",)))
    assert found["sentence"].startswith(
        "Without contrast-enhanced T1, synthesis (agi) wins back 95 % [86, 102] of the Dice lost "
        "in whole tumour and 20 % [11, 27] in enhancing tumour"
    )
    assert found["sentence"].endswith(
        "enhancing tumour mostly stays lost (0.240 [0.235, 0.245] Dice below the real image); "
        "tumour core loses nothing measurable."
    )


def test_a_region_won_back_in_part_is_named_too():
    found = headline(facts(rival("boosted", 0.05), regions={"ET": region(share=0.7, loss=0.09)}))
    assert "enhancing tumour is won back only in part (0.090" in found["sentence"]


def test_a_loss_that_may_be_none_is_not_named():
    unsure = RegionFacts(around(0.3), True, Estimate(0.7, 0.3, 1.1), around(0.06, 0.1))
    assert "won back only" not in headline(facts(regions={"ET": unsure}))["sentence"]


def test_an_unbounded_end_is_called_so():
    found = RegionFacts(around(0.3), True, Estimate(0.8, 0.5, math.inf), around(0.01))
    assert "80 % [50, unbounded]" in headline(facts(regions={"WT": found}))["sentence"]


def test_figures_in_words():
    assert [percent(v) for v in (0.884, -0.2, -0.001, None, math.inf)] == [
        "88", "-20", "0", "unbounded", "unbounded",
    ]  # fmt: skip
    assert signed(Estimate(0.1, -0.2, 0.3), -1) == "-0.100 [-0.300, +0.200]"
    assert spoken(("t1n", "t1c", "t2f")) == "T1, contrast-enhanced T1 and FLAIR"
    assert listed(["a"]) == "a"


def test_a_gap_that_is_large_but_unsure_is_not_called_none():
    wide = RegionFacts(Estimate(0.3, -0.01, 0.6), False)
    found = headline(facts(rival("copy", 0.1), regions={"WT": wide}))
    assert found["sentence"] == (
        "Without FLAIR, it cannot be told whether anything is lost (whole tumour +0.300 [-0.010, "
        "+0.600] Dice), and so neither what synthesis wins back: more cases are needed."
    )
    assert (found["worth"], found["worth_if_frozen"]) == ("unclear", "unclear")
    assert "cannot be told" in compare_with_cheap(facts(regions={"WT": wide}))
    beside = headline(facts(rival("copy", 0.1), regions={"WT": region(), "ET": wide}))
    assert beside["sentence"].endswith("; whether enhancing tumour loses anything cannot be told.")


def test_an_interval_that_reaches_far_is_not_called_none_either():
    wide = RegionFacts(Estimate(0.001, -0.1, 0.12), False)
    assert headline(facts(regions={"WT": wide}))["worth"] == "unclear"


def test_a_region_that_only_synthesis_harms_is_not_called_lost():
    harmed = region(0.001, loss=0.08, defined=False)
    sentence = headline(facts(rival("copy", 0.1), regions={"WT": region(), "ET": harmed}))
    assert (
        "; enhancing tumour, which blanking costs nothing measurable, is harmed by synthesis "
        "(0.080 [0.075, 0.085] Dice below the real image)." in sentence["sentence"]
    )
    assert ": what it wins in some regions it loses in others;" in sentence["sentence"]
    assert (sentence["worth"], sentence["worth_if_frozen"]) == ("unclear", "unclear")
    longer = compare_with_cheap(facts(rival("copy", 0.1), regions={"WT": region(), "ET": harmed}))
    assert longer.endswith("; but it harms ET.")


def test_several_missing_sequences_are_several_channels():
    free = {"WT": region(0.004, defined=False)}
    found = headline(facts(regions=free, missing=("t1n", "t2f")))["sentence"]
    assert found.startswith("Without T1 and FLAIR, nothing")
    assert found.endswith("leave the channels blank.")


def test_few_patients_have_nothing_to_win_for_sure_neither():
    free = {"WT": region(0.004, defined=False)}
    assert headline(facts(regions=free, patients=6))["worth"] == "unclear"


def test_each_synthetic_arm_has_its_own_sentence_against_the_cheap():
    assert compare_with_cheap(facts(rival("ridge", 0.05))) == (
        "Synthesis agi beats the best cheap rival (ridge): mean Dice over WT 0.850 against 0.800, "
        "+0.050 [+0.040, +0.060] over 40 patients; with the frozen segmenter it is worth its cost "
        "here."
    )
    assert "not beyond doubt" in compare_with_cheap(facts(rival("ridge", 0.005)))
    assert "does not beat" in compare_with_cheap(facts(rival("ridge", -0.005)))
    assert "not worth its cost" in compare_with_cheap(facts(rival("ridge", -0.05)))
    free = {"WT": region(0.001, defined=False)}
    assert "nothing for synthesis to win back" in compare_with_cheap(facts(regions=free))


def test_the_longer_sentence_never_says_more_than_the_headline():
    few = compare_with_cheap(facts(rival("ridge", -0.05), patients=5))
    assert few.endswith("over 5 patients (few: a hint, not a proof).")
    assert compare_with_cheap(facts()).endswith("over 40 patients; no cheap rival was tried.")
    harmful = Facts(("t2f",), "agi", 0.5, {"WT": region(share=-0.3, loss=0.4)},
                    (rival("zero", -0.1), rival("copy", 0.05)), 40)  # fmt: skip
    assert headline(harmful)["worth"] == "no"
    assert compare_with_cheap(harmful).endswith("; but it is not surely better than leaving FLAIR "
                                                "out.")  # fmt: skip


def test_without_a_synthesiser_no_sentence_says_that_nothing_is_lost():
    none = Facts(("t2f",), None, 0.6, {"WT": RegionFacts(around(0.3), True)}, (BLANK,), 40)
    assert compare_with_cheap(none) == "No synthesiser was among the arms."
