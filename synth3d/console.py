"""How a command tells what it does: in words, with its result alone, or as events for machines.

Code below prints sentences and goes through steps; what becomes of them is decided here, once for
a command. In words both go to the terminal. ``quiet`` leaves warnings, errors and, last, the answer
or where the result is. ``json`` makes an object a line on standard output of everything
(``docs/events.md``).
"""

import contextlib
import datetime
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TextIO

from synth3d import __version__

Manner = Literal["words", "quiet", "json"]
SCHEMA = 1
"""Of the events; raised when a key changes its meaning or goes."""
LEVELS = ("warning", "note", "error")
"""How a printed line begins that is not just information."""


class _Telling:
    """What a running command tells, and where."""

    def __init__(self, manner: Manner, out: TextIO) -> None:
        self.manner: Manner = manner
        self.out = out
        self.facts: dict[str, Any] = {}
        self.error = ""
        self.writing = threading.RLock()


_NOW: list[_Telling] = []
"""The command that runs, if one does; a function called from Python tells in words."""


def manner() -> Manner:
    """How the running command tells what it does."""
    return _NOW[-1].manner if _NOW else "words"


def event(kind: str, **facts: Any) -> None:
    """An event for machines; nothing unless the command was asked for them."""
    if manner() == "json":
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        _write({"event": kind, "time": now, **facts})


def answer(text: str) -> None:
    """Print what was asked for, where that is no folder: a plan, a list. As events it is one."""
    if manner() == "quiet":
        print(text, file=_NOW[-1].out, flush=True)
    elif manner() == "words":
        print(text)


def relay(line: str, program: str) -> None:
    """The event of another program that this command runs, as a line, under the program's name."""
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    if isinstance(told, dict) and "event" in told:
        _write({**told, "program": program})
    elif line.strip():
        event("message", level="info", text=line.rstrip("\n"), program=program)


def step(number: int, of: int, what: str, seconds: float | None = None) -> None:
    """Say which step of the command begins, and how long it will take, if that is known."""
    about = "" if seconds is None else f" (about {duration(seconds)})"
    event("step", number=number, of=of, what=what, estimate_s=_rounded(seconds))
    if manner() == "words":
        print(f"step {number} of {of}: {what}{about}")


@dataclass
class Steps:
    """Counts the steps of a command; ``of`` is how many there are in all."""

    of: int
    number: int = 0

    def begin(self, what: str, how_long: Callable[[], float | None] | None = None) -> None:
        """Say that the next one begins, and how many seconds it will take, if that can be told."""
        self.number += 1
        self.of = max(self.of, self.number)
        step(self.number, self.of, what, how_long() if how_long else None)


def conclude(**facts: Any) -> None:
    """Facts for the end of the command; quiet, it ends with ``path`` among them."""
    if _NOW:
        _NOW[-1].facts |= facts


def duration(seconds: float) -> str:
    """In words: ``35 s``, ``12 min``, ``3 h 05 min``, ``4 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes / 60
    return f"{minutes // 60} h {minutes % 60:02d} min" if hours < 72 else f"{hours / 24:.0f} days"


def gigabytes(count: float) -> str:
    """Bytes in words: ``0.4 GB``, ``12 GB``."""
    return f"{count / 1e9:.1f} GB" if count < 9.95e9 else f"{count / 1e9:.0f} GB"


def named(names: Sequence[str], most: int = 6) -> str:
    """``A, B and 9 more``: so many by name, and how many others."""
    few = ", ".join(names[:most])
    return few if len(names) <= most else f"{few} and {len(names) - most} more"


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`` (nearest: NAME)``, that of ``known`` which is written most like ``word``; else empty."""
    close = get_close_matches(word, [*known], 1, cutoff)
    return f" (nearest: {close[0]})" if close else ""


@contextlib.contextmanager
def speaking(how: Manner, command: str = "") -> Iterator[Callable[[int], None]]:
    """In the block all is told like this; what it gives is called with the exit code.

    Of several processes that are one training (``RANK``) the first one alone tells events.
    """
    if how == "words":
        yield lambda code: None
        return
    with contextlib.ExitStack() as open_now:
        out, errors = sys.stdout, sys.stderr
        if how == "json":
            out = open_now.enter_context(_kept_for_events(out))
        if os.environ.get("RANK", "0") != "0":
            out = open_now.enter_context(open(os.devnull, "w"))  # noqa: PTH123
        now = _Telling(how, out)
        open_now.enter_context(contextlib.redirect_stdout(_Lines(now, errors, "info")))
        open_now.enter_context(contextlib.redirect_stderr(_Lines(now, errors, "info")))
        _NOW.append(now)
        try:
            event("begin", schema=SCHEMA, command=command, version=__version__)
            yield lambda code: _end(now, code)
        except BaseException as error:
            now.error = now.error or f"{type(error).__name__}: {error}"
            _end(now, 1)
            raise
        finally:
            _NOW.remove(now)


def _end(now: _Telling, code: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # whoever listened is gone
        event("end", exit_code=code, error=now.error or None, **now.facts)
        if now.manner == "quiet" and now.facts.get("path"):
            print(now.facts["path"], file=now.out, flush=True)


@contextlib.contextmanager
def _kept_for_events(out: TextIO) -> Iterator[TextIO]:
    """The standard output for events alone; whoever else writes there, writes to standard error.

    Other programs and libraries know the file descriptor only.
    """
    try:
        shared = out.fileno() == 1
    except (OSError, ValueError):  # no file at all, as under a test
        shared = False
    if not shared:
        yield out
        return
    kept = os.dup(1)
    os.dup2(2, 1)
    file = os.fdopen(os.dup(kept), "w", encoding="utf-8")
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # whoever listened is gone
            file.close()
        os.dup2(kept, 1)
        os.close(kept)


class _Lines(io.TextIOBase):
    """A stream that makes events of the lines that are printed, or of warnings alone a print."""

    def __init__(self, now: _Telling, errors: TextIO, level: str) -> None:
        super().__init__()
        self.now, self.real, self.level, self.rest = now, errors, level, ""

    def write(self, text: str) -> int:
        with self.now.writing:
            *lines, self.rest = f"{self.rest}{text}".split("\n")
            for line in filter(str.strip, lines):
                self._tell(line)
        return len(text)

    def _tell(self, line: str) -> None:
        level = next((each for each in LEVELS if line.startswith(f"{each}: ")), self.level)
        text = line.removeprefix(f"{level}: ")
        if level == "error":
            self.now.error = f"{self.now.error}; {text}".removeprefix("; ")
        if level == "error" or (level == "warning" and self.now.manner == "quiet"):
            print(line, file=self.real, flush=True)
        event("message", level=level, text=text)

    def fileno(self) -> int:
        return self.real.fileno()

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "utf-8"


def _write(told: dict[str, Any]) -> None:
    if not _NOW:
        return
    now = _NOW[-1]
    with now.writing:
        print(json.dumps(told, default=str), file=now.out, flush=True)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
