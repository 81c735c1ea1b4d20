"""What in a cohort would break a run: each case, then all of them together."""

import contextlib
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from synth3d.cohort.audit.exchanges import exchanged
from synth3d.cohort.audit.facts import CaseFacts, Problem
from synth3d.cohort.cases import Case, Survey
from synth3d.cohort.gaps import never_together
from synth3d.cohort.labels import as_siblings, contradictions, lacks_tissues, listed, parse_scheme
from synth3d.cohort.naming import ALL_MODALITIES, doubtful_patients
from synth3d.cohort.splits import Splits, parse_splits, sides_of_cases, split_problems
from synth3d.cohort.survey import survey_cohort
from synth3d.cohort.twins import find_twins
from synth3d.errors import InputError
from synth3d.files import LONGEST_STEM, fault_of, progress
from synth3d.images import grid

NAMED_FILES = 3
"""At most so many files that are not used for one reason are named."""

WIDEST_SCALE = 20.0
"""A volume is named when its intensities are this many times those of the cohort's median."""


@dataclass(frozen=True, eq=False)
class Audit:
    """All that an audit found: cases by name, and the problems of the cohort and of all cases.

    Errors come first. ``judged`` are the cases whose sequences could be held against other cases.
    """

    folder: Path
    naming: str
    cases: tuple[CaseFacts, ...]
    splits: Splits | None
    problems: tuple[Problem, ...]
    judged: frozenset[str]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that would break a run."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def audit(folder: Path, splits: Path | None = None, labels: str | None = None) -> Audit:
    """Look at every file of every case under ``folder``, and at ``splits``, a JSON file.

    ``labels`` is the label scheme of all cases, where it is declared.

    Raises:
        InputError: There are no cases, namings are mixed, ``splits`` is no splits file or
            ``labels`` no scheme.
            Everything else becomes a :class:`Problem`.
    """
    survey = survey_cohort(folder)
    chosen = parse_splits(splits) if splits else None
    if labels:
        parse_scheme(labels)
    with ThreadPoolExecutor(_threads(survey.cases)) as pool:
        looked_at = pool.map(partial(CaseFacts, labels=labels), survey.cases)
        facts = tuple(progress(looked_at, "audit", total=len(survey.cases), unit="case"))
    open_ends = {fact.name: fact.reading for fact in facts if fact.reading is not None}
    settled = {} if contradictions(open_ends) else as_siblings(open_ends)
    for fact in facts:
        fact.reading = settled.get(fact.name, fact.reading)
    naming = survey.cases[0].naming
    exchanges = exchanged({fact.name: fact.look for fact in facts if fact.look is not None})
    patients = {case.name: case.patient for case in survey.cases}
    problems = [
        *_names(survey, folder),
        *(
            Problem("error", fact.name, f"no file can be named after it: it {fault}; rename it")
            for fact in facts
            if (fault := fault_of(fact.name, LONGEST_STEM))
        ),
        *(problem for fact in facts for problem in fact.problems),
        *(Problem("warning", name, text) for name, text in exchanges.told.items()),
        *_missing(facts),
        *_labels(facts),
        *_duplicates(facts, chosen),
        *(Problem("warning", None, sentence) for sentence in doubtful_patients(patients)),
        *_odd_scales(facts),
        *(Problem("warning", None, one) for one in never_together(c.images for c in survey.cases)),
    ]
    if chosen:
        problems += [Problem("error", None, text) for text in split_problems(chosen, survey.cases)]
        listed = sides_of_cases(chosen)
        problems += [
            Problem("warning", fact.name, "is in no split and takes part in nothing")
            for fact in facts
            if fact.name not in listed
        ]
    problems.sort(key=lambda problem: problem.severity != "error")
    return Audit(folder, naming, facts, chosen, tuple(problems), exchanges.judged)


def _names(survey: Survey, folder: Path) -> list[Problem]:
    """Files that cannot be used as they are called: errors where they belong to a case."""
    wrong = (*survey.ambiguous, *survey.unread)
    problems = [*dict.fromkeys(Problem("error", one.case, one.sentence) for one in wrong)]
    if survey.unrecognised:
        names = ", ".join(str(path.relative_to(folder)) for path in survey.unrecognised)
        problems.append(Problem("warning", None, f"ignored, as their names fit no naming: {names}"))
    by_why: dict[str, list[str]] = {}
    for path, why in survey.unused:
        by_why.setdefault(why, []).append(path.name)
    for why, names in by_why.items():
        more = f" and {len(names) - NAMED_FILES} more" if len(names) > NAMED_FILES else ""
        told = f"not used: {', '.join(names[:NAMED_FILES])}{more} ({why})"
        problems.append(Problem("warning", None, told))
    return problems


LARGE = 2**25
"""Voxels; volumes of more are looked at one at a time, for their memory."""


def _threads(cases: Sequence[Case]) -> int:
    """How many cases are looked at side by side, by what the headers say."""
    for path in (path for case in cases for path in (*case.images.values(), case.label) if path):
        with contextlib.suppress(InputError):  # told when the file is read
            if math.prod(grid(path).shape_zyx) > LARGE:
                return 1
    return min(4, os.cpu_count() or 1)


def _missing(facts: Sequence[CaseFacts]) -> list[Problem]:
    """Warnings for what other cases of the cohort have; an error for a case without images."""
    held = [m for m in ALL_MODALITIES if any(m in fact.case.images for fact in facts)]
    labelled = any(fact.case.label for fact in facts)
    problems = []
    for fact in facts:
        lacking: list[str] = [modality for modality in held if modality not in fact.case.images]
        if labelled and not fact.case.label:
            lacking.append("the label")
        if not fact.case.images:
            problems.append(Problem("error", fact.name, "has no sequence at all"))
        elif lacking:
            problems.append(Problem("warning", fact.name, f"lacks {', '.join(lacking)}"))
    return problems


def _labels(facts: Sequence[CaseFacts]) -> list[Problem]:
    """Warnings for what is not plain in the labels; errors where they contradict each other.

    What the user should know is said once, with the cases it is about.
    """
    readings = {fact.name: fact.reading for fact in facts if fact.reading is not None}
    about: dict[str, list[str]] = {}
    for name, reading in readings.items():
        for note in reading.notes:
            about.setdefault(note, []).append(name)
    schemes = sorted({reading.scheme.name for reading in readings.values() if reading.has_tumour})
    if len(schemes) > 1:
        several = ", ".join(schemes)
        about[f"the cases follow several label schemes, each is read by its own: {several}"] = []
    if any(reading.has_tumour for reading in readings.values()):
        about |= {text: [] for text in [lacks_tissues(readings)] if text}
    return [
        *(Problem("error", None, text) for text in contradictions(readings)),
        *(
            Problem("warning", None, f"{note} ({listed(names)})" if names else note)
            for note, names in about.items()
        ),
    ]


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
    told = {(name, other): f"in {', '.join(pairs)}" for (name, other), pairs in shared.items()}
    texts = {pair: f"has the same voxels as {pair[1]} {what}" for pair, what in told.items()}
    for name, other, how in find_twins([fact.case for fact in facts]) if splits else ():
        if not {(name, other), (other, name)} & texts.keys():
            texts[name, other] = f"and {other} {how}"
    problems = []
    for (name, other), text in texts.items():
        here, there = (" and ".join(sides.get(case, ["no side"])) for case in (name, other))
        if here != there:
            text += f", on different sides ({here} and {there})"
        problems.append(Problem("warning" if here == there else "error", name, text))
    return problems


def _odd_scales(facts: Sequence[CaseFacts]) -> list[Problem]:
    """Warnings for cases with volumes far brighter or darker than the others of their kind."""
    tops = {m: [f.top[m] for f in facts if f.top.get(m, 0) > 0] for m in ALL_MODALITIES}
    middle = {modality: statistics.median(values) for modality, values in tops.items() if values}
    problems = []
    for fact in facts:
        ratios = {m: top / middle[m] for m, top in fact.top.items() if top > 0}
        far = {m: r for m, r in ratios.items() if not 1 / WIDEST_SCALE <= r <= WIDEST_SCALE}
        if odd := [f"{modality} {ratio:.3g}" for modality, ratio in far.items()]:
            text = f"intensities are far from the cohort's median: times {', '.join(odd)}"
            problems.append(Problem("warning", fact.name, text))
    return problems
