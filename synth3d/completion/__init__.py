"""A cohort made whole."""

from synth3d.completion.executor import local_executor
from synth3d.completion.receipts import Layout
from synth3d.completion.run import Completed, CompleteRequest, complete_cohort

__all__ = [
    "CompleteRequest",
    "Completed",
    "Layout",
    "complete_cohort",
    "local_executor",
]
