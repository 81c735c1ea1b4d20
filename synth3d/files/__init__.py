"""Files: written whole, read with a bound, locked, named and quoted safely; and progress."""

from synth3d.files.copies import copy, link_or_copy, protect
from synth3d.files.escapes import from_csv_cell, html_page, markdown_cell, markdown_page, write_csv
from synth3d.files.locks import claim, is_claimed, lock
from synth3d.files.names import LONGEST_STEM, fault_of, place, plain, refuse_link, refuse_names
from synth3d.files.progress import progress
from synth3d.files.reading import (
    REMEDY,
    is_file,
    opened,
    plain_values,
    read_json,
    read_object,
    read_text,
    sha256,
)
from synth3d.files.writing import (
    atomic_file,
    atomic_path,
    make_folder,
    sweep,
    write_json,
    write_text,
)

__all__ = [
    "LONGEST_STEM", "REMEDY", "atomic_file", "atomic_path", "claim", "copy", "fault_of",
    "from_csv_cell", "html_page", "is_claimed", "is_file", "link_or_copy", "lock", "make_folder",
    "markdown_cell", "markdown_page", "opened", "place", "plain", "plain_values",
    "progress", "protect", "read_json", "read_object", "read_text", "refuse_link",
    "refuse_names", "sha256", "sweep", "write_csv", "write_json", "write_text",
]  # fmt: skip
