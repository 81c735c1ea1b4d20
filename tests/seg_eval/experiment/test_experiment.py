import csv
import gzip
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from seg_eval.evaluation import evaluate
from seg_eval.experiment.plan import PINNED, differences
from seg_eval.experiment.request import RunRequest
from synth3d.errors import InputError
from synth3d.images.volumes import read, read_label

pytestmark = pytest.mark.usefixtures("plain_pictures")

QUICK = ("--arms", "copy,ridge,synthetic,plumbing")


@pytest.fixture
def quick(run_toy):
    """A run; without --arms, with the arms that are quickly made."""
    return lambda *more, **changes: run_toy(*(() if "--arms" in more else QUICK), *more, **changes)


def test_written_arms_are_marked_masked_and_on_the_grid_of_the_case(quick, folder, toy_cohort):
    quick("--arms", "copy,ridge")
    case = "Brats18_TOY_F_1"
    real = read(toy_cohort / case / f"{case}_t2.nii.gz")
    for arm in ("copy", "ridge"):
        path = folder / "arms" / arm / case / f"{case}_flair.nii.gz"
        made = read(path)
        np.testing.assert_array_equal(made.affine, real.affine)
        assert not made.data[real.data == 0].any()
        assert made.data.any()
        with gzip.open(path) as file:
            assert f"SYNTHETIC t2f: {arm} by seg_eval".encode() in file.read(348)


def test_the_zero_arm_is_exact_zeros_and_nothing_else_changes(quick, machines):
    seen = []

    def load(model, threads):
        return lambda channels, spacing: (
            seen.append(channels) or np.zeros_like(channels["t2f"], np.uint8)
        )

    quick("--arms", "full", engines=replace(machines.engines(), load_segmenter=load))
    full, zero = seen[:2]
    assert not zero["t2f"].any()
    assert full["t2f"].any()
    for name in ("t1n", "t1c", "t2w"):
        np.testing.assert_array_equal(full[name], zero[name])


def test_predictions_are_painted_in_the_labels_of_the_cohort(quick, folder):
    quick("--arms", "full")
    values = np.unique(read_label(folder / "predictions/full/seed0/Brats18_TOY_F_1.nii.gz").data)
    assert 4 in values
    assert 3 not in values


def test_a_second_call_does_no_heavy_work_again(quick, machines, folder):
    quick()
    before = (folder / "results.csv").read_bytes()
    machines.log.clear()
    quick()
    assert machines.log == ["train segmenter frozen 0"]  # which itself finds its work done
    assert (folder / "results.csv").read_bytes() == before
    (folder / "predictions/ridge/seed0/Brats18_TOY_F_1.nii.gz").unlink()
    (folder / "scores/ridge/seed0.json").unlink()
    quick()
    assert machines.log.count("predict") == 1
    assert (folder / "results.csv").read_bytes() == before


def test_a_synthesiser_that_leaves_a_case_out_is_an_error(quick, machines):
    machines.forget = "Brats18_TOY_G_1"
    with pytest.raises(InputError, match="arm agi has no t2f for Brats18_TOY_G_1"):
        quick()


def test_broken_plumbing_fails_the_run_after_the_report(quick, machines, capsys, folder):
    machines.spoil_plumbing = True
    assert quick() == 1
    printed = capsys.readouterr()
    assert "the plumbing check failed" in printed.err
    assert "Check of the export path FAILED" in printed.out
    head = json.loads((folder / "summary.json").read_text())["headline"]
    assert {head[key] for key in ("worth", "likely", "worth_if_frozen")} == {"unclear"}
    assert "export path failed" in head["sentence"]
    assert head["sentence"] in " ".join(printed.out.split())
    assert "settle" not in (folder / "report.md").read_text()


def test_a_test_case_that_the_synthesiser_saw_is_refused(
    quick, machines, write_run, toy_cohort, tmp_path
):
    split = {"train": ["Brats18_TOY_F_2"], "val": [], "test": []}
    run = write_run(tmp_path / "leaky", toy_cohort, split=split)
    with pytest.raises(InputError, match=r"test case Brats18_TOY_F_1 \(as Brats18_TOY_F_2\) is"):
        quick("--run", str(run))
    assert machines.log == []


def test_another_experiment_in_the_folder_is_refused_by_what_differs(quick):
    quick("--arms", "full")
    with pytest.raises(InputError, match=r"toy holds another experiment \(seed is 1, was 0\)"):
        quick("--arms", "full", "--seed", "1")


def test_a_retrained_run_is_noticed_also_after_a_call_without_it(quick, tmp_path):
    quick()
    quick("--arms", "copy")
    done = tmp_path / "work/runs/agi/done.json"
    done.write_text(done.read_text().replace("0" * 64, "2" * 64))
    with pytest.raises(InputError, match="arm agi comes from other weights"):
        quick()


def test_the_tolerance_of_surface_distance_is_settled_and_named_in_every_table(quick, folder):
    quick("--nsd-tolerance", "3")
    assert json.loads((folder / "config.json").read_text())["nsd_tolerance_mm"] == 3
    with (folder / "results.csv").open() as file:
        assert {row["nsd_tolerance_mm"] for row in csv.DictReader(file)} == {"3.0"}
    assert "NSD at 3 mm" in (folder / "report.md").read_text()
    assert json.loads((folder / "summary.json").read_text())["nsd_tolerance_mm"] == 3
    with pytest.raises(InputError, match=r"regions is ET, was WT, TC, ET"):
        quick("--nsd-tolerance", "3", "--regions", "ET")
    with pytest.raises(InputError, match=r"nsd_tolerance_mm is 1\.0, was 3\.0"):
        quick()


def test_margin_and_the_arm_in_question_are_settled_before_the_scores_are_seen(quick):
    quick()
    with pytest.raises(InputError, match=r"margin is 0\.05, was 0\.02"):
        quick("--margin", "0.05")
    agi, gan = ({"primary": name, "arms": {}, **dict.fromkeys(PINNED)} for name in ("agi", "gan"))
    assert differences(agi, gan) == ["primary is 'gan', was 'agi'"]
    assert differences(agi, agi | {"primary": None}) == []
    before = {key: value for key, value in agi.items() if key != "regions"}  # could not be chosen
    assert differences(before, agi | {"regions": ["WT", "TC", "ET"]}) == []
    assert differences(before, agi | {"regions": ["WT"]}) == ["regions is WT, was WT, TC, ET"]


def test_a_segmenter_that_was_trained_anew_is_not_mixed_with_the_old(quick, tmp_path):
    quick("--arms", "full")
    (model,) = (tmp_path / "work" / "segmenters").glob("*/model-*")
    (model / "model.json").write_text("{}")
    with pytest.raises(InputError, match="was trained anew since"):
        quick("--arms", "copy")


def test_without_a_name_another_experiment_gets_another_folder(quick, tmp_path):
    for seed in ("0", "1", "0"):
        quick("--arms", "full", "--seed", seed, name=None)
    found = {path.name for path in (tmp_path / "work/eval").iterdir()}
    assert found == {"t2f-cohort", "t2f-cohort-2"}


def test_without_data_the_phantoms_are_made_and_a_synthesiser_trained(machines, tmp_path, capsys):
    asked = RunRequest("t2f", work=tmp_path / "work", threads=1, arms=(QUICK[1],))
    done = evaluate(asked, machines.engines())
    assert (done.folder.name, done.code) == ("t2f-phantom", 0)
    assert machines.log[:2] == ["phantom", "train"]
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("No --data given: using the built-in phantom cohort")
    assert "fresh" in printed
    machines.log.clear()
    evaluate(asked, machines.engines())
    assert "train" not in machines.log
    config = json.loads((tmp_path / "work/eval/t2f-phantom/config.json").read_text())
    assert config["preset"] == "cpu-mini"
    assert config["test"] == ["Brats18_TOY_F_1", "Brats18_TOY_G_1", "Brats18_TOY_H_1"]


def test_a_dry_run_without_phantoms_says_why_it_has_no_time(machines, tmp_path, capsys):
    asked = RunRequest("t2f", work=tmp_path / "work", dry_run=True)
    assert evaluate(asked, machines.engines()).code == 0
    told = capsys.readouterr().out
    assert f"synth3d phantom {tmp_path / 'work' / 'phantom'}" in told
    assert "timed" in told
    assert machines.log == []
    assert not (tmp_path / "work").exists()


def test_the_newest_run_for_the_sequence_and_cohort_is_used(quick, write_run, toy_cohort, tmp_path):
    runs = tmp_path / "work" / "runs"
    for name, target in {"b-flair": "t2f", "c-t1c": "t1c"}.items():
        write_run(runs / name, toy_cohort, target)
    write_run(runs / "d-other", tmp_path)
    quick("--arms", "synthetic", run=())
    config = json.loads((tmp_path / "work/eval/toy/config.json").read_text())
    assert set(config["arms"]) == {"full", "zero", "b-flair"}


def test_a_dry_run_touches_nothing(quick, machines, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert quick("--dry-run") == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert machines.log == []
    told = capsys.readouterr().out
    assert "ridge" in told
    assert "3 min" in told  # of the segmenter
    assert quick("--dry-run", "--missing", "t1ce", run=()) == 0
    assert sorted(tmp_path.rglob("*")) == before
    told = capsys.readouterr().out
    assert "synth3d train --dim 3d --target t1c" in told
    assert len(told.splitlines()) <= 15
    assert "2 h 03 min" in told  # of both
    (arms,) = [line for line in told.splitlines() if line.startswith("arms:")]
    assert "synthetic" in arms  # which is not there yet
    assert [words[:5] for words in machines.forecasts] == [
        ["train", "--dim", "3d", "--target", "t1c"]
    ]


def plans_of(ask, capsys, *flags, **more):
    """The lines and the event of a dry run."""
    assert ask("--dry-run", *flags, **more) == 0
    return capsys.readouterr().out.splitlines()


def test_a_dry_run_of_what_needs_no_training_promises_none(quick, capsys, monkeypatch):
    assert quick() == 0
    monkeypatch.setattr("seg_eval.experiment.ahead.seems_trained", lambda task: True)
    capsys.readouterr()
    for flags, said in (((), "anew"), (("--arms", f"{QUICK[1]},template"), "template")):
        lines = plans_of(quick, capsys, *flags)
        assert not [line for line in lines if line.startswith("memory:")]
        (time,) = [line for line in lines if line.startswith("time:")]
        assert "nothing to train" in time
        assert not re.search(r"\b0 s\b", time)
        assert any(said in line for line in lines)


def test_a_dry_run_counts_the_segmenters_of_arms_that_are_still_to_come(quick, machines, capsys):
    """Those that learn from the synthesis of a run that is to be trained."""
    counts = []
    for arms in ("synthetic", "synthetic,retrained"):
        lines = plans_of(quick, capsys, "--missing", "t1ce", run=(), arms=(arms,))
        (judges,) = [line for line in lines if line.startswith("segmenter:")]
        counts.append(int(re.search(r"(\d+) to train", judges)[1]))
        (named,) = [line for line in lines if line.startswith("arms:")]
        assert all(arm in named for arm in arms.split(","))
    assert counts[1] == counts[0] + 1


def test_a_dry_run_of_few_test_cases_says_that_they_are_few(quick, capsys, monkeypatch):
    def hints(lines):
        return [line for line in lines if "--cross-validate" in line]

    assert "3 test cases" in hints(plans_of(quick, capsys))[0]
    monkeypatch.setattr("seg_eval.experiment.ahead.FEW", 3)
    assert not hints(plans_of(quick, capsys))


def test_a_dry_run_names_incomplete_cases_apart_from_those_outside_the_split(
    quick, own_cohort, capsys
):
    for letter in "AE":  # one is trained on, the other is not in the split's train or test anyway
        name = f"Brats18_TOY_{letter}_1"
        (own_cohort / name / f"{name}_t1.nii.gz").unlink()
    shutil.copytree(own_cohort / "Brats18_TOY_B_1", own_cohort / "Brats18_TOY_Z_1")
    for path in (own_cohort / "Brats18_TOY_Z_1").iterdir():
        path.rename(path.with_name(path.name.replace("_B_", "_Z_")))
    assert quick("--dry-run", data=own_cohort) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not used:")]
    assert [" ".join(line.split()[2:4]) for line in told] == ["2 incomplete:", "1 not"]
    assert told[0].endswith(": Brats18_TOY_A_1, Brats18_TOY_E_1")
    assert told[1].endswith(": Brats18_TOY_Z_1")


def test_a_dry_run_says_what_is_scored_and_trained_already(quick, capsys):
    assert quick() == 0
    capsys.readouterr()
    assert quick("--dry-run") == 0
    told = capsys.readouterr().out
    (scored,) = [line for line in told.splitlines() if line.startswith("scored:")]
    assert "zero" in scored
