"""Files that are never half-written, folders that one run owns, and progress with an ETA.

Every file this project writes passes through :func:`atomic_path`, so a killed process leaves the
old file or the new one and nothing between.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from synth3d.errors import InputError

T = TypeVar("T")

REMEDY = "restore it, or remove the folder that it lies in and run again"
"""What to do about a file of ours that was changed by hand."""


def make_folder(folder: Path) -> Path:
    """``folder``, created with its parents if need be.

    Raises:
        InputError: It cannot be created or is not a folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {folder}: {error.strerror}") from error
    return folder


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling of ``path`` that takes its place when the block ends well.

    The name keeps all suffixes (``.nii.gz``). When the block raises, the temporary file is
    removed and ``path`` is as it was.

    Raises:
        InputError: The folder cannot be written or the disk is full.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        with contextlib.suppress(OSError):  # where the system can: survive a power cut
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sweep(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove what killed processes left half-written below ``folder``, where nobody else writes.

    With ``names`` only what was to become a file called so.
    """
    for path in folder.rglob(".partial-*"):
        if names is None or path.name.split("-", 2)[-1] in names:
            with contextlib.suppress(OSError):
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one piece or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN is refused, paths become strings."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in ``path``.

    Raises:
        InputError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); was its writing cut off?") from error


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """The JSON object in ``path``, which must have ``keys``; of a file that this project wrote.

    Raises:
        InputError: As :func:`read_json`, or the file holds something else: it was changed by hand.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: it holds no JSON object; {REMEDY}")
    if lacking := [key for key in keys if key not in value]:
        raise InputError(f"{path} is damaged: it has no {', '.join(lacking)}; {REMEDY}")
    return value


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Put ``source`` at ``target`` unchanged: a hard link where possible, else a copy.

    An existing ``target`` is replaced in one step.

    Raises:
        InputError: The folder cannot be written or the disk is full.
    """
    make_folder(target.parent)
    temporary = target.with_name(f".partial-{os.getpid()}-{target.name}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), temporary)
    except OSError:
        with atomic_path(target) as copy:
            shutil.copyfile(source, copy)
        return
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # a rename onto a link of the same file leaves both


@contextlib.contextmanager
def lock(folder: Path, shared: bool = False) -> Iterator[None]:
    """Own ``folder`` while the block runs; the lock dies with the process.

    If ``shared``, together with others who share it, but not with one who owns it alone.

    Raises:
        InputError: Another process works in the folder.
    """
    import fcntl

    with _lock_file(folder / ".lock") as handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another process works in {folder}; wait for it to end") from error
        yield


@contextlib.contextmanager
def claim(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether ``path``, a lock file, is ours while the block runs; afterwards it is removed.

    The claim dies with the process. Threads of one process exclude each other too. If another
    holds it, the answer is False, or, with ``wait``, comes when that one lets go.

    Raises:
        InputError: The file cannot be created.
    """
    import fcntl

    while True:
        with _lock_file(path) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            try:
                held = os.path.samestat(path.stat(), os.fstat(handle.fileno()))
            except FileNotFoundError:
                held = False
            if held:  # else its last holder has removed it meanwhile
                try:
                    yield True
                finally:
                    path.unlink(missing_ok=True)
                return


def _lock_file(path: Path) -> IO[str]:
    make_folder(path.parent)
    try:
        return path.open("w")
    except OSError as error:
        raise InputError(f"cannot write in {path.parent}: {error.strerror}") from error


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
