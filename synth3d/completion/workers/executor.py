"""Where pieces of work are done: in this process, in several of this machine, or on a cluster.

Any ``concurrent.futures.Executor`` will do in their place. What is given to one is picklable, can
be done again, and raises :class:`HeldElsewhere` where another process does it already.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from synth3d.completion.workers.processes import ProcessDiedError, Processes
from synth3d.errors import InputError

T = TypeVar("T")

PAUSE = 0.5
"""Seconds between two looks at work that is under way, or that another process has."""
PATIENCE = 20
"""Seconds in which a Dask scheduler must answer."""


class HeldElsewhere(Exception):  # noqa: N818  (nothing has gone wrong)
    """A piece of work is another process's as long as that lives."""


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


@contextmanager
def open_executor(
    workers: int = 1, dask: str | None = None, here: bool = True
) -> Iterator[Executor]:
    """``workers`` processes of this machine, or those of the Dask scheduler at address ``dask``.

    A single one is this process itself, unless it is not to work ``here``.

    Raises:
        InputError: Both are asked for, Dask is not installed, no scheduler answers there, or the
            scheduler has no workers.
    """
    if dask is None:
        with InThisProcess() if here and workers == 1 else Processes(workers) as pool:
            yield pool
        return
    if workers != 1:
        raise InputError("give --workers or --dask, not both: a Dask cluster brings its workers")
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("--dask needs dask.distributed: pip install 'synth3d[cluster]'") from error
    try:
        client = Client(dask, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"--dask {dask}: no Dask scheduler answers there ({said})") from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise InputError(f"--dask {dask}: the scheduler has no workers; start some first")
        yield client.get_executor(pure=False)  # what another process had is to be tried again


def work_through(
    pool: Executor,
    unit: Callable[[T], Any],
    items: Sequence[T],
    tick: Callable[[list[T], list[T]], object] = lambda running, left: None,
    on_held: Callable[[list[T]], object] = lambda held: None,
) -> Iterator[tuple[T, Future[Any]]]:
    """Do ``unit`` of every item; the items with their finished futures, as they end.

    What another process has is tried again until that one has ended. Leaving the iterator takes
    back what was not begun.

    Args:
        pool: Does the work.
        unit: Picklable; called with an item.
        items: What there is to do.
        tick: Told, a few times a second, which items are known to be under way, and which have not
            ended; but not by a pool that works in this very process.
        on_held: Told of the items that other processes have, whenever nothing else is left.

    Raises:
        InputError: The executor gave work back undone.
    """
    waiting, held = list(items), list[T]()
    while waiting:
        held.clear()
        for item, future in _once(pool, unit, waiting, lambda some, left: tick(some, left + held)):
            if future.cancelled():
                raise InputError(
                    "what does the work has taken it back, as when a Dask scheduler ends; the same "
                    "command goes on where it stopped"
                )
            if isinstance(future.exception(), HeldElsewhere):
                held.append(item)
            else:
                yield item, future
        if waiting := list(held):
            on_held(waiting)
            time.sleep(PAUSE)


def _once(
    pool: Executor,
    unit: Callable[[T], Any],
    items: Sequence[T],
    tick: Callable[[list[T], list[T]], object],
) -> Iterator[tuple[T, Future[Any]]]:
    if isinstance(pool, InThisProcess):  # one is done when it is asked for, and no sooner
        yield from ((item, pool.submit(unit, item)) for item in items)
        return
    units = {pool.submit(unit, item): item for item in items}
    try:
        while units:
            ended = wait(units, PAUSE, FIRST_COMPLETED).done
            for future in [future for future in units if future in ended]:
                yield units.pop(future), future
            tick([item for future, item in units.items() if future.running()], [*units.values()])
    finally:
        for future in units:
            future.cancel()


def why_lost(error: BaseException | None) -> str:
    """In one clause, that work was lost with the process that did it; empty for all else."""
    if isinstance(error, ProcessDiedError):
        return str(error)
    if "KilledWorker" in {kind.__name__ for kind in type(error).__mro__}:
        return (
            "the Dask workers that had it were ended from outside, again and again, mostly for "
            "want of memory: give them more, or take a smaller --batch"
        )
    return ""
