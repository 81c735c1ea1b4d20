"""Who trains, who validates, who tests: splits of a cohort by patient."""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from synth3d.cohort.cases import Case
from synth3d.cohort.naming import patient_of, stem_of
from synth3d.console import named, nearest
from synth3d.errors import InputError
from synth3d.files import read_json, write_json

_KEYS = {"train": "train", "val": "val", "test": "test", "excluded_from_metrics": "excluded"}
"""Key in the file → field of :class:`Splits`."""

_SPELLINGS = {
    "training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test",
    "excluded": "excluded_from_metrics",
}  # fmt: skip
"""Other spellings of the keys; capital letters do not matter either."""

MOST_UNKNOWN = 3
"""Cases that a cohort does not have: more than so many have no clause each."""


@dataclass(frozen=True)
class Splits:
    """Case names of each side, sorted; ``excluded`` cases belong to no side and no figure."""

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


def read_splits(path: Path, cases: Iterable[Case]) -> Splits:
    """The splits in the JSON file ``path``: ``train``, ``val``, ``test``, each a list of cases.

    ``excluded_from_metrics`` is optional, and so are ``val`` and ``test``. Cases of the cohort
    that are listed nowhere take part in nothing.

    Raises:
        InputError: As :func:`parse_splits`; or a case is unknown or on two sides, or two cases of
            one patient are; the sentence names them all.
    """
    splits = parse_splits(path)
    if problems := split_problems(splits, cases):
        raise InputError(f"{path}: {'; '.join(problems)}")
    return splits


def parse_splits(path: Path) -> Splits:
    """Like :func:`read_splits`, but without a look at the cases.

    Keys may be spelled as others do (``validation``), names may have a file's ending, and one
    fold of nnU-Net's ``splits_final.json`` is a split without test cases.

    Raises:
        InputError: The file cannot be read, has other keys or values, or holds several folds.
    """
    value = read_json(path)
    if isinstance(value, list) and value and all(isinstance(fold, dict) for fold in value):
        if len(value) > 1:
            raise InputError(
                f"{path} holds {len(value)} folds, as nnU-Net's splits_final.json, and one split "
                'is needed: save one fold as {"train": [...], "val": [...], "test": [...]}'
            )
        value = value[0]
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected the keys {', '.join(_KEYS)}, each a list of cases")
    named: dict[str, list[str]] = {}
    for key, names in value.items():
        known = _SPELLINGS.get(key.lower(), key.lower())
        if known not in _KEYS:
            raise InputError(
                f"{path}: expected the keys {', '.join(_KEYS)}, each a list of cases, and found "
                f"{key}"
            )
        if known in named:
            raise InputError(f"{path}: two keys mean {known}; keep one of them")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path}: {key} must be a list of case names")
        named[known] = sorted(stem_of(name) for name in names)
    if "train" not in named:
        raise InputError(f"{path}: expected the keys {', '.join(_KEYS)}, and train is not there")
    return Splits(**{_KEYS[key]: tuple(names) for key, names in named.items()})


def split_problems(splits: Splits, cases: Iterable[Case]) -> list[str]:
    """One clause for each unknown case and each case or patient on two sides; empty if sound.

    Many unknown cases have one clause, with their number and the first names.
    """
    patients = {case.name: case.patient for case in cases}
    sides = sides_of_cases(splits)
    unknown = sorted(sides.keys() - patients)
    if len(unknown) > MOST_UNKNOWN:
        told = named([f"{name} ({sides[name][0]})" for name in unknown], MOST_UNKNOWN)
        problems = [f"{len(unknown)} of {len(sides)} cases are not in the cohort: {told}"]
    else:
        problems = [
            f"case {name} ({sides[name][0]}) is not in the cohort"
            + (" (it is a patient; name its cases)" if name in patients.values()
               else nearest(name, patients, 0.8))
            for name in unknown
        ]  # fmt: skip
    problems += [
        f"case {name} is listed twice ({' and '.join(its_sides)})"
        for name, its_sides in sorted(sides.items())
        if len(its_sides) > 1
    ]
    return [*problems, *shared_patients(splits, patients)]


def shared_patients(splits: Splits, patients: Mapping[str, str]) -> list[str]:
    """One clause for each patient on two sides; of cases that ``patients`` lacks the name tells."""
    problems = []
    seen: dict[str, dict[str, str]] = {}
    for name, sides in sorted(sides_of_cases(splits).items()):
        if len(sides) == 1 and sides != ["excluded"]:
            seen.setdefault(patients.get(name) or patient_of(name), {})[sides[0]] = name
    for patient, by_side in sorted(seen.items()):
        if len(by_side) > 1:
            where = " and ".join(f"{side} ({name})" for side, name in by_side.items())
            problems.append(f"patient {patient} is in {where}")
    return problems


def sides_of_cases(splits: Splits) -> dict[str, list[str]]:
    """Where each listed case stands: names of fields of :class:`Splits`, one if all is well."""
    sides: dict[str, list[str]] = {}
    for side, names in asdict(splits).items():
        for name in names:
            sides.setdefault(name, []).append(side)
    return sides


def make_splits(
    cases: Iterable[Case], seed: int = 0, val: float = 0.1, test: float = 0.25
) -> Splits:
    """Patients dealt at random to train, val and test; the same seed deals the same.

    The order of ``cases`` does not matter; ``val`` and ``test`` are fractions of the patients, and
    each side has at least one.

    Raises:
        ValueError: The fractions are out of range.
        InputError: There are fewer than three patients.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(f"val and test must be >= 0 and add up to < 1, got {val} and {test}")
    by_patient: dict[str, list[str]] = {}
    for case in cases:
        by_patient.setdefault(case.patient, []).append(case.name)
    patients, count = sorted(by_patient), len(by_patient)
    if count < 3:
        raise InputError(f"splitting needs at least 3 patients (train, val, test), got {count}")
    random.Random(seed).shuffle(patients)
    n_test = min(max(1, round(test * count)), count - 2)
    n_val = min(max(1, round(val * count)), count - 1 - n_test)
    sides = (patients[n_test + n_val :], patients[n_test : n_test + n_val], patients[:n_test])
    return Splits(*(tuple(sorted(name for p in side for name in by_patient[p])) for side in sides))


def draw_splits(
    cases: Sequence[Case], usable: Callable[[Case], bool], what: str
) -> tuple[Splits, str]:
    """Splits as :func:`make_splits` deals them, among the ``usable`` cases; a sentence on others.

    ``what`` is what usable cases have; the sentence is empty where all have it.

    Raises:
        InputError: Too few patients have it.
    """
    some = [case for case in cases if usable(case)]
    others = [case.name for case in cases if case not in some]
    more = f" and {len(others) - 6} more" if len(others) > 6 else ""
    text = f"{len(some)} of {len(cases)} cases have {what}, without {', '.join(others[:6])}{more}"
    try:
        return make_splits(some), text if others else ""
    except InputError as error:
        raise InputError(f"{error}; {text}" if others else str(error)) from error


def digest_of_names(names: Iterable[str]) -> str:
    """SHA-256 of a set of case names, in whatever order: who was seen, where none may be named."""
    return hashlib.sha256("\n".join(sorted({*names})).encode()).hexdigest()


def write_splits(path: Path, splits: Splits) -> None:
    """Write ``splits`` as the JSON that :func:`read_splits` reads."""
    values = asdict(splits)
    write_json(path, {key: list(values[field]) for key, field in _KEYS.items()})
