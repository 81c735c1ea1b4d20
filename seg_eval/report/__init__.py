"""What a reader sees of an experiment."""

from seg_eval.report.outputs import (
    OUTPUTS,
    rebuild,
    render,
    render_overview,
    write_index,
    write_outputs,
)

__all__ = [
    "OUTPUTS",
    "rebuild",
    "render",
    "render_overview",
    "write_index",
    "write_outputs",
]
