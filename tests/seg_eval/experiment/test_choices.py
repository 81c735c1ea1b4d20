import json
import os

import pytest

from seg_eval.arms import read_run
from seg_eval.cli import build_parser, request_of
from seg_eval.experiment.choice import Choice, choose, train_synthesiser
from seg_eval.experiment.plan import make_plan
from seg_eval.experiment.request import RunRequest, parse_missing, parse_seeds
from synth3d.cohort import MODALITIES
from synth3d.errors import InputError


def test_what_may_be_missing():
    assert parse_missing("flair") == [("t2f",)]
    assert parse_missing("FLAIR, t1ce") == [("t1c", "t2f")]
    assert parse_missing("t2f,flair") == [("t2f",)]
    assert parse_missing("all") == [(name,) for name in MODALITIES]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        *((text, "one to three sequences") for text in ("", ",", "t1,t1ce,t2,flair")),
        ("flair,pd", "it cannot miss pd"),
        ("dwi", "'dwi' is not a modality"),
    ],
)
def test_what_cannot_be_missing(text, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_missing(text)


def test_seeds():
    assert parse_seeds(None, 7) == (7,)
    assert parse_seeds("0, 1,2", 7) == (0, 1, 2)
    for text in ("", "a", "1,1", "-1", "0.5", "0,4294967296"):
        with pytest.raises(InputError, match="--seeds wants different whole numbers"):
            parse_seeds(text, 0)
    for seed in (-1, 2**32):
        with pytest.raises(InputError, match="--seed must be"):
            parse_seeds(None, seed)


@pytest.fixture
def asked(tmp_path, toy_cohort, write_run):
    """A request on the toy cohort with named runs: folder by missing sequence."""

    def ask(missing, runs=(), **settings):
        folders = tuple(write_run(tmp_path / name, toy_cohort, name) for name in runs)
        return RunRequest(missing, toy_cohort, run=folders, work=tmp_path / "work", **settings)

    return ask


def test_with_all_four_missing_each_gets_the_runs_that_make_it(asked):
    request = asked("all", ["t2f", "t1c"])
    chosen = [choose(request, (name,)).sources for name in ("t1c", "t2f")]
    assert [[run.name for run in runs] for runs in chosen] == [["t1c"], ["t2f"]]


def test_a_run_for_any_gap_serves_all_experiments(toy_cohort, write_run, tmp_path):
    """But not one that takes away all that it looks at."""
    run = write_run(tmp_path / "any", toy_cohort, *MODALITIES, sources=MODALITIES)
    few = write_run(tmp_path / "few", toy_cohort, "t1n", "t2f", sources=["t1n", "t2f"])
    for missing in ("all", "flair", "flair,t2", "t1,t1ce,t2"):
        request = RunRequest(missing, toy_cohort, run=(run,), work=tmp_path / "work")
        for one in request.wanted:
            assert [source.name for source in choose(request, one).sources] == ["any"]
    request = RunRequest("t1,flair", toy_cohort, run=(few,), work=tmp_path / "work")
    with pytest.raises(InputError, match="makes t1n, t2f from the rest, not t1n and t2f$"):
        choose(request, request.wanted[0])


def test_without_a_name_a_run_for_just_the_gap_comes_first_and_seq2seq_never(
    toy_cohort, write_run, tmp_path, capsys
):
    runs, request = (
        tmp_path / "work" / "runs",
        RunRequest("flair", toy_cohort, work=tmp_path / "work"),
    )
    alone = write_run(runs / "c-alone", toy_cohort, *MODALITIES, sources=MODALITIES)
    (alone / "config.json").write_text('{"train": {"framework": "tsf", "tsf": {"pretrain": 1.0}}}')
    assert choose(request, ("t2f",)).training
    write_run(runs / "b-any", toy_cohort, *MODALITIES, sources=MODALITIES)
    assert [one.name for one in choose(request, ("t2f",)).sources] == ["b-any"]
    assert "makes whatever a case lacks of t1n, t1c, t2w, t2f" in capsys.readouterr().out
    fixed = write_run(runs / "a-fixed", toy_cohort, "t2f", sources=["t1n", "t1c", "t2w"])
    os.utime(fixed / "done.json", (0, 0))
    assert [one.name for one in choose(request, ("t2f",)).sources] == ["a-fixed"]
    assert [one.name for one in choose(request, ("t1c",)).sources] == ["b-any"]


@pytest.mark.parametrize("noted", [True, False])
def test_a_run_begun_from_one_that_saw_test_cases_is_no_choice(
    toy_cohort, toy_splits, write_run, tmp_path, noted
):
    """Whether its cohort.json notes them or only its start does."""
    work, split = tmp_path / "work", json.loads(toy_splits.read_text())
    before = write_run(tmp_path / "before", toy_cohort, split=split | {"train": split["test"]})
    told = {"seen_before": {"train": split["test"], "val": []}} if noted else {}
    run = write_run(work / "runs" / "begun", toy_cohort, split=split | told)
    request = RunRequest("flair", toy_cohort, splits=toy_splits, work=work)
    (run / "config.json").write_text(json.dumps({"train": {"start": str(before)}}))
    assert choose(request, ("t2f",)).training
    with pytest.raises(InputError, match=r"test case .* is among the cases that the run begun"):
        make_plan(request, ("t2f",), [read_run(run)])


def test_several_missing_sequences_may_be_words_or_one(tmp_path):
    for words in (["flair", "t2"], ["flair,t2"], ["t2,", "flair"]):
        asked = request_of(build_parser().parse_args(["run", "--missing", *words]))
        assert asked.wanted == [("t2w", "t2f")]


@pytest.mark.parametrize("missing", ["flair", "flair,t1ce"])
def test_a_run_that_fits_nowhere_is_refused(asked, missing):
    request = asked(missing, ["t1c"])
    names = " and ".join(request.wanted[0])
    with pytest.raises(InputError, match=f"makes t1c, not {names}$"):
        choose(request, request.wanted[0])


def test_a_folder_of_another_tool_stands_beside_runs(asked, tmp_path):
    (tmp_path / "theirs").mkdir()
    request = asked("flair", ["t2f"], completed=(f"cwdm={tmp_path / 'theirs'}",))
    assert [source.name for source in choose(request, ("t2f",)).sources] == ["t2f", "cwdm"]


def test_two_sequences_are_synthesised_by_one_network_that_is_trained_when_it_is_time(
    asked, machines
):
    request = asked("t1ce,flair", threads=1)
    choice = choose(request, ("t1c", "t2f"))
    assert choice.sources == ()
    assert choice.training[choice.training.index("--target") + 1] == "t1c,t2f"
    with pytest.raises(InputError, match="training left no finished run for t1c and t2f"):
        train_synthesiser(request, ("t1c", "t2f"), choice.training, machines.synth3d)
    assert machines.commands == [[*choice.training]]


def test_without_a_synthetic_arm_nothing_has_to_be_trained(asked):
    assert choose(asked("flair", arms=("copy,rivals",)), ("t2f",)).training
    assert choose(asked("flair", arms=("copy,specialist",)), ("t2f",)) == Choice()


def as_trial(run, steps=60, of=1400):
    """Makes a finished run one of fewer steps than its recipe."""
    (run / "config.json").write_text(json.dumps({"train": {"steps": steps}}))
    (run / "recipe.json").write_text(json.dumps({"name": "cpu", "steps": of}))
    return run


def test_a_trial_is_taken_by_name_alone_and_never_in_silence(
    toy_cohort, write_run, tmp_path, capsys
):
    work = tmp_path / "work"
    whole = write_run(work / "runs" / "whole", toy_cohort)
    as_trial(write_run(work / "runs" / "newer", toy_cohort))
    os.utime(whole / "done.json", (0, 0))
    request = RunRequest("flair", toy_cohort, work=work)
    assert [run.name for run in choose(request, ("t2f",)).sources] == ["whole"]
    out = capsys.readouterr().out
    assert "newer (60 steps, a trial (cpu has 1400))" in out
    assert "the only one that does" in out
    named = RunRequest("flair", toy_cohort, work=work, run=("newer",))
    assert [run.name for run in choose(named, ("t2f",)).sources] == ["newer"]
    assert "warning: newer has 60 steps, a trial" in capsys.readouterr().out
    (whole / "done.json").unlink()
    assert choose(request, ("t2f",)).training  # rather than judge the trial


def test_what_is_not_finished_is_told_and_refused(toy_cohort, write_run, tmp_path, capsys):
    work = tmp_path / "work"
    run = write_run(work / "runs" / "half", toy_cohort)
    config = {"targets": ["t2f"], "train": {"steps": 1400}}
    (run / "config.json").write_text(json.dumps(config))
    told = json.loads((run / "cohort.json").read_text()) | {"data_folder": str(toy_cohort)}
    (run / "cohort.json").write_text(json.dumps(told))
    (run / "done.json").unlink()
    (run / "log.jsonl").write_text('{"step": 300, "loss": {}, "seconds": {}}\n')
    request = RunRequest("flair", toy_cohort, work=work)
    assert choose(request, ("t2f",)).training
    assert "half is not taken, it is not finished: 300 of 1400 steps" in capsys.readouterr().out
    with pytest.raises(InputError, match="half is not finished .300 of 1400 steps.*--continue"):
        choose(RunRequest("flair", toy_cohort, work=work, run=("half",)), ("t2f",))


def test_who_names_a_synthesiser_wants_its_arm(asked):
    assert "synthetic" not in asked("flair", arms=("copy",)).kinds
    request = asked("flair", ["t2f"], arms=("copy",))
    assert "synthetic" in request.kinds
    assert [run.name for run in choose(request, ("t2f",)).sources] == ["t2f"]
