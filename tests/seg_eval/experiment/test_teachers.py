"""No segmenter judges what it has taught: known by its checkpoint, or by name and cases."""

import hashlib
import json

import pytest

from seg_eval.arms import parse_completed, read_run
from seg_eval.cli import main
from seg_eval.experiment import expected, make_plan, refuse_teachers
from synth3d.cohort import digest_of_names
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


@pytest.fixture
def completed_by(theirs):
    """A folder that ``synth3d complete`` left of a coupled run; keywords change what is noted."""

    def write(**said):
        folder = theirs()
        told = {key: value for key, value in TEACHER.items() if key != "cases"}
        told |= {"cases_sha256": digest_of_names(SPLIT["train"])} | said
        for name in SPLIT["test"]:
            (folder / "receipts").mkdir(exist_ok=True)
            path = folder / "receipts" / f"{name}.receipt.json"
            path.write_text(json.dumps({"taught_by": [told]}))
        return folder

    return write


def test_files_of_a_coupled_run_are_not_judged_by_its_teacher_either(
    completed_by, run_toy, machines, folder, plain_pictures
):
    """Known by their receipts, by its name and the digest of its cases."""
    flags = ("--arms", "synthetic", "--completed", f"c={completed_by()}")
    with pytest.raises(InputError, match="c was coupled to the segmenter .*other --seeds than 0"):
        run_toy(*flags, run=())
    assert not machines.log
    assert run_toy(*flags, "--seeds", "1", run=()) == 0
    assert "cpu-small-seed0__3d_fullres (seed 0)" in (folder / "report.md").read_text()
    elsewhere = completed_by(cases_sha256=digest_of_names(["Elsewhere_1"]))
    assert run_toy("--completed", f"d={elsewhere}", run=(), name="other") == 0


def test_nor_do_segmenters_learn_from_them_out_of_fold(completed_by, toy_request):
    folder = completed_by()
    for name in SPLIT["train"]:
        source = folder / "receipts" / f"{SPLIT['test'][0]}.receipt.json"
        source.with_name(f"{name}.receipt.json").write_text(source.read_text())
    request = toy_request("--arms", "retrained", "--completed", f"c={folder}", "--seeds", "1")
    with pytest.raises(InputError, match="has seen the cases of every fold"):
        make_plan(request, ("t2f",), [parse_completed(f"c={folder}")])


def test_a_receipt_that_cannot_be_read_is_a_sentence(completed_by, toy_request):
    folder = completed_by(seed="zero")
    request = toy_request("--completed", f"c={folder}", run=())
    plan = make_plan(request, ("t2f",), [parse_completed(f"c={folder}")])
    with pytest.raises(InputError, match="the receipt of Brats18_TOY_F_1 in"):
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
