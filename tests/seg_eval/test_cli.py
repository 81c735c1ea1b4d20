import subprocess
import sys
import time

import pytest

from seg_eval.arms.kinds import help_on_arms
from seg_eval.arms.synthesisers import StageFailedError, run_synth3d
from seg_eval.cli import main


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
    assert "run" in capsys.readouterr().out


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
        ask = (command, "--experiment", str(tmp_path))
        assert "not a finished experiment" in refused(*ask)


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


def test_synth3d_is_run_as_a_program_and_its_refusal_is_passed_on(tmp_path):
    with pytest.raises(StageFailedError, match="exit code 2") as caught:
        run_synth3d(["train", "--data", str(tmp_path / "nowhere"), "--work", str(tmp_path)])
    assert caught.value.exit_code == 2
