"""What is printed says nothing but itself: one function for each reader of our texts.

Names of cases, arms and files come from outside. They must not be a formula to a spreadsheet, a
tag to Markdown, or a command to a terminal. HTML is escaped by the templates.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from synth3d.errors import visible

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def csv_cell(value: Any) -> Any:
    """``value`` for a CSV file; text that a spreadsheet would compute gets a ``'`` before it."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def from_csv_cell(text: str) -> str:
    """The inverse of :func:`csv_cell` for text."""
    return text[1:] if text[:1] == "'" and text[1:].startswith(_FORMULA) else text


def write_csv(file: IO[str], rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A table with a head, lines ending in a newline; None is an empty cell."""
    writer = csv.DictWriter(file, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(cell) for name, cell in row.items()} for row in rows)


def markdown_cell(text: str) -> str:
    """``text`` in a cell of a Markdown table: one line, and no end of the cell."""
    return visible(text).replace("\\|", "|").replace("|", "\\|")


def markdown_page(text: str) -> str:
    """A page of Markdown in which no line holds raw HTML, a link or what a terminal would obey."""
    lines = (re.sub(r"<(?=[A-Za-z/!?])", r"\\<", visible(line)) for line in text.split("\n"))
    return "\n".join(line.replace("](", "]\\(") for line in lines)


def html_page(text: str) -> str:
    """A page of HTML, escaped already, without control characters."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "\ufffd", text)
