"""Trained runs as things with names: found, listed, removed. Opens no weights."""

from synth3d.runs.coined import coupled_name, fold_name, is_coined, trained_name, without_hash
from synth3d.runs.known import KnownRun, known_run, known_runs, trial_words
from synth3d.runs.listing import RunsRequest, list_runs
from synth3d.runs.names import LATEST, find_run, names_in

__all__ = [
    "LATEST", "KnownRun", "RunsRequest", "coupled_name", "find_run", "fold_name", "is_coined",
    "known_run", "known_runs", "list_runs", "names_in", "trained_name", "trial_words",
    "without_hash",
]  # fmt: skip
