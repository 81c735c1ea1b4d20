"""Files are read with a bound: what is no file, too large or nested without end is refused."""

import contextlib
import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from synth3d.errors import InputError

REMEDY = "restore it, or remove the folder that it lies in and run again"
"""What to do about a file of ours that was changed by hand."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """``path`` open for reading; a pipe or a device, which might never end, is an ``OSError``."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as handle:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, no file", str(path))
        yield handle


def is_file(path: Path) -> bool:
    """Whether ``path``, which somebody wrote down, is a file; no name that is none raises."""
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the file's bytes.

    Raises:
        InputError: It cannot be read: it is not there, or a pipe.
    """
    try:
        with opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


LARGEST_TEXT = 2**28
"""Bytes; more in a file of plain text that we read is damage."""
MOST_WHOLE = 2**64
"""A whole number beyond it is no count, seed or label, and would be no float."""
DEEPEST = 64
"""Levels of nesting; more in a file of plain values is damage, or an attack."""


def read_text(path: Path) -> str:
    """The text in ``path``, UTF-8, without the mark that some programs put before it.

    Raises:
        InputError: It cannot be read, is no UTF-8, or has more than ``LARGEST_TEXT`` bytes.
    """
    try:
        with opened(path) as file:
            content = file.read(LARGEST_TEXT + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # of the bytes, or a path with a NUL
        raise InputError(f"cannot read {path} as UTF-8 text: {error}") from error
    if len(content) > LARGEST_TEXT:
        raise InputError(f"{path} is too large to be read: over {LARGEST_TEXT >> 20} MiB")
    return text


def read_json(path: Path, finite: bool = False) -> Any:
    """The JSON value in ``path``.

    Raises:
        InputError: The file is missing, is not JSON, or is nested more than ``DEEPEST`` deep; or
            it is to be ``finite``, as all that we write is, and holds NaN or infinity.
    """
    value = plain_values(json.loads, read_text(path), f"{path} is not valid JSON")
    if finite:
        try:
            json.dumps(value, allow_nan=False)
        except ValueError as error:
            raise InputError(f"{path} is damaged: it holds NaN or infinity; {REMEDY}") from error
    return value


def plain_values(loads: Callable[[str], Any], text: str, complaint: str) -> Any:
    """What ``loads`` makes of ``text``, of JSON or TOML.

    Raises:
        InputError: It is not such, which is the ``complaint``, is nested too deeply, or holds
            text that no path can hold or a number that nothing can count.
    """
    try:
        value = loads(text)
        level, depth = [value], 0
        while level:
            if any(isinstance(one, str) and not _can_name_a_file(one) for one in level):
                raise ValueError("it holds a NUL or half a character")
            if any(isinstance(one, int) and abs(one) > MOST_WHOLE for one in level):
                raise ValueError("it holds a whole number of more than 64 bits")
            level = [inner for one in level for inner in _inner(one)]
            depth += 1
            if depth > DEEPEST:
                raise RecursionError
    except RecursionError as error:
        raise InputError(f"{complaint}: it is nested more than {DEEPEST} levels deep") from error
    except ValueError as error:
        raise InputError(f"{complaint} ({error}); was its writing cut off?") from error
    return value


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else ()


def _can_name_a_file(text: str) -> bool:
    """Whether the system could take it for a path; bytes that are no UTF-8 can be in one."""
    return (text.isascii() and "\0" not in text) or _encodes(text)


def _encodes(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """The JSON object in ``path``, which must have ``keys``; of a file that this project wrote.

    Raises:
        InputError: As :func:`read_json`, or the file holds something else: it was changed by hand.
    """
    value = read_json(path, finite=True)
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: it holds no JSON object; {REMEDY}")
    if lacking := [key for key in keys if key not in value]:
        raise InputError(f"{path} is damaged: it has no {', '.join(lacking)}; {REMEDY}")
    return value
