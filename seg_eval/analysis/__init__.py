"""From scores to decisions."""

from seg_eval.analysis.names import COMMON_NAMES, listed, percent, spoken
from seg_eval.analysis.summary import SCHEMA, summarise
from seg_eval.analysis.tables import ABOUT_KINDS

__all__ = [
    "ABOUT_KINDS",
    "COMMON_NAMES",
    "SCHEMA",
    "listed",
    "percent",
    "spoken",
    "summarise",
]
