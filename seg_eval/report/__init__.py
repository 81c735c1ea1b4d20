"""What a reader sees of an experiment."""

from seg_eval.report.curve import write_curve
from seg_eval.report.outputs import (
    OUTPUTS,
    read_summary,
    rebuild,
    render_ending,
    render_overview,
    render_power,
    write_index,
    write_outputs,
)
from seg_eval.report.solid import keep_script

__all__ = [
    "OUTPUTS",
    "keep_script",
    "read_summary",
    "rebuild",
    "render_ending",
    "render_overview",
    "render_power",
    "write_curve",
    "write_index",
    "write_outputs",
]
