import pytest

from seg_eval.arms.completed import Completed
from seg_eval.arms.kinds import GROUPS, KINDS, RETRAINED_KINDS, Arm, name_arms, parse_kinds
from synth3d.errors import InputError


def test_words_and_groups_become_kinds_in_one_order():
    assert parse_kinds(["ridge,copy"]) == ("full", "zero", "copy", "ridge")
    assert parse_kinds(["copy", "ridge"]) == parse_kinds(["ridge, copy,"])
    assert parse_kinds(["all"]) == KINDS
    assert set(parse_kinds(["default"])) == {"full", "zero", *GROUPS["default"]}
    assert parse_kinds(["rivals"])[2:] == RETRAINED_KINDS
    assert parse_kinds(["default,specialist"])[-1] == "specialist"
    assert parse_kinds([]) == ("full", "zero")


def test_an_unknown_word_is_refused_with_what_is_known():
    with pytest.raises(InputError, match=r"unknown arm\(s\) magic; known: full, zero, copy.*all"):
        parse_kinds(["copy,magic"])


def test_each_source_is_an_arm_and_the_first_is_what_is_retrained_on(tmp_path):
    sources = [Completed("theirs", tmp_path), Completed("ours", tmp_path)]
    arms = name_arms(parse_kinds(["synthetic", "retrained"]), sources)
    assert [arm.name for arm in arms] == ["full", "zero", "theirs", "ours", "retrained"]
    assert arms[-1] == Arm("retrained", "retrained", sources[0], "theirs")
    assert arms[-1].content == "theirs"
    assert arms[2].content == "theirs"


def test_which_segmenter_looks_and_whether_there_are_files(tmp_path):
    arms = name_arms(KINDS, [Completed("net", tmp_path)])
    assert {arm.name: arm.segmenter for arm in arms if arm.segmenter != "frozen"} == {
        kind: kind for kind in RETRAINED_KINDS
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


def test_without_a_source_there_is_nothing_to_retrain_on():
    assert [arm.name for arm in name_arms(KINDS, [])][-2:] == ["specialist", "dropout"]


def test_what_is_retrained_on_is_an_arm_too_so_that_its_channels_are_made(tmp_path):
    arms = name_arms(parse_kinds(["retrained"]), [Completed("net", tmp_path)])
    assert [arm.name for arm in arms] == ["full", "zero", "net", "retrained"]
