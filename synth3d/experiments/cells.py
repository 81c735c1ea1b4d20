"""Train and score the runs of a table, each in programs of its own, some of them side by side.

A run that is finished is kept, one that was killed goes on, one that fails stops nobody. Several
``synth3d ablate`` may work in one folder: a run belongs to whoever holds the lock of its scores
folder, and to a program left behind by a killed one as long as that holds the run's own.
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import synth3d
from synth3d.errors import InputError
from synth3d.experiments.plan import Cohort, Item
from synth3d.files import lock, write_json
from synth3d.settings import to_plain
from synth3d.training import read_config, read_log

PAUSE = 0.5
"""Seconds between two looks at the programs."""


@dataclass(frozen=True)
class How:
    """What all runs of a table share.

    Attributes:
        cohort: Data, splits and tested cases.
        root: Folder with ``runs`` and ``scores``.
        conventions: Of the scores.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        jobs: How many runs side by side.
        threads: CPU threads of each.
    """

    cohort: Cohort
    root: Path
    conventions: tuple[str, ...]
    device: str
    jobs: int
    threads: int


def work(
    items: Sequence[Item], how: How, on_done: Callable[[Item], None] = lambda item: None
) -> dict[str, str]:
    """Do everything that is not done yet.

    Args:
        items: The runs, in the order in which they are begun.
        how: What they share.
        on_done: Told whenever a run has its scores.

    Returns:
        Name of each run that failed → why, and where its log is.
    """
    waiting = [item for item in items if item.todo]
    progress = Progress(waiting, len(items))
    running: list[_Task] = []
    failures: dict[str, str] = {}
    told = False
    try:
        while waiting or running:
            for task in [task for task in running if task.over()]:
                running.remove(task)
                if task.failure:
                    failures[task.item.name] = task.failure
                    _say(f"{task.item.name} failed: {task.failure}")
                else:
                    on_done(task.item)
            while len(running) < how.jobs and (task := _take(waiting, how)) is not None:
                running.append(task)
            if waiting and not running and not told:
                told = True
                names = ", ".join(item.name for item in waiting)
                _say(f"waiting for another process that works on {names}")
            left = len(waiting) + len(running)
            progress.tell([task.item for task in running], left, len(failures))
            if waiting or running:
                time.sleep(PAUSE)
    finally:
        for task in running:
            task.stop()
    return failures


def _take(waiting: list[Item], how: How) -> "_Task | None":
    """Begin the first run that nobody else works on; those that others finished leave the list."""
    for item in list(waiting):
        if not item.todo:
            waiting.remove(item)
            continue
        locks = contextlib.ExitStack()
        try:
            locks.enter_context(lock(item.folder))
            for other in (item.run, item.folder / "order"):
                with lock(other):
                    pass
        except InputError as error:
            locks.close()
            if isinstance(error.__cause__, BlockingIOError):
                continue
            raise
        waiting.remove(item)
        return _Task(item, how, locks)
    return None


class _Task:
    """One run under way: training, then scoring, each a program whose output goes to a file."""

    def __init__(self, item: Item, how: How, locks: contextlib.ExitStack) -> None:
        self.item, self.how, self.locks = item, how, locks
        self.failure = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.log = item.folder / "train.log"
        self.stages = self._stages()
        self._next()

    def over(self) -> bool:
        """Whether nothing is left to do; begins the next program when one has ended well."""
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return False
            self.process = None
            if code:
                self.failure = f"{_last_words(self.log, code)} (log: {self.log})"
                self.locks.close()
                return True
            self._next()
        if self.process is not None:
            return False
        self.locks.close()
        if self.item.todo:
            self.failure = f"it ended without its scores (log: {self.log})"
        return True

    def stop(self) -> None:
        """End the program; what it has checkpointed is kept."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.locks.close()

    def _next(self) -> None:
        command, self.log = next(self.stages, (None, self.log))
        if command is None:
            return
        source = str(Path(synth3d.__file__).parents[1])
        paths = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
        threads = str(self.how.threads)
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": threads}
        with self.log.open("ab") as file:
            file.write(f"$ {' '.join(command)}\n".encode())
            file.flush()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=environment,
            )  # fmt: skip

    def _stages(self) -> Iterator[tuple[list[str], Path]]:
        item, how = self.item, self.how
        if not item.trained:
            yield train_command(item, how), item.folder / "train.log"
        if item.todo:
            yield score_command(item, how), item.folder / "score.log"


def train_command(item: Item, how: How) -> list[str]:
    """The ``synth3d train`` of ``item``; its settings are written beside its log.

    A run that was begun goes on with as many threads as it had: it then ends with the same weights.
    """
    config, recipe = item.config, item.folder / "recipe.json"
    if (item.run / "config.json").is_file():
        threads = read_config(item.run).train.threads
        train = dataclasses.replace(config.train, threads=threads)
        config = dataclasses.replace(config, train=train)
    write_json(recipe, to_plain(config))
    splits = ["--splits", str(how.cohort.file)] if how.cohort.file else []
    return [
        sys.executable, "-m", "synth3d", "train", "--data", str(how.cohort.folder), *splits,
        "--recipe", str(recipe), "--device", how.device, "--work", str(how.root),
        "--name", item.run.name,
    ]  # fmt: skip


def score_command(item: Item, how: How) -> list[str]:
    """The program that scores ``item``; its order is written first."""
    order = item.folder / "order" / "order.json"
    tests = [
        {"config": to_plain(test.config), "path": str(test.path), "identity": test.identity}
        for test in item.todo
    ]
    cases = [case.name for case in how.cohort.cases]
    about = {"run": item.run, "data": how.cohort.folder, "cases": cases, "tests": tests}
    rest = {"conventions": how.conventions, "device": how.device, "threads": how.threads}
    write_json(order, about | rest)
    return [sys.executable, "-m", "synth3d.experiments.scores", str(order)]


def _last_words(log: Path, code: int) -> str:
    """Why a program ended, from the end of its log."""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    last = (errors or lines)[-1].removeprefix("error: ")
    return f"{last} [exit code {code}]"


class Progress:
    """Tells on standard error how far a table is and how long it will take.

    Args:
        waiting: Runs that are not done.
        total: Runs of the table.
    """

    def __init__(self, waiting: Sequence[Item], total: int) -> None:
        self.items, self.total = list(waiting), total
        self.began = time.monotonic()
        self.start = sum(map(_steps_done, self.items))
        self.every = 10.0 if sys.stderr.isatty() else 60.0
        self.told, self.left = -self.every, -1

    def tell(self, running: Sequence[Item], left: int, failed: int) -> None:
        """Say how it stands, if it is time or a run has ended."""
        now = time.monotonic()
        if now - self.told < self.every and left == self.left:
            return
        self.told, self.left = now, left
        at = ", ".join(map(_whereabouts, running))
        under_way = f" ({at})" if at else ""
        under_way += f", {failed} failed" if failed else ""
        done = self.total - left - failed
        _say(f"{done} of {self.total} runs done{under_way}{self._rest(now)}")

    def _rest(self, now: float) -> str:
        """The time left, from the steps made so far."""
        whole = sum(item.config.train.steps for item in self.items)
        done = sum(map(_steps_done, self.items))
        if done <= self.start or done >= whole:
            return ""
        return f", about {duration((now - self.began) * (whole - done) / (done - self.start))} left"


def _whereabouts(item: Item) -> str:
    steps, done = item.config.train.steps, _steps_done(item)
    return f"{item.name} scoring" if done == steps else f"{item.name} step {done} of {steps}"


def _steps_done(item: Item) -> int:
    if (item.run / "done.json").is_file():
        return item.config.train.steps
    try:
        steps = [line["step"] for line in read_log(item.run / "log.jsonl")]
    except (InputError, KeyError):
        return 0
    return max(steps, default=0)


def duration(seconds: float) -> str:
    """In words: ``35 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
