import pytest

from seg_eval.arms.baselines import FILLINGS
from seg_eval.arms.completed import Completed
from seg_eval.arms.kinds import ARM_KINDS, Arm, ArmKind, groups, kinds_with, name_arms, parse_kinds
from seg_eval.arms.poor import INTERPOLATIONS
from synth3d.errors import InputError

KINDS = groups()["all"]


def test_words_and_groups_become_kinds_in_one_order():
    assert parse_kinds(["ridge,copy"]) == ("full", "zero", "copy", "ridge")
    assert parse_kinds(["copy", "ridge"]) == parse_kinds(["ridge, copy,"])
    assert parse_kinds(["all"]) == KINDS
    assert {*KINDS} | {*parse_kinds(["all"], degraded=True)} == {*ARM_KINDS}
    assert set(parse_kinds(["default"])) == {"full", "zero", *groups()["default"]}
    assert parse_kinds(["rivals"])[2:] == kinds_with("own_segmenter")
    assert parse_kinds(["default,specialist"])[-1] == "specialist"
    assert parse_kinds([]) == ("full", "zero")


def test_an_unknown_word_is_refused_with_what_is_known():
    with pytest.raises(InputError, match=r"unknown arm\(s\) magic; known: full, zero, copy.*all"):
        parse_kinds(["copy,magic"])


def test_each_source_is_an_arm_and_the_first_is_what_is_retrained_on(tmp_path):
    """With ``retrained`` alone too, so that the channels that it is fed are made."""
    sources = [Completed("theirs", tmp_path), Completed("ours", tmp_path)]
    arms = name_arms(parse_kinds(["retrained"]), sources)
    assert [arm.name for arm in arms] == ["full", "zero", "theirs", "ours", "retrained"]
    assert arms[-1] == Arm("retrained", "retrained", sources[0], "theirs")
    assert arms[-1].content == arms[2].content == "theirs"
    assert [arm.name for arm in name_arms(KINDS, [])][-2:] == ["specialist", "dropout"]


def test_which_segmenter_looks_and_whether_there_are_files(tmp_path):
    arms = name_arms(KINDS, [Completed("net", tmp_path)])
    assert {arm.name: arm.segmenter for arm in arms if arm.segmenter != "frozen"} == {
        kind: kind for kind in kinds_with("own_segmenter")
    }
    without = {arm.name for arm in arms if not arm.has_files}
    assert without == {"full", "zero", "specialist", "dropout"}


def test_two_arms_of_one_name_are_refused(tmp_path):
    twice = [Completed("net", tmp_path), Completed("net", tmp_path / "other")]
    with pytest.raises(InputError, match="two arms would be named net"):
        name_arms(["synthetic"], twice)
    for taken in ("ridge", "full", "specialist"):
        with pytest.raises(InputError, match=f"two arms would be named {taken}; rename"):
            name_arms(["synthetic"], [Completed(taken, tmp_path)])


def test_every_kind_is_either_filled_in_or_made_by_a_synthesiser_or_has_no_files():
    made_here = {*FILLINGS, *INTERPOLATIONS}
    cheap = {kind.name for kind in ARM_KINDS.values() if kind.is_cheap}
    assert made_here - cheap == {"degraded"}
    assert cheap <= made_here
    others = [kind for kind in ARM_KINDS.values() if kind.name not in made_here]
    assert all(kind.needs_synthesis or kind.is_check or not kind.has_files for kind in others)


def test_a_kind_without_its_function_is_not_taken_for_the_real_file(run_toy, monkeypatch):
    """What a whole kind is, docs/extending.md says, and its test does it."""
    monkeypatch.setitem(ARM_KINDS, "doubled", ArmKind("doubled", "naive", "", "a doubled T2"))
    with pytest.raises(ValueError, match="no function for the arm doubled"):
        run_toy("--arms", "doubled")
