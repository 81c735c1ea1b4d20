import argparse

import pytest
from seg_eval.experiment.choices import choose_sources, parse_missing, parse_seeds

from synth3d.cohort.cases import MODALITIES
from synth3d.errors import InputError


def test_what_may_be_missing():
    assert parse_missing("flair") == [("t2f",)]
    assert parse_missing("FLAIR, t1ce") == [("t1c", "t2f")]
    assert parse_missing("t2f,flair") == [("t2f",)]
    assert parse_missing("all") == [(name,) for name in MODALITIES]


@pytest.mark.parametrize("text", ["", ",", "t1,t1ce,t2,flair"])
def test_nothing_and_everything_cannot_be_missing(text):
    with pytest.raises(InputError, match="one to three sequences"):
        parse_missing(text)


def test_what_the_segmenter_does_not_see_cannot_be_missing():
    with pytest.raises(InputError, match="it cannot miss pd"):
        parse_missing("flair,pd")
    with pytest.raises(InputError, match="'dwi' is not a modality"):
        parse_missing("dwi")


def test_seeds():
    assert parse_seeds(None, 7) == (7,)
    assert parse_seeds("0, 1,2", 7) == (0, 1, 2)
    for text in ("", "a", "1,1", "-1", "0.5"):
        with pytest.raises(InputError, match="--seeds wants different whole numbers"):
            parse_seeds(text, 0)


@pytest.mark.parametrize(("text", "seed"), [(None, -1), (None, 2**32), ("0,4294967296", 0)])
def test_seeds_that_no_generator_takes_are_refused(text, seed):
    with pytest.raises(InputError, match="--seed"):
        parse_seeds(text, seed)


def namespace(**values) -> argparse.Namespace:
    given = {"run": None, "completed": None, "splits": None, "dry_run": False, "recipe": None}
    return argparse.Namespace(**given | {"kinds": ("synthetic",), "missing": "all"} | values)


def nothing(arguments):
    raise AssertionError(arguments)


def test_with_all_four_missing_each_gets_the_runs_that_make_it(write_run, toy_cohort, tmp_path):
    flair = write_run(tmp_path / "a", toy_cohort)
    t1ce = write_run(tmp_path / "b", toy_cohort, "t1c")
    args = namespace(run=[flair, t1ce], work=tmp_path)
    chosen = [choose_sources(args, (name,), toy_cohort, nothing) for name in ("t1c", "t2f")]
    assert [[run.name for run in runs] for runs in chosen] == [["b"], ["a"]]


def test_a_run_that_fits_nowhere_is_refused(write_run, toy_cohort, tmp_path):
    run = write_run(tmp_path / "a", toy_cohort, "t1c")
    args = namespace(run=[run], work=tmp_path, missing="flair")
    with pytest.raises(InputError, match=r"makes t1c, not t2f"):
        choose_sources(args, ("t2f",), toy_cohort, nothing)
    pair = namespace(run=[run], work=tmp_path, missing="flair,t1ce")
    with pytest.raises(InputError, match=r"makes t1c, not t1c and t2f"):
        choose_sources(pair, ("t1c", "t2f"), toy_cohort, nothing)


def test_a_folder_of_another_tool_stands_beside_runs(write_run, toy_cohort, tmp_path):
    run = write_run(tmp_path / "a", toy_cohort)
    (tmp_path / "theirs").mkdir()
    args = namespace(run=[run], completed=[f"cwdm={tmp_path / 'theirs'}"], work=tmp_path)
    found = choose_sources(args, ("t2f",), toy_cohort, nothing)
    assert [source.name for source in found] == ["a", "cwdm"]


def test_two_sequences_are_synthesised_by_one_network(toy_cohort, toy_splits, tmp_path, machines):
    args = namespace(
        data=toy_cohort, splits=toy_splits, work=tmp_path, missing="t1ce,flair", threads=1
    )
    with pytest.raises(InputError, match="training left no finished run for t1c and t2f"):
        choose_sources(args, ("t1c", "t2f"), toy_cohort, machines.synth3d)
    (command,) = machines.commands
    assert command[command.index("--target") + 1] == "t1c,t2f"
