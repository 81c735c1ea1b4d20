"""Trained runs as things with names: found, listed, removed. Opens no weights."""

from synth3d.runs.known import KnownRun, known_run, known_runs, trial_words
from synth3d.runs.listing import RunsRequest, list_runs
from synth3d.runs.names import LATEST, find_run, names_in

__all__ = [
    "LATEST", "KnownRun", "RunsRequest", "find_run", "known_run", "known_runs", "list_runs",
    "names_in", "trial_words",
]  # fmt: skip
