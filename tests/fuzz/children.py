"""Children of a process that has imported everything: a program's start costs them nothing."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import jinja2  # noqa: F401
import matplotlib.pyplot as plt  # noqa: F401
import skimage.metrics  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torch

torch.optim.Adam([torch.zeros(1, requires_grad=True)])
"""What programs load when they need it is loaded here once: the first optimiser loads a lot."""


def begin(work: Callable[[], object], said: Path) -> int:
    """The id of a child that does ``work`` and ends with the number that it gives, or 0.

    What it prints goes to ``said``; an exception ends it with a traceback there and 99.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    code = 99
    try:
        with said.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        signal.alarm(0)
        code = int(work() or 0)  # type: ignore[call-overload]
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def idle_seconds(process: int) -> float:
    """How long it had to wait for a processor, where the system tells."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def end_of(child: int, seconds: float) -> tuple[int | None, int]:
    """Its exit code (negative: the signal), None if it was stopped as too slow; bytes held.

    Waiting for a processor does not count: a busy machine is no hang.
    """
    began = time.monotonic()
    while (spent := time.monotonic() - began) < seconds or spent - idle_seconds(child) < seconds:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        time.sleep(0.003)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, 0


def in_a_child(work: Callable[[], object], said: Path, seconds: float = 300) -> int | None:
    """Do ``work`` in a child; its exit code, as :func:`end_of` has it."""
    return end_of(begin(work, said), seconds)[0]
