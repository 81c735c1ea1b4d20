import shutil
import subprocess
import sys
import time

import pytest

from seg_eval.arms.synthesisers import StageFailedError, run_synth3d
from seg_eval.cli import main


def refused(capsys, *arguments):
    """The one sentence with which a command is refused."""
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error


def test_help_is_instant_and_has_examples():
    started = time.monotonic()
    command = [sys.executable, "-m", "seg_eval", "run", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 1.5
    assert "seg_eval run --missing flair --data BraTS" in done.stdout


def test_importing_the_command_line_loads_nothing_heavy():
    code = "import sys, seg_eval.cli; print({'numpy', 'torch', 'nnunetv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_without_a_command_it_says_what_there_is(capsys):
    assert main([]) == 2
    assert "run" in capsys.readouterr().out


def test_an_unknown_sequence_is_refused(capsys, tmp_path):
    assert "'dwi'" in refused(capsys, "run", "--missing", "dwi", "--work", str(tmp_path))
    assert "cannot miss pd" in refused(capsys, "run", "--missing", "PD", "--work", str(tmp_path))


def test_a_folder_that_is_not_there_is_refused(capsys, tmp_path):
    flags = ("--data", str(tmp_path / "nowhere"), "--arms", "copy", "--work", str(tmp_path / "w"))
    assert "nowhere" in refused(capsys, "run", "--missing", "flair", *flags)
    assert not (tmp_path / "w").exists()


def test_an_unknown_arm_and_an_unknown_preset_are_refused(capsys, toy_cohort, tmp_path):
    flags = ["run", "--missing", "flair", "--data", str(toy_cohort), "--work", str(tmp_path)]
    assert "unknown arm(s) magic; known: full, zero" in refused(capsys, *flags, "--arms", "magic")
    assert "known: cpu-mini" in refused(capsys, *flags, "--preset", "huge")
    assert "--threads must be" in refused(capsys, *flags, "--threads", "0")


def test_a_folder_that_is_no_run_or_an_unfinished_one_is_refused(capsys, toy_cohort, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    flags = ["run", "--missing", "flair", "--data", str(toy_cohort), "--run", str(run)]
    assert "not a run folder" in refused(capsys, *flags)
    (run / "config.json").write_text("{}")
    assert "is not finished" in refused(capsys, *flags)
    (run / "done.json").write_text("{}")
    (run / "cohort.json").write_text("{}")
    assert "is damaged" in refused(capsys, *flags)


def test_a_run_for_another_sequence_is_refused(capsys, toy_cohort, tmp_path, write_run):
    run = write_run(tmp_path / "run", toy_cohort, "t1c")
    flags = ["--data", str(toy_cohort), "--run", str(run), "--work", str(tmp_path)]
    assert "makes t1c, not t2f" in refused(capsys, "run", "--missing", "flair", *flags)


def test_cases_without_a_sequence_or_a_label_are_named(capsys, toy_cohort, toy_splits, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(toy_cohort, data)
    (data / "Brats18_TOY_A_1" / "Brats18_TOY_A_1_t1.nii.gz").unlink()
    (data / "Brats18_TOY_H_1" / "Brats18_TOY_H_1_seg.nii.gz").unlink()
    flags = ["--data", str(data), "--splits", str(toy_splits), "--arms", "copy"]
    error = refused(capsys, "run", "--missing", "flair", *flags, "--work", str(tmp_path / "w"))
    assert "Brats18_TOY_A_1 lacks t1n" in error
    assert "Brats18_TOY_H_1 lacks the label" in error


def test_a_split_without_test_cases_is_refused(capsys, toy_cohort, tmp_path):
    split = tmp_path / "s.json"
    split.write_text('{"train": ["Brats18_TOY_A_1"], "test": []}')
    flags = ["--data", str(toy_cohort), "--splits", str(split), "--arms", "copy"]
    error = refused(capsys, "run", "--missing", "flair", *flags, "--work", str(tmp_path / "w"))
    assert "has no test cases" in error


def test_a_work_folder_that_cannot_be_written_is_refused(capsys, toy_cohort, tmp_path):
    (tmp_path / "work").write_text("a file, not a folder")
    flags = ["--data", str(toy_cohort), "--arms", "copy", "--work", str(tmp_path / "work")]
    assert "work" in refused(capsys, "run", "--missing", "flair", *flags)


def test_a_truncated_label_is_refused_with_its_name(capsys, toy_cohort, toy_splits, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(toy_cohort, data)
    label = data / "Brats18_TOY_C_1" / "Brats18_TOY_C_1_seg.nii.gz"
    label.write_bytes(label.read_bytes()[:-20])
    flags = ["--data", str(data), "--splits", str(toy_splits), "--arms", "copy"]
    error = refused(capsys, "run", "--missing", "flair", *flags, "--work", str(tmp_path / "w"))
    assert label.name in error
    assert not (tmp_path / "w").exists()


def test_two_experiments_in_one_folder_at_once_are_refused(
    capsys, toy_cohort, toy_splits, tmp_path
):
    from synth3d.files import lock

    flags = ["--data", str(toy_cohort), "--splits", str(toy_splits), "--arms", "copy"]
    with lock(tmp_path / "w" / "eval" / "toy"):
        error = refused(
            capsys,
            "run",
            "--missing",
            "flair",
            *flags,
            "--work",
            str(tmp_path / "w"),
            "--name",
            "toy",
        )
    assert "another process" in error


def test_a_folder_that_is_no_experiment_cannot_be_reported(capsys, tmp_path):
    assert "not a finished experiment" in refused(capsys, "report", "--experiment", str(tmp_path))


def test_a_damaged_summary_is_refused(capsys, tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    assert "damaged" in refused(capsys, "report", "--experiment", str(tmp_path))


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupted(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("seg_eval.evaluation.evaluate", interrupted)
    assert main(["run", "--missing", "flair"]) == 130
    assert "goes on where it stopped" in capsys.readouterr().err


def test_a_failed_program_gives_its_exit_code(monkeypatch, capsys):
    def failed(*given, **named):
        raise StageFailedError("`synth3d train` ended with exit code 2", 2)

    monkeypatch.setattr("seg_eval.evaluation.evaluate", failed)
    assert main(["run", "--missing", "flair"]) == 2
    assert capsys.readouterr().err == "error: `synth3d train` ended with exit code 2\n"


def test_synth3d_is_run_as_a_program_and_its_refusal_is_passed_on(tmp_path):
    with pytest.raises(StageFailedError, match="exit code 2") as caught:
        run_synth3d(["train", "--data", str(tmp_path / "nowhere"), "--work", str(tmp_path)])
    assert caught.value.exit_code == 2


def test_too_little_memory_is_one_sentence(monkeypatch, capsys):
    def starved(*given, **named):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr("seg_eval.evaluation.evaluate", starved)
    assert "too little free memory: Unable to allocate" in refused(capsys, "run", "--missing", "t1")
