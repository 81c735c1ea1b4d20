"""How the labels of a cohort are read: all cases, what a user should know, what fits together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from synth3d.cohort.cases import Case
from synth3d.cohort.labels.evidence import (
    REMEDY,
    Reading,
    dataset_of,
    read_segmentation,
    scheme_of_name,
)
from synth3d.cohort.labels.schemes import SCHEMES, TISSUES, LabelScheme, Tissue
from synth3d.errors import InputError
from synth3d.files import progress


def readings_of(cases: Iterable[Case], declared: str | None = None) -> dict[str, Reading]:
    """How the label of each case that has one is read, by case name.

    Raises:
        InputError: As :func:`read_segmentation`, all cases named at once; or cases that only their
            values tell about contradict each other.
    """
    found, problems = {}, []
    labelled = [case for case in cases if case.label is not None]
    for case in progress(labelled, "labels", unit="case"):
        try:
            found[case.name] = read_segmentation(case, declared)[1]
        except InputError as error:
            problems.append(str(error))
    if problems := [*problems, *contradictions(found)]:
        raise InputError("; ".join(problems))
    return as_siblings(found)


def as_siblings(readings: Mapping[str, Reading]) -> dict[str, Reading]:
    """``readings``, where what a case alone leaves open is called as in the other cases.

    Schemes of adults differ in the integer of enhancing tumour. A case without any means the same
    in all of them, and takes the one scheme that the others have, if they have one.
    """
    told = {name: r for name, r in readings.items() if _tells(r)}
    schemes = {r.scheme.name: r.scheme for r in told.values()}
    if len(schemes) != 1:
        return dict(readings)
    (scheme,) = schemes.values()
    return {
        name: _called(r, scheme)
        if name not in told and scheme.explains(r.values) and scheme.agrees(r.scheme, r.values)
        else r
        for name, r in readings.items()
    }


def _tells(reading: Reading) -> bool:
    """Whether the case shows its scheme: somebody said it, or an integer that enhances is there."""
    said = reading.evidence in ("declared", "dataset")
    return said or bool({*reading.values} & {*reading.scheme.enhancing})


def _called(reading: Reading, scheme: LabelScheme) -> Reading:
    if scheme == reading.scheme:
        return reading
    old, new = reading.scheme.described, scheme.described
    notes = tuple(note.replace(old, new) for note in reading.notes)
    return replace(reading, scheme=scheme, evidence="siblings", notes=notes)


def notes_of(readings: Mapping[str, Reading]) -> list[str]:
    """Each note once, with the cases it is about."""
    about: dict[str, list[str]] = {}
    for name, reading in readings.items():
        for note in reading.notes:
            about.setdefault(note, []).append(name)
    return [f"{note} ({listed(cases)})" for note, cases in about.items()]


def contradictions(readings: Mapping[str, Reading]) -> list[str]:
    """A sentence for cases whose values were read otherwise than the rest of their cohort says.

    Those read as usual while others are known to be unusual; and those where 4 without 3 was taken
    for one tissue, while it is another in others.
    """
    known = {n: r for n, r in readings.items() if r.firm and r.has_tumour}
    problems = []
    doubtful = [(n, r) for n, r in readings.items() if r.evidence == "values" and not r.firm]
    for scheme in {reading.scheme.name: reading.scheme for reading in known.values()}.values():
        names = [n for n, r in doubtful if not scheme.agrees(r.scheme, r.values)
                 and scheme.explains(r.values)]  # fmt: skip
        others = [n for n, r in known.items() if r.scheme.name == scheme.name]
        if names:
            problems.append(_contradiction(readings, names, others))
    return [*problems, *_different_fours(readings)]


def _different_fours(readings: Mapping[str, Reading]) -> list[str]:
    """A sentence for each tissue that 4 was taken for by values alone, against what others say.

    Only the picture after contrast tells enhancing tumour from a cavity where there is no 3, and
    one that was exchanged, or has no contrast agent in it, tells wrong.
    """
    taken: dict[Tissue, list[str]] = {}
    for name, reading in readings.items():
        if 4 in reading.values:
            taken.setdefault(reading.scheme.tissues[4], []).append(name)
    alone = {n for n, r in readings.items() if r.evidence == "values" and 3 not in r.values}
    told: dict[Tissue, list[str]] = {
        tissue: [name for name in names if name not in alone] for tissue, names in taken.items()
    }
    order = sorted(taken, key=lambda tissue: (-len(told[tissue]), -len(taken[tissue])))
    problems = []
    for place, tissue in enumerate(order):
        guessed = [name for name in taken[tissue] if name in alone]
        against: list[Tissue] = [
            *order[:place],
            *(each for each in order[place + 1 :] if told[each]),
        ]
        if guessed and against:
            problems.append(_contradiction(readings, guessed, taken[against[0]]))
    return problems


def _contradiction(
    readings: Mapping[str, Reading], names: Sequence[str], others: Sequence[str]
) -> str:
    mine, theirs = (readings[group[0]].scheme.described for group in (names, others))
    return (
        f"the labels of {listed(names)} may be {mine} or, as those of {listed(others)} are, "
        f"{theirs}: {REMEDY}"
    )


def lacks_tissues(readings: Mapping[str, Reading]) -> str | None:
    """Why the labels of a cohort are no tissues of a tumour; None where they are."""
    values = {v for reading in readings.values() for v in reading.values} - {0}
    if not values:
        return "no case has a labelled voxel; there is nothing to segment"
    if len(values) == 1 and all(r.evidence == "values" for r in readings.values()):
        return (
            f"all labels are {values.pop()} alone, which may be the whole tumour or one tissue of "
            f"it: {REMEDY}"
        )
    return None


def portable_codes(case: Case, declared: str | None = None) -> dict[int, int] | None:
    """Integers of the label of ``case`` → those that its name alone stands for.

    For a copy without the table or dataset.json that says what the label holds. None where the
    label can stay as it is. What no public release has an integer for is core or background.

    Raises:
        InputError: As :func:`read_segmentation`.
    """
    if case.label is None or not (declared or case.scheme or dataset_of(case)):
        return None
    reading = read_segmentation(case, declared)[1]
    target = scheme_of_name(case.name) or SCHEMES["brats2023"]
    held = {reading.scheme.tissues[value] for value in reading.values if value}
    if "cavity" in held and target.agrees(SCHEMES["brats2024"], (1, 2)):
        target = SCHEMES["brats2024"]
    own = target.painted
    codes = {value: own[TISSUES.index(reading.scheme.tissues[value]) + 1]
             for value in reading.values if value}  # fmt: skip
    return None if all(old == new for old, new in codes.items()) else {0: 0} | codes


def listed(names: Sequence[str], most: int = 6) -> str:
    """``names`` with commas, and how many are left out."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
