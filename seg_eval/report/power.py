"""How many patients and segmenter seeds a clearer answer would take, as a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg_eval.report.outputs import read_summary
from seg_eval.report.page import aligned, power_table, say
from synth3d.errors import InputError


def render_power(folder: Path) -> str:
    """The table of a finished experiment, and what it says.

    Raises:
        InputError: Not a finished experiment; or nothing of it tells, for want of a synthetic arm
            or of a second patient.
    """
    summary: Mapping[str, Any] = read_summary(folder)
    found = power_table(summary)
    if found is None:
        raise InputError(
            f"{folder} has no synthetic arm, or one patient alone: there are no variances to "
            "reckon with; run it with --run and two test patients or more"
        )
    return f"{aligned(found)}\n\n{say('power', arm=summary['primary']['arm'])}."
