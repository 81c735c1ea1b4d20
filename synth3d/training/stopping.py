"""SIGTERM and SIGUSR1: what schedulers send when time is up; the training stops after its step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


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
