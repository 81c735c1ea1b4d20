"""What finished stages left as JSON, read back strictly: a file changed by hand is one sentence."""

import hashlib
import json
import resource
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seg_eval.scoring import IMAGE_SCORES, REGIONS, Score
from synth3d.errors import InputError
from synth3d.files import sha256, write_json
from synth3d.settings import parse, read_as

CaseMarks = dict[str, tuple[int, int, str]]
"""Size in bytes, modification time in ns and SHA-256 of files, by path."""


def marks(paths: Iterable[Path], known: CaseMarks) -> CaseMarks:
    """The mark of each file; one whose size and time are as in ``known`` is not read again."""
    found: CaseMarks = {}
    for path in paths:
        stat, old = path.stat(), known.get(str(path))
        fresh = (stat.st_size, stat.st_mtime_ns)
        found[str(path)] = old if old and old[:2] == fresh else (*fresh, sha256(path))
    return found


def digest(*parts: Any) -> str:
    """SHA-256 over values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


OTHER_ROWS = (
    "is damaged or of another version: its rows are not those of this arm's cases; remove it and "
    "run again"
)
GUARD = "restore it, or give another --name"
"""What to do about a damaged file that keeps two experiments from being mixed in one folder."""


@dataclass(frozen=True)
class Pin:
    """One entry of ``segmenters.json``: a model folder and the hash of its receipt."""

    model: str
    receipt: str | None


@dataclass(frozen=True)
class Times:
    """``times.json``: seconds by stage, and the most memory so far."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: int = 0


def read_config(folder: Path) -> dict[str, Any]:
    """What an experiment's folder says it is about, its arms by name; {} for a new folder."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    values = read_as(dict[str, Any], path, GUARD)
    try:
        parse(dict[str, dict[str, Any]], values.get("arms"), "arms")
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}; {GUARD}") from error
    return values


def read_scores(path: Path, arm: str, seed: int, cases: Mapping[str, str]) -> list[Score]:
    """The rows of one arm and segmenter seed: every region of every case, by patient, once."""
    rows = read_as(tuple[Score, ...], path)
    found = sorted((row.case, row.patient, row.region, row.arm, row.seed) for row in rows)
    wanted = [(*pair, region, arm, seed) for pair in cases.items() for region in REGIONS]
    likely = all(0 <= row.dice <= 1 and is_likely(vars(row)) for row in rows)
    if found != sorted(wanted) or not likely:
        raise InputError(f"{path} {OTHER_ROWS}")
    return list(rows)


def read_image_scores(
    path: Path, arm: str, cases: Mapping[str, str], lacking: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """The rows of one arm: every modality that a case is ``lacking``, by patient, once."""
    rows = read_as(tuple[dict[str, str | float | None], ...], path)
    keys = ("case", "patient", "arm", "modality")
    found = sorted(str([row.get(key) for key in keys]) for row in rows)
    wanted = [
        str([*pair, arm, modality]) for pair in cases.items() for modality in lacking[pair[0]]
    ]
    whole = all(row.keys() == {*keys, *IMAGE_SCORES} for row in rows)
    texts = any(isinstance(row.get(name), str) for row in rows for name in IMAGE_SCORES)
    if texts or not whole or not all(map(is_likely, rows)) or found != sorted(wanted):
        raise InputError(f"{path} {OTHER_ROWS}")
    return list(rows)


MOST = 1e12
"""No score of a head, in any unit, is larger; sums of such are finite."""


def is_likely(row: Mapping[str, Any]) -> bool:
    """Whether all numbers of a row are such as a score has."""
    return all(abs(each) <= MOST for each in row.values() if isinstance(each, int | float))


def read_times(folder: Path) -> Times:
    """What the stages of an experiment took; nothing yet where there is no file."""
    path = folder / "times.json"
    return read_as(Times, path) if path.is_file() else Times()


@contextmanager
def timed(folder: Path, stage: str) -> Iterator[None]:
    """Note the seconds that a stage took, in ``times.json``, and the most memory so far.

    Raises:
        InputError: That file is damaged; told before the stage, not after hours.
    """
    read_times(folder)
    started = time.monotonic()
    yield
    times = read_times(folder)
    before = times.seconds.get(stage, 0)
    seconds = times.seconds | {stage: round(before + time.monotonic() - started, 2)}
    who = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    peak = max(resource.getrusage(each).ru_maxrss // 1024 for each in who)
    write_json(folder / "times.json", asdict(Times(seconds, max(peak, times.peak_memory_mb))))
