"""Arms beyond the frozen segmenter of one seed: seeds, honest rivals, other tools, several gone."""

import json
from pathlib import Path

import numpy as np
import pytest

from seg_eval.run import run_command
from synth3d.cohort.cases import find_cases
from synth3d.errors import InputError
from synth3d.images.volumes import read, write_new

pytestmark = pytest.mark.usefixtures("plain_pictures")


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_every_seed_has_a_segmenter_that_sees_every_arm(toy_arguments, machines, folder):
    run_command(toy_arguments("--arms", "copy", "--seeds", "0,5"), machines.engines())
    assert [(task.kind, task.seed) for task in machines.tasks] == [("frozen", 0), ("frozen", 5)]
    rows = (folder / "results.csv").read_text().splitlines()
    seeds = [row.split(",")[3] for row in rows[1:]]
    assert seeds.count("0") == seeds.count("5") == len(seeds) // 2 == 3 * 3 * 3
    assert summary_of(folder)["config"]["seeds"] == [0, 5]


def test_a_seed_can_be_added_without_redoing_the_others(toy_arguments, machines, folder):
    run_command(toy_arguments("--arms", "copy", "--seeds", "0"), machines.engines())
    machines.log.clear()
    run_command(toy_arguments("--arms", "copy", "--seeds", "0,1"), machines.engines())
    assert machines.log.count("predict") == 3 * 3


def test_each_honest_rival_has_its_own_training_and_input(toy_arguments, machines, folder):
    flags = ("--arms", "synthetic,rivals", "--seeds", "0,1", "--folds", "2")
    run_command(toy_arguments(*flags), machines.engines())
    tasks = {(task.kind, task.seed): task for task in machines.tasks}
    kinds = ("frozen", "retrained", "specialist", "dropout")
    assert set(tasks) == {(kind, seed) for kind in kinds for seed in (0, 1)}
    assert tasks["specialist", 0].channels == ("t1n", "t1c", "t2w")
    assert tasks["specialist", 0].missing == ("t2f",)
    assert not tasks["dropout", 1].missing
    replaced = tasks["retrained", 0].replace
    assert set(replaced) == {case.name for case in tasks["frozen", 0].cohort.train}
    assert all(set(images) == {"t2f"} for images in replaced.values())
    folders = {kind: tasks[kind, 0].own_folder for kind in kinds}
    assert folders["frozen"] == folders["dropout"]
    assert len({folders["frozen"], folders["specialist"], folders["retrained"]}) == 3
    found = summary_of(folder)
    assert {arm["name"]: arm["segmenter"] for arm in found["arms"]} == {
        "full": "frozen",
        "zero": "frozen",
        "agi": "frozen",
        "specialist": "specialist",
        "dropout": "dropout",
        "retrained": "retrained",
    }
    # The fake specialist sees tumour in T2, the frozen one is blind without FLAIR.
    dice = {name: arm["dice"] for name, arm in found["regions"]["WT"]["arms"].items()}
    assert dice["specialist"] > dice["zero"]
    assert dice["dropout"] == dice["zero"]
    assert dice["retrained"] == dice["agi"]


def test_folds_matter_to_the_retrained_arm_alone(toy_arguments, machines):
    run_command(toy_arguments("--arms", "copy"), machines.engines())
    flags = ("--arms", "synthetic,retrained", "--folds")
    run_command(toy_arguments(*flags, "2"), machines.engines())
    run_command(toy_arguments("--arms", "copy"), machines.engines())
    with pytest.raises(InputError, match="arm retrained comes from other .* folds than before"):
        run_command(toy_arguments(*flags, "3"), machines.engines())


def test_the_channel_of_a_retrained_arm_is_the_synthetic_one(toy_arguments, machines, folder):
    run_command(toy_arguments("--arms", "retrained,synthetic"), machines.engines())
    assert not (folder / "arms" / "retrained").exists()
    assert (folder / "arms" / "agi" / "arm.json").is_file()
    text = (folder / "image_scores.csv").read_text()
    assert ",agi," in text
    assert ",retrained," not in text


def test_which_rivals_were_not_run_is_said(toy_arguments, machines, folder):
    run_command(toy_arguments("--arms", "copy,specialist"), machines.engines())
    (sentence,) = [text for text in summary_of(folder)["warnings"] if "not run" in text]
    assert sentence.startswith("not run: dropout, retrained;")


@pytest.fixture
def their_files(toy_cohort, tmp_path) -> Path:
    """Another tool's FLAIR of the test cases: floats from 0 to 1, background -1, flat folder."""
    out = tmp_path / "theirs"
    out.mkdir()
    for case in find_cases(toy_cohort):
        if case.name[-3] in "FGH":
            image = read(case.images["t2f"])
            volume = np.where(image.data > 0, image.data / image.data.max(), -1)
            name = case.images["t2f"].name
            write_new(out / name, volume, image.affine, np.float32)
    return out


def test_the_files_of_any_other_tool_are_an_arm(toy_arguments, machines, folder, their_files):
    flags = ("--arms", "synthetic", "--completed", f"cwdm={their_files}")
    run_command(toy_arguments(*flags), machines.engines())
    found = summary_of(folder)
    assert found["config"]["arms"]["cwdm"]["completed"] == str(their_files)
    cells = found["regions"]["WT"]["arms"]
    # A positive scale means nothing to the segmenter, and the background was mended.
    assert cells["cwdm"]["dice"] == pytest.approx(cells["full"]["dice"], abs=1e-6)
    assert any("what cwdm learned from is not known" in text for text in found["warnings"])


def test_other_files_under_the_same_name_are_another_experiment(
    toy_arguments, machines, folder, their_files
):
    flags = ("--arms", "synthetic", "--completed", f"cwdm={their_files}")
    run_command(toy_arguments(*flags), machines.engines())
    path = next(their_files.glob("*.nii.gz"))
    image = read(path)
    write_new(path, image.data * 2, image.affine, np.float32)
    with pytest.raises(InputError, match="arm cwdm comes from other weights, files or folds"):
        run_command(toy_arguments(*flags), machines.engines())


def test_an_incomplete_folder_stops_before_any_work(toy_arguments, machines, their_files):
    next(their_files.glob("*TOY_G_1*")).unlink()
    with pytest.raises(InputError, match=r"lacks 1 synthesised files.*Brats18_TOY_G_1 t2f"):
        run_command(toy_arguments("--completed", str(their_files)), machines.engines())
    assert machines.log == []


def test_two_sequences_may_be_missing_at_once(
    toy_arguments, machines, folder, write_run, toy_cohort, tmp_path
):
    run = write_run(tmp_path / "work" / "runs" / "pair", toy_cohort)
    done = json.loads((run / "done.json").read_text()) | {"targets": ["t1c", "t2f"]}
    (run / "done.json").write_text(json.dumps(done))
    args = toy_arguments("--missing", "flair,t1ce", "--arms", "default,specialist")
    args.run = [run]
    run_command(args, machines.engines())
    assert machines.tasks[-1].channels == ("t1n", "t2w")
    for arm in ("copy", "ridge", "pair", "plumbing"):
        names = {path.name[16:] for path in (folder / "arms" / arm).rglob("*TOY_F_1_*.nii.gz")}
        assert names == {"t1ce.nii.gz", "flair.nii.gz"}
    text = (folder / "image_scores.csv").read_text()
    assert ",t1c," in text
    assert ",t2f," in text
    found = summary_of(folder)
    assert found["config"]["missing"] == ["t1c", "t2f"]
    arms = found["regions"]["WT"]["arms"]
    assert arms["plumbing"]["dice"] == pytest.approx(arms["full"]["dice"])


def test_all_four_in_turn_share_their_segmenter_and_get_an_overview(
    toy_arguments, machines, tmp_path, capsys
):
    args = toy_arguments("--missing", "all", "--arms", "copy,ridge")
    args.run = None
    run_command(args, machines.engines())
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

    monkeypatch.setattr(
        "seg_eval.segmenter.read_model_folder", lambda folder: Described()
    )
    monkeypatch.setattr("seg_eval.segmenter.refuse_untrusted", lambda *given: False)
    model = tmp_path / "model"
    (model / "fold_0").mkdir(parents=True)
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    return model


def test_a_segmenter_from_elsewhere_takes_the_place_of_the_frozen_one(
    toy_arguments, machines, folder, their_model
):
    args = toy_arguments("--arms", "copy,specialist", "--segmenter", str(their_model), "--trust")
    run_command(args, machines.engines())
    assert [task.kind for task in machines.tasks] == ["specialist"]
    assert machines.log.count("open foreign") == 1
    found = summary_of(folder)
    assert found["config"]["segmenter"] == str(their_model)
    warnings = " ".join(found["warnings"])
    assert "whether the segmenter model was trained on test cases cannot be told" in warnings
    assert "they differ in more than their input" in warnings
    (their_model / "fold_0" / "checkpoint_final.pth").write_bytes(b"other weights")
    with pytest.raises(InputError, match="was trained anew since"):
        run_command(args, machines.engines())


def test_seeds_are_not_for_a_segmenter_from_elsewhere(toy_arguments, machines, their_model):
    flags = ("--segmenter", str(their_model), "--seeds", "0,1")
    with pytest.raises(InputError, match="--segmenter is one model"):
        run_command(toy_arguments(*flags), machines.engines())
    with pytest.raises(InputError, match="--segmenter: no folder"):
        run_command(toy_arguments("--segmenter", "nowhere"), machines.engines())


@pytest.mark.parametrize("file", ["dataset.json", "plans.json", "fold_0/checkpoint_best.pth"])
def test_whatever_changed_in_a_segmenter_from_elsewhere_is_noticed(
    toy_arguments, machines, their_model, file
):
    """Its labels and plans decide what a prediction means as much as its weights do."""
    args = toy_arguments("--arms", "full", "--segmenter", str(their_model), "--trust")
    (their_model / file).write_text("{}")
    run_command(args, machines.engines())
    (their_model / file).write_text('{"labels": "others"}')
    with pytest.raises(InputError, match="was trained anew since"):
        run_command(args, machines.engines())
