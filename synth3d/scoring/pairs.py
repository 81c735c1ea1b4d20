"""Which synthetic file belongs to which real one: by case name, never by position.

Both folders follow a naming that :mod:`synth3d.cohort` reads (in case folders, or flat as a
container writes them), or hold one file per case called ``<case>_0003.nii.gz`` (nnU-Net raw
without its dataset.json) or ``<case>.nii.gz``. Opens no image.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from synth3d.cohort import (
    Case,
    Modality,
    claims,
    is_table,
    nnunet_dataset,
    patient_of,
    sentences_of,
    stem_of,
    survey_cohort,
)
from synth3d.errors import InputError

Files = Mapping[str, Mapping[Modality | None, Path]]
"""Case name to its images, by sequence; None where the name does not say which."""

Wanted = dict[str, Modality | None]
"""The sequence of each case; None where nothing says it."""

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")


@dataclass(frozen=True)
class Pair:
    """The acquired image of a case and the one to be scored, with the segmentation if any.

    The modality is None where no name says it; ``labelled`` is the case with the segmentation.
    """

    case: str
    patient: str
    modality: Modality | None
    real: Path
    synthetic: Path
    labelled: Case | None = None

    @property
    def label(self) -> Path | None:
        """The segmentation, if any."""
        return None if self.labelled is None else self.labelled.label


@dataclass(frozen=True)
class Pairing:
    """All pairs, sorted by case, and what a reader should know about how they were made.

    The naming is that of the real folder; empty where it follows none.
    """

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    naming: str = ""


def find_pairs(
    real: Path,
    synthetic: Path,
    modality: Modality | None = None,
    cases: Sequence[str] | None = None,
    labels: Path | None = None,
) -> Pairing:
    """Pair the files of two folders.

    Without a modality it is the one that each case has, which may differ from case to case; without
    names of cases all of ``real``; without a folder of labels those beside the real images.

    Raises:
        InputError: A folder or a case is missing, an id fits nothing, or which file is meant is
            not clear; the sentence names every file and case concerned.
    """
    originals, copies = _find(Path(real)), _find(Path(synthetic))
    copies = _without_channel(copies, originals.files)
    originals = _without_channel(originals, copies.files)
    if cases is not None and (unknown := sorted(set(cases) - originals.files.keys())):
        raise InputError(f"{real} has no case called {', '.join(unknown)}")
    chosen = sorted(originals.files if cases is None else set(cases))
    wanted: Wanted = dict.fromkeys(chosen, modality)
    if modality is None:
        wanted = _wanted(originals, copies, chosen)
    _refuse_unsaid(originals, copies, wanted)
    if problems := _problems(originals, copies, wanted, complete=cases is None):
        raise InputError("; ".join(problems))
    segmentations = _labels(originals, chosen, labels)
    pairs = tuple(
        Pair(
            n, originals.patient(n), m, originals.image(n, m), copies.image(n, m), segmentations[n]
        )
        for n, m in wanted.items()
    )
    return Pairing(pairs, tuple(_notes(originals, copies, pairs)), originals.naming)


def files_by_case(folder: Path, cases: Collection[str]) -> tuple[Files, tuple[str, ...]]:
    """The files of ``folder`` by case and sequence, by the names that :func:`find_pairs` reads.

    ``cases`` are the names that are looked for, by which channel numbers are told from names. Also
    remarks on files that are not used.

    Raises:
        InputError: No folder, no images, or names that mean two things.
    """
    found = _without_channel(_find(folder), {case: {} for case in cases})
    return found.files, found.notes


@dataclass(frozen=True)
class _Found:
    """What a folder holds: images and labels by case, and remarks on its names."""

    folder: Path
    files: Files
    labelled: dict[str, Case] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    naming: str = ""

    def patient(self, case: str) -> str:
        """By the table, if it is one; else the name tells."""
        return self.labelled[case].patient if case in self.labelled else patient_of(case)

    def image(self, case: str, modality: Modality | None) -> Path:
        files = self.files[case]
        return files[modality] if modality in files else files[None]

    def has(self, case: str, modality: Modality | None) -> bool:
        return not {modality, None}.isdisjoint(self.files.get(case, {}))


def _find(folder: Path) -> _Found:
    """What ``folder`` holds, by known names or else each file by its whole name."""
    table = is_table(folder)
    if not folder.is_dir() and not table:
        raise InputError(f"{folder} is not a folder" if folder.exists() else f"no folder {folder}")
    seen = [] if table else list(claims(folder))
    named_so = any(claim.role not in (None, "label") for claim in seen)
    if table or nnunet_dataset(folder) or named_so:
        survey = survey_cohort(folder)
        if survey.ambiguous:
            raise InputError("; ".join(sentences_of(survey.ambiguous)))
        named: Files = {case.name: {**case.images} for case in survey.cases if case.images}
        masks = {case.name: case for case in survey.cases}
        unread = [trouble.path.name for trouble in survey.unread if trouble.path]
        odd = ", ".join([*unread, *(path.name for path in survey.unrecognised)])
        notes = (f"ignored in {folder}, as their names fit no naming: {odd}",) if odd else ()
        return _Found(folder, named, masks, notes, survey.cases[0].naming)
    files: dict[str, dict[Modality | None, Path]] = {}
    masks = {c.case: _bare(c.case, c.path) for c in seen if c.role == "label"}
    for path in (claim.path for claim in seen if claim.role is None):
        stem = stem_of(path.name)
        first = files.setdefault(stem, {None: path})[None]
        if first != path:
            raise InputError(f"{first} and {path} have one name: keep one of them")
    if not files:
        raise InputError(f"no images (.nii or .nii.gz) under {folder}")
    return _Found(folder, files, masks)


def _without_channel(found: _Found, others: Files) -> _Found:
    """``found`` with ``_0003`` taken off its names, where that is what makes them case ids."""
    matches = {stem: _CHANNEL.fullmatch(stem) for stem in found.files}
    said = any(modality is not None for files in found.files.values() for modality in files)
    if said or not any(matches.values()) or found.files.keys() & others.keys():
        return found
    numbers = {match["number"] for match in matches.values() if match}
    if len(numbers) > 1 or not all(matches.values()):
        raise InputError(
            f"the files in {found.folder} do not all end in one channel number (found "
            f"{', '.join(sorted(numbers))}): name the folder that holds dataset.json, which says "
            "what the numbers are, or leave only the files to be scored"
        )
    files = {match["case"]: found.files[stem] for stem, match in matches.items() if match}
    note = f"no dataset.json says what *_{numbers.pop()} in {found.folder} is"
    return _Found(found.folder, files, found.labelled, (*found.notes, note))


def _wanted(originals: _Found, copies: _Found, chosen: Sequence[str]) -> Wanted:
    """The sequence of each case, as its files say; None where they do not.

    A case without a synthetic file takes the sequence that all others have, if it is one.
    """

    def only(files: Mapping[Modality | None, Path]) -> Modality | None:
        return next(iter(files)) if len(files) == 1 else None

    wanted: Wanted = {
        name: only(copies.files[name]) or only(originals.files[name])
        for name in chosen
        if name in copies.files
    }
    common = next(iter(wanted.values())) if len(set(wanted.values())) == 1 else None
    return {name: wanted.get(name, common) for name in chosen}


def _refuse_unsaid(originals: _Found, copies: _Found, wanted: Wanted) -> None:
    """Raise where a case has several sequences and nothing says which is meant."""
    for found in (copies, originals):
        unsaid = [n for n, m in wanted.items() if m is None and n in copies.files]
        several = [name for name in unsaid if len(found.files[name]) > 1]
        if several:
            held = " ".join(sorted(map(str, found.files[several[0]])))
            raise InputError(
                f"{found.folder} holds several sequences of {_listed(several)} ({held}): say which "
                "one to score with --modality"
            )


def _problems(originals: _Found, copies: _Found, wanted: Wanted, complete: bool) -> list[str]:
    """A clause for each kind of trouble, with all its cases; empty if every pair is there."""
    problems = []
    said = [name for name, m in wanted.items() if m is not None or name in copies.files]
    hint = "; choose other cases with --cases or --splits"
    some = any(copies.has(name, wanted[name]) for name in wanted)
    only = "; for the test cases of a split alone give --splits, or --cases with their names"
    only = only if complete and some else ""
    for found, names, more in ((copies, list(wanted), only), (originals, said, hint)):
        lacking = [name for name in names if not found.has(name, wanted[name])]
        if lacking:
            what = " or ".join(sorted({wanted[name] or "file" for name in lacking}))
            problems.append(f"{found.folder} has no {what} for {_listed(lacking)}{more}")
    if complete and (strangers := sorted(copies.files.keys() - originals.files.keys())):
        problems.append(
            f"{copies.folder} has files of {_listed(strangers)}, which {originals.folder} lacks"
        )
    return problems


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} case{'s' if len(names) > 1 else ''}, {', '.join(names)}"


def _labels(
    originals: _Found, chosen: Sequence[str], folder: Path | None
) -> dict[str, Case | None]:
    """Each chosen case with its segmentation; from ``folder``, where all must have one."""
    known = {name: originals.labelled.get(name) for name in chosen}
    if folder is None:
        return {name: case if case and case.label else None for name, case in known.items()}
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    found: dict[str, Path] = {}
    for claim in claims(folder):
        stem = stem_of(claim.path.name)
        name = claim.case if claim.role == "label" else stem
        if name in originals.files and found.setdefault(name, claim.path) != claim.path:
            raise InputError(f"{found[name]} and {claim.path} are both labels of {name}")
    if lacking := [name for name in chosen if name not in found]:
        raise InputError(f"{folder} has no label for {_listed(lacking)}")
    # What a table or the cohort's own dataset.json says of labels is not said of other files.
    return {
        name: replace(case or _bare(name, path), label=path, dataset=None, scheme=None)
        for name, case in known.items()
        for path in (found[name],)
    }


def _bare(name: str, label: Path) -> Case:
    """A case of which nothing but the segmentation is known."""
    return Case(name, patient_of(name), label.parent, {}, label, "")


def _notes(originals: _Found, copies: _Found, pairs: Sequence[Pair]) -> list[str]:
    notes = [*originals.notes, *copies.notes]
    taken = {pair.modality for pair in pairs if pair.modality not in copies.files[pair.case]}
    if taken - {None}:
        notes.append(f"the names in {copies.folder} say no sequence: taken for {taken.pop()}")
    if strangers := copies.files.keys() - originals.files.keys():
        notes.append(
            f"left out of {copies.folder}, as {originals.folder} lacks them: "
            f"{_listed(sorted(strangers))}"
        )
    if without := [pair.case for pair in pairs if pair.label is None]:
        notes.append(f"no label and so no tumour scores: {_listed(without)}")
    if same := [pair.case for pair in pairs if pair.real.samefile(pair.synthetic)]:
        notes.append(f"the synthetic file is the real one itself: {_listed(same)}")
    return notes
