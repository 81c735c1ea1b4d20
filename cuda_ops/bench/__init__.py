"""Measuring: interleaved timing, rows with bars, a table; ``python -m cuda_ops.bench`` runs it.

What is named here serves benchmarks of other packages as well.
"""

from cuda_ops.bench.clock import compare, give_back_memory, summary
from cuda_ops.bench.command import serve
from cuda_ops.bench.gpu import device_events
from cuda_ops.bench.memory import ask_a_process, climb
from cuda_ops.bench.rows import Result, Row, Setting, take

__all__ = [
    "Result",
    "Row",
    "Setting",
    "ask_a_process",
    "climb",
    "compare",
    "device_events",
    "give_back_memory",
    "serve",
    "summary",
    "take",
]
