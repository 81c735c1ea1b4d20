"""What makes no sense is told in one sentence, and before anything is trained or written."""

import shutil

import numpy as np
import pytest

from seg_eval.run import run_command
from synth3d.cohort.cases import find_cases
from synth3d.errors import InputError
from synth3d.images.volumes import read, write_like

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../up"])
def test_a_name_that_leads_elsewhere_is_refused(toy_arguments, machines, name):
    with pytest.raises(InputError, match="--name wants a plain folder name"):
        run_command(toy_arguments("--name", name), machines.engines())


@pytest.mark.parametrize("inside", ["", "work"])
def test_a_work_folder_in_the_cohort_is_refused(
    toy_arguments, machines, toy_cohort, tmp_path, inside
):
    data = shutil.copytree(toy_cohort, tmp_path / "cohort")
    args = toy_arguments("--data", str(data), "--work", str(data / inside), "--arms", "copy")
    with pytest.raises(InputError, match="lies in the cohort folder"):
        run_command(args, machines.engines())
    assert machines.log == []


def test_folds_that_cannot_be_are_refused_before_any_work(toy_arguments, machines):
    for folds in ("1", "5"):
        with pytest.raises(InputError, match="--folds must be at least 2 and at most the 4"):
            run_command(toy_arguments("--arms", "all", "--folds", folds), machines.engines())
    assert machines.log == []


def test_lacking_out_of_fold_files_are_told_before_any_work(
    toy_arguments, machines, toy_cohort, tmp_path
):
    for case in find_cases(toy_cohort)[5:]:
        real = case.images["t2f"]
        write_like(real, read(real).data * 2, tmp_path / "theirs" / real.name)
    args = toy_arguments("--arms", "retrained", "--completed", str(tmp_path / "theirs"))
    args.run = None
    with pytest.raises(InputError, match="lacks Brats18_TOY_A_1 t2f"):
        run_command(args, machines.engines())
    assert machines.log == []


def test_a_segmenter_of_missing_sequences_alone_is_refused(
    toy_arguments, machines, tmp_path, monkeypatch
):
    class Described:
        channels = ("t2f",)

    monkeypatch.setattr(
        "seg_eval.segmenter.read_model_folder", lambda folder: Described()
    )
    monkeypatch.setattr("seg_eval.segmenter.refuse_untrusted", lambda *given: True)
    with pytest.raises(InputError, match="it would have nothing to look at"):
        run_command(toy_arguments("--segmenter", str(tmp_path)), machines.engines())
    assert machines.log == []


def test_a_prediction_that_fails_has_its_name(toy_arguments, machines, monkeypatch):
    def refuses(self, channels, spacing_mm):
        raise InputError("t2f has no zero background")

    segmenter = type("Refusing", (), {"predict": refuses})()
    monkeypatch.setattr(machines, "load_segmenter", lambda *given: segmenter)
    with pytest.raises(InputError, match="arm full, case Brats18_TOY_F_1: t2f has no zero"):
        run_command(toy_arguments("--arms", "full"), machines.engines())


def test_skipping_empty_regions_must_leave_something(toy_arguments, machines, toy_cohort, tmp_path):
    data = shutil.copytree(toy_cohort, tmp_path / "cohort")
    for case in find_cases(data)[5:]:
        label = read(case.label)
        write_like(case.label, np.zeros_like(label.data), case.label)
    args = toy_arguments("--data", str(data), "--arms", "full", "--empty", "skip")
    with pytest.raises(InputError, match="--empty skip leaves nothing to judge"):
        run_command(args, machines.engines())
    assert (
        run_command(toy_arguments("--data", str(data), "--arms", "full"), machines.engines()) == 0
    )
