"""A cohort made whole, and one case alone."""

from synth3d.completion.api import Run, calibrate, complete, load_run, train
from synth3d.completion.calibration import CalibrateRequest, CalibrationRecord, calibrate_run
from synth3d.completion.explained import rate_explanations, tell_errors
from synth3d.completion.receipts import Layout, maps_of, teachers_of
from synth3d.completion.request import CompleteRequest
from synth3d.completion.run import Completed, complete_cohort
from synth3d.completion.state import CaseState, StateRequest, states_of, tell_status, verify
from synth3d.completion.workers import (
    HeldElsewhere,
    InThisProcess,
    Processes,
    open_executor,
    why_lost,
    work_through,
)

__all__ = [
    "CalibrateRequest",
    "CalibrationRecord",
    "CaseState",
    "CompleteRequest",
    "Completed",
    "HeldElsewhere",
    "InThisProcess",
    "Layout",
    "Processes",
    "Run",
    "StateRequest",
    "calibrate",
    "calibrate_run",
    "complete",
    "complete_cohort",
    "load_run",
    "maps_of",
    "open_executor",
    "rate_explanations",
    "states_of",
    "teachers_of",
    "tell_errors",
    "tell_status",
    "train",
    "verify",
    "why_lost",
    "work_through",
]
