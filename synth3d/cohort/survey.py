"""From files that claim roles to cases: what is chosen, what is refused, what is left over."""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

from synth3d.cohort.cases import Case, Survey, Trouble, sentences_of
from synth3d.cohort.naming import (
    ALL_MODALITIES,
    GENERIC,
    Claim,
    Modality,
    Role,
    claim_by_name,
    claim_of,
    claims,
    is_serial,
    nnunet_channels,
    nnunet_claims,
    nnunet_dataset,
    nnunet_listed,
    patient_of,
    stem_of,
    words_of,
)
from synth3d.cohort.table import is_table, read_table
from synth3d.errors import InputError
from synth3d.files import refuse_names

REMEDY = "rename it, move it away, or describe the cohort with --cases TABLE.csv"
"""What to do about an image that is not understood; ``synth3d audit --write-table`` drafts one."""

MOST_TOLD = 50
"""So many troubles are told at once."""

SHOWN = 5
"""So many files are named where a folder holds no case."""


def find_cases(root: Path, names: Collection[str] | None = None) -> list[Case]:
    """The cases under ``root``, sorted by name; one with missing modalities is a case too.

    ``root`` is a folder, or a table (.csv, .tsv) with a row for each case. Hidden files and BIDS
    derivatives are not looked at; symbolic links are followed. With ``names`` only those cases:
    nobody else's files matter to them.

    Raises:
        InputError: As :func:`survey_cohort`; or not all of ``names`` are there; or there are two
            files for one modality of a case, or an image in a case's folder is not understood.
    """
    survey = survey_cohort(root)
    wanted = {case.name for case in survey.cases} if names is None else {*names}
    if unknown := sorted(wanted - {case.name for case in survey.cases}):
        raise InputError(f"no case is called {', '.join(unknown)}")
    found = (one for one in (*survey.ambiguous, *survey.unread) if one.case in wanted)
    if troubles := sentences_of(found):
        more = f"; and {len(troubles) - MOST_TOLD} more" if len(troubles) > MOST_TOLD else ""
        raise InputError("; ".join(troubles[:MOST_TOLD]) + more)
    refuse_names(wanted)
    return [case for case in survey.cases if case.name in wanted]


def survey_cohort(root: Path) -> Survey:
    """Like :func:`find_cases`, but what is ambiguous or not understood is reported, not raised.

    Raises:
        InputError: ``root`` is neither folder nor table, holds no case, or mixes namings; or the
            table has faults, all of which are named.
    """
    root = Path(root)
    survey = look(root)
    if not survey.cases:
        raise InputError(_no_cases(root, survey))
    example = {case.naming: case.name for case in survey.cases}
    if len(example.keys() - {"files"}) > 1:
        found = " and ".join(f"{naming} ({name})" for naming, name in sorted(example.items()))
        raise InputError(f"{root} mixes namings: {found}; give each cohort a folder of its own")
    return survey


def look(root: Path) -> Survey:
    """Whatever lies under ``root``, with no demand on it; a table is read and checked."""
    if is_table(root):
        return Survey(tuple(read_table(root)))
    if not root.is_dir():
        what = f"{root} is not a folder and no table (.csv, .tsv)"
        raise InputError(what if root.exists() else f"no folder {root}")
    try:
        dataset = nnunet_dataset(root)
        channels = nnunet_channels(dataset) if dataset else ()
        found = list(nnunet_claims(root, dataset) if dataset else claims(root))
    except OSError as error:
        raise InputError(f"cannot read {error.filename or root}: {error.strerror}") from error
    survey = _gather(found, channels, root)
    listed = nnunet_listed(dataset) if dataset else {}
    cases = _called_alike(survey.cases, listed)
    if dataset:
        cases = [replace(case, dataset=root / "dataset.json") for case in cases]
    return replace(survey, cases=tuple(cases))


def _called_alike(cases: Sequence[Case], listed: Mapping[str, Mapping[Role, str]]) -> list[Case]:
    """``cases`` with what the files that they lack would be called, as ``listed`` or as others'."""
    own: dict[str, dict[Modality, str]] = {
        case.name: {m: stem_of(path.name) for m, path in case.images.items() if case.says(path, m)}
        for case in cases
    }
    heard: dict[tuple[str, Modality], Counter[str]] = defaultdict(Counter)
    for case in cases:
        for modality, stem in own[case.name].items():
            heard[_kind_of(case), modality][stem.removeprefix(case.name)] += 1
    found = []
    for case in cases:
        called: dict[Modality, str] = {}
        says = own[case.name] and case.naming != "bids"  # whose entities are of an acquisition
        for modality in ALL_MODALITIES if says else ():
            usual = _most_common(heard[_kind_of(case), modality])
            usual = case.name + usual if usual[:1] in [*"_-. "] else usual
            told = stem_of(listed.get(case.name, {}).get(modality, "")) or usual
            stem = own[case.name].get(modality, told)
            if stem and case.says(Path(f"{stem}.nii.gz"), modality):
                called[modality] = stem
        found.append(replace(case, called=called))
    return found


def _kind_of(case: Case) -> str:
    """Whether names of files say the case as well, or its folder does, or a list."""
    return case.naming if case.naming in ("folders", "nnunet") else "files"


def _most_common(counts: Counter[str]) -> str:
    """What is counted most often; empty where two are, or nothing is."""
    first, second, *_ = [*counts.most_common(2), ("", 0), ("", 0)]
    return first[0] if first[1] > second[1] else ""


def _no_cases(root: Path, survey: Survey) -> str:
    """What was seen instead, and what it is nearest to."""
    seen = [*survey.unrecognised, *(path for path, _ in survey.unused)]
    head = f"no cases under {root}"
    if not seen:
        others = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
        there = f"saw {', '.join(others[:SHOWN])}" if others else "it is empty"
        found = next((p.parent for p in sorted(root.glob("*/dataset.json"))), None)
        inner = f"; {found} may be the nnU-Net dataset that is meant" if found else ""
        return f"{head}: there is no image (.nii.gz, .nii), {there}{inner}"
    shown = [_shown(path, root, survey) for path in seen[:SHOWN]]
    more = f" and {len(seen) - SHOWN} more" if len(seen) > SHOWN else ""
    numbered = any(stem_of(path.name)[-5:-3] == "_0" for path in seen)
    hint = " (channel numbers need nnU-Net's dataset.json beside imagesTr)" if numbered else ""
    return (
        f"{head}: saw {', '.join(shown)}{more}{hint}; expected names that say case and sequence, "
        "as <case>_t1.nii.gz, <case>-t1n.nii.gz or <case>/t1.nii.gz, IXI, BIDS "
        "(sub-.._T1w.nii.gz) or nnU-Net raw; rename them or use --cases TABLE.csv, which "
        f"`synth3d audit {root} --write-table TABLE.csv` drafts"
    )


def _shown(path: Path, root: Path, survey: Survey) -> str:
    claim = claim_of(path, root)
    why = dict(survey.unused).get(path) or (claim.doubt if claim else "")
    if not why:
        words = [word for word in stem_of(path.name).lower().replace("-", "_").split("_") if word]
        known = ["flair", "t1ce", "t1gd", "t1", "t2", "t1n", "t1c", "t2w", "t2f", "seg", "t2flair"]
        near = [match for word in words for match in get_close_matches(word, known, 1, 0.75)]
        why = f'nearest is "{near[-1]}"' if near else "says no sequence"
    return f"{path.relative_to(root)} ({why})"


@dataclass(frozen=True)
class _Chosen:
    """The files of one case, by role."""

    roles: dict[Role, Claim]
    unused: list[tuple[Path, str]]
    ambiguous: list[Trouble]


def _gather(found: Sequence[Claim], channels: tuple[Modality, ...], root: Path) -> Survey:
    """Put claims together to cases, and say of all others what they are."""
    found = _without_strangers(found)
    by_case: dict[str, list[Claim]] = defaultdict(list)
    for claim in found:
        if claim.role is not None:
            by_case[claim.case].append(claim)
    cases, ambiguous = [], []
    unused = [(claim.path, claim.unused) for claim in found if claim.unused]
    for name, claimed in sorted(by_case.items()):
        chosen = _choose(name, claimed)
        unused += chosen.unused
        ambiguous += chosen.ambiguous
        cases.append(_case(name, chosen.roles, channels))
    ambiguous = [*_in_two_folders(ambiguous), *_serials(found)]
    left = [claim for claim in found if claim.role is None and not claim.unused]
    unread, unrecognised = _owned(left, cases, found, root)
    return Survey(tuple(cases), tuple(ambiguous), tuple(unread), tuple(unrecognised), tuple(unused))


def _case(name: str, roles: dict[Role, Claim], channels: tuple[Modality, ...]) -> Case:
    namings = {claim.naming for claim in roles.values()}
    folders = {str(claim.path.parent) for claim in roles.values()}
    label = roles.get("label")
    return Case(
        name=name,
        patient=patient_of(name),
        folder=Path(os.path.commonpath(folders)),
        images={m: roles[m].path for m in ALL_MODALITIES if m in roles},
        label=label.path if label else None,
        naming=namings.pop() if len(namings) == 1 else "files",
        channels=channels,
    )


def _choose(case: str, claimed: Sequence[Claim]) -> _Chosen:
    """One file for each role: of one kind throughout, plain before corrected, hand before machine.

    A kind (with the skull, in another space) has to hold every sequence of the case; the one
    with the fewest words is taken. What these rules leave open is ambiguous.
    """
    images = [claim for claim in claimed if claim.role != "label"]
    labels = [claim for claim in claimed if claim.role == "label"]
    wanted = {claim.role for claim in images}
    by_kind: dict[frozenset[str], list[Claim]] = defaultdict(list)
    for claim in images:
        by_kind[claim.kind].append(claim)
    whole = [kind for kind, some in by_kind.items() if {claim.role for claim in some} == wanted]
    whole.sort(key=lambda kind: (len(kind), sorted(kind)))
    chosen = _Chosen({}, [], [])
    if images and (not whole or (len(whole) > 1 and len(whole[0]) == len(whole[1]))):
        named = ", ".join(str(some[0].path) for some in by_kind.values())
        text = (
            f"case {case} has images of several kinds ({named}) and none that holds every sequence "
            "alone: keep one kind, or use --cases TABLE.csv"
        )
        chosen.ambiguous.append(Trouble(case, text))
        whole = whole or [min(by_kind, key=len)]
    for kind, some in by_kind.items():
        if kind != whole[0]:
            said = " ".join(sorted(kind)) or "plain"
            taken = " ".join(sorted(whole[0])) or "plain"
            chosen.unused.extend((claim.path, f"{said}; the {taken} ones are") for claim in some)
    for claim in sorted([*by_kind.get(whole[0] if whole else frozenset(), []), *labels],
                        key=lambda claim: claim.rank):  # fmt: skip
        _take(case, claim, chosen)
    return chosen


def _take(case: str, claim: Claim, chosen: _Chosen) -> None:
    """Give ``claim`` its role if that is free; claims come in the order of rank."""
    assert claim.role is not None
    first = chosen.roles.setdefault(claim.role, claim)
    if first is claim or first.path.resolve() == claim.path.resolve():
        return
    if first.rank < claim.rank:
        chosen.unused.append((claim.path, f"{first.path.name} comes before it"))
    else:
        text = (
            f"case {case} has two files for {claim.role}, {first.path} and {claim.path}: keep one "
            "of them, or say which with --cases TABLE.csv"
        )
        chosen.ambiguous.append(Trouble(case, text, claim.path, claim.role, first.path))


def _in_two_folders(ambiguous: Sequence[Trouble]) -> list[Trouble]:
    """``ambiguous``, with other words where cases lie twice as a whole: in a folder too high."""
    apart = {trouble: _apart(trouble.path, trouble.beside) for trouble in ambiguous}
    cases: dict[tuple[Path, Path], set[str]] = defaultdict(set)
    for trouble, folders in apart.items():
        if folders:
            cases[folders].add(trouble.case)
    told = []
    for trouble, folders in apart.items():
        if folders and len(cases[folders]) > 1:
            above = Path(os.path.commonpath(folders))
            names = " and ".join(sorted(str(each.relative_to(above)) for each in folders))
            where = (
                f"in two folders of {above}, {names}: give one of these, or say which files with "
                "--cases TABLE.csv"
            )
            sentence = f"case {trouble.case} lies {where}"
            told.append(replace(trouble, sentence=sentence, twice=where))
        else:
            told.append(trouble)
    return told


def _apart(path: Path | None, other: Path | None) -> tuple[Path, Path] | None:
    """Two folders in which ``path`` and ``other`` lie alike, as X and Y of X/A/t1 and Y/A/t1."""
    if path is None or other is None or path.name != other.name:
        return None
    one, two = path.parts, other.parts
    while one and two and one[-1] == two[-1]:
        one, two = one[:-1], two[:-1]
    nested = one[: len(two)] == two or two[: len(one)] == one
    return None if nested else (Path(*one), Path(*two))


def _without_strangers(found: Sequence[Claim]) -> list[Claim]:
    """Claims of one case in another's folder become doubts: the two readings contradict."""
    with_images: dict[Path, set[str]] = defaultdict(set)
    for claim in found:
        if claim.role not in (None, "label"):
            with_images[claim.path.parent].add(claim.case)
    pictured = set().union(*with_images.values()) if with_images else set()
    result = []
    for claim in found:
        host = _host(claim, with_images[claim.path.parent], pictured) if claim.role else None
        if host is not None:
            doubt = f"its name says case {claim.case} and its folder case {host}"
            claim = Claim(claim.path, doubt=doubt)
        result.append(claim)
    return result


def _serials(found: Sequence[Claim]) -> list[Trouble]:
    """Folders of numbered images, no two of one number or role: as likely one case as many."""
    images: dict[Path, list[Claim]] = defaultdict(list)
    for claim in found:
        if claim.role not in (None, "label") and claim.naming not in ("nnunet", "folders"):
            images[claim.path.parent].append(claim)
    return [
        Trouble(
            some[0].case,
            f"the images {', '.join(claim.path.name for claim in some)} in {folder} are of "
            f"{len(some)} cases by their names, or of one, numbered: call them "
            "<case>_<sequence>, or describe the cohort with --cases TABLE.csv, which "
            "`synth3d audit FOLDER --write-table TABLE.csv` drafts with a row for each folder",
        )
        for folder, some in images.items()
        if 1 < len(some) == len({c.case for c in some}) == len({c.role for c in some})
        and all(is_serial(claim_by_name(c.path.name).case) for c in some)
    ]


def _host(claim: Claim, there: set[str], pictured: set[str]) -> str | None:
    """The other case whose folder ``claim`` lies in, if so."""
    folder = claim.path.parent.name
    if claim.naming in ("nnunet", "folders") or _is_called(folder, claim.case):
        return None
    for other in sorted(there - {claim.case}):
        if _is_called(folder, other):
            return other
    if claim.role == "label" and claim.case not in pictured and len(there) == 1:
        return next(iter(there))
    return None


def _is_called(folder: str, case: str) -> bool:
    """Whether a folder has the name of ``case``, perhaps with a word such as ``nifti`` behind."""
    rest = folder.removeprefix(case)
    return folder.startswith(case) and set(words_of(rest)) <= GENERIC and not rest[:1].isalnum()


def _owned(
    left: Iterable[Claim], cases: Sequence[Case], found: Sequence[Claim], root: Path
) -> tuple[list[Trouble], list[Path]]:
    """The images that belong to a case or patient and are not understood, and all others.

    One belongs where it lies in or below a folder that holds files of one patient only, or is
    called after a case.
    """
    patients: dict[Path, dict[str, str]] = defaultdict(dict)
    names = {case.name: case for case in cases}
    for claim in found:
        if claim.role is not None and claim.case in names:
            # Above case folders, a cohort of one patient is still a cohort.
            below = [claim.path.parent, *takewhile(root.__ne__, claim.path.parents)]
            for folder in below:
                patients[folder].setdefault(names[claim.case].patient, claim.case)
    unread, unrecognised = [], []
    for claim in left:
        near = next((patients[f] for f in claim.path.parents if f in patients), {})
        owner = next(iter(near.values())) if len(near) == 1 else _called_after(claim.path, names)
        if owner is None:
            unrecognised.append(claim.path)
            continue
        why = claim.doubt or "its name says no sequence that is known"
        remedy = "" if ":" in claim.doubt else f": {REMEDY}"
        text = f"{claim.path} (of case {owner}) is not understood, {why}{remedy}"
        unread.append(Trouble(owner, text, claim.path))
    return unread, unrecognised


def _called_after(path: Path, names: dict[str, Case]) -> str | None:
    stem = stem_of(path.name)
    ends = [len(stem), *(i for i in range(len(stem) - 1, 0, -1) if not stem[i].isalnum())]
    return next((stem[:end] for end in ends if stem[:end] in names), None)
