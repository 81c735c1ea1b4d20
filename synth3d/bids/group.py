"""The group level of the BIDS-App: what became of every participant, as a table.

Everything is read from receipts and proved again by hashes; no image is opened.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synth3d.cohort import Case
from synth3d.completion import Layout
from synth3d.errors import InputError
from synth3d.files import progress, read_object, sha256, write_json, write_text

COLUMNS = {
    "participant_id": "The participant.",
    "session_id": "The session, n/a where the dataset has none.",
    "state": "made; complete: it lacked nothing; changed: an output is not as it was written; "
    "outdated: an input is not as it was read; missing: not done yet.",
    "synthetic": "The sequences that were synthesised, n/a if none.",
    "sources": "The sequences that were acquired and could be read, n/a where none is known.",
    "scale_from": "Whence the intensity scale is: the training's cases, or the case's siblings.",
    "run": "What made them.",
    "seconds": "Time for this case.",
    "finished": "When, UTC.",
}
"""Of the table: name → what stands in it."""

SOUND = ("made", "complete")
NOTHING = "n/a"


def group_table(cases: Sequence[Case], out: Path) -> dict[str, str]:
    """Write ``group_synth.tsv``, a row for each of ``cases``, and its data dictionary into ``out``.

    Returns each case's state, see ``COLUMNS``.

    Raises:
        InputError: ``out`` is no folder that the participant level wrote.
    """
    if not (out / "dataset_description.json").is_file():
        raise InputError(f"{out} has no dataset_description.json; run the participant level first")
    layout = Layout(out, "bids")
    rows = [_row(case, layout) for case in progress(cases, "checking participants", unit="case")]
    lines = ["\t".join(COLUMNS), *("\t".join(map(str, row.values())) for row in rows)]
    write_json(out / "group_synth.json", {n: {"Description": t} for n, t in COLUMNS.items()})
    write_text(out / "group_synth.tsv", "\n".join(lines) + "\n")
    return {case.name: row["state"] for case, row in zip(cases, rows, strict=True)}


def _row(case: Case, layout: Layout) -> dict[str, Any]:
    """The columns of one case, in order."""
    participant, _, session = case.name.partition("_")
    row = dict.fromkeys(COLUMNS, NOTHING) | {"participant_id": participant, "state": "missing"}
    row["session_id"] = session or NOTHING
    path = layout.receipt(case)
    if not path.is_file():
        return row
    keys = ("targets", "files", "identity", "maker", "seconds", "finished")
    try:
        receipt = read_object(path, *keys)
        targets, inputs = receipt["targets"], receipt["identity"]["inputs"]
        sources = [name for name in inputs if name not in (*targets, "label")]
        return row | {
            "state": _state(case, layout, receipt["files"], inputs, bool(targets)),
            "synthetic": ",".join(targets) or NOTHING,
            "sources": ",".join(sources) or NOTHING,
            "scale_from": ",".join(one["scale_from"] for one in targets.values()) or NOTHING,
            "run": json.dumps(receipt["maker"]).strip('"') if targets else NOTHING,
            "seconds": receipt["seconds"],
            "finished": receipt["finished"],
        }
    except (InputError, KeyError, TypeError, AttributeError):
        return row | {"state": "changed"}


def _state(
    case: Case, layout: Layout, files: dict[str, str], inputs: dict[str, Any], made: bool
) -> str:
    written = {layout.out / name: digest for name, digest in files.items()}
    if any(not path.is_file() or sha256(path) != digest for path, digest in written.items()):
        return "changed"
    there: dict[str, Path] = dict(case.images) | ({"label": case.label} if case.label else {})
    for role, one in inputs.items():
        if role not in there or sha256(there[role]) != one["sha256"]:
            return "outdated"
    return "made" if made else "complete"
