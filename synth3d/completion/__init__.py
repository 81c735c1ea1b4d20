"""A cohort made whole."""

from synth3d.completion.receipts import Layout
from synth3d.completion.run import complete_command

__all__ = [
    "Layout",
    "complete_command",
]
