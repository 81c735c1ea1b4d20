"""A process that reads mutated files one after the other and survives what they do to it.

``python -m tests.fuzz.worker KIND FIRST LAST FOLDER`` does the tries FIRST to LAST of a KIND and
appends a line of JSON for each begun and each fault to FOLDER/report; the input of a fault is kept
in FOLDER/faults. A try is told by its number alone, so that one can be done again.
"""

import contextlib
import gzip
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from synth3d.errors import InputError
from tests.fuzz import corpus
from tests.fuzz.children import idle_seconds, in_a_child
from tests.fuzz.commands import COMMANDS, command
from tests.fuzz.readers import READERS

GIB = 2**30
MOST_MEMORY, MOST_SECONDS = 4 * GIB, 30
TRICKS = ("loop", "zero", "pipe", "folder", "gone")
"""What may lie in the place of a file."""


class HangError(BaseException):
    """Raised in a reader that takes too long; no reader catches it."""


def main(kind: str, first: int, last: int, folder: Path) -> None:
    """All tries of one process."""
    root = folder / "corpus"
    if not root.exists() and in_a_child(lambda: corpus.make(root), folder / "making") != 0:
        raise SystemExit((folder / "making").read_text())
    limit_memory()
    before = state_of(root)
    report = (folder / "report").open("a", buffering=1)
    for number in range(first, last):
        report.write(json.dumps({"begun": number}) + "\n")
        fault, path, content = one_try(kind, number, root, folder / "out")
        if state_of(root) != before:
            fault = f"{fault or ''} the input was changed"
        if fault:
            kept = folder / "faults" / f"{kind}-{number}-{path.name}"
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(content)
            where = str(path.relative_to(root))
            told = {"number": number, "file": where, "kept": str(kept), "fault": fault.strip()}
            report.write(json.dumps(told) + "\n")
    report.write(json.dumps({"peak": peak()}) + "\n")


def one_try(kind: str, number: int, root: Path, out: Path) -> tuple[str, Path, bytes]:
    """The fault that was found, or an empty text; the file that was mutated; its new content."""
    chance = Random(f"{kind} {number}")
    tries: tuple[Any, ...] = READERS if kind == "readers" else COMMANDS
    (chosen,) = chance.choices(tries, [each.share for each in tries])
    path = chance.choice(sorted(root.glob(chosen.pattern)))
    content = corpus.mutator_of(path)(path.read_bytes(), chance)
    trick = chance.choice(TRICKS) if chance.random() < 0.03 else ""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with replaced(path, content, trick):
        if kind == "readers":
            fault = trouble_of(lambda: chosen.read(root, out, path))
        else:
            fault = command(chosen, root, out, chance)
    return fault + half_written(out, content), path, trick.encode() or content


@contextlib.contextmanager
def replaced(path: Path, content: bytes, trick: str) -> Iterator[None]:
    """``path`` with another content, or with something else in its place, and put back."""
    whole, times = path.read_bytes(), path.stat()
    path.unlink()
    if trick == "loop":
        path.symlink_to(path.name)
    elif trick == "zero":
        path.symlink_to("/dev/zero")
    elif trick == "pipe":
        os.mkfifo(path)
    elif trick == "folder":
        path.mkdir()
    elif not trick:
        path.write_bytes(content)
    try:
        yield
        assert trick or path.read_bytes() == content, f"{path} was written to"
    finally:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def trouble_of(read: Callable[[], object]) -> str:
    """Why ``read`` neither did well nor refused in a sentence; an empty text if it did."""

    began = time.monotonic() - idle_seconds(os.getpid())

    def too_long(*_: Any) -> None:
        if time.monotonic() - idle_seconds(os.getpid()) - began > MOST_SECONDS - 1:
            raise HangError
        signal.alarm(5)  # others had the processor

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(MOST_SECONDS)
    silent = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(silent), \
                contextlib.redirect_stderr(silent):  # fmt: skip
            warnings.simplefilter("error", RuntimeWarning)
            read()
    except InputError as error:
        return "" if str(error).strip() else "refused without a word"
    except BaseException:
        return traceback.format_exc()[-3000:]
    finally:
        signal.alarm(0)
    return "" if peak() < MOST_MEMORY else f"took {peak()} bytes"


def peak() -> int:
    """Bytes that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit_memory() -> None:
    """Refuse this process and its children more than ``MOST_MEMORY`` beyond what they have."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_MEMORY, held + MOST_MEMORY))


def state_of(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file below ``root``."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            status = os.lstat(f"{folder}/{name}")
            found[f"{folder}/{name}"] = status.st_size, status.st_mtime_ns
    return found


def half_written(out: Path, given: bytes) -> str:
    """What lies in ``out``, is not whole and no copy of what was given; empty if all is sound."""
    broken = [path.name for path in out.rglob(".partial-*")]
    for path in out.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.name.startswith("."):
            continue
        try:
            if path.name.endswith(".gz") and (content := path.read_bytes()) != given:
                gzip.decompress(content)
        except (OSError, EOFError):
            broken.append(path.name)
    return f" left half-written: {broken}" if broken else ""


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
