"""`--transfer`: the same arms, judged once more by segmenters of another architecture."""

import pytest

from seg_eval import read_summary
from seg_eval.experiment.request import RunRequest
from synth3d.errors import InputError
from tests.seg_eval.conftest import SPLIT

pytestmark = pytest.mark.usefixtures("plain_pictures")
RESENC = "cpu-mini-resenc"


def test_the_same_files_are_judged_by_both_and_the_report_says_so(run_toy, machines, folder):
    flags = ("--arms", "copy,synthetic,specialist", "--transfer", RESENC, "--seeds", "0,1")
    assert run_toy(*flags) == 0
    assert machines.log.count("complete") == 1
    trained = {(task.preset, task.kind and task.kind.name, task.seed) for task in machines.tasks}
    ordinary = {("cpu-small", kind, seed) for kind in (None, "specialist") for seed in (0, 1)}
    assert trained == ordinary | {(RESENC, None, 0), (RESENC, None, 1)}
    (other,) = read_summary(folder)["transfer"]
    assert (other["preset"], other["seeds"]) == (RESENC, [0, 1])
    assert set(other["regions"]["WT"]) == {"full", "zero", "copy", "agi"}
    inside = read_summary(folder / "transfer" / RESENC)
    assert inside["config"]["preset"] == RESENC
    assert other["regions"]["WT"]["agi"]["dice"] == inside["regions"]["WT"]["arms"]["agi"]["dice"]
    said = (folder / "report.md").read_text()
    assert f"judged by another architecture: segmenters of the preset {RESENC}" in said
    heads = ("Dice by cpu-small", f"Dice by {RESENC}", f"recovered by {RESENC}")
    assert all(head in said for head in heads)
    assert (folder / "transfer" / RESENC / "report.html").is_file()
    assert not (folder / "transfer" / RESENC / "arms").exists()


def test_a_second_call_judges_nothing_again_and_one_without_keeps_what_was_found(
    run_toy, machines, folder
):
    flags = ("--arms", "synthetic", "--transfer", RESENC)
    run_toy(*flags)
    machines.log.clear()
    assert run_toy(*flags) == 0
    assert {"predict", "complete"}.isdisjoint(machines.log)
    assert run_toy("--arms", "synthetic") == 0
    assert [one["preset"] for one in read_summary(folder)["transfer"]] == [RESENC]


def test_without_it_a_report_has_no_such_table(run_toy, folder):
    run_toy("--arms", "synthetic")
    assert read_summary(folder)["transfer"] == []
    assert "another architecture" not in (folder / "report.md").read_text()


def test_a_dry_run_says_it(run_toy, machines, capsys):
    run_toy("--arms", "synthetic", "--transfer", RESENC, "--dry-run")
    assert f"the same arms by {RESENC}, 1 to train" in capsys.readouterr().out
    assert not machines.log


def test_a_teacher_of_that_architecture_is_no_judge_there_either(
    write_run, toy_cohort, run_toy, machines, tmp_path
):
    teacher = {
        "weights_sha256": "1" * 64, "checkpoint_sha256": "2" * 64, "seed": 0,
        "cases": sorted(SPLIT["train"]), "origin": f"ScheduledTrainer__{RESENC}-seed0__3d_fullres",
    }  # fmt: skip
    run = write_run(tmp_path / "taught", toy_cohort, split=SPLIT | {"coupled": [teacher]})
    with pytest.raises(InputError, match="taught was coupled to the segmenter"):
        run_toy("--run", str(run), "--transfer", RESENC)
    assert not machines.log


@pytest.mark.parametrize(
    ("transfer", "said"),
    [("huge", "unknown preset 'huge'"), ("cpu-mini", "of another preset than")],
)
def test_what_is_no_transfer_is_refused(transfer, said):
    with pytest.raises(InputError, match=said):
        RunRequest("flair", transfer=transfer)
