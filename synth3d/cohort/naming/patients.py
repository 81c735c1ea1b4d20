"""Who a case's name stands for: the name without what tells one visit from another."""

import re
from collections.abc import Iterable, Mapping

_PATIENT = (
    (re.compile(r"BraTS-GLI-(\d+)-\d+", re.I), r"\1"),
    (re.compile(r"(Phantom-\d+)-\d+", re.I), r"\1"),
    (re.compile(r"BraTS-([A-Z]+-\d+)-\d+", re.I), r"\1"),
    (re.compile(r"BraTS2021_(\d+)", re.I), r"\1"),
    (re.compile(r"BraTS20_((?:Training|Validation|Testing)_\d+)", re.I), r"\1"),
    (re.compile(r"BraTS\d\d_(.+)_\d+", re.I), r"\1"),
    (re.compile(r"(IXI\d+)-.*"), r"\1"),
    (re.compile(r"(sub-[A-Za-z0-9]+)(?:_.*)?"), r"\1"),
    (re.compile(r"(UPENN-GBM-\d+)_\d\d", re.I), r"\1"),
    (re.compile(r"(.+-\d{5})-\d{3}"), r"\1"),
)
_BETWEEN = r"(?:^|[\s_.-]+)"
_NUMBER = r"(?:[\s_.-]?\d+(?:-\d+)?[a-z]?)"
_VISIT = re.compile(
    rf"{_BETWEEN}(?:"
    r"(?:19|20)\d\d[._-]?[01]\d[._-]?[0-3]\d|[0-3]?\d[._-][01]?\d[._-](?:19|20)\d\d"
    rf"|(?:time[\s_-]?point|tp|visit|v|ses|session|week|wk|month|day|year|fu|follow[\s_-]?up)"
    rf"{_NUMBER}"
    r"|(?:pre|post|intra)[\s_-]?(?:op|operative|op\d+|rt|treatment|surgery)?"
    rf"|(?:baseline|bl|fu|follow[\s_-]?up|progression|recurrence|relapse){_NUMBER}?"
    r")$",
    re.I,
)
"""A last word that tells a visit."""

_VISIT_OF_NUMBER = re.compile(
    rf"(?<=\d){_BETWEEN}(?:(?:time|mo|m|d|yr|y|scan|exam|study|mr|mr[_-]d|stage|t|wk?){_NUMBER}"
    r"|\d+(?:mo|m|months?|wk?|weeks?|d|days?|h|yr?|years?|st|nd|rd|th|T)"
    r"|(?:19|20)\d\d[._-]?[01]\d|i{1,3}|i?v"
    r"|initial|last|first|second|third|final|early|late|old|new)$",
    re.I,
)
"""The same behind a name that ends in a number; ``site_m12`` may as well be a patient."""

_DOUBTFUL = re.compile(r"(.*\d.*?)[\s_.-]+(?:\d{1,3}|[a-z]|(?:19|20)\d\d)|(.*\d)[a-z]", re.I)
"""A short number, a letter or a year behind a name that has a number already; ``P01a``, too."""


def patient_of(case: str) -> str:
    """The patient a case name stands for, without year and time point.

    ``BraTS-GLI-00008-001`` gives ``00008`` (``BraTS2021_00008`` is the same person),
    ``Brats18_CBICA_ALU_1`` gives ``CBICA_ALU``, ``TCGA-02-0006_1996.08.23`` gives
    ``TCGA-02-0006``. In doubt together: ``P01_2`` and ``P01b`` give ``P01``. A name of no known
    form is its own patient.
    """
    named = _named(case)
    doubtful = _DOUBTFUL.fullmatch(named) if named == _without_visit(case) else None
    return _without_visit(doubtful[1] or doubtful[2]) if doubtful else named


def _named(case: str) -> str:
    matches = ((pattern.fullmatch(case), patient) for pattern, patient in _PATIENT)
    known = next((match.expand(patient) for match, patient in matches if match), None)
    return known if known is not None else _without_visit(case)


def _without_visit(case: str) -> str:
    rest = case
    while (shorter := _VISIT_OF_NUMBER.sub("", _VISIT.sub("", rest))) and shorter != rest:
        rest = shorter
    return rest


def is_visit(name: str) -> bool:
    """Whether ``name`` says a visit and no patient, as in ``week-044`` or ``ses-01``."""
    return bool(_VISIT.fullmatch(name))


def are_simulated(cases: Iterable[str]) -> bool:
    """Whether these cases are built-in simulated heads, all of them; False of none."""
    names = [*cases]
    return bool(names) and all(name.startswith("Phantom-") for name in names)


def doubtful_patients(patients: Mapping[str, str]) -> list[str]:
    """A sentence for each patient whose cases are held together by nothing but a short last word.

    ``patients`` gives the patient of each case.
    """
    groups: dict[str, list[str]] = {}
    for case, patient in patients.items():
        if patient == patient_of(case) != _named(case):
            groups.setdefault(patient, []).append(case)
    return [
        f"{_listed(cases)} are taken for visits of one patient, {patient}; where they are not, say "
        "so in the column patient of a table (--cases TABLE.csv)"
        for patient, cases in sorted(groups.items())
        if len(cases) > 1
    ]


def untold_patients(patients: Mapping[str, str]) -> str:
    """A sentence about patients whose cases no name holds together; empty where there are none.

    ``patients`` gives the patient of each case. What is written elsewhere has the names alone.
    """
    groups: dict[str, list[str]] = {}
    for case, patient in patients.items():
        groups.setdefault(patient, []).append(case)
    untold = [
        f"{patient} ({_listed(cases)})"
        for patient, cases in sorted(groups.items())
        if len({patient_of(case) for case in cases}) > 1
    ]
    if not untold:
        return ""
    return (
        f"only the table says who is one patient in {_listed(untold)}: before what is written is "
        "split, draft a table of it (synth3d audit OUT --write-table) and fill its column patient"
    )


def _listed(names: Iterable[str], most: int = 6) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
