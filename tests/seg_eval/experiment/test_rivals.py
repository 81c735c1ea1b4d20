"""Arms beyond the frozen segmenter of one seed: seeds, honest rivals, other tools, several gone."""

import json
from pathlib import Path

import numpy as np
import pytest

from seg_eval import read_summary
from seg_eval.experiment import plan
from synth3d.cohort import MODALITIES
from synth3d.errors import InputError
from synth3d.images.volumes import read, write_new

pytestmark = pytest.mark.usefixtures("plain_pictures")


def kind_of(task) -> str:
    return task.kind.name if task.kind else "frozen"


def test_every_seed_has_a_segmenter_that_sees_every_arm(run_toy, machines, folder):
    run_toy("--arms", "copy", "--seeds", "0,5")
    assert [(kind_of(task), task.seed) for task in machines.tasks] == [("frozen", 0), ("frozen", 5)]
    rows = (folder / "results.csv").read_text().splitlines()
    seeds = [row.split(",")[3] for row in rows[1:]]
    arms = {row.split(",")[2] for row in rows[1:]}
    assert len(arms) == 4  # full, zero, copy and that of the run
    assert seeds.count("0") == seeds.count("5") == len(seeds) // 2 == 3 * 3 * len(arms)
    assert read_summary(folder)["config"]["seeds"] == [0, 5]


@pytest.mark.parametrize("more", [("copy", "0,1"), ("copy,ridge", "0")], ids=["seed", "arm"])
def test_a_seed_or_an_arm_can_be_added_without_redoing_the_others(run_toy, machines, more):
    run_toy("--arms", "copy", "--seeds", "0")
    machines.log.clear()
    run_toy("--arms", more[0], "--seeds", more[1])
    assert machines.log.count("predict") == (3 * 4 if more[1] == "0,1" else 3)


def test_each_honest_rival_has_its_own_training_and_input(run_toy, machines, folder):
    flags = ("--arms", "synthetic,rivals", "--seeds", "0,1", "--folds", "2")
    run_toy(*flags)
    tasks = {(kind_of(task), task.seed): task for task in machines.tasks}
    kinds = ("frozen", "retrained", "specialist", "dropout")
    assert set(tasks) == {(kind, seed) for kind in kinds for seed in (0, 1)}
    assert tasks["specialist", 0].channels == ("t1n", "t1c", "t2w")
    assert tasks["dropout", 1].channels == tasks["frozen", 1].channels
    replaced = tasks["retrained", 0].replace
    assert set(replaced) == {case.name for case in tasks["frozen", 0].cohort.train}
    assert all(set(images) == {"t2f"} for images in replaced.values())
    folders = {kind: tasks[kind, 0].own_folder for kind in kinds}
    assert folders["frozen"] == folders["dropout"]
    assert len({folders["frozen"], folders["specialist"], folders["retrained"]}) == 3
    found = read_summary(folder)
    frozen = dict.fromkeys(("full", "zero", "agi"), "frozen")
    own = {kind: kind for kind in ("specialist", "dropout", "retrained")}
    assert {arm["name"]: arm["segmenter"] for arm in found["arms"]} == frozen | own
    # The fake specialist sees tumour in T2, the frozen one is blind without FLAIR.
    dice = {name: arm["dice"] for name, arm in found["regions"]["WT"]["arms"].items()}
    assert dice["specialist"] > dice["zero"]
    assert dice["dropout"] == dice["zero"]
    assert dice["retrained"] == dice["agi"]


def test_folds_matter_to_the_retrained_arm_alone(run_toy):
    run_toy("--arms", "copy")
    flags = ("--arms", "synthetic,retrained", "--folds")
    run_toy(*flags, "2")
    run_toy("--arms", "copy")
    with pytest.raises(InputError, match="arm retrained comes from other .* folds than before"):
        run_toy(*flags, "3")


def test_the_channel_of_a_retrained_arm_is_the_synthetic_one(run_toy, folder):
    run_toy("--arms", "retrained,synthetic")
    assert not (folder / "arms" / "retrained").exists()
    assert (folder / "arms" / "agi" / "arm.json").is_file()
    text = (folder / "image_scores.csv").read_text()
    assert ",agi," in text
    assert ",retrained," not in text


def test_what_is_missing_is_no_source_in_the_receipt_of_a_run_for_any_gap(
    toy_request, run_toy, folder, tmp_path
):
    done = tmp_path / "work" / "runs" / "agi" / "done.json"
    told = {"sources": MODALITIES, "targets": MODALITIES}
    done.write_text(json.dumps(json.loads(done.read_text()) | told))
    run_toy("--arms", "synthetic")
    receipt = json.loads((folder / "arms" / "agi" / "arm.json").read_text())
    assert receipt["run"]["sources"] == ["t1n", "t1c", "t2w"]


def test_which_rivals_were_not_run_is_said(run_toy, folder):
    run_toy("--arms", "copy,specialist")
    (sentence,) = [text for text in read_summary(folder)["warnings"] if "not tested" in text]
    assert sentence.startswith("not tested: dropout, retrained;")


def test_each_run_and_the_files_of_any_other_tool_are_an_arm(
    run_toy, folder, theirs, write_run, toy_cohort, tmp_path
):
    their_files = theirs("FGH")
    run = write_run(tmp_path / "work" / "runs" / "resunet", toy_cohort)
    run_toy("--arms", "synthetic", "--completed", f"cwdm={their_files}", "--run", str(run))
    found = read_summary(folder)
    assert {"agi", "resunet", "cwdm"} <= set(found["images"])
    assert len(found["verdict"]) == 3
    assert found["headline"]["sentence"].startswith("cwdm is ahead of ")
    made = {"agi", "resunet", "cwdm"}
    pairs = {(row["arm"], row["against"]) for row in found["leads"] if row["against"] in made}
    assert len(pairs) == 3
    assert found["config"]["arms"]["cwdm"]["completed"] == str(their_files)
    cells = found["regions"]["WT"]["arms"]
    # A positive scale means nothing to the segmenter, and the background was mended.
    assert cells["cwdm"]["dice"] == pytest.approx(cells["full"]["dice"], abs=1e-6)
    assert any("training cases of cwdm are not known" in text for text in found["warnings"])


def test_other_files_under_the_same_name_are_another_experiment(run_toy, theirs):
    their_files = theirs("FGH")
    flags = ("--arms", "synthetic", "--completed", f"cwdm={their_files}")
    run_toy(*flags)
    path = next(their_files.glob("*.nii.gz"))
    image = read(path)
    write_new(path, image.data * 2, image.affine, np.float32)
    with pytest.raises(InputError, match="arm cwdm comes from other weights, files or folds"):
        run_toy(*flags)


def test_two_sequences_may_be_missing_at_once(
    run_toy, machines, folder, write_run, toy_cohort, tmp_path
):
    run = write_run(tmp_path / "work" / "runs" / "pair", toy_cohort, "t1c", "t2f")
    flags = ("--missing", "flair,t1ce", "--arms", "default,specialist")
    run_toy(*flags, run=(run,))
    assert machines.tasks[-1].channels == ("t1n", "t2w")
    for arm in ("copy", "ridge", "pair", "plumbing"):
        names = {path.name[16:] for path in (folder / "arms" / arm).rglob("*TOY_F_1_*.nii.gz")}
        assert names == {"t1ce.nii.gz", "flair.nii.gz"}
    text = (folder / "image_scores.csv").read_text()
    assert ",t1c," in text
    assert ",t2f," in text
    found = read_summary(folder)
    assert found["config"]["missing"] == ["t1c", "t2f"]
    arms = found["regions"]["WT"]["arms"]
    assert arms["plumbing"]["dice"] == pytest.approx(arms["full"]["dice"])


def test_all_four_in_turn_share_their_segmenter_and_get_an_overview(
    run_toy, machines, tmp_path, capsys
):
    flags = ("--missing", "all", "--arms", "copy,ridge")
    run_toy(*flags, run=())
    assert len({task.own_folder for task in machines.tasks}) == 1
    parts = {path.name for path in (tmp_path / "work" / "eval").iterdir()}
    assert parts == {"toy", "toy-t1n", "toy-t1c", "toy-t2w", "toy-t2f"}
    overview = (tmp_path / "work" / "eval" / "toy" / "overview.md").read_text()
    assert overview in capsys.readouterr().out
    for name in ("T1", "T2", "FLAIR"):
        assert name in overview


@pytest.fixture
def their_model(tmp_path, monkeypatch) -> Path:
    """A model folder of the user's; what is in it is tested elsewhere."""

    class Described:
        channels = ("t1n", "t1c", "t2w", "t2f")

    monkeypatch.setattr(plan, "read_model_folder", lambda folder: Described())
    monkeypatch.setattr(plan, "refuse_untrusted", lambda *given: False)
    model = tmp_path / "model"
    (model / "fold_0").mkdir(parents=True)
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    return model


def test_a_segmenter_from_elsewhere_takes_the_place_of_the_frozen_one(
    run_toy, machines, folder, their_model
):
    flags = ("--arms", "copy,specialist", "--segmenter", str(their_model), "--trust")
    run_toy(*flags)
    assert [kind_of(task) for task in machines.tasks] == ["specialist"]
    assert machines.log.count("open foreign") == 1
    found = read_summary(folder)
    assert found["config"]["segmenter"] == str(their_model)
    warnings = " ".join(found["warnings"])
    assert "files of the segmenter model do not say which cases it was trained on" in warnings
    assert "they differ in more than their input" in warnings


@pytest.mark.parametrize("file", ["dataset.json", "plans.json", "fold_0/checkpoint_final.pth"])
def test_whatever_changed_in_a_segmenter_from_elsewhere_is_noticed(run_toy, their_model, file):
    """Its labels and plans decide what a prediction means as much as its weights do."""
    flags = ("--arms", "full", "--segmenter", str(their_model), "--trust")
    (their_model / file).write_text("{}")
    run_toy(*flags)
    (their_model / file).write_text('{"labels": "others"}')
    with pytest.raises(InputError, match="was trained anew since"):
        run_toy(*flags)
