"""`--coupled`: a segmenter that judges nothing teaches a synthesiser, which others judge."""

import json
from pathlib import Path

import pytest

from seg_eval import read_summary
from seg_eval.arms import StageFailedError, read_run
from seg_eval.experiment import choose
from seg_eval.experiment.request import TEACHER_SEED, RunRequest
from synth3d.errors import InputError
from tests.seg_eval.conftest import SPLIT

pytestmark = pytest.mark.usefixtures("plain_pictures")


def coupled_runs(tmp_path) -> list[Path]:
    return sorted((tmp_path / "work" / "runs").glob("coupled-*"))


def said_of(command: list[str], flag: str) -> list[str]:
    return [value for word, value in zip(command, command[1:], strict=False) if word == flag]


def test_one_command_teaches_trains_and_judges(run_toy, machines, folder, tmp_path):
    """By segmenters of other seeds, as one more arm beside the run that was named."""
    flags = ("--arms", "synthetic", "--seeds", "0,1", "--coupled", "7")
    assert run_toy(*flags, "--set", "train.steps=9", "--set", "model.name=resunet") == 0
    first = machines.log[:3]
    assert first == ["train segmenter frozen 7", "export model-frozen-7", "train"]
    command, (trial,) = machines.commands[0], machines.forecasts
    assert said_of(trial, "--set") == [
        "train.coupling.tumour=1", "train.steps=9", "model.name=resunet"
    ]  # fmt: skip
    assert machines.log.count("train segmenter frozen 0") == 1
    assert [case.name for case in machines.tasks[0].cohort.train] == list(SPLIT["train"])
    (run,) = coupled_runs(tmp_path)
    assert said_of(command, "--name") == said_of(trial, "--name") == [run.name]
    assert said_of(command, "--target") == ["t2f"]
    export = machines.tasks[0].folder / "model-frozen-7" / "export"
    assert said_of(command, "--set") == [
        f"train.coupling.segmenter={export.resolve()}",
        "train.coupling.label=1", "train.coupling.balance=true",
        "train.steps=9", "model.name=resunet",
    ]  # fmt: skip
    assert [one.seed for one in read_run(run).teachers] == [7]
    summary = read_summary(folder)
    assert {"full", "zero", "agi", run.name} == {arm["name"] for arm in summary["arms"]}
    assert summary["config"]["seeds"] == [0, 1]
    assert "cpu-small-seed7" in summary["notes"][run.name]
    assert "(seed 7)" in (folder / "report.md").read_text()


def test_a_second_call_does_nothing_again_and_other_settings_train_another(
    run_toy, machines, tmp_path
):
    flags = ("--arms", "synthetic", "--coupled")
    run_toy(*flags)
    machines.log.clear()
    run_toy(*flags)
    assert machines.log == ["train segmenter frozen 0"]  # asked for, and found done
    run_toy(*flags, "--set", "train.steps=9")
    assert "export model-frozen-1000" in machines.log
    assert len(coupled_runs(tmp_path)) == 2


@pytest.mark.parametrize("where", ["train segmenter", "export", "train"])
def test_a_killed_one_goes_on_with_what_is_there(where, run_toy, machines, monkeypatch, tmp_path):
    name = {"train segmenter": "train_segmenter", "export": "export_segmenter"}.get(
        where, "synth3d"
    )
    real = getattr(machines, name)

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(machines, name, killed)
    with pytest.raises(KeyboardInterrupt):
        run_toy("--arms", "synthetic", "--coupled")
    assert not coupled_runs(tmp_path)
    monkeypatch.setattr(machines, name, real)
    assert run_toy("--arms", "synthetic", "--coupled") == 0
    (run,) = coupled_runs(tmp_path)
    assert read_run(run).teachers[0].seed == TEACHER_SEED


def test_what_cannot_be_trained_is_told_before_its_teacher_is(run_toy, machines):
    def refuses(arguments):
        raise StageFailedError("`synth3d train` ended with exit code 2", 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machines, "forecast", refuses)
        with pytest.raises(StageFailedError):
            run_toy("--arms", "synthetic", "--coupled", "--set", "train.stepz=9")
    assert not machines.log


def test_a_training_that_was_begun_goes_on_with_its_threads(run_toy, machines, tmp_path):
    def fails(arguments):
        name = said_of(arguments, "--name")[0]
        run = tmp_path / "work" / "runs" / name
        run.mkdir()
        (run / "config.json").write_text('{"train": {"threads": 3}}')
        raise StageFailedError("`synth3d train` failed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machines, "synth3d", fails)
        with pytest.raises(StageFailedError):
            run_toy("--arms", "synthetic", "--coupled")
    with pytest.raises(FileExistsError):  # the stand-in makes no second folder
        run_toy("--arms", "synthetic", "--coupled")
    assert said_of(machines.commands[-1], "--threads") == ["3"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"coupled": 0}, "seed 0 would teach the coupled run and judge it; leave .* --seed,"),
        ({"coupled": 2, "seeds": "0,2"}, "out of --seeds, or .* as in --coupled 3"),
        ({"coupled": -1}, "a whole number from 0"),
        ({"coupled": 7, "settings": ("train.steps",)}, "--set takes key=value"),
        ({"settings": ("train.steps=9",)}, "--set is for the synthesiser that --coupled or"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, said):
    with pytest.raises(InputError, match=said) as error:
        RunRequest("flair", **settings)
    assert "\n" not in str(error.value)


def test_true_takes_a_seed_that_nobody_else_has():
    assert RunRequest("flair", coupled=True).coupled == TEACHER_SEED
    assert RunRequest("flair", coupled=False).coupled is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--arms", "copy"), "--arms leaves out synthetic"),
        (("--arms", "retrained"), "the arm retrained learns from out-of-fold synthesis"),
    ],
)
def test_what_could_not_be_judged_is_not_trained(flags, said, toy_request):
    with pytest.raises(InputError, match=said):
        choose(toy_request("--coupled", *flags, run=()), ("t2f",))


def test_a_dry_run_shows_it_and_does_nothing(run_toy, machines, capsys, tmp_path):
    run_toy("--arms", "synthetic", "--coupled", "--dry-run")
    shown = capsys.readouterr().out
    assert "2 to train" in shown  # the teacher, which judges nothing, and the judge
    (arms,) = [line for line in shown.splitlines() if line.startswith("arms:")]
    assert "coupled-t2f-" in arms
    told = next(line for line in shown.splitlines() if "synth3d train" in line)
    assert "train.coupling.label=1" in told  # what will be typed, not what is timed
    assert "train.coupling.segmenter=EXPORT" in told
    (asked,) = machines.forecasts
    assert "train.coupling.tumour=1" in asked  # coupled, and its teacher need not be there
    assert not machines.log
    assert not coupled_runs(tmp_path)


def test_without_a_split_of_the_user_all_have_that_of_the_run(
    toy_request, write_run, machines, toy_cohort, tmp_path
):
    from seg_eval.evaluation import evaluate

    names = [*SPLIT["train"], *SPLIT["val"], *SPLIT["test"]]
    other = {"train": names[2:6], "val": names[6:7], "test": names[:2]}
    run = write_run(tmp_path / "other", toy_cohort, split=other)
    request = toy_request("--arms", "synthetic", "--coupled", splits=None, run=(run,))
    evaluate(request, machines.engines())
    (made,) = coupled_runs(tmp_path)
    assert json.loads((made / "cohort.json").read_text())["test"] == sorted(other["test"])
    assert [case.name for case in machines.tasks[0].cohort.train] == other["train"]


def test_a_coupled_run_is_none_that_is_found_by_itself(toy_request, run_toy, tmp_path):
    """Who asks for no run gets none that one of the judges may have taught."""
    run_toy("--arms", "synthetic", "--coupled", run=())
    assert choose(toy_request("--arms", "synthetic", run=()), ("t2f",)).sources[0].name == "agi"


def test_of_thick_slices_it_restores(run_toy, machines, tmp_path):
    degraded = {"missing": None, "degraded": "flair=1,1,2", "run": ()}
    assert run_toy("--coupled", name="thick", arms=("restored",), **degraded) == 0
    (run,) = coupled_runs(tmp_path)
    assert run.name.startswith("coupled-t2f-1x1x2-")
    assert said_of(machines.commands[0], "--degraded") == ["t2f=1,1,2"]


def test_a_foreign_judge_that_would_teach_is_refused(toy_request, machines, tmp_path, monkeypatch):
    from seg_eval.experiment.coupled import train_coupled
    from seg_eval.experiment.plan import make_plan
    from synth3d.console import Steps

    train = machines.train_segmenter

    def with_checkpoint(task):
        model = train(task)
        (model / "fold_0").mkdir(exist_ok=True)
        (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
        return model

    monkeypatch.setattr(machines, "train_segmenter", with_checkpoint)
    theirs = tmp_path / "model" / "fold_0"
    theirs.mkdir(parents=True)
    (theirs / "checkpoint_final.pth").write_bytes(b"weights")
    request = toy_request("--arms", "synthetic", "--coupled")
    plan = make_plan(request, ("t2f",), ())
    object.__setattr__(plan, "foreign", tmp_path / "model")
    coupled = choose(request, ("t2f",)).coupled
    with pytest.raises(InputError, match="would teach the coupled run and judge it"):
        train_coupled(coupled, request, plan, machines.engines(), Steps(2))
    assert "train" not in machines.log
