"""No segmenter judges what it has taught: known by its checkpoint, or by name and cases."""

import hashlib
import json

import pytest

from seg_eval.arms import read_run
from seg_eval.cli import main
from seg_eval.experiment import expected, make_plan, refuse_teachers
from synth3d.errors import InputError
from synth3d.files import sha256
from tests.seg_eval.conftest import SPLIT

TEACHER = {
    "weights_sha256": "1" * 64, "checkpoint_sha256": "2" * 64, "seed": 0,
    "cases": sorted(SPLIT["train"]), "origin": "ScheduledTrainer__cpu-small-seed0__3d_fullres",
}  # fmt: skip


@pytest.fixture
def teach(toy_cohort, write_run, tmp_path):
    """A finished run that was coupled to a segmenter; keywords change what is noted of it."""

    def write(**said):
        split = SPLIT | {"coupled": [TEACHER | said]}
        return write_run(tmp_path / "taught", toy_cohort, split=split)

    return write


def test_a_run_says_by_whom_it_was_taught(teach):
    (teacher,) = read_run(teach()).teachers
    assert teacher.checkpoint_sha256 == "2" * 64
    assert teacher.cases == tuple(sorted(SPLIT["train"]))


def test_the_teacher_of_that_name_and_those_cases_is_no_judge(teach, run_toy, machines, folder):
    """Before anything is trained; and a dry run says so, too."""
    run = teach()
    for more in ((), ("--dry-run",)):
        with pytest.raises(InputError, match=r"other --seeds than 0") as error:
            run_toy("--run", str(run), *more)
        assert "coupled to the segmenter ScheduledTrainer__cpu-small-seed0" in str(error.value)
        assert "\n" not in str(error.value)
    assert not machines.log
    assert not folder.exists()


@pytest.mark.parametrize(
    "said",
    [{}, {"cases": ["Elsewhere_1"]}, {"origin": "Other__cpu-small-seed0__3d_fullres"}],
    ids=["another seed", "other cases", "another trainer"],
)
def test_others_may_judge(said, teach, run_toy, plain_pictures):
    seeds = () if said else ("--seeds", "1,2")
    assert run_toy("--run", str(teach(**said)), *seeds) == 0


def test_a_checkpoint_that_taught_is_no_judge_under_whatever_name(
    teach, run_toy, machines, monkeypatch
):
    """Of one trained here it is known once it is there, before it has judged."""
    train = machines.train_segmenter

    def with_checkpoint(task):
        model = train(task)
        (model / "fold_0").mkdir(exist_ok=True)
        (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
        return model

    monkeypatch.setattr(machines, "train_segmenter", with_checkpoint)
    digest = hashlib.sha256(b"weights").hexdigest()
    run = teach(checkpoint_sha256=digest, origin="T__P__3d_fullres", seed=None, cases=None)
    with pytest.raises(InputError, match="judge it by another"):
        run_toy("--run", str(run))
    assert "predict" not in machines.log


def test_one_that_the_user_brought_is_known_by_its_checkpoint(teach, toy_request, tmp_path):
    model = tmp_path / "model"
    (model / "fold_0").mkdir(parents=True)
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"theirs")
    digest = sha256(model / "fold_0" / "checkpoint_final.pth")
    run = read_run(teach(checkpoint_sha256=digest, cases=None, origin="T__P__3d_fullres"))
    plan = make_plan(toy_request(), ("t2f",), [run])
    object.__setattr__(plan, "foreign", model)
    with pytest.raises(InputError, match="judge it by another"):
        refuse_teachers(plan, expected(plan))


def test_cases_of_a_teacher_are_cases_that_the_run_has_seen(teach, run_toy):
    run = teach(cases=[*SPLIT["train"], SPLIT["test"][0]])
    with pytest.raises(InputError, match=f"test case {SPLIT['test'][0]} is among"):
        run_toy("--run", str(run))


def test_a_damaged_note_is_a_sentence(teach, toy_cohort, capsys):
    run = teach()
    path = run / "cohort.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"coupled": [{"seed": 1}]}))
    flags = ["--missing", "flair", "--data", str(toy_cohort), "--run", str(run)]
    assert main(["run", *flags]) == 2
    assert "is damaged" in capsys.readouterr().err
