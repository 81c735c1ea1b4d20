"""Which run is meant: a folder, the name of one in ``WORK/runs``, or the one finished last."""

import sys
import time
from pathlib import Path

from synth3d.console import named, nearest
from synth3d.errors import InputError, visible
from synth3d.runs.known import known_runs

LATEST = "latest"
"""Means the run that was finished last."""


def find_run(given: str | Path, work: Path = Path("work")) -> Path:
    """The run folder that ``given`` means.

    A path stays what it is, whoever reads it says whether it is a run. A bare name is that of a
    folder which holds a run, or of a run in ``work/runs``; ``latest`` is the one there that was
    finished last, which is told on standard error.

    Raises:
        InputError: There is no such run; the sentence names those that there are.
    """
    path, named = Path(given), work / "runs" / str(given)
    if len(path.parts) != 1 or path.name in ("", ".", "..") or (path / "config.json").is_file():
        return path
    if named.is_dir():
        return named
    if str(given) == LATEST:
        return _latest(work)
    if path.is_dir():
        return path
    raise InputError(f"no run {given}: there is no such folder, and {names_in(work, str(given))}")


def _latest(work: Path) -> Path:
    finished = [run for run in known_runs(work) if run.state == "finished"]
    if not finished:
        raise InputError(f"no latest run: {work / 'runs'} holds none that is finished")
    run = finished[0]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
    told = f"latest run: {run.name}, finished {when}, {run.words}: {run.what}"
    print(visible(told), file=sys.stderr)
    return run.folder


def names_in(work: Path, near: str = "") -> str:
    """A clause on which runs ``work/runs`` holds, and which is called much like ``near``."""
    runs = [run for run in known_runs(work) if run.state == "finished"]
    if not runs:
        return f"{work / 'runs'} holds no finished run (synth3d train makes one)"
    names = [run.name for run in runs]
    return f"{work / 'runs'} holds {named(names)}{nearest(near, names)}; see synth3d runs"
