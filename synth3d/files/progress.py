"""Progress with the time that is left."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from synth3d.console import event, manner

T = TypeVar("T")

SHORT = 5.0
"""Seconds; what takes less is not told of, but on a terminal while it lasts."""
FIRST, MOST = 15.0, 600.0
"""Seconds to the first line in a log, from where on each waits twice as long; and at most."""
EVENTS = 5.0
"""Seconds between two events for machines."""


def progress(
    steps: Iterable[T], desc: str, total: int | None = None, unit: str = "it", initial: int = 0
) -> Iterator[T]:
    """Go through ``steps`` and tell how far it is and how long it will still take.

    On a terminal the line is redrawn. In a log a line is added more and more rarely, and none at
    all of what takes less than ``SHORT`` seconds. As JSON it is an event, and quiet it is nothing.
    """
    count = total if total is not None else len(steps) if hasattr(steps, "__len__") else None  # type: ignore[arg-type]
    how = manner()
    if how == "quiet":
        yield from steps
    elif how == "words" and sys.stderr.isatty():
        yield from _drawn(steps, desc, count, unit, initial)
    else:
        yield from _told(steps, _Account(desc, count, unit, initial, how == "json"))


def _drawn(
    steps: Iterable[T], desc: str, total: int | None, unit: str, initial: int
) -> Iterator[T]:
    from tqdm import tqdm

    began = time.monotonic()
    about = {"desc": desc, "total": total, "unit": unit, "initial": initial, "delay": 0.5}
    how = {"file": sys.stderr, "dynamic_ncols": True, "mininterval": 0.2, "maxinterval": 1}
    bar = tqdm(**about, **how)
    try:
        for one in steps:
            yield one
            bar.update()
    finally:
        bar.leave = time.monotonic() - began >= SHORT
        bar.close()


def _told(steps: Iterable[T], account: "_Account") -> Iterator[T]:
    for one in steps:
        yield one
        account.add()
    account.end()  # not of what was left


class _Account:
    """How far something is, and when that is told again."""

    def __init__(self, desc: str, total: int | None, unit: str, initial: int, events: bool) -> None:
        self.desc, self.total, self.unit, self.events = desc, total, unit, events
        self.done = self.initial = initial
        self.began = time.monotonic()
        self.wait = EVENTS if events else FIRST
        self.next, self.said = self.began + self.wait, -1

    def add(self) -> None:
        """One more is done."""
        self.done += 1
        if (now := time.monotonic()) >= self.next and self.done != self.total:
            self.tell(now)
            self.wait = self.wait if self.events else min(2 * self.wait, MOST)
            self.next = now + self.wait

    def end(self) -> None:
        """It is over."""
        now = time.monotonic()
        if self.said < self.done and (self.events or now - self.began >= SHORT):
            self.tell(now)

    def tell(self, now: float) -> None:
        """A line, or an event."""
        self.said, took, new = self.done, now - self.began, self.done - self.initial
        left = took / new * (self.total - self.done) if self.total is not None and new else None
        if self.events:
            about = {"what": self.desc, "done": self.done, "total": self.total, "unit": self.unit}
            rounded = None if left is None else round(left, 1)
            event("progress", **about, elapsed_s=round(took, 1), left_s=rounded)
            return
        whole = "" if self.total is None else f"/{self.total}"
        ahead = "" if not left else f", {_clock(left)} left"
        print(f"{self.desc}: {self.done}{whole} [{_clock(took)}{ahead}]", file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
