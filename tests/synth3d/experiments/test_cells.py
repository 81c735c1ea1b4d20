"""Runs as units of work: kept when finished, resumed when killed, reported when they fail."""

import json
import os
import pickle
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from synth3d.cohort import find_cases, make_splits, read_splits
from synth3d.completion import HeldElsewhere, InThisProcess, Processes, work_through
from synth3d.completion.workers import executor as executor_module
from synth3d.errors import InputError
from synth3d.experiments import cells as cells_module
from synth3d.experiments.cells import Progress, _run, do, train_command, work
from synth3d.experiments.cost import parse_budget
from synth3d.experiments.plan import Item, Shared, make_items, normalised
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
PYTHON = [sys.executable, "-S", "-c"]


@pytest.fixture
def shared(phantom_cohort, tmp_path) -> Shared:
    cases = find_cases(phantom_cohort)
    splits = make_splits(cases)
    tested = tuple(case for case in cases if case.name in splits.test)
    root = tmp_path / "ablate"
    return Shared(
        phantom_cohort, splits, "test", tested, root, ("real-scale",), "cpu", 1, root, 1.0
    )


@pytest.fixture
def pretend(monkeypatch):
    """Programs that only leave the files behind that real ones would; what was begun."""
    begun: list[str] = []
    order_for = cells_module.score_command
    monkeypatch.setattr(executor_module, "PAUSE", 0.02)

    def use(failing: str = "") -> list[str]:
        def train(item: Item, shared: Shared) -> list[str]:
            begun.append(item.name)
            train_command(item, shared)
            arguments = [str(item.run), str(item.folder / "recipe.json"), failing]
            return [*PYTHON, PRETEND_TO_TRAIN, *arguments]

        def score(item: Item, shared: Shared) -> list[str]:
            begun.append(f"score {item.name}")
            return [*PYTHON, PRETEND_TO_SCORE, order_for(item, shared)[-1]]

        monkeypatch.setattr(cells_module, "train_command", train)
        monkeypatch.setattr(cells_module, "score_command", score)
        return begun

    return use


def items(shared: Shared, seeds: int = 2) -> list[Item]:
    values = normalised(read_recipe("phantom"))
    override(values, "train.steps", 4)
    return make_items(CELLS, values, seeds, shared)


ALL = ["cagr-seed0", "cagr-seed1", "conv-seed0", "conv-seed1"]
EVERYTHING = [*ALL, *(f"score {name}" for name in ALL)]


HERE = InThisProcess()


def two() -> Executor:
    return ThreadPoolExecutor(2)


class Backwards(Executor):
    """Does units in a thread of its own, the last one first, as if they came from elsewhere."""

    def __init__(self) -> None:
        self.stack: list[tuple[Future, bytes]] = []

    def submit(self, fn, /, *args, **keywords):
        if not self.stack:
            threading.Timer(0.3, self.do_all).start()
        self.stack.append((Future(), pickle.dumps((fn, args, keywords))))
        return self.stack[-1][0]

    def do_all(self) -> None:
        while self.stack:
            future, unit = self.stack.pop()
            future.set_running_or_notify_cancel()
            fn, args, keywords = pickle.loads(unit)
            future.set_result(fn(*args, **keywords))


def test_cells_that_differ_in_testing_alone_share_a_run(shared):
    made = items(shared)
    assert [item.name for item in made] == ["conv-seed0", "cagr-seed0", "conv-seed1", "cagr-seed1"]
    assert [test.cell.name for test in made[0].tests] == ["conv", "far"]
    assert len({test.path for item in made for test in item.tests}) == 6
    assert [test.config.misalign.shift for test in made[0].tests] == [0, 3]
    assert not made[0].config.misalign.active


@pytest.mark.parametrize("make", [InThisProcess, two, Backwards])
def test_all_is_done_once(shared, pretend, make):
    begun = pretend()
    assert work(items(shared), shared, make()) == {}
    assert sorted(begun) == EVERYTHING
    if make is Backwards:
        assert begun.index("cagr-seed1") < begun.index("conv-seed0")
    assert not any(item.todo for item in items(shared))
    begun.clear()
    assert work(items(shared), shared, HERE) == {}
    assert begun == []


def test_two_that_work_at_once_share_the_runs(shared, pretend):
    begun, failures = pretend(), []
    others = [
        threading.Thread(target=lambda: failures.append(work(items(shared), shared, two())))
        for _ in range(2)
    ]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert failures == [{}, {}]
    assert sorted(begun) == EVERYTHING
    begun.clear()
    work(items(shared, 3), shared, HERE)  # more seeds leave finished runs alone
    assert sorted(begun) == ["cagr-seed2", "conv-seed2", "score cagr-seed2", "score conv-seed2"]


def test_scores_that_are_lost_or_of_other_weights_are_made_again(shared, pretend):
    begun = pretend()
    work(items(shared, 1), shared, HERE)
    begun.clear()
    items(shared, 1)[0].tests[1].path.write_text('{"identity": ')  # cut off
    done = items(shared, 1)[1].run / "done.json"
    assert work(items(shared, 1), shared, HERE) == {}
    assert begun == ["score conv-seed0"]
    write_json(done, {**json.loads(done.read_text()), "weights_sha256": "other"})
    assert [test.cell.name for test in items(shared, 1)[1].todo] == ["cagr"]


def test_a_failing_cell_stops_nobody_and_is_told_with_its_log(shared, pretend):
    pretend(failing="agi-net")
    told = []
    failures = work(items(shared), shared, HERE, on_done=lambda: told.append(1))
    assert sorted(failures) == ["cagr-seed0", "cagr-seed1"]
    assert len(told) == 2
    log = items(shared)[1].folder / "train.log"
    assert failures["cagr-seed0"] == f"the loss is not finite [exit code 2] (log: {log})"
    assert "step 1" in log.read_text()
    pretend()
    assert work(items(shared), shared, HERE) == {}  # the same command tries again


def test_what_leaves_no_scores_or_is_lost_by_its_executor_has_failed(shared, pretend, monkeypatch):
    pretend()
    monkeypatch.setattr(cells_module, "score_command", lambda item, shared: [*PYTHON, "pass"])
    failures = work(items(shared, 1)[:1], shared, HERE)
    assert "without its scores" in failures["conv-seed0"]
    lost: Future = Future()
    lost.set_exception(RuntimeError("the worker was killed"))
    monkeypatch.setattr(Backwards, "submit", lambda *unit: lost)
    failures = work(items(shared, 1)[:1], shared, Backwards())
    assert "the worker was killed" in failures["conv-seed0"]


def test_a_run_that_another_process_owns_is_left_to_it(shared, pretend, capsys):
    begun = pretend()
    first, second = items(shared, 1)
    with lock(first.run):  # a training left behind by a killed ablate
        with pytest.raises(HeldElsewhere):
            do(first, shared)
        assert begun == []
        other = threading.Thread(
            target=lambda: begun.append(str(work([first, second], shared, HERE)))
        )
        other.start()
        while items(shared, 1)[1].todo:
            time.sleep(0.05)
        time.sleep(0.2)  # in which the owned run is looked at again
        assert begun == ["cagr-seed0", "score cagr-seed0"]
    other.join()
    assert begun[2:] == ["conv-seed0", "score conv-seed0", "{}"]
    assert capsys.readouterr().err.count("waiting for another process") == 1


def test_an_interruption_ends_the_programs_and_begins_no_more(tmp_path):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    unit = partial(_run, [*PYTHON, code], threads=1)
    logs, programs = [tmp_path / name for name in "abc"], []

    def tick(running: list[Path], left: list[Path]) -> None:
        begun = [log.read_text().splitlines() for log in logs if log.exists()]
        if [len(lines) for lines in begun] == [2, 2]:
            programs.extend(int(lines[-1]) for lines in begun)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Processes(2) as pool:
        list(work_through(pool, unit, logs, tick))
    assert len(programs) == 2
    for program in programs:
        with pytest.raises(ProcessLookupError):
            os.kill(program, 0)
    assert not logs[2].exists()


def test_a_run_goes_on_with_the_threads_it_had(shared):
    item = items(shared, 1)[0]
    write_config(item.run, replace(item.config, train=replace(item.config.train, threads=5)))
    train_command(item, shared)
    recipe = json.loads((item.folder / "recipe.json").read_text())
    assert recipe["train"]["threads"] == read_config(item.run).train.threads == 5
    assert item.config.train.threads != 5


def test_a_run_is_trained_by_the_split_that_scores_it(shared):
    item = items(shared, 1)[0]
    command = train_command(item, shared)
    given = Path(command[command.index("--splits") + 1])
    assert read_splits(given, find_cases(shared.data)) == shared.splits


def test_progress_counts_steps(shared, capsys):
    made = items(shared, 1)
    progress = Progress(made, 3)
    progress.began -= 10
    made[0].run.mkdir(parents=True)
    lines = [{"step": step, "loss": {}, "seconds": {}} for step in (2, 3)]
    (made[0].run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    progress.tell([made[0]], 2, 0)
    said = capsys.readouterr().err
    assert "1 of 3 runs done (conv-seed0 step 3 of 4), about 17 s left" in said
    progress.tell([made[0]], 2, 0)
    assert capsys.readouterr().err == ""
    progress.tell([], 1, 1)
    assert "1 of 3 runs done, 1 failed" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_an_error(shared):
    shared.root.write_text("a file where a folder should be")
    with pytest.raises(InputError, match="cannot create the folder"):
        work(items(shared), shared, HERE)


def test_budgets():
    known = {"600": (600, 0), "90s": (0, 90), "10min": (0, 600), "1.5 h": (0, 5400)}
    assert {text: parse_budget(text) for text in known} == known
    for wrong in ("", "0", "-5", "1.5", "10 days", "0min", "min"):
        with pytest.raises(InputError, match="--budget"):
            parse_budget(wrong)
