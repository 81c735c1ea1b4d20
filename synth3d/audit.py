"""What a cohort holds and what in it would break a run.

:mod:`synth3d.audit_case` looks at one case, this file at all of them together, and
:mod:`synth3d.audit_report` turns the result into text.
"""

import os
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from synth3d.audit_case import CaseFacts, Problem, examine
from synth3d.cases import ALL_MODALITIES, LabelScheme, label_scheme, survey_folder
from synth3d.files import progress
from synth3d.splits import Splits, parse_splits, sides_of_cases, split_problems

WIDEST_SCALE = 20.0
"""A volume is named when its intensities are this many times those of the cohort's median."""


@dataclass(frozen=True, eq=False)
class Audit:
    """All that an audit found.

    Attributes:
        folder: The cohort.
        naming: How its files are named.
        cases: Sorted by name.
        scheme: What the labels mean; None without labels or when they contradict each other.
        splits: The splits that were looked at, if any.
        problems: Of the cohort and of all cases, errors first.
    """

    folder: Path
    naming: str
    cases: tuple[CaseFacts, ...]
    scheme: LabelScheme | None
    splits: Splits | None
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that would break a run."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def audit(folder: Path, splits: Path | None = None, workers: int | None = None) -> Audit:
    """Look at every file of every case under ``folder``.

    Args:
        folder: A cohort in any naming that :mod:`synth3d.cases` reads.
        splits: A JSON file as :func:`synth3d.splits.read_splits` reads, to be checked as well.
        workers: Cases looked at side by side; by default one per processor, at most four.

    Raises:
        InputError: There are no cases, namings are mixed, or ``splits`` is no splits file.
            Everything else becomes a :class:`Problem`.
    """
    folder = Path(folder)
    survey = survey_folder(folder)
    chosen = parse_splits(splits) if splits else None
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        looked_at = pool.map(examine, survey.cases)
        facts = tuple(progress(looked_at, "audit", total=len(survey.cases), unit="case"))
    naming = survey.cases[0].naming
    scheme, scheme_problems = _scheme(facts, naming)
    problems = [
        *(Problem("error", case, sentence) for case, sentence in survey.ambiguous),
        *(problem for fact in facts for problem in fact.problems),
        *_missing(facts),
        *scheme_problems,
        *_duplicates(facts, chosen),
        *_odd_scales(facts),
    ]
    if chosen:
        problems += [Problem("error", None, text) for text in split_problems(chosen, survey.cases)]
        problems += _unlisted(facts, chosen)
    if survey.unrecognised:
        names = ", ".join(str(path.relative_to(folder)) for path in survey.unrecognised)
        problems.append(Problem("warning", None, f"ignored, as their names fit no naming: {names}"))
    problems.sort(key=lambda problem: problem.severity != "error")
    return Audit(folder, naming, facts, scheme, chosen, tuple(problems))


def _missing(facts: Iterable[CaseFacts]) -> list[Problem]:
    """Warnings for what other cases of the cohort have; an error for a case without images."""
    facts = list(facts)
    held = [m for m in ALL_MODALITIES if any(m in fact.sequences for fact in facts)]
    labelled = any(fact.has_label for fact in facts)
    problems = []
    for fact in facts:
        lacking: list[str] = [modality for modality in held if modality not in fact.sequences]
        if labelled and not fact.has_label:
            lacking.append("the label")
        if not fact.sequences:
            problems.append(Problem("error", fact.name, "has no sequence at all"))
        elif lacking:
            problems.append(Problem("warning", fact.name, f"lacks {', '.join(lacking)}"))
    return problems


def _scheme(facts: Iterable[CaseFacts], naming: str) -> tuple[LabelScheme | None, list[Problem]]:
    """What the labels of the cohort mean, decided over all cases."""
    values = {f.name: set(f.label_values) for f in facts if f.label_values is not None}
    if not values:
        return None, []
    with_3 = [name for name, seen in values.items() if 3 in seen]
    with_4 = [name for name, seen in values.items() if 4 in seen]
    if with_3 and with_4 and not set(with_3) & set(with_4):
        text = (
            f"two label schemes, or a cavity: no case has both 3 ({', '.join(with_3)}) "
            f"and 4 ({', '.join(with_4)})"
        )
        return None, [Problem("error", None, text)]
    scheme = label_scheme(set().union(*values.values()), naming)
    if scheme.warning is None:
        return scheme, []
    named = f" ({', '.join(with_4)})" if with_4 else ""
    return scheme, [Problem("warning", None, scheme.warning + named)]


def _duplicates(facts: Sequence[CaseFacts], splits: Splits | None) -> list[Problem]:
    """Volumes that two cases share; an error when the cases are on different sides."""
    sides = sides_of_cases(splits) if splits else {}
    first: dict[str, tuple[str, str]] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for fact in facts:
        for modality, digest in fact.digests.items():
            name, other = first.setdefault(digest, (fact.name, modality))
            if name != fact.name:
                pair = modality if other == modality else f"{modality} as {other}"
                shared.setdefault((fact.name, name), []).append(pair)
    problems = []
    for (name, other), pairs in shared.items():
        text = f"has the same voxels as {other} in {', '.join(pairs)}"
        here, there = (" and ".join(sides.get(case, ["no side"])) for case in (name, other))
        if here == there:
            problems.append(Problem("warning", name, text))
        else:
            text = f"{text}, on different sides ({here} and {there})"
            problems.append(Problem("error", name, text))
    return problems


def _odd_scales(facts: Sequence[CaseFacts]) -> list[Problem]:
    """Warnings for cases with volumes far brighter or darker than the others of their kind."""
    tops = {m: [f.top[m] for f in facts if f.top.get(m, 0) > 0] for m in ALL_MODALITIES}
    middle = {modality: statistics.median(values) for modality, values in tops.items() if values}
    problems = []
    for fact in facts:
        ratios = {m: top / middle[m] for m, top in fact.top.items() if top > 0}
        odd = [
            f"{modality} {ratio:.3g}"
            for modality, ratio in ratios.items()
            if not 1 / WIDEST_SCALE <= ratio <= WIDEST_SCALE
        ]
        if odd:
            text = f"intensities are far from the cohort's median: times {', '.join(odd)}"
            problems.append(Problem("warning", fact.name, text))
    return problems


def _unlisted(facts: Iterable[CaseFacts], splits: Splits) -> list[Problem]:
    sides = sides_of_cases(splits)
    return [
        Problem("warning", fact.name, "is in no split and takes part in nothing")
        for fact in facts
        if fact.name not in sides
    ]
