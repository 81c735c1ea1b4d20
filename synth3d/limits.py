"""What this machine, or a container on it, gives a process: asked before the work begins.

What gives out later ends in a worker's death or in silence, hours away from its cause.
"""

import os
import resource
import tempfile
from pathlib import Path

from synth3d.errors import FEWER_WORKERS, InputError

SHARED = Path("/dev/shm")  # noqa: S108  (where Linux keeps shared memory)
FILES_OF_A_PROGRAM = 128
"""Files that Python, torch and what they load keep open, and some to spare."""
LONGEST_PLACE = 72
"""Bytes of a temporary folder's path; sockets below it may have 107 in all."""


def check_shared_memory(needed: int, doing: str) -> None:
    """Make sure that ``needed`` bytes of shared memory are free for ``doing``.

    Raises:
        InputError: They are not, as in a container that was given Docker's 64 MB.
    """
    try:
        there = os.statvfs(SHARED)
    except OSError:
        return  # not Linux: shared memory has no size of its own
    free = there.f_bavail * there.f_frsize
    if free < needed:
        raise InputError(
            f"{doing} needs {needed / 2**20:.0f} MiB of shared memory and {SHARED} has "
            f"{free / 2**20:.0f} MiB free: {FEWER_WORKERS}"
        )


def check_descriptors(needed: int) -> None:
    """Make sure that this process and those it begins may have ``needed`` files open, and more.

    The soft limit is raised where the hard one allows it.

    Raises:
        InputError: The hard limit is too low.
    """
    wanted = needed + FILES_OF_A_PROGRAM
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise InputError(
            f"this takes {wanted} open files and the system allows {hard}: raise the limit "
            "(ulimit -Hn) or take fewer workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_temporary_folder() -> None:
    """Make sure that there is a temporary folder in which processes can meet.

    Raises:
        InputError: None can be written, or its path is too long for a socket.
    """
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        raise InputError(
            "there is no temporary folder that can be written; set TMPDIR to one"
        ) from error
    if len(os.fsencode(folder)) > LONGEST_PLACE:
        raise InputError(
            f"the path of the temporary folder {folder} is too long for the sockets by which "
            f"processes hand on data; set TMPDIR to one of at most {LONGEST_PLACE} bytes"
        )
