"""An audit as text for a reader and as JSON for a program."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synth3d.cohort.audit.exchanges import FEWEST_SEQUENCES
from synth3d.cohort.audit.facts import CaseFacts
from synth3d.cohort.audit.faults import faults_of
from synth3d.cohort.audit.headers import fix_headers
from synth3d.cohort.audit.problems import Audit, audit
from synth3d.cohort.gaps import FEWEST, seen_together
from synth3d.cohort.naming import ALL_MODALITIES, MODALITIES, Modality
from synth3d.cohort.roles import FEWEST_CASES
from synth3d.cohort.survey import look
from synth3d.cohort.table import draft_table, given_cohort
from synth3d.errors import InputError, visible

NAMINGS = {
    "brats2018": "files named like those of BraTS 2018 (CASE_t1.nii.gz)",
    "brats2023": "files named like those of BraTS 2023 (CASE-t1n.nii.gz)",
    "ixi": "files named like those of IXI (CASE-T1.nii.gz)",
    "bids": "files named as BIDS asks (CASE_T1w.nii.gz)",
    "nnunet": "files named as in nnU-Net's raw data (CASE_0000.nii.gz)",
    "folders": "a folder for each case, files named by their sequence (t1n.nii.gz)",
    "files": "files named by case and sequence",
    "table": "described by the table",
}
"""How files are named, which says nothing of whose data they are; one of your own has its key."""

NAMED_CASES = 5
"""At most so many case names are listed beside a rare grid or set of sequences."""


@dataclass(frozen=True)
class AuditRequest:
    """What ``synth3d audit`` is asked for; the fields are its flags, see its ``--help``.

    Either ``folder`` or ``cohort_table`` says where the cohort is.
    """

    folder: Path | None = None
    splits: Path | None = None
    labels: str | None = None
    json: bool = False
    fix_headers: Path | None = None
    cohort_table: Path | None = None
    write_table: Path | None = None

    @property
    def cohort(self) -> Path:
        """The folder or the table.

        Raises:
            InputError: Neither is given, or both.
        """
        return given_cohort(self.folder, self.cohort_table)


def run_audit(request: AuditRequest) -> int:
    """Print an audit, as :func:`audit`: 1 when something would break a run, else 0.

    With ``fix_headers`` write corrected copies there instead, and 1 is a case without a remedy.
    Where a table is to be drafted, that is done instead, and nothing is opened.
    """
    if request.write_table is not None:
        return _write_table(request.cohort, request.write_table)
    if request.fix_headers is not None:
        fixed = fix_headers(request.cohort, request.fix_headers)
        print("\n".join([*fixed.lines, *(f"error: {text}" for text in fixed.failed)]))
        return 1 if fixed.failed else 0
    result = audit(request.cohort, request.splits, request.labels)
    print(audit_json(result) if request.json else format_audit(result))
    return 1 if result.errors else 0


def _write_table(root: Path, path: Path) -> int:
    """Draft a table of whatever lies under ``root``; 1 where it wants correcting, else 0."""
    if path.exists():
        raise InputError(f"{path} is there already; remove it or write to another file")
    survey = look(root)
    rows, open_ends = draft_table(path, survey, root)
    print(f"{_count(rows, 'row')} written to {path}: correct it and give it to --cases")
    if open_ends:
        print(f"{_count(open_ends, 'image')} in it must be confirmed, moved or taken out")
    return 1 if open_ends else 0


def format_audit(audit: Audit) -> str:
    """A page of text: what the cohort holds, then what is wrong, a line a fault, errors first."""
    patients = len({fact.case.patient for fact in audit.cases})
    lines = [
        f"{_count(len(audit.cases), 'case')} of {_count(patients, 'patient')} in {audit.folder}, "
        f"{_named_how(audit.naming)}",
        "",
        *_table(
            (
                *("sequence", "cases", "thick slices", "missing"),
                *("intensity (p99 of the head)", "part of the head it shows"),
            ),
            [_sequence_row(audit, modality) for modality in _held(audit)],
        ),
        "",
        *_table(("held", "cases", ""), _tally(audit, _holdings)),
        "",
        *_thick(audit),
        *_teaching(audit),
        *_table(("grid (z, y, x), mm, axes", "cases", ""), _tally(audit, _grid_text)),
        "",
        f"labels: {_label_text(audit)}",
        *_compared(audit),
    ]
    if audit.splits:
        sides = ", ".join(f"{side} {len(names)}" for side, names in asdict(audit.splits).items())
        lines.append(f"splits: {sides}")
    return "\n".join(map(visible, [*lines, "", *_problem_lines(audit)]))


def _named_how(naming: str) -> str:
    return NAMINGS.get(naming, f"files named as {naming} names them")


def audit_json(audit: Audit) -> str:
    """All facts and problems as indented JSON."""
    value = {
        "folder": str(audit.folder),
        "naming": audit.naming,
        "ok": not audit.errors,
        "patients": len({fact.case.patient for fact in audit.cases}),
        "splits": asdict(audit.splits) if audit.splits else None,
        "problems": [asdict(problem) for problem in audit.problems],
        "seen_together": {
            f"{a} {b}": count
            for (a, b), count in seen_together(fact.case.images for fact in audit.cases).items()
        },
        "cases": [
            _case_json(fact, _held(audit)) | {"held_against_others": fact.name in audit.judged}
            for fact in audit.cases
        ],
    }
    return json.dumps(value, indent=2, allow_nan=False)


def _case_json(fact: CaseFacts, held: Sequence[Modality]) -> dict[str, Any]:
    grid = fact.grid
    return {
        "name": fact.name,
        "patient": fact.case.patient,
        "sequences": list(fact.case.images),
        "states": {m: _state(fact, m) for m in ALL_MODALITIES if m in {*MODALITIES, *held}},
        "label": fact.case.label is not None,
        "label_values": fact.reading and fact.reading.values,
        "label_scheme": fact.reading and asdict(fact.reading.scheme),
        "label_scheme_told_by": fact.reading and fact.reading.evidence,
        "centre": fact.case.centre,
        "shape_zyx": grid and grid.shape_zyx,
        "spacing_zyx_mm": grid and [round(edge, 6) for edge in grid.spacing_mm],
        "orientation": grid and grid.orientation,
        "intensity_p99": fact.top,
        "head_coverage": {m: round(share, 4) for m, share in fact.coverage.items()},
        "thick_slices_voxels": {
            m: {axis: round(voxels, 2) for axis, voxels in axes.items()}
            for m, axes in fact.thick.items()
        },
        "digests": fact.digests,
    }


def _state(fact: CaseFacts, modality: Modality) -> str:
    if modality not in fact.case.images:
        return "missing"
    return "degraded" if modality in fact.thick else "present"


def _held(audit: Audit) -> list[Modality]:
    return [m for m in ALL_MODALITIES if any(m in fact.case.images for fact in audit.cases)]


def _teaching(audit: Audit) -> list[str]:
    """What cases can teach that do not all have the same; nothing where they do."""
    holdings = [fact.case.images.keys() for fact in audit.cases]
    counts, some = seen_together(holdings), sum(len(one) >= FEWEST for one in holdings)
    if all(count == len(holdings) for count in counts.values()):
        return []
    rows = [(f"{a} with {b}", str(count)) for (a, b), count in counts.items()]
    told = f"train --target any: {some} of {_count(len(holdings), 'case')} can teach, with what"
    return [f"{told} they have", "", *_table(("seen together", "cases"), rows), ""]


def _compared(audit: Audit) -> list[str]:
    """In how many cases exchanged sequences were looked for; nothing of single sequences."""
    rest = sum(f.name not in audit.judged and len(f.case.images) > 1 for f in audit.cases)
    lines = []
    if audit.judged:
        count = _count(len(audit.judged), "case")
        lines.append(f"exchanged sequences: looked for in {count}, by what the others look like")
    if rest:
        lines.append(
            f"exchanged sequences other than T1 and T1ce cannot be told in {_count(rest, 'case')}: "
            f"it takes {FEWEST_CASES + 1} cases that share {FEWEST_SEQUENCES} sequences or more, "
            "each on one grid and without a graver fault"
        )
    return lines


def _thick(audit: Audit) -> list[str]:
    """Which sequences have thick slices, along what, in how many cases; nothing where none has."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for modality in _held(audit):
        for fact in audit.cases:
            for axis, voxels in fact.thick.get(modality, {}).items():
                found.setdefault((modality, axis), []).append((fact.name, voxels))
    if not found:
        return []
    head = ("thick slices", "along axis", "slice thickness, in voxels", "cases", "")
    rows = []
    for (modality, axis), cases in found.items():
        thickness = [voxels for _, voxels in cases]
        low, high = f"{min(thickness):.1f}", f"{max(thickness):.1f}"
        span = f"{low} or more" if low == high else f"{low} to {high} or more"
        rows.append((modality, axis, span, str(len(cases)), _named([name for name, _ in cases])))
    return [*_table(head, rows), "", *_restoring(audit)]


def _restoring(audit: Audit) -> list[str]:
    """By what a degraded sequence is restored, where others of its case are finer; a line each."""
    lines = []
    for modality in _held(audit):
        poor = [fact for fact in audit.cases if _state(fact, modality) == "degraded"]
        able = [fact for fact in poor if fact.case.images.keys() - fact.thick.keys()]
        whole = sum(_state(fact, modality) == "present" for fact in audit.cases)
        if not able or not whole:
            continue
        ratios = [_ratio([f.thick[modality].get(a, 1.0) for f in able]) for a in "zyx"]
        if max(ratios) == 1:  # each along another axis
            continue
        ratio = ",".join(map(str, ratios))
        lines.append(
            f"{modality}: `synth3d train --degraded {modality}={ratio}` learns from the "
            f"{_count(whole, 'case')} without thick slices to restore it, and `synth3d complete "
            f"--restore {modality}` then does so in the {_count(len(able), 'case')} with them"
        )
    return [*lines, ""] if lines else []


def _ratio(thickness: Sequence[float]) -> int:
    """The power of two next to the middle one of so many."""
    return 2 ** min(5, round(math.log2(sorted(thickness)[len(thickness) // 2])))


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_CASES} more" if len(names) > NAMED_CASES else ""
    return ", ".join(names[:NAMED_CASES]) + more


def _sequence_row(audit: Audit, modality: Modality) -> tuple[str, ...]:
    held = [fact for fact in audit.cases if modality in fact.case.images]
    tops = [fact.top[modality] for fact in held if modality in fact.top]
    shares = [fact.coverage[modality] for fact in held if modality in fact.coverage]
    scale = f"{min(tops):.4g} to {max(tops):.4g}" if tops else "-"
    share = f"{min(shares):.0%} to {max(shares):.0%}" if shares else "-"
    states = [_state(fact, modality) for fact in audit.cases]
    counts = (str(len(held)), str(states.count("degraded")), str(states.count("missing")))
    return modality, *counts, scale, share


def _holdings(fact: CaseFacts) -> str:
    return " ".join([*fact.case.images, *(["label"] if fact.case.label else [])]) or "nothing"


def _grid_text(fact: CaseFacts) -> str:
    if fact.grid is None:
        return "unreadable"
    shape = " x ".join(str(n) for n in fact.grid.shape_zyx)
    spacing = " x ".join(f"{edge:.4g}" for edge in fact.grid.spacing_mm)
    return f"{shape}, {spacing}, {fact.grid.orientation}"


def _tally(audit: Audit, describe: Callable[[CaseFacts], str]) -> list[tuple[str, ...]]:
    """(what, how many, which) for each description, commonest first; the first needs no names."""
    rows = []
    for what, count in Counter(map(describe, audit.cases)).most_common():
        names = [fact.name for fact in audit.cases if describe(fact) == what] if rows else []
        rows.append((what, str(count), _named(names)))
    return rows


def _label_text(audit: Audit) -> str:
    """Which schemes the labels follow and in how many cases, the commonest first."""
    readings = [fact.reading for fact in audit.cases if fact.reading is not None]
    unread = sum(fact.case.label is not None for fact in audit.cases) - len(readings)
    found = Counter((one.scheme.name, one.scheme.text) for one in readings).most_common()
    parts = [f"in {_count(n, 'case')}, {name}: {text}" for (name, text), n in found]
    parts += [f"in {_count(unread, 'case')}, of unknown meaning"] if unread else []
    return "; ".join(parts) or "none"


def _problem_lines(audit: Audit) -> list[str]:
    faults = faults_of(audit)
    grave = sum(fault.severity == "error" for fault in faults)
    errors = _count(grave, "error") if grave else "nothing"
    warnings = _count(len(faults) - grave, "warning")
    lines = [fault.line for fault in faults]
    return [*lines, *([""] if lines else []), f"{errors} would break a run, {warnings}"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
