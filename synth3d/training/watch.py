"""What ends a training from outside: a signal to stop, or another process of it that is gone.

SIGTERM and SIGUSR1 are what schedulers send when time is up; the training stops after its step.

Processes end together: each says that it is alive, and looks after the one before it. A killed
process, a node that is gone or a network that is cut shows in a connection that breaks, but not
always and not soon: NCCL waits for minutes. So a thread of each process counts up a number in a
store that all reach, and sees whether its neighbour's rises.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
BEAT = 1.0
"""Seconds between two signs of life."""
SILENCE = 18.0
"""Seconds without one after which a process is taken for dead."""
GRACE = 3.0
"""Seconds in which a process may end by itself, before its thread ends it."""


class Watch:
    """A thread that ends this process when another one of ``size`` has failed or is gone.

    Args:
        connect: What opens a connection of its own to the store.
        rank: This process's number, from 0.
        size: How many there are.
    """

    def __init__(self, connect: Callable[[], Any], rank: int, size: int) -> None:
        self.rank, self.size, self.neighbour = rank, size, (rank - 1) % size
        self.store, self.shared = connect(), connect()
        self.leaving, self.claiming = threading.Event(), threading.Lock()
        self.stream = sys.stderr
        self.thread = threading.Thread(target=self._look, daemon=True, name="watch")

    def begin(self) -> None:
        """From now on the others may count on signs of life."""
        self.thread.start()

    def end(self) -> None:
        """The thread ends, this process goes on."""
        self.leaving.set()
        self.thread.join()

    def fail(self) -> bool:
        """Let all others end, since this process will; whether it is the one to say why."""
        self.leaving.set()
        if self.thread.is_alive() and threading.current_thread() is not self.thread:
            self.thread.join(GRACE)  # a thread at work while Python ends would abort it
        with self.claiming, contextlib.suppress(RuntimeError):
            self.shared.add("failed", 1)
            return self.shared.add("told", 1) == 1
        return True  # the store is gone, and with it whoever served it

    def _look(self) -> None:
        seen, since = -1, time.monotonic()
        while not self.leaving.wait(BEAT):
            try:
                self.store.add(f"beat/{self.rank}", 1)
                failed = self.store.add("failed", 0) > 0
                count = self.store.add(f"beat/{self.neighbour}", 0)
            except RuntimeError:
                self._stop("the process that the others meet at is gone")
                return
            if count != seen:
                seen, since = count, time.monotonic()
            if failed or time.monotonic() - since > SILENCE:
                gone = f"process {self.neighbour} of {self.size} was killed or cannot be reached"
                self._stop("another process has failed" if failed else gone)
                return

    def _stop(self, reason: str) -> None:
        """End this process, unless it is ending already; the first one to do so says why."""
        if self.leaving.wait(GRACE):
            return
        if self.fail():
            print(
                f"error: {reason}, so the whole training ends; the same command goes on from the "
                "last checkpoint",
                file=self.stream,
                flush=True,
            )
        os._exit(2)


@dataclass
class Stop:
    """Whether this process was ``asked`` to stop."""

    asked: bool = False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """In the block those signals only ask; afterwards they mean what they did before.

    Only the main thread can be told; in others they mean what they always do.
    """
    stop, before = Stop(), {}

    def ask(*_: object) -> None:
        stop.asked = True

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
