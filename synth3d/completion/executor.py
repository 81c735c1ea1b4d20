"""Where the cases of a cohort are worked on: in this process, or in several of this machine.

Any ``concurrent.futures.Executor`` will do in their place: on a cluster, the ``get_executor()`` of
a ``dask.distributed`` client. What is given to one is picklable and can be done again.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any


class InThisProcess(Executor):
    """Does what it is given at once, one thing after the other."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is done already; only an interruption is raised here."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def map(self, fn: Callable[..., Any], *iterables: Any, **_: Any) -> Iterator[Any]:  # type: ignore[override]
        """The results in order, each computed when it is asked for."""
        return map(fn, *iterables)


def local_executor(jobs: int = 1) -> Executor:
    """``jobs`` processes of this machine; for 1, this process itself.

    The processes are begun afresh ("spawn"), as CUDA wants it, and end with the one that asked for
    them, however that ends.
    """
    if jobs == 1:
        return InThisProcess()
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin)


def _begin() -> None:
    """A worker's first act: Ctrl-C ends it without a word, and it does not outlive its parent."""
    from synth3d.machine import keep_memory

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_memory()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
