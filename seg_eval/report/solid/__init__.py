"""Cases of the report in 3-D: a page for each, and the script that shows them."""

from seg_eval.report.solid.niivue import keep_script
from seg_eval.report.solid.pages import write_solid_pages

__all__ = ["keep_script", "write_solid_pages"]
