"""A cohort made whole, and one case alone."""

from synth3d.completion.api import Run, complete, load_run, train
from synth3d.completion.executor import local_executor
from synth3d.completion.receipts import Layout
from synth3d.completion.request import CompleteRequest
from synth3d.completion.run import Completed, complete_cohort

__all__ = [
    "CompleteRequest",
    "Completed",
    "Layout",
    "Run",
    "complete",
    "complete_cohort",
    "load_run",
    "local_executor",
    "train",
]
