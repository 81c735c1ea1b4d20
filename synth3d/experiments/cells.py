"""Train and score the runs of a table: each run is one unit of work for an executor.

A unit is picklable and idempotent: a run that is finished is kept, one that was killed goes on, one
that fails stops nobody. Training and scoring are programs of their own, so that a killed one takes
nothing with it. Several ``synth3d ablate`` may work in one folder: a run belongs to whoever holds
the lock of its scores folder, and to a program left behind by a killed one as long as that holds
the run's own.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import asdict
from functools import partial
from pathlib import Path

import synth3d
from synth3d.cohort import write_splits
from synth3d.completion import HeldElsewhere, why_lost, work_through
from synth3d.console import duration
from synth3d.errors import InputError
from synth3d.experiments.plan import Item, Shared
from synth3d.files import lock, write_json
from synth3d.settings import to_plain
from synth3d.training import read_config, read_log


def work(
    items: Sequence[Item],
    shared: Shared,
    pool: Executor,
    on_done: Callable[[], object] = lambda: None,
) -> dict[str, str]:
    """Do everything that is not done yet, in the order of ``items``.

    Args:
        items: The runs.
        shared: What they share.
        pool: Does the runs.
        on_done: Called whenever a run has its scores.

    Returns:
        Name of each run that failed → why, and where its log is.
    """
    todo = [item for item in items if item.todo]
    progress = Progress(todo, len(items))
    failures: dict[str, str] = {}

    def tick(running: list[Item], left: list[Item]) -> None:
        progress.tell(running, len(left), len(failures))

    units = work_through(pool, partial(do, shared=shared), todo, tick, progress.tell_waiting)
    for item, unit in units:
        if failure := _failure(unit):
            failures[item.name] = failure
            _say(f"{item.name} failed: {failure}")
        else:
            on_done()
    return failures


def _failure(unit: Future[str]) -> str:
    try:
        return unit.result()
    except (InputError, OSError):
        raise
    except Exception as error:  # a worker that was killed, or an executor that lost it
        return why_lost(error) or f"{type(error).__name__}: {error}"


def do(item: Item, shared: Shared) -> str:
    """Train and score one run, the unit of work; why it failed, or nothing when done.

    Raises:
        HeldElsewhere: Another process has the run.
        InputError: Its folder cannot be written.
    """
    with contextlib.ExitStack() as locks:
        try:
            locks.enter_context(lock(item.folder))
            for left_behind in (item.run, item.folder / "order"):
                with lock(left_behind):
                    pass
        except InputError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise HeldElsewhere(item.name) from error
            raise
        log = item.folder / "train.log"
        if not item.trained and (failure := _run(train_command(item, shared), log, shared.threads)):
            return failure
        (item.run / "resume.pt").unlink(missing_ok=True)  # a table's runs never grow
        log = item.folder / "score.log"
        if item.todo and (failure := _run(score_command(item, shared), log, shared.threads)):
            return failure
        return f"it ended without its scores (log: {log})" if item.todo else ""


def _run(command: Sequence[str], log: Path, threads: int) -> str:
    """Run a program whose output goes to ``log``; nothing if it ends well, else its last words."""
    source = str(Path(synth3d.__file__).parents[1])
    paths = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}
    nothing, together = subprocess.DEVNULL, subprocess.STDOUT
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        program = subprocess.Popen(
            command, stdin=nothing, stdout=file, stderr=together, env=environment
        )
    try:
        code = program.wait()
    finally:
        if program.poll() is None:
            program.terminate()
            program.wait()
    if not code:
        return ""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    last = (errors or lines)[-1].removeprefix("error: ")
    return f"{last} [exit code {code}] (log: {log})"


def train_command(item: Item, shared: Shared) -> list[str]:
    """The ``synth3d train`` of ``item``; its settings and the split are written beside its log.

    A run that was begun goes on with as many threads as it had: it then ends with the same weights.
    """
    values, recipe = to_plain(item.config), item.folder / "recipe.json"
    if (item.run / "config.json").is_file():
        values["train"]["threads"] = read_config(item.run).train.threads
    write_json(recipe, values)
    splits = item.folder / "splits.json"
    write_splits(splits, shared.splits)
    return [
        sys.executable, "-m", "synth3d", "train", "--data", str(shared.data),
        "--splits", str(splits), "--recipe", str(recipe), "--device", shared.device,
        "--work", str(shared.root), "--name", item.run.name, "--cache", str(shared.cache),
        "--cache-limit", str(shared.cache_limit),
    ]  # fmt: skip


def score_command(item: Item, shared: Shared) -> list[str]:
    """The program that scores ``item``; its order is written first."""
    path = item.folder / "order" / "order.json"
    order = {
        "run": item.run,
        "data": shared.data,
        "cases": [case.name for case in shared.cases],
        "tests": [
            {
                "config": to_plain(test.config),
                "asked": asdict(test.cell.asking),
                "path": test.path,
                "identity": test.identity,
            }
            for test in item.todo
        ],
        **{key: getattr(shared, key) for key in ("conventions", "lpips", "device", "threads")},
    }
    write_json(path, order)
    return [sys.executable, "-m", "synth3d.experiments.scores", str(path)]


class Progress:
    """Tells on standard error how far a table of ``total`` runs is, and when it will be done.

    ``waiting`` are the runs that are not done at the start.
    """

    def __init__(self, waiting: Sequence[Item], total: int) -> None:
        self.items, self.total = list(waiting), total
        self.began = time.monotonic()
        self.start = sum(map(_steps_done, self.items))
        self.every = 10.0 if sys.stderr.isatty() else 60.0
        self.told, self.left, self.waited = -self.every, -1, False

    def tell(self, running: Sequence[Item], left: int, failed: int) -> None:
        """Say how it stands, if it is time or a run has ended."""
        now = time.monotonic()
        if now - self.told < self.every and left == self.left:
            return
        self.told, self.left = now, left
        places = ", ".join(f"{item.name} {_place(item)}" for item in running)
        text = f"{self.total - left - failed} of {self.total} runs done"
        text += f" ({places})" if places else ""
        text += f", {failed} failed" if failed else ""
        whole = sum(item.config.train.steps for item in self.items)
        done = sum(map(_steps_done, self.items))
        if self.start < done < whole:
            seconds = (now - self.began) * (whole - done) / (done - self.start)
            text += f", about {duration(seconds)} left"
        _say(text)

    def tell_waiting(self, items: Sequence[Item]) -> None:
        """Say once that only runs are left which other processes have."""
        if not self.waited:
            names = ", ".join(item.name for item in items)
            _say(f"waiting for another process that works on {names}")
        self.waited = True


def _place(item: Item) -> str:
    steps, done = item.config.train.steps, _steps_done(item)
    return "scoring" if done == steps else f"step {done} of {steps}"


def _steps_done(item: Item) -> int:
    if (item.run / "done.json").is_file():
        return item.config.train.steps
    try:
        return max((line["step"] for line in read_log(item.run / "log.jsonl")), default=0)
    except (InputError, KeyError):
        return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
