"""Three steps over many things, each step in a thread of its own: read, work, write.

While one thing is worked on in the caller's thread, the next is read and the last is written; so
at most three things are in memory.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Held = TypeVar("Held")
Result = TypeVar("Result")


def in_stages(
    items: Sequence[Item],
    read: Callable[[Item], Held],
    work: Callable[[Held], object],
    write: Callable[[Held], Result],
    drop: Callable[[Held], object],
) -> Generator[Result, None, None]:
    """``write(held)`` of every ``held = read(item)`` after ``work(held)``, in order.

    Results come as soon as they are there, that is while the next item is worked on; without items
    there are none. Where a step raises, or the caller stops asking or is interrupted, nothing more
    is begun, what is being read and written is waited for, and the first exception goes on to the
    caller.

    Args:
        items: What is done, in this order.
        read: Runs in a thread; never more than one item ahead of ``work``.
        work: Runs in the thread that asks for the results.
        write: Runs in a thread, also where ``work`` has taken note of a fault of the item.
        drop: Lets go of what was read and will not be written.
    """
    reader, writer = ThreadPoolExecutor(1, "reading"), ThreadPoolExecutor(1, "writing")
    ahead: Future[Held] | None = None
    writing: Future[Result] | None = None
    waiting = iter(items)
    try:
        for item in waiting:
            ahead = reader.submit(read, item)
            break
        while ahead is not None:
            held, ahead = ahead.result(), None
            for item in waiting:
                ahead = reader.submit(read, item)
                break
            try:
                work(held)
                last = None if writing is None else writing.result()  # no fourth thing in memory
            except BaseException:
                drop(held)
                raise
            done, writing = writing, writer.submit(write, held)
            del held
            if done is not None:
                yield last  # type: ignore[misc]
        if writing is not None:
            yield writing.result()
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown()
        if ahead is not None and not ahead.cancelled() and ahead.exception() is None:
            drop(ahead.result())
