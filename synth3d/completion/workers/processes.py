"""Processes of this machine that work side by side and may be ended from outside at any moment.

Unlike those of a ``ProcessPoolExecutor``, one that dies takes only its own work with it, its work
is known, and it is done again.
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

from synth3d.errors import InputError

GRACE = 5.0
"""Seconds that a process has to end what it has begun to end, before it is killed."""


class ProcessDiedError(RuntimeError):
    """A process was ended from outside while it worked; the message says how, in one clause."""


class Processes(Executor):
    """``count`` processes, begun afresh ("spawn"), as CUDA wants it, when there is work for them.

    They end with the process that asked for them, however that ends, and at once when the ``with``
    block is left by an exception. If one is ended from outside, what it did is done once more with
    no other at work, since memory may have sufficed for one only; a second time it is a
    :class:`ProcessDiedError`.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all = [_Process() for _ in range(count)]
        for one in self._all:
            self._idle.put(one)
        self._threads = ThreadPoolExecutor(count, "worker")
        self._alone = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As every executor's; what is given is pickled now."""
        return self._threads.submit(self._do, pickle.dumps((fn, args, kwargs)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As every executor's: the processes end when their work is done."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for one in self._all:
                one.end(GRACE)

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            for one in self._all:
                one.end(0)
        self.shutdown(cancel_futures=kind is not None)

    def _do(self, order: bytes) -> Any:
        with contextlib.suppress(ProcessDiedError), self._take(1) as (one,):
            return one.do(order)
        with self._alone, self._take(self._count) as (one, *_):
            try:
                return one.do(order)
            except ProcessDiedError as error:
                raise ProcessDiedError(f"its worker process was ended twice, {error}") from error

    @contextlib.contextmanager
    def _take(self, number: int) -> Iterator[list["_Process"]]:
        """So many processes that are idle, as soon as they are."""
        taken: list[_Process] = []
        try:
            while len(taken) < number:
                taken.append(self._idle.get())
            yield taken
        finally:
            for one in taken:
                self._idle.put(one)


class _Process:
    """A process that does what it is sent, begun when it is first needed and when it has died."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._pipe: Any = None
        self._over, self._changing = False, threading.Lock()

    def do(self, order: bytes) -> Any:
        """What the pickled (function, args, kwargs) gives or raises."""
        self._begin()
        try:
            self._pipe.send_bytes(order)
            good, outcome = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise ProcessDiedError(self._how_it_ended()) from error
        if good:
            return outcome
        raise outcome

    def _begin(self) -> None:
        with self._changing:
            if self._over:
                raise ProcessDiedError("at the end")
            if self._process is not None:
                return
            context = multiprocessing.get_context("spawn")
            try:
                self._pipe, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs,), daemon=True)
                process.start()
            except (OSError, RuntimeError) as error:
                raise InputError(f"no worker process can be begun: {error}") from error
            self._process = process
            theirs.close()  # so that the pipe ends with the process

    def _how_it_ended(self) -> str:
        process, self._process = self._process, None
        self._pipe.close()
        assert process is not None
        process.join(GRACE)
        code = process.exitcode
        if code is None or code >= 0:
            return f"with exit code {code}; what it said stands above"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        if -code != signal.SIGKILL:
            return f"by {name}"
        return (
            f"by SIGKILL, mostly for want of memory (the largest had {_largest_gib():.1f} GiB): "
            "take fewer --workers or a smaller --batch"
        )

    def end(self, patience: float) -> None:
        """End it: after ``patience`` seconds by force, and nothing new begins."""
        with self._changing:
            self._over = True
            process = self._process
        if process is None:
            return
        if patience:
            with contextlib.suppress(OSError):
                self._pipe.close()
            process.join(patience)
        if process.is_alive():
            process.terminate()
            process.join(GRACE)
        if process.is_alive():
            process.kill()


def _largest_gib() -> float:
    """Of the processes that this one has begun and that have ended, the largest resident memory."""
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def _serve(pipe: Connection) -> None:
    """A worker's life: do what is sent, until the pipe is closed."""
    from synth3d.machine import keep_memory

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_memory()
    while True:
        try:
            order = pipe.recv_bytes()
        except EOFError:
            return
        try:
            fn, args, kwargs = pickle.loads(order)
            reply = pickle.dumps((True, fn(*args, **kwargs)))
        except Exception as error:
            reply = _told(error)
        pipe.send_bytes(reply)


def _told(error: Exception) -> bytes:
    """The exception, with where it arose, which it would else lose on its way."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(reply := pickle.dumps((False, error)))
    except Exception:
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return reply


def _leave(*_: Any) -> NoReturn:
    """End by an exception, so that locks, half-written files and programs are cleared away."""
    raise SystemExit(128 + signal.SIGTERM)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)
