"""From scores to decisions."""

from seg_eval.analysis.recovery import SMALLEST_GAP
from seg_eval.analysis.summary import SCHEMA, Findings, Question, summarise
from seg_eval.analysis.uncertainty import tell_uncertainty
from seg_eval.analysis.verdict import Caveat, Verdict

__all__ = [
    "Caveat",
    "Findings",
    "Question",
    "SCHEMA",
    "SMALLEST_GAP",
    "Verdict",
    "summarise",
    "tell_uncertainty",
]
