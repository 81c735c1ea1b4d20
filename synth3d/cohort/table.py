"""A cohort as a table: a row for each case, a column for each sequence, paths relative to it.

The door for whatever is named in a way that is not understood.
"""

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from synth3d.cohort.cases import Case, Survey
from synth3d.cohort.labels import SCHEMES
from synth3d.cohort.naming import (
    ALL_MODALITIES,
    MODALITIES,
    Modality,
    ending_of,
    guess,
    is_serial,
    lost_link,
    patient_of,
    stem_of,
)
from synth3d.errors import InputError
from synth3d.files import LONGEST_STEM, fault_of, is_file, read_text, write_text

ENDINGS = (".csv", ".tsv")
COLUMNS = ("case", "patient", *ALL_MODALITIES, "seg", "labels", "centre", "guessed", "unread")
"""All that a table may have; ``unread`` is a draft's list of files that want a column, and
``guessed`` of columns that a person has to confirm."""

SHOWN = 3
"""So many of the rows that share a fault are told."""

BETWEEN = " | "
"""Stands between two files in one cell of a draft, of which one has to go."""


def is_table(path: Path) -> bool:
    """Whether ``path`` is a file that is called like a table."""
    return path.suffix.lower() in ENDINGS and path.is_file()


def cohort_of(folder: Path | None, table: Path | None) -> Path | None:
    """The one of ``--data`` and ``--cases`` that says where a cohort is.

    Raises:
        InputError: Both do, and differ; or the table is none.
    """
    if table is None:
        return folder
    if not is_table(table):
        what = "is no table (.csv, .tsv)" if table.exists() else "is not there"
        raise InputError(f"--cases {table} {what}")
    inside = folder is None or table.resolve().is_relative_to(folder.resolve())
    if not inside:
        raise InputError(
            f"the table {table} does not lie in {folder}, and its paths are relative to the table: "
            f"give one of the two; --cases {table} alone is all that the table names"
        )
    return table


def given_cohort(folder: Path | None, table: Path | None) -> Path:
    """Like :func:`cohort_of`, where one has to be given."""
    found = cohort_of(folder, table)
    if found is None:
        raise InputError("no cohort is given: name its folder, or a table (--cases TABLE.csv)")
    return found


def read_table(path: Path) -> list[Case]:
    """The cases of the rows of ``path``, sorted by name; voxels and headers are not looked at.

    Commas, semicolons or tabs part the columns; lines that begin with # are remarks. ``case`` is
    needed, and at least one sequence in each row; without ``patient`` the name tells it.

    Raises:
        InputError: The sentence names all faults of all rows.
    """
    lines = [line for line in read_text(path).splitlines() if line.strip() and line[0] != "#"]
    if not lines:
        raise InputError(f"{path} is empty; expected the columns {', '.join(COLUMNS[:7])}")
    rows = _cells(path, lines)
    columns = [name.strip().lower() for name in rows[0]]
    if faults := _column_faults(columns):
        raise InputError(f"{path}: {'; '.join(faults)}")
    reading = _Rows(path)
    for number, cells in enumerate(rows[1:], start=1):
        if len(cells) > len(columns):
            reading.faults.append(f"row {number} has {len(cells)} cells for {len(columns)} columns")
            continue
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        reading.add(number, {name: cell for name, cell in row.items() if cell})
    if not rows[1:]:
        reading.faults.append("it has no rows")
    reading.tell_open_ends()
    if reading.faults:
        count = len(reading.faults)
        head = f"{count} faults: " if count > 1 else ""
        raise InputError(f"{path}: {head}{'; '.join(reading.faults)}")
    return sorted(reading.cases, key=lambda case: case.name)


def _cells(path: Path, lines: list[str]) -> list[list[str]]:
    try:
        return list(csv.reader(StringIO("\n".join(lines)), delimiter=_delimiter(lines[0])))
    except csv.Error as error:
        raise InputError(f"{path} is no table: {error}") from error


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _column_faults(columns: list[str]) -> list[str]:
    faults = [f"the column {name} is there twice" for name in {*columns} if columns.count(name) > 1]
    if unknown := [repr(name) for name in columns if name not in COLUMNS]:
        faults.append(f"unknown columns {', '.join(unknown)}; known are {', '.join(COLUMNS)}")
    if "case" not in columns:
        faults.append("there is no column case")
    return faults


@dataclass
class _Rows:
    """The rows read so far, and what is wrong with them."""

    table: Path
    cases: list[Case] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    used: dict[Path, str] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)

    def add(self, number: int, row: Mapping[str, str]) -> None:
        """One row; blank cells are not in it."""
        name = row.get("case", "")
        where = f"row {number}" + (f" ({name})" if name else "")
        if trouble := fault_of(name, LONGEST_STEM):
            self.faults.append(f"{where}: the case name {trouble}")
        first = self.names.setdefault(name.lower(), number)
        if first != number and name:
            self.faults.append(f"{where}: the same case as row {first}")
        images: dict[Modality, Path] = {}
        for modality in ALL_MODALITIES:
            if modality in row:
                images[modality] = self._file(where, modality, row[modality])
        if not images and "unread" not in row:
            self.faults.append(f"{where}: no sequence")
        if "unread" in row:
            self.unread.append(f"{where}: {row['unread']}")
        if "guessed" in row:
            self.guessed.append(f"{where}: {row['guessed']}")
        scheme = row.get("labels")
        if scheme is not None and scheme not in SCHEMES:
            known = ", ".join(SCHEMES)
            self.faults.append(f"{where}: labels {scheme!r} are no known scheme; known are {known}")
        label = self._file(where, "seg", row["seg"]) if "seg" in row else None
        folders = {str(path.parent) for path in (*images.values(), *([label] if label else []))}
        self.cases.append(
            Case(
                name=name,
                patient=row.get("patient") or patient_of(name),
                folder=Path(os.path.commonpath(folders)) if folders else self.table.parent,
                images=images,
                label=label,
                naming="table",
                scheme=scheme,
                centre=row.get("centre"),
            )
        )

    def tell_open_ends(self) -> None:
        """What a draft has left to a person is one fault a column, however many rows have it."""
        for rows, column, remedy in (
            (self.unread, "unread", "move each image to its column or take it out"),
            (self.guessed, "guessed", "look at the images in these columns and empty guessed"),
        ):
            if rows:
                rest = f" and {len(rows) - SHOWN} more rows" if len(rows) > SHOWN else ""
                shown = ", ".join(rows[:SHOWN])
                self.faults.append(f"{column} is not empty ({shown}{rest}): {remedy}")

    def _file(self, where: str, column: str, cell: str) -> Path:
        """The file that a cell names; what is wrong with it is noted."""
        path = self.table.parent / cell
        fault = ""
        if BETWEEN.strip() in cell and not is_file(path):
            fault = f"names several files ({cell}): keep one"
        elif Path(cell).is_absolute() or "\\" in cell or "\0" in cell:
            fault = f"must be a path with / relative to the table, got {cell!r}"
        elif ".." in Path(cell).parts:
            fault = f"leaves the table's folder: {cell}; put the table above all files"
        elif lost := lost_link(path):
            fault = f"{cell}: {lost}"
        elif not is_file(path):
            fault = f"{cell:.300} is not there"
        elif not ending_of(cell):
            fault = f"{cell} is not called .nii.gz or .nii"
        if fault:
            self.faults.append(f"{where}, {column}: {fault}")
            return path
        first = self.used.setdefault(path.resolve(), f"{where}, {column}")
        if first != f"{where}, {column}":
            self.faults.append(f"{where}, {column}: {cell} is used already in {first}")
        return path


def draft_table(path: Path, survey: Survey, root: Path) -> tuple[int, int]:
    """Write ``survey`` of ``root`` as a table to be corrected.

    Two files for one role stand in its cell, and what is not understood stands under ``unread``
    (of the case it lies with, else of a case that is called after its folder), unless its words
    speak of one sequence that no other image of the case claims: that is its column, named under
    ``guessed``. Such a table is refused until all three are put right. What is not used is listed
    in remarks. Where the files of one folder are numbered, as dcm2niix leaves them, a folder is a
    case (:func:`_by_folder`).

    Returns:
        The number of rows, and of images that have to be put right.

    Raises:
        InputError: A file would be outside of the table's folder.
    """

    def relative(file: Path) -> str:
        text = Path(os.path.relpath(file, path.parent)).as_posix()
        if text.startswith("../"):
            raise InputError(
                f"{path} would not lie above {file}, and a table's paths are relative to it; write "
                f"it to {root} or a folder above"
            )
        return text if text[0] not in "=+-@#" else f"./{text}"

    rows = {case.name: _row(case) for case in survey.cases}
    called = _Folders(survey, root)
    found = _by_folder(_entries(survey, called), called, root)
    cells: dict[tuple[str, str], list[str]] = {}
    for name, column, file in found:
        cells.setdefault((name, column), []).append(relative(file))
    guesses = _guesses(cells)
    rows = {name: row for name, row in rows.items() if name in {one for one, _ in cells}}
    for (name, column), files in cells.items():
        rows.setdefault(name, {"case": name, "patient": called.patient(name)})
        rows[name][column] = BETWEEN.join(files)
    for name, columns in guesses.items():
        rows[name]["guessed"] = " ".join(columns)
    held = {column for row in rows.values() for column in row}
    columns = [c for c in COLUMNS if c in held | {"case", "patient", *MODALITIES, "seg"}]
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[name] for name in sorted(rows))
    for file, why in survey.unused:
        text.write(f"# not used: {relative(file)} ({why})\n")
    write_text(path, text.getvalue())
    wrong = [files for (_, column), files in cells.items() if column == "unread" or files[1:]]
    return len(rows), sum(map(len, wrong)) + sum(map(len, guesses.values()))


def _guesses(cells: dict[tuple[str, str], list[str]]) -> dict[str, list[str]]:
    """The columns of each case that are guessed; their images leave ``unread`` in ``cells``."""
    found: dict[str, list[str]] = {}
    for name in [case for case, column in cells if column == "unread"]:
        files = cells[name, "unread"]
        spoken = {file: guess(stem_of(Path(file).name)) for file in files}
        for modality in ALL_MODALITIES:
            fits = [file for file in files if spoken[file] == modality]
            if len(fits) == 1 and (name, modality) not in cells:
                cells[name, modality] = fits
                found.setdefault(name, []).append(modality)
                files.remove(fits[0])
        if not files:
            del cells[name, "unread"]
    return found


Entry = tuple[str, str, Path]
"""A file, the case it is said to be of, and its column."""


class _Folders:
    """How cases are called after their folders: by the last name, where no other folder has it,
    else by all of them, and the patient by the first.
    """

    def __init__(self, survey: Survey, root: Path) -> None:
        files = [file for case in survey.cases for file in (*case.images.values(), case.label)]
        files += [trouble.path for trouble in (*survey.unread, *survey.ambiguous)]
        folders = {file.parent for file in (*files, *survey.unrecognised) if file is not None}
        alike = Counter(folder.name for folder in folders)
        self.names: dict[Path, str] = {}
        self._patients: dict[str, str] = {}
        for folder in folders:
            parts = Path(os.path.relpath(folder, root)).parts or (root.resolve().name,)
            name = parts[-1] if alike[folder.name] == 1 else "_".join(parts)
            self.names[folder] = name = name.strip(".-~ ") or "case"
            if alike[folder.name] > 1:
                self._patients[name] = parts[0]

    def patient(self, case: str) -> str:
        """Whose a case is that is called after its folder."""
        return self._patients.get(case, patient_of(case))


def _entries(survey: Survey, called: _Folders) -> list[Entry]:
    found: list[Entry] = []
    for case in survey.cases:
        found += [(case.name, modality, file) for modality, file in case.images.items()]
        found += [(case.name, "seg", case.label)] if case.label else []
    for trouble in (*survey.unread, *survey.ambiguous):
        if trouble.path is not None:
            column = {None: "unread", "label": "seg"}.get(trouble.role, trouble.role)
            found.append((str(trouble.case), str(column), trouble.path))
    return found + [(called.names[file.parent], "unread", file) for file in survey.unrecognised]


def _by_folder(found: Sequence[Entry], called: _Folders, root: Path) -> list[Entry]:
    """``found``, but each folder one case where names number the images inside it.

    As SE4_T2.nii.gz beside SE5_FLAIR.nii.gz, no two of one number or sequence.
    """
    known: dict[Path, list[tuple[str, str]]] = {}
    for name, column, file in found:
        if column != "unread" and file.parent != root:
            known.setdefault(file.parent, []).append((name, column))
    numbered = {
        folder
        for folder, some in known.items()
        if 1 < len(some) == len({name for name, _ in some}) == len({column for _, column in some})
        and all(is_serial(name) for name, _ in some)
    }
    return [
        (called.names[file.parent] if file.parent in numbered else name, column, file)
        for name, column, file in found
    ]


def _row(case: Case) -> dict[str, str]:
    row = {"case": case.name, "patient": case.patient}
    row |= {"labels": case.scheme} if case.scheme else {}
    return row | ({"centre": case.centre} if case.centre else {})
