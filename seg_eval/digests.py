"""Fingerprints that tell whether a finished stage still belongs to its inputs."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synth3d.files import sha256

Mark = Sequence[Any]
"""Size in bytes, modification time in ns, SHA-256."""


def marks(paths: Iterable[Path], known: Mapping[str, Mark]) -> dict[str, list]:
    """The mark of each file; one whose size and time are as in ``known`` is not read again."""
    found = {}
    for path in paths:
        stat = path.stat()
        old = list(known.get(str(path), ()))
        fresh = [stat.st_size, stat.st_mtime_ns]
        found[str(path)] = old if old[:2] == fresh else [*fresh, sha256(path)]
    return found


def digest(*parts: Any) -> str:
    """SHA-256 over values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
