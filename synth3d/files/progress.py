"""Progress with an ETA."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(
    steps: Iterable[T], desc: str, total: int | None = None, unit: str = "it", initial: int = 0
) -> Iterator[T]:
    """Go through ``steps`` with a progress line and an ETA on standard error.

    On a terminal the line is redrawn; elsewhere a fresh line is printed every 15 seconds.
    """
    from tqdm import tqdm

    live = sys.stderr.isatty()
    bar = tqdm(
        steps,
        desc=desc,
        total=total,
        unit=unit,
        initial=initial,
        file=sys.stderr if live else _Lines(),
        dynamic_ncols=live,
        mininterval=0.2 if live else 15,
        maxinterval=1 if live else 30,
        bar_format=None if live else "{desc}: {n_fmt}/{total_fmt} [{elapsed}, {remaining} left]",
    )
    return iter(bar)


class _Lines:
    """A stream for tqdm that ends each state with a newline, for logs."""

    def write(self, text: str) -> int:
        text = text.strip("\r\n ")
        return sys.stderr.write(text + "\n") if text else 0

    def flush(self) -> None:
        sys.stderr.flush()
