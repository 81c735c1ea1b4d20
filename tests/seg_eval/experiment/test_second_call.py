"""What vanished or changed between two calls of one experiment: made again, or refused."""

from pathlib import Path

import pytest

from seg_eval import read_summary
from synth3d.errors import InputError
from synth3d.images.volumes import read, write_like

pytestmark = pytest.mark.usefixtures("plain_pictures")


def test_files_of_an_arm_that_were_deleted_are_made_again(run_toy, folder):
    run_toy("--arms", "copy,synthetic")
    gone = [*folder.glob("arms/*/Brats18_TOY_G_1/*.nii.gz")]
    before = {path: path.read_bytes() for path in gone}
    assert len(before) == 2
    for path in gone:
        path.unlink()
    run_toy("--arms", "copy,synthetic")
    assert {path: path.read_bytes() for path in gone} == before


@pytest.mark.parametrize(
    ("arm", "name"), [("full", "Brats18_TOY_F_1"), ("ridge", "Brats18_TOY_A_1")]
)
def test_cases_whose_voxels_changed_are_not_mixed_with_the_old(own_cohort, run_toy, arm, name):
    """A test case, and a training case of which only an arm that learned from it could tell."""
    flags = ("--arms", arm, "--data", str(own_cohort))
    run_toy(*flags)
    path = own_cohort / name / f"{name}_flair.nii.gz"
    write_like(path, read(path).data * 2, path)
    with pytest.raises(InputError, match=f"files of {name} changed since"):
        run_toy(*flags)


def retrained_of(machines) -> list[Path]:
    folders = [task.own_folder for task in machines.tasks if task.replace]
    machines.tasks.clear()
    return folders


def test_out_of_fold_files_of_another_tool_that_changed_are_not_the_old_ones(
    run_toy, machines, theirs, folder
):
    their_files = theirs()

    def call(name):
        flags = ("--arms", "retrained", "--completed", f"c={their_files}")
        run_toy(*flags, run=(), name=name)
        return retrained_of(machines)

    first = call("one")
    warnings = read_summary(folder.with_name("one"))["warnings"]
    assert any("retrained was trained on the files of c;" in text for text in warnings)
    assert call("two") == first
    path = their_files / "Brats18_TOY_A_1_flair.nii.gz"
    write_like(path, read(path).data * 3 + 1, path)
    with pytest.raises(InputError, match="arm retrained comes from other weights, files or"):
        call("one")
    retrained_of(machines)
    assert call("three") != first


def test_out_of_fold_synthesis_is_of_the_cases_as_they_are(own_cohort, run_toy, machines):
    def call(name):
        machines.log.clear()
        flags = ("--arms", "retrained", "--data", str(own_cohort), "--folds", "2")
        run_toy(*flags, name=name)
        return machines.log.count("train")

    assert call("one") == 2
    assert call("two") == 0
    path = own_cohort / "Brats18_TOY_A_1" / "Brats18_TOY_A_1_t1.nii.gz"
    write_like(path, read(path).data * 2, path)
    assert call("three") == 2


def test_only_the_segmenters_of_this_call_are_listed_with_their_hashes(run_toy, folder, tmp_path):
    def call(seeds):
        run_toy("--arms", "full", "--seeds", seeds)
        return {name for name in read_summary(folder)["hashes"] if name.startswith("segmenter")}

    call("0,1")
    for model in (tmp_path / "work" / "segmenters").glob("*/model-*"):
        (model / "fold_0").mkdir()
        (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    assert call("0,1") == {"segmenter frozen-seed0 fold_0", "segmenter frozen-seed1 fold_0"}
    assert call("0") == {"segmenter frozen-seed0 fold_0"}
