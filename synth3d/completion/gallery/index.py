"""``index.html`` of a completed cohort: a row a case, with its picture, warnings and receipt.

The page is one file with relative links, without a script, and its content policy forbids any
request but for the pictures beside it. Whoever ends last writes it last, from all receipts.
"""

from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from synth3d.completion.gallery.preview import NAMES
from synth3d.completion.receipts import NOTICE, Layout
from synth3d.completion.state import CaseState, states_of
from synth3d.errors import InputError, visible
from synth3d.files import claim, html_page, read_object, read_text, sweep, write_text

INDEX = "index.html"
OURS = '<meta name="generator" content="synth3d complete">'
"""Stands in every page of ours; another file of the name is left alone."""
TEMPLATE = Path(__file__).with_name("index.html.j2")
WORDS = {
    "verified": "done, verified",
    "done": "done",
    "working": "being made",
    "damaged": "damaged",
    "failed": "failed",
    "missing": "not made yet",
}
WHOLE = {"verified": "nothing was missing, verified", "done": "nothing was missing"}
"""The same of a case for which nothing had to be made."""


def write_index(layout: Layout) -> Path | None:
    """Write the page over all cases that are expected in ``layout.out`` or done; where.

    None where a file of that name is there that is not ours: it is left as it is, with a note.

    Raises:
        InputError: The folder cannot be written, or a file of ours in it is damaged.
    """
    path = layout.out / INDEX
    with claim(layout.lock(INDEX), wait=True):  # else an older page could replace a newer one
        sweep(layout.out, {INDEX})
        if path.exists() and not _is_ours(path):
            print(f"note: {path} was not written by synth3d and is left as it is")
            return None
        text = index_page(layout)
        if not path.exists() or read_text(path) != text:
            write_text(path, text)
    return path


def index_page(layout: Layout) -> str:
    """The text of the page.

    Raises:
        InputError: As :func:`write_index`.
    """
    from jinja2 import Environment, StrictUndefined

    states = states_of(layout.out)
    rows = [_row(layout, state) for state in states]
    rows.sort(key=lambda row: row["whole"])  # what was made comes first
    counts = Counter(row["state"] for row in rows)
    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = made.from_string(TEMPLATE.read_text("utf-8")).render(
        title=f"Completed cohort {layout.out.resolve().name}",
        counts=[(count, word) for word, count in counts.items()],
        warned=sum(bool(row["warnings"]) for row in rows),
        rows=rows,
        notice=NOTICE,
    )
    return html_page(text)


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return OURS.encode() in file.read(4096)
    except OSError:
        return False


def _row(layout: Layout, state: CaseState) -> dict[str, Any]:
    """What the page says of a case."""
    said, receipt = _receipt(layout, state.case)
    preview = layout.preview(state.case)
    made = said.get("identity", {}).get("made", [])
    is_whole = bool(said) and not made and state.state in WHOLE
    row = {
        "case": visible(state.case),
        "state": WHOLE[state.state] if is_whole else WORDS[state.state],
        "bad": state.state in ("damaged", "failed"),
        "reason": visible(state.reason),
        "preview": _link(layout, preview) if preview.is_file() else "",
        "receipt": _link(layout, receipt) if receipt else "",
        "made": [],
        "sources": _named(said.get("sources", ())),
        "absent": _named(said.get("absent_sources", ())),
        "whole": is_whole,
        "maker": said.get("maker") or "",
        "seconds": said.get("seconds"),
        "warnings": [visible(str(text)) for text in said.get("suspicions", ())],
    }
    for modality, facts in said.get("targets", {}).items():
        poor = modality in said.get("restored", ())
        verb = "sent through" if said.get("plumbing") else "restored" if poor else "made"
        row["made"].append(f"{NAMES.get(modality, modality)} {verb}")
        row["warnings"] += [f"{modality}: {facts['clipped']}"] if "clipped" in facts else []
    if "uncertainty" in said and not said["uncertainty"]["calibrated"]:
        row["warnings"].append(f"uncertainty: {said['uncertainty']['note']}")
    return row


def _receipt(layout: Layout, case: str) -> tuple[dict[str, Any], Path | None]:
    """What the receipt of a case says, as far as it can be read, and where it is."""
    path = layout.receipt_of(case)
    if not path.is_file():
        return {}, None
    try:
        said = read_object(path, "identity", "targets", "suspicions")
        shapes = (("identity", dict), ("targets", dict), ("suspicions", list))
        return (said if all(isinstance(said[key], kind) for key, kind in shapes) else {}), path
    except InputError:  # its state says so
        return {}, path


def _named(names: Any) -> str:
    return ", ".join(NAMES.get(name, str(name)) for name in names)


def _link(layout: Layout, path: Path) -> str:
    return quote(path.relative_to(layout.out).as_posix(), safe="/")
