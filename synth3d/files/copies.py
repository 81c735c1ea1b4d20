"""A file of another's at a second place: bytes of its own, or shared where that was asked for."""

import os
import shutil
from pathlib import Path

from synth3d.errors import InputError
from synth3d.files.reading import opened
from synth3d.files.writing import atomic_path, make_folder


def link_or_copy(source: Path, target: Path) -> None:
    """Put ``source`` at ``target`` unchanged: a hard link where possible, else a copy.

    A link shares its bytes with the source, so only who asked for links gets them. An existing
    ``target`` is replaced in one step.

    Raises:
        InputError: The folder cannot be written or the disk is full.
    """
    make_folder(target.parent)
    temporary = target.with_name(f".partial-{os.getpid()}-{target.name}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), temporary)
    except OSError:
        copy(source, target)
        return
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # a rename onto a link of the same file leaves both


def protect(path: Path) -> None:
    """Take the permission to write ``path`` from everybody; of a hard link, from all its names.

    Raises:
        InputError: It is not ours.
    """
    try:
        path.chmod(path.stat().st_mode & ~0o222)
    except OSError as error:
        raise InputError(f"cannot make {path} read-only: {error.strerror}") from error


CLONE = 0x40049409
"""Linux's FICLONE: the copy shares its blocks until either is written to (Btrfs, XFS, ...)."""


def copy(source: Path, target: Path) -> None:
    """Put the bytes of ``source`` at ``target``, in a file of its own and in one step.

    Raises:
        InputError: The source cannot be read, the folder not written, or the disk is full.
    """
    import fcntl

    with atomic_path(target) as temporary:
        try:
            handle = opened(source)
            with handle as read, temporary.open("wb") as write:
                try:
                    fcntl.ioctl(write.fileno(), CLONE, read.fileno())
                except OSError:  # another file system, or one that cannot
                    shutil.copyfileobj(read, write, 2**20)
        except FileNotFoundError as error:
            raise InputError(f"cannot read {source}: {error.strerror}") from error
