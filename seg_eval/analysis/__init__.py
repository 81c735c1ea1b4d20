"""From scores to decisions."""

from seg_eval.analysis.agreement import agree, concordance
from seg_eval.analysis.caveats import Caveat, remarks_on
from seg_eval.analysis.recovery import SMALLEST_GAP, recovery
from seg_eval.analysis.significance import non_inferiority
from seg_eval.analysis.summary import SCHEMA, Findings, Question, summarise
from seg_eval.analysis.uncertainty import tell_uncertainty
from seg_eval.analysis.verdict import (
    USEFUL,
    WEAK_DICE,
    Facts,
    RegionFacts,
    Rival,
    Verdict,
    judge,
)

__all__ = [
    "Caveat",
    "Facts",
    "Findings",
    "Question",
    "RegionFacts",
    "Rival",
    "SCHEMA",
    "SMALLEST_GAP",
    "USEFUL",
    "Verdict",
    "WEAK_DICE",
    "agree",
    "concordance",
    "judge",
    "non_inferiority",
    "recovery",
    "remarks_on",
    "summarise",
    "tell_uncertainty",
]
