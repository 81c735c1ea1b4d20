"""What a step of the GPU check is, what it finds, and the programs that it starts.

A step runs nothing in this process: whatever hangs or dies is a program with a time limit, which
is killed with all that it has started.
"""

import contextlib
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WORK = "scripts.gpu_check.work"
OK, RECORDED, WRONG, NOT_RUN = "ok", "recorded", "WRONG", "not run"


class NotRunError(Exception):
    """A step lacks something; the message says what."""


class WrongError(Exception):
    """A program failed, or said what nobody expected; the message says where to look.

    ``last`` is the last line that the program said.
    """

    def __init__(self, message: str, last: str = "") -> None:
        super().__init__(message)
        self.last = last


@dataclass(frozen=True)
class Finding:
    """One number. ``bar`` is its limit from above, or from below if ``at_least``.

    Without a number it is something wrong, or ``not_run``, and ``note`` says why.
    """

    name: str
    value: float | None = None
    unit: str = ""
    bar: float | None = None
    at_least: bool = False
    note: str = ""
    not_run: bool = False

    @property
    def state(self) -> str:
        """``ok``, ``recorded`` (no bar), ``WRONG`` or ``not run``. NaN and infinity are wrong."""
        if self.not_run:
            return NOT_RUN
        if self.value is None or not math.isfinite(self.value):
            return WRONG
        if self.bar is None:
            return RECORDED
        return (
            OK if (self.value >= self.bar if self.at_least else self.value <= self.bar) else WRONG
        )


def fact(name: str, holds: bool, note: str = "") -> Finding:
    """Something that must be so."""
    return Finding(name, float(holds), "yes/no", 1, True, note)


@dataclass(frozen=True)
class Step:
    """A part of the check.

    ``seconds`` is about how long it takes on an H200, and with ``--quick``, which leaves it out if
    that is 0; ``limit`` is when it is killed, by default four times as long and a minute. It cannot
    do without the modules it ``needs`` and its ``program``; what is for ``cuda`` is not rehearsed.
    """

    name: str
    about: str
    check: Callable[["Session"], list[Finding]]
    seconds: tuple[int, int] = (10, 10)
    needs: tuple[str, ...] = ()
    program: str = ""
    cuda: bool = False
    limit: float | None = None

    def run(self, session: "Session") -> list[Finding]:
        """All findings, at least one; whatever goes wrong is one, too."""
        session.step = self.name
        session.deadline = time.monotonic() + (self.limit or 4 * self.seconds[0] + 60)
        try:
            lacking = lacks(self.needs)
            if self.program and not shutil.which(self.program):
                lacking.append(self.program)
            if lacking:
                raise NotRunError(f"this machine or Python lacks {', '.join(lacking)}")
            return self.check(session) or [Finding(self.name, note="found nothing")]
        except NotRunError as reason:
            return [Finding(self.name, note=str(reason), not_run=True)]
        except Exception as error:
            named = "" if isinstance(error, WrongError) else f"{type(error).__name__}: "
            return [Finding(self.name, note=f"{named}{error}")]


def lacks(modules: Iterable[str]) -> list[str]:
    """Those that this Python has not."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


@dataclass
class Session:
    """Where and how the steps run.

    ``device`` is ``cpu`` in a rehearsal, where sizes are tiny; ``scratch`` is removed at the end;
    ``logs`` gets what the programs say; ``facts`` is what is known of the machine.
    """

    device: str
    quick: bool
    scratch: Path
    logs: Path
    facts: dict[str, Any] = field(default_factory=dict)
    step: str = ""
    deadline: float = math.inf

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU, so this is no rehearsal."""
        return self.device != "cpu"

    @contextlib.contextmanager
    def started(
        self, *words: str | Path, env: Mapping[str, str | None] | None = None
    ) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
        """A program and the file with what it says; killed with its children at the block's end.

        ``env`` is added to the environment, None takes out; PYTHONPATH goes before our own.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{self.step}-{len([*self.logs.glob(f'{self.step}-*')]) + 1:02d}.txt"
        env = env or {}
        paths = filter(None, [env.get("PYTHONPATH"), str(ROOT), os.environ.get("PYTHONPATH")])
        wanted = {**os.environ, **env, "PYTHONPATH": os.pathsep.join(paths)}
        surroundings = {name: value for name, value in wanted.items() if value is not None}
        with log.open("wb") as file:
            file.write(f"$ {' '.join(map(str, words))}\n".encode())
            file.flush()
            process = subprocess.Popen(
                [*map(str, words)], cwd=ROOT, env=surroundings, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            yield process, log
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(
        self, *words: str | Path, env: Mapping[str, str | None] | None = None, code: int = 0
    ) -> str:
        """What a program says, both streams together.

        Raises:
            WrongError: Its exit code is not ``code``, or the step's time is over.
        """
        with self.started(*words, env=env) as (process, log):
            try:
                found = process.wait(max(0.1, self.deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise WrongError(f"took too long and was killed with its children; {log}") from None
        said = log.read_text("utf-8", "replace").partition("\n")[2]
        if found != code:
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            raise WrongError(f"exit code {found}, expected {code}: {last[:200]}; {log}", last)
        return said

    def python(self, *words: str | Path, **how: Any) -> str:
        """As :meth:`run`, with this Python."""
        return self.run(sys.executable, *words, **how)

    def work(self, task: str, *words: str | Path, **how: Any) -> dict[str, Any]:
        """What a task of ``work.py`` found: the last line of JSON that it prints."""
        said = self.python("-m", WORK, task, "--device", self.device, *words, **how)
        found = [line for line in said.splitlines() if line.startswith("{")]
        return json.loads(found[-1])
