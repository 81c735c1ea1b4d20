"""What a reader sees of an experiment."""

from seg_eval.report.markdown import render, render_overview
from seg_eval.report.outputs import OUTPUTS, write_outputs
from seg_eval.report.page import write_index

__all__ = [
    "OUTPUTS",
    "render",
    "render_overview",
    "write_index",
    "write_outputs",
]
