"""Files that are never half-written.

Every file this project writes passes through :func:`atomic_path`, so a killed process leaves the
old file or the new one and nothing between.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from synth3d.errors import InputError


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


WRITE_FAULTS = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ENAMETOOLONG", "EISDIR")
}
"""What a file system may have against a file that is written; no fault of this program."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling of ``path`` that takes its place when the block ends well.

    It is there already, empty, made by us and no link to elsewhere; the name keeps all suffixes
    (``.nii.gz``). When the block raises, it is removed and ``path`` is as it was. A link that lies
    at ``path`` is replaced, not followed.

    Raises:
        InputError: The folder cannot be written or the disk is full.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
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
        if error.errno in WRITE_FAULTS:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator["HashedFile"]:
    """As :func:`atomic_path`, open for writing, for libraries that write to an open file.

    They wrap a full disk into errors of their own; here it is told as what it was.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        hashed = HashedFile(file)
        try:
            yield hashed
        except Exception as error:
            if hashed.fault is not None:
                raise hashed.fault from error
            raise


class HashedFile:
    """A file that is only appended to, and knows its SHA-256 and the fault that it met."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.fault: OSError | None = None

    def write(self, data: Any) -> int:
        """Append ``data``, bytes or a view of such."""
        view = memoryview(data).cast("B")
        try:
            self._file.write(view)
        except OSError as error:
            self.fault = error
            raise
        self._hash.update(view)
        return len(view)

    def flush(self) -> None:
        """Hand on what is buffered."""
        try:
            self._file.flush()
        except OSError as error:
            self.fault = error
            raise

    def digest(self) -> str:
        """SHA-256 of all that was written so far, hexadecimal."""
        return self._hash.hexdigest()


def sweep(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove what killed processes left half-written below ``folder``, where nobody else writes.

    With ``names`` only what was to become a file called so, in the folder itself.
    """
    for path in folder.rglob(".partial-*") if names is None else folder.glob(".partial-*"):
        if names is None or path.name.split("-", 2)[-1] in names:
            with contextlib.suppress(OSError):
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one piece or not at all; what is no UTF-8 as ``\\udc80``."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN is refused, paths become strings."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")
