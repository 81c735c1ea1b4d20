"""Who does the work on a cohort: this process, several of this machine, threads, a cluster."""

from synth3d.completion.workers.executor import (
    HeldElsewhere,
    InThisProcess,
    open_executor,
    why_lost,
    work_through,
)
from synth3d.completion.workers.processes import Processes
from synth3d.completion.workers.stages import in_stages

__all__ = [
    "HeldElsewhere",
    "InThisProcess",
    "Processes",
    "in_stages",
    "open_executor",
    "why_lost",
    "work_through",
]
