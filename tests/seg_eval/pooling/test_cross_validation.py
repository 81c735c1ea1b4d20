"""``seg_eval run --cross-validate``: each patient is judged once, by networks that never saw it."""

import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import synth3d
from seg_eval import read_summary
from seg_eval.evaluation import evaluate
from seg_eval.experiment.request import RunRequest
from seg_eval.pooling.cross_validation import draw_folds, folded_plan, own_run
from synth3d.cohort import Case
from synth3d.console import speaking
from synth3d.errors import InputError
from tests.seg_eval.conftest import NAMES, FakeMachines
from tests.seg_eval.pooling.conftest import asked

pytestmark = pytest.mark.usefixtures("plain_pictures")


def cases_of(sizes):
    return [
        Case(f"p{who}v{visit}", f"p{who}", Path(), {}, None, "table")
        for who, count in enumerate(sizes) for visit in range(count)
    ]  # fmt: skip


@given(st.lists(st.integers(1, 3), min_size=5, max_size=20), st.data(), st.integers(0, 99))
def test_every_patient_is_tested_once_and_seen_by_nobody_who_tests_it(sizes, data, seed):
    cases = cases_of(sizes)
    folds = data.draw(st.integers(2, len(sizes)))
    splits = draw_folds(cases, folds, seed)
    assert splits == draw_folds(cases[::-1], folds, seed)
    whose = {case.name: case.patient for case in cases}
    tested = [{whose[name] for name in split.test} for split in splits]
    assert sorted(who for each in tested for who in each) == sorted({*whose.values()})
    for split in splits:
        sides = [{whose[name] for name in side} for side in (split.train, split.val, split.test)]
        assert all(sides)
        assert sum(map(len, sides)) == len({*whose.values()})
        assert sorted((*split.train, *split.val, *split.test)) == sorted(whose)
    if len({*sizes}) == 1:
        assert max(map(len, tested)) - min(map(len, tested)) <= 1


def test_the_seed_draws_the_folds():
    cases = cases_of([1] * 12)
    assert draw_folds(cases, 3, 0) != draw_folds(cases, 3, 1)


@pytest.mark.parametrize(("sizes", "folds"), [([1] * 3, 2), ([1] * 5, 6), ([4], 2)])
def test_too_few_patients_are_refused(sizes, folds):
    with pytest.raises(InputError, match=f"there are {len(sizes)} such patients"):
        draw_folds(cases_of(sizes), folds, 0)


def test_each_fold_trains_its_own_on_others_alone(toy_cohort, tmp_path, machines):
    work = tmp_path / "work"
    flags = {"settings": ("train.steps=9",), "recipe": "cpu", "cross_validate": 2}
    outcome = evaluate(asked(work, toy_cohort, **flags), machines.engines(), "seg_eval run ...")
    assert outcome.folder == work / "eval" / "cv"
    trainings = [command for command in machines.commands if command[0] == "train"]
    assert len(trainings) == 2
    tested = []
    for command, number in zip(trainings, (1, 2), strict=True):
        split = json.loads(Path(command[command.index("--splits") + 1]).read_text())
        assert Path(command[command.index("--splits") + 1]).name == f"fold{number}.json"
        assert command[command.index("--set") + 1] == "train.steps=9"
        assert command[command.index("--recipe") + 1] == "cpu"
        fold = read_summary(work / "eval" / f"cv-fold{number}")["config"]
        assert fold["test"] == split["test"]
        assert fold["train"] == split["train"]
        tested += split["test"]
    assert sorted(tested) == sorted(NAMES)
    seen = [{case.name for case in task.cohort.train} for task in machines.tasks]
    assert all(len(each) == 3 for each in seen)  # of four, one is for validation


def test_a_fold_of_a_recipe_that_changed_is_another_run(toy_cohort, tmp_path):
    """Also where the recipe ships with the program, under the name that it had before."""
    shipped = (Path(synth3d.__file__).parent / "training" / "recipes" / "cpu.toml").read_bytes()
    recipes = {"same": shipped, "other": shipped + b"# another\n"}
    for name, text in recipes.items():
        (tmp_path / f"{name}.toml").write_bytes(text)
    files = {name: str(tmp_path / f"{name}.toml") for name in recipes}

    def called(recipe):
        request = asked(tmp_path, toy_cohort, cross_validate=2, recipe=recipe, device="cpu")
        run, _ = own_run(request, folded_plan(request), 1)
        return run.name

    assert called("cpu") == called(None) == called(files["same"])
    assert len({*map(called, ("cpu", "phantom", "nowhere", files["other"]))}) == 4


def test_a_killed_one_goes_on_and_a_finished_one_does_nothing_again(
    toy_cohort, tmp_path, machines, monkeypatch
):
    work, real = tmp_path / "work", machines.synth3d

    def killed(arguments):
        if "fold2-" in " ".join(arguments) and arguments[0] == "train":
            raise KeyboardInterrupt
        real(arguments)

    request = asked(work, toy_cohort, cross_validate=2)
    monkeypatch.setattr(machines, "synth3d", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(request, machines.engines())
    assert (work / "eval" / "cv-fold1" / "summary.json").is_file()
    assert not (work / "eval" / "cv" / "summary.json").exists()
    monkeypatch.setattr(machines, "synth3d", real)
    machines.log.clear()
    assert evaluate(request, machines.engines()).code == 0
    assert machines.log.count("train") == 1
    first = read_summary(work / "eval" / "cv")
    spent = dict.fromkeys(("seconds", "peak_memory_mb"))
    machines.log.clear()
    evaluate(request, machines.engines())
    assert {"train", "predict", "complete"}.isdisjoint(machines.log)
    assert read_summary(work / "eval" / "cv") | spent == first | spent


def test_processes_of_the_same_command_share_the_folds(
    toy_cohort, tmp_path, machines, monkeypatch, capsys
):
    work, real = tmp_path / "work", machines.synth3d
    request = asked(work, toy_cohort, cross_validate=2)
    other, ended = FakeMachines(), threading.Event()
    second = threading.Thread(
        target=lambda: (evaluate(request, other.engines()), ended.set()), daemon=True
    )

    def slow(arguments):
        """While the first fold is trained here, the other process does the second one."""
        if arguments[0] == "train" and not second.is_alive():
            second.start()
            deadline = time.monotonic() + 60
            while not (work / "eval" / "cv-fold2" / "summary.json").is_file():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert not ended.wait(0.2)  # it waits for the first one
        real(arguments)

    monkeypatch.setattr(machines, "synth3d", slow)
    assert evaluate(request, machines.engines()).code == 0
    assert ended.wait(60)
    assert (machines.log.count("train"), other.log.count("train")) == (1, 1)
    tested = read_summary(work / "eval" / "cv")["config"]["test"]
    assert sorted(tested) == sorted(NAMES)
    assert "another process works on it" in capsys.readouterr().out


def test_the_built_in_phantoms_are_cut_into_folds_as_well(tmp_path, machines):
    request = RunRequest("flair", work=tmp_path, arms=("copy",), cross_validate=2, threads=1)
    folder = evaluate(request, machines.engines()).folder
    assert folder.parent == tmp_path / "eval"
    assert sorted(read_summary(folder)["config"]["test"]) == sorted(NAMES)
    assert "train" not in machines.log


def test_other_folds_under_its_name_are_refused_before_anything_is_trained(
    finished, toy_cohort, machines
):
    for more, said in [({"seed": 1}, "give another --name"), ({"cross_validate": 2}, "another")]:
        with pytest.raises(InputError, match=said):
            evaluate(asked(finished, toy_cohort, **more), machines.engines())
    assert not machines.log


def test_a_coupled_synthesiser_of_every_fold_has_a_teacher_of_that_fold(
    toy_cohort, tmp_path, machines
):
    work = tmp_path / "work"
    more = {"cross_validate": 2, "coupled": 7, "settings": ("train.steps=9",)}
    assert evaluate(asked(work, toy_cohort, **more), machines.engines()).code == 0
    teachers = [task for task in machines.tasks if task.seed == 7]
    assert len(teachers) == 2
    assert len({tuple(case.name for case in task.cohort.train) for task in teachers}) == 2
    found = read_summary(work / "eval" / "cv")
    assert [arm["name"] for arm in found["arms"]][-1] == "synthetic"
    assert found["notes"]["synthetic"].count("(seed 7)") == 2


def test_a_dry_run_says_folds_and_times_them_and_writes_nothing(
    toy_cohort, tmp_path, machines, capsys
):
    work = tmp_path / "work"
    request = asked(work, toy_cohort, dry_run=True, seeds="0,1")
    evaluate(request, machines.engines())
    said = capsys.readouterr().out.strip().splitlines()
    assert len(said) <= 15
    text = "\n".join(said)
    assert "4 of 8 patients, each judged once: 2, 2, 2, 2" in text
    assert "8 h 24 min" in text  # four times two hours and two segmenters of three minutes
    assert str(work / "eval" / "cv") in text
    assert not work.exists()
    assert not machines.log


def test_a_quiet_dry_run_answers_all_the_same(toy_cohort, tmp_path, machines, capsys):
    with speaking("quiet"):
        evaluate(asked(tmp_path / "work", toy_cohort, dry_run=True), machines.engines())
    assert "each judged once" in capsys.readouterr().out


def test_a_dry_run_of_what_is_done_has_nothing_to_train(finished, toy_cohort, machines, capsys):
    evaluate(asked(finished, toy_cohort, dry_run=True), machines.engines())
    assert "0 of 4 folds to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"run": ("work/runs/A",)}, "leave --run out"),
        ({"splits": Path("splits.json")}, "leave --splits out"),
        ({"missing": "all"}, "one sequence at a time"),
        ({"cross_validate": 1}, "2 folds or more"),
        ({"settings": ("steps",)}, "--set takes key=value"),
    ],
)
def test_what_cannot_be_cross_validated_is_refused(flags, said):
    with pytest.raises(InputError, match=said):
        RunRequest(**{"missing": "flair", "cross_validate": 5} | flags)


def test_settings_without_a_synthesiser_to_train_are_refused(toy_cohort, tmp_path, machines):
    with pytest.raises(InputError, match="--arms leaves out synthetic"):
        evaluate(
            asked(tmp_path, toy_cohort, arms=("copy",), settings=("train.steps=9",)),
            machines.engines(),
        )


def test_judges_of_another_architecture_are_put_together_as_well(toy_cohort, tmp_path, machines):
    more = {"cross_validate": 2, "transfer": "cpu-mini-resenc", "arms": ("copy",)}
    folder = evaluate(asked(tmp_path, toy_cohort, **more), machines.engines()).folder
    (other,) = read_summary(folder)["transfer"]
    inside = read_summary(folder / "transfer" / "cpu-mini-resenc")
    assert other["preset"] == inside["config"]["preset"] == "cpu-mini-resenc"
    assert inside["config"]["test"] == read_summary(folder)["config"]["test"]
    assert other["regions"]["WT"]["copy"]["dice"] == inside["regions"]["WT"]["arms"]["copy"]["dice"]


def test_thick_slices_are_restored_by_a_run_of_every_fold(toy_cohort, tmp_path, machines):
    more = {"missing": None, "degraded": "flair=1,1,3", "cross_validate": 2}
    more |= {"arms": ("trilinear,restored",), "work": tmp_path, "data": toy_cohort, "threads": 1}
    request = RunRequest(**more, recipe="restore")
    found = read_summary(evaluate(request, machines.engines()).folder)
    kinds = ["full", "degraded", "trilinear", "restored"]
    assert [(arm["name"], arm["kind"]) for arm in found["arms"]] == [(kind, kind) for kind in kinds]
    assert machines.log.count("train") == 2
