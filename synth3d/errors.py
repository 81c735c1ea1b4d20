"""The one mistake a user is told of, and how a command line ends."""

import contextlib
import os
import signal
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence for that user.

    Command lines print it without a traceback and end with exit code 2.
    """


def visible(text: str) -> str:
    r"""``text`` in one line that a terminal only shows: control characters become ``\x1b``.

    So do line ends, marks that turn the direction of writing, and bytes that are no text.
    """
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        one.encode("unicode_escape").decode() if unicodedata.category(one) in hidden else one
        for one in text
    )


def _open_streams() -> None:
    """Let anything be printed: what an encoding lacks as ``\\xb3``, to nowhere if closed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # else the next file would be taken for a closed stream, and printed into
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, Path(os.devnull).open("w", errors="replace"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)


def run_guarded(command: Callable[[T], int], args: T) -> int:
    """``command(args)`` for a command line; its exit code.

    A mistake of the user, a file system that refuses, or memory that gives out is told in one
    sentence on standard error: exit code 2. An interruption is 130.
    """
    # Idle OpenMP threads that spin would slow whatever shares the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _open_streams()
    try:
        return command(args)
    except BrokenPipeError:
        # Whoever read us is gone, and what Python still holds would be one more broken pipe.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except (InputError, OSError) as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    except RecursionError:
        print("error: a file that was given is nested too deeply to be read", file=sys.stderr)
        return 2
    except MemoryError as error:
        said = str(error) or "no more could be had"
        print(f"error: this machine has too little free memory: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, lambda *_: None)  # one is enough: no traceback at the end
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
