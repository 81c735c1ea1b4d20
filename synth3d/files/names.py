"""The one way from a name to a path that is written: what a file calls itself never leads astray.

Names of cases, runs and arms come from other people's files and folders. A name that could leave
its folder, hide, be taken for a flag, or mean something else on another system is refused.
"""

import re
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from synth3d.errors import InputError, visible

LONGEST = 230
"""Bytes of a file's name; with what it is called while it is written it fits the usual 255."""
LONGEST_STEM = 180
"""Bytes of a name that files of ours are called after."""

_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.I)
_FORBIDDEN = frozenset('/\\:*?"<>|')


def fault_of(name: object, longest: int = LONGEST) -> str | None:
    """Why ``name`` cannot be that of a file or folder that we write, a clause; None if it can."""
    if not isinstance(name, str):
        return "is no text"
    if not name:
        return "is empty"
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in name):
        return "has control characters or bytes that are no UTF-8"
    if found := sorted(_FORBIDDEN & set(name)):
        return f"has {' '.join(found)} in it"
    if name[0] in ".-" or name != name.strip() or name[-1] == ".":
        return "begins with . or - or a space, or ends with . or a space"
    if _DEVICES.fullmatch(name):
        return "is a device on Windows"
    if len(name.encode()) > longest:
        return f"is longer than {longest} bytes"
    return None


def place(folder: Path, *names: str) -> Path:
    """``folder``/name/.../name for a file or folder that is to be written.

    All folders between are real ones: a link there would lead what is written elsewhere.

    Raises:
        InputError: A name is none for a file (:func:`fault_of`), or a folder between is a link.
    """
    path = folder
    for index, name in enumerate(names):
        if fault := fault_of(name):
            named = repr(visible(str(name)))[:120]
            raise InputError(f"{named} cannot name a file in {folder}: it {fault}; rename it")
        path = (refuse_link(path) if index else path) / name
    return path


def refuse_link(folder: Path) -> Path:
    """``folder``, which may not be there yet, unless it is a symbolic link."""
    try:
        linked = stat.S_ISLNK(folder.lstat().st_mode)
    except (OSError, ValueError):  # not there
        return folder
    if linked:
        raise InputError(
            f"{folder} is a link, and nothing is written through links; put a folder in its place"
        )
    return folder


def plain(name: str) -> str:
    """``name`` of a folder of the user's that :func:`place` takes; forbidden becomes ``_``."""
    kept = "".join("_" if fault_of(f"x{one}x") else one for one in name).strip(" .-")
    kept = kept.encode()[:100].decode(errors="ignore").strip(" .-")
    return f"_{kept}" if fault_of(kept) else kept


def refuse_names(names: Iterable[str], of: str = "case") -> None:
    """Refuse names that no file of ours may have, all at once."""
    faults = {name: fault for name in names if (fault := fault_of(name, LONGEST_STEM))}
    if faults:
        told = (f"{repr(visible(str(name)))[:120]} {fault}" for name, fault in faults.items())
        raise InputError(f"files are named after each {of}, but {'; '.join(told)}; rename them")
