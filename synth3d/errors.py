"""The one mistake a user is told of, and how a command line ends."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence for that user.

    Command lines print it without a traceback and end with exit code 2.
    """


def run_guarded(command: Callable[[T], int], args: T) -> int:
    """``command(args)`` for a command line; its exit code.

    A mistake of the user, a file system that refuses, or memory that gives out is told in one
    sentence on standard error: exit code 2. An interruption is 130.
    """
    # Idle OpenMP threads that spin would slow whatever shares the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        return command(args)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        said = str(error) or "no more could be had"
        print(f"error: this machine has too little free memory: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
