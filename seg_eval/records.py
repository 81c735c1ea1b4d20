"""What finished stages left as JSON, read back strictly: a file changed by hand is one sentence."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seg_eval.image_scores import IMAGE_SCORES
from seg_eval.regions import REGIONS
from seg_eval.scores import Score
from synth3d.files import InputError
from synth3d.settings import parse, read_as

CaseMarks = dict[str, tuple[int, int, str]]
"""Schema of ``case_files.json``: size, modification time and SHA-256 by path."""


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
    """What an experiment's folder says it is about, its arms by name; {} for a new folder.

    Raises:
        InputError: The file holds anything else.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    values = read_as(dict[str, Any], path)
    try:
        parse(dict[str, dict[str, Any]], values.get("arms"), "arms")
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}; give another --name") from error
    return values


def read_scores(path: Path, arm: str, seed: int, cases: Iterable[str]) -> list[Score]:
    """The rows of one arm and segmenter seed: every region of every case once.

    Raises:
        InputError: The file holds anything else.
    """
    rows = read_as(tuple[Score, ...], path)
    found = sorted((row.case, row.region, row.arm, row.seed) for row in rows)
    if found != sorted((case, region, arm, seed) for case in cases for region in REGIONS):
        raise _other_rows(path)
    return list(rows)


def read_image_scores(path: Path, arm: str, pairs: Iterable[tuple[str, str]]) -> list[Any]:
    """The rows of one arm: every (case, modality) of ``pairs`` once.

    Raises:
        InputError: The file holds anything else.
    """
    rows = read_as(tuple[dict[str, str | float | None], ...], path)
    found = [(row.get("case"), row.get("modality")) for row in rows]
    whole = all(
        row.get("arm") == arm
        and isinstance(row.get("patient"), str)
        and all(name in row and not isinstance(row[name], str) for name in IMAGE_SCORES)
        for row in rows
    )
    if not whole or sorted(map(str, found)) != sorted(map(str, pairs)):
        raise _other_rows(path)
    return list(rows)


def _other_rows(path: Path) -> InputError:
    return InputError(
        f"{path} is damaged or of another version: its rows are not those of this arm's cases; "
        "remove it and run again"
    )
