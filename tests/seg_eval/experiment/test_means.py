"""An arm that is the mean of several runs, or of mirror images: judged as one, guarded as all."""

import json
from pathlib import Path

import pytest

from seg_eval.arms import check_out_of_fold, read_mean
from seg_eval.arms.kinds import Arm
from synth3d.errors import InputError
from tests.seg_eval.conftest import SPLIT

TEACHER = {
    "weights_sha256": "1" * 64, "checkpoint_sha256": "2" * 64, "seed": 0,
    "cases": SPLIT["train"], "origin": "ScheduledTrainer__cpu-small-seed0__3d_fullres",
}  # fmt: skip


@pytest.fixture
def runs(toy_cohort, write_run, tmp_path):
    """Where runs ``a`` and ``b`` are that both make FLAIR; ``b`` was coupled to a segmenter."""
    write_run(tmp_path / "a", toy_cohort)
    write_run(tmp_path / "b", toy_cohort, split=SPLIT | {"coupled": [TEACHER]})
    return tmp_path


def test_a_mean_is_made_by_all_its_runs_in_all_mirrors(runs):
    both = read_mean(Path(f"{runs}/a+{runs}/b@xyz"))
    assert both.name == "a+b@xyz"
    assert both.flags == ("--run", f"{runs}/a", "--run", f"{runs}/b", "--mirror", "xyz")
    names = ("a", "a@x", f"a+{runs}/b", f"a+{runs}/b@x")
    hashes = {read_mean(Path(f"{runs}/{name}")).weights_sha256 for name in names}
    assert len(hashes) == len(names)
    assert read_mean(runs / "a").flags == ("--run", f"{runs}/a")


def test_a_folder_that_is_there_is_a_run_whatever_its_name(toy_cohort, write_run, tmp_path):
    odd = write_run(tmp_path / "x@x+y", toy_cohort)
    assert not read_mean(odd).is_mean
    assert read_mean(Path(f"{odd}@x")).flags == ("--run", str(odd), "--mirror", "x")
    with pytest.raises(InputError, match="not a run folder"):
        read_mean(Path(f"{odd}@y"))


def test_runs_that_make_other_things_are_no_mean(runs, toy_cohort, write_run):
    write_run(runs / "t1", toy_cohort, "t1n")
    with pytest.raises(InputError, match="make the same of the same"):
        read_mean(Path(f"{runs}/a+{runs}/t1"))


def test_a_mean_may_remember_what_any_of_its_runs_has_seen(runs, toy_cohort, write_run):
    other = SPLIT | {"train": SPLIT["test"], "test": []}
    write_run(runs / "leaky", toy_cohort, split=other)
    seen = read_mean(Path(f"{runs}/a+{runs}/leaky")).seen_cases
    assert {*SPLIT["test"], *SPLIT["train"]} <= {*seen}


def test_the_teacher_of_any_run_is_no_judge_of_the_mean(runs, run_toy, machines):
    with pytest.raises(InputError, match=r"other --seeds than 0"):
        run_toy("--run", f"{runs}/a+{runs}/b")
    assert not machines.log


def test_a_retrained_segmenter_does_not_learn_from_a_mean(runs, toy_cohort):
    arm = Arm("retrained", "retrained", read_mean(Path(f"{runs}/a@x")), "a@x")
    with pytest.raises(InputError, match="is a mean"):
        check_out_of_fold(arm, None, ("t2f",), 3)  # type: ignore[arg-type]


def test_a_mirrored_run_is_judged_beside_the_same_run(
    runs, run_toy, machines, folder, plain_pictures
):
    assert run_toy("--run", f"{runs}/a", "--run", f"{runs}/a@x") == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert {"a", "a@x"} <= {*summary["config"]["arms"]}
    assert summary["config"]["arms"]["a@x"]["mean_of"][-1] == "x"
