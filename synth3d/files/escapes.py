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


def markdown(text: str) -> str:
    """``text`` for Markdown: no raw HTML, no links, no end of a table's cell, one line."""
    text = re.sub(r"<(?=[A-Za-z/!?])", r"\\<", visible(text))
    return re.sub(r"(?<!\\)\|", r"\\|", text.replace("](", "]\\("))


def visible_page(text: str) -> str:
    """``text`` of many lines, each as :func:`visible` makes it."""
    return "\n".join(visible(line) for line in text.split("\n"))
