"""A cohort made whole, and one case alone."""

from synth3d.completion.api import Run, complete, load_run, train
from synth3d.completion.executor import (
    HeldElsewhere,
    InThisProcess,
    open_executor,
    why_lost,
    work_through,
)
from synth3d.completion.processes import Processes
from synth3d.completion.receipts import Layout
from synth3d.completion.request import CompleteRequest
from synth3d.completion.run import Completed, complete_cohort
from synth3d.completion.state import CaseState, StateRequest, states_of, tell_status, verify

__all__ = [
    "CaseState",
    "CompleteRequest",
    "Completed",
    "HeldElsewhere",
    "InThisProcess",
    "Layout",
    "Processes",
    "Run",
    "StateRequest",
    "complete",
    "complete_cohort",
    "load_run",
    "open_executor",
    "states_of",
    "tell_status",
    "train",
    "verify",
    "why_lost",
    "work_through",
]
