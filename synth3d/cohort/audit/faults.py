"""What is wrong with a cohort, a line a fault: one that many cases share is told once."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synth3d.cohort.audit.problems import Audit, Problem
from synth3d.cohort.cases import Case

NAMED = 3
"""So many of the cases that share a fault are named; all of them are in the JSON."""

_FILE, _NUMBER = "\ufffc", "\ufff9"
"""Stand in a pattern for a file of the case, and for what was measured."""

_MEASURED = re.compile(
    r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?=%| mm\b| mL\b)|(?<=down to )-\S+"
)
"""Numbers in which cases with one fault may differ."""


@dataclass(frozen=True)
class Fault:
    """Problems that are one: of one severity, in the same words but for files and measures.

    Attributes:
        severity: ``error`` or ``warning``.
        cases: Names, none where the cohort as a whole is meant.
        text: The sentence; of several problems without what differs between them, and with the
            span of what was measured.
    """

    severity: str
    cases: tuple[str, ...]
    text: str

    @property
    def line(self) -> str:
        """``warning: 5 cases (A, B, C and 2 more): ...``; a single case is named if need be."""
        if len(self.cases) > 1:
            rest = len(self.cases) - NAMED
            more = f" and {rest} more" if rest > 0 else ""
            who = f"{len(self.cases)} cases ({', '.join(self.cases[:NAMED])}{more}): "
        else:
            who = "".join(f"{name}: " for name in self.cases if name not in self.text)
        return f"{self.severity}: {who}{self.text}"


def faults_of(audit: Audit) -> list[Fault]:
    """The problems of ``audit`` in their order, with those that are one fault together."""
    cases = {fact.name: fact.case for fact in audit.cases}
    alike: dict[tuple[str, ...], list[Found]] = {}
    for number, problem in enumerate(audit.problems):
        case = cases.get(problem.case or "")
        if case is None:  # of the whole cohort, or of what is no case
            alike[problem.severity, str(number)] = [(problem, "", [])]
            continue
        words, role = _without_files(problem.message, case)
        pattern, measured = _MEASURED.sub(_NUMBER, words), _MEASURED.findall(words)
        alike.setdefault((problem.severity, pattern), []).append((problem, role, measured))
    return [_fault(key[1], some) for key, found in alike.items() for some in _same_files(found)]


Found = tuple[Problem, str, list[str]]
"""A problem, the role of its one file, and what was measured."""


def _same_files(found: Sequence[Found]) -> list[list[Found]]:
    """``found`` of one pattern, apart by the files of a case that it is true of."""
    roles: dict[str | None, list[str]] = {}
    for problem, role, _ in found:
        roles.setdefault(problem.case, []).append(role)
    apart: dict[tuple[str, ...], list[Found]] = {}
    for one in found:
        apart.setdefault(tuple(sorted(roles[one[0].case])), []).append(one)
    return list(apart.values())


def _without_files(message: str, case: Case) -> tuple[str, str]:
    """``message`` without the case's name, and with a mark for its one file; the file's role.

    Of several files each is replaced by its role, as those of another case are; further ones in its
    folder lose the folder and its name. Paths to elsewhere stay as they are.
    """
    paths: list[tuple[str, Path]] = [*case.images.items()]
    if case.label is not None:
        paths.append(("label", case.label))
    held = []
    for role, path in sorted(paths, key=lambda one: -len(one[1].name)):
        called = rf"(?:{re.escape(str(path))}|(?<![\w/-]){re.escape(path.name)})(?!\.gz|[\w/-])"
        if re.search(called, message):
            held.append(role)
            message = re.sub(called, f"{_FILE}{role}{_FILE}", message)
    name = re.escape(case.name)
    message = re.sub(rf"\bcase {name}(?![\w-])", "the case", message)
    inside = re.escape(f"{case.folder}{os.sep}")
    message = re.sub(rf"{inside}(\S*?){name}(?=[_-])", r"\1<case>", message)
    if len(case.name) > 3:  # a shorter one may be any word or number
        message = re.sub(rf"(?<![\w/-]){name}(?![\w/-])", "the case", message)
    if len(held) == 1:
        return message.replace(f"{_FILE}{held[0]}{_FILE}", _FILE), held[0]
    return message.replace(_FILE, ""), ""


def _fault(pattern: str, found: Sequence[Found]) -> Fault:
    first = found[0][0]
    names = tuple(dict.fromkeys(problem.case for problem, _, _ in found if problem.case))
    if len(found) == 1:
        return Fault(first.severity, names, first.message)
    roles = "/".join(dict.fromkeys(role for _, role, _ in found))
    spans = map(_span, zip(*(measured for _, _, measured in found), strict=True))
    text = re.sub(_NUMBER, lambda _: next(spans), pattern).replace(_FILE, roles)
    return Fault(first.severity, names, text)


def _span(values: Sequence[str]) -> str:
    """``6 to 12`` of ``6``, ``12`` and ``9``; one value where all are the same."""
    ordered = sorted({*values}, key=float)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"
