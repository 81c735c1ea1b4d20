import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from nnunet_plans.presets import PRESETS
from seg_eval.arms.kinds import help_on_arms
from seg_eval.arms.program import StageFailedError, forecast_of, run_synth3d
from seg_eval.cli import build_parser, main
from seg_eval.experiment.request import RunRequest
from synth3d import __version__
from synth3d.cohort import find_cases


@pytest.fixture
def run_of(refused, tmp_path):
    """The refusal of an experiment on a cohort."""
    work = ["--work", str(tmp_path / "w"), "--arms", "copy"]
    return lambda cohort, *flags: refused("run", "--data", str(cohort), *work, *flags)


def test_help_is_instant_and_has_examples_and_the_arms_of_the_table():
    started = time.monotonic()
    command = [sys.executable, "-m", "seg_eval", "run", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 1.5
    assert "seg_eval run --missing flair --data BraTS" in done.stdout
    assert help_on_arms() in " ".join(done.stdout.split())


@pytest.mark.parametrize("module", ["seg_eval", "seg_eval.cli"])
def test_importing_loads_nothing_heavy(module):
    heavy = "{'numpy', 'torch', 'nnunetv2', 'argparse' * (MODULE == 'seg_eval')} & {*sys.modules}"
    code = f"MODULE = {module!r}; import sys, {module}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_without_a_command_it_says_what_there_is(capsys):
    assert main([]) == 2
    told = capsys.readouterr().out
    assert len(told.splitlines()) <= 12
    assert max(map(len, told.splitlines())) <= 100
    (commands,) = [a.choices for a in build_parser()._actions if isinstance(a.choices, dict)]
    assert all(name in told for name in commands)


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--data", "nowhere", "nowhere"),
        ("--missing", "dwi", "'dwi'"),
        ("--preset", "huge", "known: cpu-mini"),
        ("--threads", "0", "--threads must be"),
        ("--margin", "1", "--margin"),
        ("--nsd-tolerance", "0", "--nsd-tolerance"),
        ("--nsd-tolerance", "nan", "--nsd-tolerance"),
        ("--regions", "WT,XX", "WT, TC, ET"),
        ("--regions", ",", "got none"),
        ("--work", "/proc/nowhere", "/proc/nowhere"),
        *(("--name", name, "wants a plain folder name") for name in ("", "..", "a/b", "../../up")),
    ],
)
def test_what_a_flag_cannot_be_is_refused(run_of, toy_cohort, tmp_path, flag, value, named):
    assert named in run_of(toy_cohort, flag, value)
    assert not (tmp_path / "w").exists()


def test_a_folder_that_is_no_run_or_an_unfinished_one_is_refused(refused, toy_cohort, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    flags = ("run", "--data", str(toy_cohort), "--run", str(run))
    assert "not a run folder" in refused(*flags)
    (run / "config.json").write_text("{}")
    assert "is not finished" in refused(*flags)
    (run / "done.json").write_text("{}")
    (run / "cohort.json").write_text("{}")
    assert "is damaged" in refused(*flags)


def test_a_run_for_another_sequence_is_refused(refused, toy_cohort, tmp_path, write_run):
    run = write_run(tmp_path / "run", toy_cohort, "t1c")
    flags = ["--data", str(toy_cohort), "--run", str(run), "--work", str(tmp_path)]
    assert "makes t1c, not t2f" in refused("run", *flags)


def test_a_run_of_another_cohort_is_told_from_where_it_is_and_what_to_give(
    refused, phantom_cohort, toy_cohort, tmp_path, write_run
):
    run = write_run(tmp_path / "ours", toy_cohort, "t2f")
    flags = ["--data", str(phantom_cohort), "--run", str(run), "--work", str(tmp_path)]
    for more in ((), ("--coupled", "--seed", "0")):
        error = refused("run", *flags, *more, "--dry-run")
        assert [part for part in ("ours", str(toy_cohort), "--splits") if part not in error] == []
        assert error.count("Brats18_TOY") == 3


def test_cases_that_cannot_be_used_are_named(run_of, own_cohort, toy_splits, tmp_path):
    label = own_cohort / "Brats18_TOY_C_1" / "Brats18_TOY_C_1_seg.nii.gz"
    label.write_bytes(label.read_bytes()[:-20])
    flags = ("--splits", str(toy_splits))
    assert label.name in run_of(own_cohort, *flags)
    for letter in "ABCD":
        (own_cohort / f"Brats18_TOY_{letter}_1" / f"Brats18_TOY_{letter}_1_t1.nii.gz").unlink()
    assert "no train case of the split is left" in (error := run_of(own_cohort, *flags))
    assert "Brats18_TOY_A_1 lacks t1n" in error
    assert not (tmp_path / "w").exists()


def test_a_split_without_test_cases_is_refused(run_of, toy_cohort, tmp_path):
    split = tmp_path / "s.json"
    split.write_text('{"train": ["Brats18_TOY_A_1"], "test": []}')
    assert "has no test cases" in run_of(toy_cohort, "--splits", str(split))


def test_a_folder_that_is_no_experiment_cannot_be_reported(refused, tmp_path):
    for command in ("report", "power"):
        assert "not a finished experiment" in refused(command, str(tmp_path))


@pytest.fixture
def experiments(tmp_path):
    """WORK with two finished experiments, and one that is not."""
    for name in ("t2f-BraTS", "t1c-BraTS", "unfinished"):
        (tmp_path / "eval" / name).mkdir(parents=True)
        if name != "unfinished":
            (tmp_path / "eval" / name / "summary.json").write_text("{}")
    return tmp_path


def test_an_experiment_is_called_by_its_name_or_folder(experiments, monkeypatch):
    folder = experiments / "eval" / "t2f-BraTS"
    shown = []
    monkeypatch.setattr("seg_eval.evaluation.report", shown.append)
    monkeypatch.setattr("seg_eval.evaluation.power", shown.append)
    for command in ("report", "power"):
        assert main([command, "t2f-BraTS", "--work", str(experiments)]) == 0
        assert main([command, str(folder)]) == 0
    assert shown == [folder] * 4


def test_of_a_wrong_name_the_experiments_that_there_are_are_told(experiments, refused, tmp_path):
    for command in (["report"], ["power"], ["pool", "t1c-BraTS"]):
        error = refused(*command, "t2f-Brats", "--work", str(experiments))
        assert "nearest: t2f-BraTS" in error
        assert "t1c-BraTS" in error
        assert "unfinished" not in error
    assert "t2f" not in refused("report", "none", "--work", str(tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "goes on where it stopped"),
        (StageFailedError("`synth3d train` failed", 3), 3, "error: `synth3d train` failed\n"),
        (MemoryError("Unable to allocate 9 GiB"), 2, "free (unable to allocate 9 gib): "),
    ],
)
def test_how_it_ends(monkeypatch, capsys, error, code, said):
    def ends(*given, **named):
        raise error

    monkeypatch.setattr("seg_eval.evaluation.evaluate", ends)
    assert main(["run", "--missing", "flair"]) == code
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed


def test_it_says_its_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"seg_eval {__version__}\n"


def test_every_command_has_examples_of_its_own_and_a_text_for_every_flag():
    (commands,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    for name, parser in commands.choices.items():
        assert f"seg_eval {name}" in parser.epilog
        others = {*commands.choices} - {name}
        assert not {other for other in others if f"seg_eval {other} " in parser.epilog}
        assert all(action.help for action in parser._actions)


def test_presets_are_listed_with_their_size_and_time(capsys, monkeypatch):
    monkeypatch.setattr("synth3d.machine.pick_device", lambda wanted: wanted)
    assert main(["run", "--preset", "list", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (told,) = [one for one in events if one["event"] == "presets"]
    by_name = {one["name"]: one for one in told["presets"]}
    assert by_name.keys() == PRESETS.keys()
    assert (by_name["cpu-small"]["iterations"], by_name["standard"]["iterations"]) == (1250, 250000)
    assert all(one["purpose"] for one in by_name.values())
    for device, data in product(("cpu", "cuda"), (None, "BraTS")):
        chosen = by_name[RunRequest("flair", data=data, device=device).segmenter_preset]
        expected = "phantoms" if data is None else {"cpu": "a CPU", "cuda": "a GPU"}[device]
        assert chosen["default_for"] == expected


def test_the_list_of_presets_marks_the_defaults_and_has_the_readmes_times(capsys):
    assert main(["run", "--preset", "list"]) == 0
    told = capsys.readouterr().out
    assert told.count("(default on ") == 3
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    times = re.findall(r"((?:about )?(?:\d+|an) (?:minutes|hours?)) \(`([\w-]+)`\)", readme)
    times = {name: words for words, name in times if name in PRESETS}
    assert {"cpu-mini", "cpu-small"} <= {*times}
    assert all(words in PRESETS[name].purpose for name, words in times.items())


@pytest.mark.parametrize(
    ("device", "data", "preset"),
    [("cuda", "BraTS", "standard"), ("cpu", "BraTS", "cpu-small"), ("cuda", None, "cpu-mini")],
)
def test_on_a_gpu_the_judge_is_trained_as_nnunet_does_by_default(monkeypatch, device, data, preset):
    monkeypatch.setattr("synth3d.machine.pick_device", lambda wanted: device)
    assert RunRequest("flair", data=data).segmenter_preset == preset
    assert RunRequest("flair", data=data, preset="cpu-mini").segmenter_preset == "cpu-mini"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_phantoms_of_the_users_own_have_the_judge_of_phantoms(
    monkeypatch, phantom_cohort, tmp_path, device
):
    """A cohort of `synth3d phantom`; one that has a patient, too, is none."""
    monkeypatch.setattr("synth3d.machine.pick_device", lambda wanted: device)
    built_in = RunRequest("flair", device=device).segmenter_preset
    assert RunRequest("flair", data=phantom_cohort, device=device).segmenter_preset == built_in
    mixed = tmp_path / "cohort"
    shutil.copytree(phantom_cohort, mixed)
    case = find_cases(mixed)[0]
    for path in case.folder.iterdir():
        path.rename(path.with_name(path.name.replace(case.name, "BraTS-GLI-00001-000")))
    case.folder.rename(mixed / "BraTS-GLI-00001-000")
    assert RunRequest("flair", data=mixed, device=device).segmenter_preset != built_in


def test_a_device_that_is_not_there_is_refused_by_a_dry_run_too(run_of, toy_cohort):
    assert "cuda:7" in run_of(toy_cohort, "--device", "cuda:7", "--dry-run")


def test_synth3d_tells_what_a_training_takes_before_it(tmp_path):
    """The real program, by two timed steps."""
    words = ["train", "--recipe", "phantom", "--work", str(tmp_path), "--threads", "1"]
    tiny = ["--widths", "4,8", "--groups", "2", "--patch", "16,16,16", "--steps", "40"]
    more = ["--set", "model.stages=2", "--framework", "l1"]
    plan = forecast_of([*words, *tiny, *more], device="cpu")
    assert plan["seconds"] == pytest.approx(40 * plan["seconds_per_step"])
    assert plan["phantoms_to_make"] > 0
    assert not list(tmp_path.iterdir())


def test_synth3d_is_run_as_a_program_and_its_refusal_is_passed_on(tmp_path):
    with pytest.raises(StageFailedError, match="exit code 2") as caught:
        run_synth3d(["train", "--data", str(tmp_path / "nowhere"), "--work", str(tmp_path)])
    assert caught.value.exit_code == 2
