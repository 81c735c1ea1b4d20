"""``synth3d runs``: which runs there are, and removing those that are not wanted any more."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from synth3d.errors import InputError, visible
from synth3d.files import fault_of, is_claimed, lock
from synth3d.runs.known import KnownRun, known_runs

REMOVED = ".removed-"
"""What a run is called while its files are deleted, so that nobody takes half of it for a run."""

HINT = (
    "synth3d complete --run NAME takes one, --run latest the one finished last; "
    "synth3d train --continue NAME goes on with one"
)


@dataclass(frozen=True)
class RunsRequest:
    """What ``synth3d runs`` is asked for.

    Attributes:
        work: Where runs are kept, in its folder ``runs``.
        remove: Names of those to be removed; none lists them.
        json: Print JSON instead of a table.
    """

    work: Path = Path("work")
    remove: tuple[str, ...] = ()
    json: bool = False


def list_runs(request: RunsRequest) -> list[KnownRun]:
    """Print the runs, or remove some; those that are there afterwards, the newest first.

    Raises:
        InputError: One that is to be removed is not there, is being trained, or is needed by
            another; then none is removed.
    """
    if request.remove:
        _remove(request.work, request.remove)
        return known_runs(request.work)
    runs = known_runs(request.work)
    if request.json:
        about = [asdict(run) | {"folder": str(run.folder), "trial": run.is_trial} for run in runs]
        print(json.dumps(about, indent=2))
    elif runs:
        print("\n".join(_table(runs)))
    else:
        print(f"no runs in {request.work / 'runs'}; synth3d train makes one")
    return runs


def _table(runs: Sequence[KnownRun]) -> list[str]:
    """Lines of equal columns; a last one on what can be done with a run."""
    head = ("NAME", "WHAT", "WHEN", "STEPS", "VALIDATION", "SIZE")
    rows = [head, *(_row(run) for run in runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    return [*lines, "", HINT]


def _row(run: KnownRun) -> tuple[str, ...]:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
    scores = " ".join(f"{name} {value:.4g}" for name, value in run.validation.items())
    told = run.name, run.what, when, run.words, scores or "none", size_words(run.size)
    return tuple(map(visible, told))  # other people's runs are listed, too


def size_words(size: int) -> str:
    """Bytes as somebody reads them, in powers of 1000: ``1.5 MB``."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def _remove(work: Path, names: Sequence[str]) -> None:
    """Remove runs whole, or none of them."""
    home = work / "runs"
    folders = {name: home / name for name in dict.fromkeys(names)}
    faults = [fault for name, path in folders.items() if (fault := _in_the_way(name, path, home))]
    for run in known_runs(work):
        start = Path(run.start) if run.start else None
        needs = start is not None and start.resolve() in {p.resolve() for p in folders.values()}
        if needs and run.state in ("training", "unfinished") and run.name not in folders:
            faults.append(f"the run {run.name}, which is not finished, was begun from {start}")
    if faults:
        raise InputError(f"nothing was removed: {'; '.join(faults)}")
    for left in home.glob(f"{REMOVED}*"):  # of a removal that was killed
        shutil.rmtree(left, ignore_errors=True)
    for name, folder in folders.items():
        with lock(folder):
            gone = folder.with_name(f"{REMOVED}{os.getpid()}-{name}")
            folder.rename(gone)
        shutil.rmtree(gone)
        print(f"removed {folder}")


def _in_the_way(name: str, folder: Path, home: Path) -> str:
    """Why a run cannot be removed, a clause; empty if it can."""
    if fault := fault_of(name):
        return f"{name!r:.120} is no run's name: it {fault}"
    if folder.is_symlink():
        return f"{folder} is a link; remove it by hand"
    if not folder.is_dir():
        return f"{home} has no run {name}"
    if is_claimed(folder / ".lock"):
        return f"a process is training {name}"
    has_config = (folder / "config.json").is_file()
    return "" if has_config else f"{folder} is not a run folder: it has no config.json"
