"""What a reader sees of an experiment."""

from seg_eval.report.curve import write_curve
from seg_eval.report.outputs import (
    OUTPUTS,
    places_of,
    ranked,
    read_shown,
    read_summary,
    rebuild,
    render_ending,
    render_overview,
    render_power,
    used_of,
    write_findings,
    write_index,
    write_outputs,
)
from seg_eval.report.page import say
from seg_eval.report.record import read_results
from seg_eval.report.solid import keep_script
from seg_eval.report.transfer import read_transfers
from seg_eval.report.volumes import CaseFiles

__all__ = [
    "OUTPUTS",
    "CaseFiles",
    "keep_script",
    "places_of",
    "ranked",
    "read_results",
    "read_shown",
    "read_summary",
    "read_transfers",
    "rebuild",
    "render_ending",
    "render_overview",
    "render_power",
    "say",
    "used_of",
    "write_curve",
    "write_findings",
    "write_index",
    "write_outputs",
]
