"""Runs as programs: kept when finished, resumed when killed, reported when they fail."""

import json
import signal
import subprocess
import sys

import pytest

import synth3d.experiments.cells as cells_module
from synth3d.cohort.cases import find_cases
from synth3d.cohort.splits import make_splits
from synth3d.errors import InputError
from synth3d.experiments.cells import How, Progress, duration, train_command, work
from synth3d.experiments.cost import parse_budget
from synth3d.experiments.plan import Cohort, Item, make_items, normalised
from synth3d.experiments.tables import Cell
from synth3d.files import lock, write_json
from synth3d.settings import override
from synth3d.training.recipes import read_recipe
from synth3d.training.run_folder import read_config, write_config

CELLS = [
    Cell("conv", {"model.name": "resunet"}),
    Cell("cagr", {"model.name": "agi-net"}, {}, "conv"),
    Cell("far", {"model.name": "resunet"}, {"misalign": {"source": "t2w", "shift": 3}}, "conv"),
]
PRETEND_TO_TRAIN = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[1])
config = json.loads(pathlib.Path(sys.argv[2]).read_text())
if config["model"]["name"] == sys.argv[3]:
    print("step 1")
    print("error: the loss is not finite")
    sys.exit(2)
run.mkdir(parents=True, exist_ok=True)
(run / "config.json").write_text(json.dumps(config))
done = {"format": 1, "finished": True, "weights_sha256": "abc", "steps": 4, "seconds": 2.0}
(run / "done.json").write_text(json.dumps(done))
"""
PRETEND_TO_SCORE = """
import json, pathlib, sys
order = json.loads(pathlib.Path(sys.argv[1]).read_text())
for test in order["tests"]:
    identity = {**test["identity"], "weights_sha256": "abc"}
    pathlib.Path(test["path"]).write_text(json.dumps({"identity": identity}))
"""


@pytest.fixture
def how(phantom_cohort, tmp_path) -> How:
    cases = find_cases(phantom_cohort)
    splits = make_splits(cases)
    tested = tuple(case for case in cases if case.name in splits.test)
    cohort = Cohort(phantom_cohort, splits, "test", tested)
    return How(cohort, tmp_path / "ablate", ("ours",), "cpu", 2, 1)


@pytest.fixture
def pretend(monkeypatch):
    """Programs that only leave the files behind that real ones would."""
    begun: list[str] = []
    order_for = cells_module.score_command
    monkeypatch.setattr(cells_module, "PAUSE", 0.02)

    def use(failing: str = "") -> list[str]:
        def train(item: Item, how: How) -> list[str]:
            begun.append(item.name)
            train_command(item, how)
            arguments = [str(item.run), str(item.folder / "recipe.json"), failing]
            return [sys.executable, "-S", "-c", PRETEND_TO_TRAIN, *arguments]

        def score(item: Item, how: How) -> list[str]:
            begun.append(f"score {item.name}")
            return [sys.executable, "-S", "-c", PRETEND_TO_SCORE, order_for(item, how)[-1]]

        monkeypatch.setattr(cells_module, "train_command", train)
        monkeypatch.setattr(cells_module, "score_command", score)
        return begun

    return use


def items(how: How, seeds: int = 2) -> list[Item]:
    values = normalised(read_recipe("phantom"))
    override(values, "train.steps", 4)
    return make_items(CELLS, values, seeds, how.cohort, how.conventions, how.root)


def test_cells_that_differ_in_testing_alone_share_a_run(how):
    made = items(how)
    assert [item.name for item in made] == [
        "conv-seed0", "cagr-seed0", "conv-seed1", "cagr-seed1",
    ]  # fmt: skip
    assert [test.cell.name for test in made[0].tests] == ["conv", "far"]
    assert len({test.path for item in made for test in item.tests}) == 6
    assert not made[0].tests[0].config.misalign.active
    assert made[0].tests[1].config.misalign.shift == 3
    assert not made[0].config.misalign.active


def test_all_is_done_once(how, pretend):
    begun = pretend()
    assert work(items(how), how) == {}
    assert sorted(begun) == sorted(
        [name for item in items(how) for name in (item.name, f"score {item.name}")]
    )
    assert not any(item.todo for item in items(how))
    begun.clear()
    assert work(items(how), how) == {}
    assert begun == []


def test_new_seeds_leave_finished_runs_alone(how, pretend):
    begun = pretend()
    work(items(how, 1), how)
    begun.clear()
    work(items(how, 2), how)
    assert sorted(begun) == ["cagr-seed1", "conv-seed1", "score cagr-seed1", "score conv-seed1"]


def test_lost_scores_are_made_again_without_training(how, pretend):
    begun = pretend()
    work(items(how, 1), how)
    begun.clear()
    first = items(how, 1)[0]
    first.tests[1].path.write_text('{"identity": ')  # cut off
    work(items(how, 1), how)
    assert begun == ["score conv-seed0"]


def test_other_weights_void_the_scores(how, pretend):
    begun = pretend()
    work(items(how, 1), how)
    begun.clear()
    done = items(how, 1)[1].run / "done.json"
    write_json(done, {**json.loads(done.read_text()), "weights_sha256": "other"})
    assert [test.cell.name for test in items(how, 1)[1].todo] == ["cagr"]


def test_a_failing_cell_stops_nobody_and_is_told_with_its_log(how, pretend):
    pretend(failing="agi-net")
    told = []
    failures = work(items(how), how, lambda item: told.append(item.name))
    assert sorted(failures) == ["cagr-seed0", "cagr-seed1"]
    assert sorted(told) == ["conv-seed0", "conv-seed1"]
    item = items(how)[1]
    log = item.folder / "train.log"
    assert failures["cagr-seed0"] == f"the loss is not finite [exit code 2] (log: {log})"
    assert "step 1" in log.read_text()
    pretend()
    assert work(items(how), how) == {}  # the same command tries again


def test_a_program_that_leaves_no_scores_has_failed(how, pretend, monkeypatch):
    pretend()
    nothing = [sys.executable, "-S", "-c", "pass"]
    monkeypatch.setattr(cells_module, "score_command", lambda item, how: nothing)
    failures = work(items(how, 1)[:1], how)
    assert "ended without its scores" in failures["conv-seed0"]


def test_a_run_that_another_process_owns_is_left_to_it(how, pretend):
    begun = pretend()
    (first, second) = items(how, 1)
    with lock(first.run):  # a training left behind by a killed ablate
        script = "import sys, time; time.sleep(0.5)"
        with subprocess.Popen([sys.executable, "-c", script]):
            work([second], how)
            assert cells_module._take([first], how) is None
    assert begun == ["cagr-seed0", "score cagr-seed0"]
    assert work([first, second], how) == {}
    assert begun[2:] == ["conv-seed0", "score conv-seed0"]


def test_a_folder_that_cannot_be_written_is_an_error(how, pretend):
    pretend()
    how.root.parent.mkdir(exist_ok=True)
    how.root.write_text("a file where a folder should be")
    with pytest.raises(InputError, match="cannot create the folder"):
        work(items(how), how)


def test_an_interruption_ends_the_programs(how, pretend, monkeypatch):
    pretend()
    # A shell starts background jobs with the signal ignored, and a test run may be one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt(how, monkeypatch)
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(how, monkeypatch):
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(cells_module, "train_command", lambda item, how: sleep)
    started: list[subprocess.Popen] = []
    popen = subprocess.Popen

    def watch(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        if len(started) == 2:
            signal.raise_signal(signal.SIGINT)
        return started[-1]

    monkeypatch.setattr(cells_module.subprocess, "Popen", watch)
    with pytest.raises(KeyboardInterrupt):
        work(items(how), how)
    assert started[0].poll() == -signal.SIGTERM
    for one in started:  # the one that was being started when the signal came
        one.terminate()
        one.wait()


def test_a_run_goes_on_with_the_threads_it_had(how):
    item = items(how, 1)[0]
    begun = {"threads": 5}
    config = read_config_of(item, **begun)
    write_config(item.run, config)
    train_command(item, how)
    recipe = json.loads((item.folder / "recipe.json").read_text())
    assert recipe["train"]["threads"] == 5
    assert item.config.train.threads != 5
    assert read_config(item.run).train.threads == 5


def read_config_of(item: Item, **train):
    import dataclasses

    return dataclasses.replace(item.config, train=dataclasses.replace(item.config.train, **train))


def test_progress_counts_steps(how, capsys):
    made = items(how, 1)
    progress = Progress(made, 3)
    progress.began -= 10
    made[0].run.mkdir(parents=True)
    (made[0].run / "log.jsonl").write_text('{"step": 2}\n{"step": 3}\n')
    progress.tell([made[0]], 2, 0)
    said = capsys.readouterr().err
    assert "1 of 3 runs done (conv-seed0 step 3 of 4), about 17 s left" in said
    progress.tell([made[0]], 2, 0)
    assert capsys.readouterr().err == ""
    progress.tell([], 1, 1)
    assert "1 of 3 runs done, 1 failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3 s"), (89.6, "90 s"), (600, "10 min"), (11100, "3 h 05 min")]
)
def test_durations_in_words(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("600", (600, 0)), ("90s", (0, 90)), ("10min", (0, 600)), ("1.5 h", (0, 5400))],
)
def test_budgets(text, expected):
    assert parse_budget(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5", "10 days", "0min", "min"])
def test_bad_budgets_are_refused(text):
    with pytest.raises(InputError, match="--budget takes steps"):
        parse_budget(text)
