"""Folders and pieces of work that one process owns; the lock dies with it."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from synth3d.errors import InputError
from synth3d.files.writing import make_folder


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
        except BlockingIOError as error:
            raise InputError(f"another process works in {folder}; wait for it to end") from error
        except OSError as error:
            raise _no_locks_here(folder, error) from error
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
            except OSError as error:
                raise _no_locks_here(path.parent, error) from error
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


def is_claimed(path: Path) -> bool:
    """Whether a living process holds the lock file ``path``; nothing is written."""
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise _no_locks_here(path.parent, error) from error
    finally:
        os.close(handle)
    return False


def _lock_file(path: Path) -> IO[bytes]:
    """``path``, made if need be and else left as it is; a link or a pipe is refused."""
    make_folder(path.parent)
    how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = _open_again(path, how)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
            raise _no_lock(path) from error
        raise InputError(f"cannot write in {path.parent}: {error.strerror}") from error
    file = os.fdopen(handle, "rb+", buffering=0)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise _no_lock(path)
    return file


def _open_again(path: Path, how: int) -> int:
    """``os.open``, again where the file is removed in that very moment, which is told as ENOENT."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, how, 0o666)
    return os.open(path, how, 0o666)


def _no_locks_here(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"the file system of {folder} refuses locks ({error.strerror}), without which two "
        "processes would do the same work; use another, or mount it with flock"
    )


def _no_lock(path: Path) -> InputError:
    return InputError(f"{path} should be a lock file and is a link or a pipe; remove it")
