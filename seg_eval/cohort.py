"""The cases of an experiment: who is trained on, who is tested on, and what labels mean."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synth3d.cohort import (
    MODALITIES,
    Case,
    LabelScheme,
    Splits,
    doubtful_patients,
    find_cases,
    label_scheme,
    make_splits,
    patient_of,
    read_splits,
    refuse_twins,
    require,
    split_problems,
)
from synth3d.errors import InputError
from synth3d.files import progress
from synth3d.images import check_same_grid, read_label


@dataclass(frozen=True)
class LabelledCase(Case):
    """A case with a tumour segmentation."""

    label: Path


@dataclass(frozen=True)
class Cohort:
    """A cohort that passed its checks.

    Attributes:
        train: Real, complete cases for the segmenter and the voxel-wise rivals.
        test: Cases on which every arm is scored; none of a patient in ``train``.
        scheme: Which integer is which tissue.
    """

    folder: Path
    train: tuple[LabelledCase, ...]
    test: tuple[LabelledCase, ...]
    scheme: LabelScheme


def choose_splits(cases: Sequence[Case], splits_file: Path | None, of_run: Splits | None) -> Splits:
    """The user's split, else the one the synthesiser was trained with, else a drawn one."""
    if splits_file is not None:
        splits, origin = read_splits(splits_file, cases), str(splits_file)
    elif of_run is not None:
        splits, origin = of_run, "the run's split"
        if problems := split_problems(splits, cases):
            raise InputError(f"{origin} does not fit the cohort: {'; '.join(problems)}")
    else:
        splits, origin = make_splits(cases), "the drawn split"
    for side in ("train", "test"):
        if not getattr(splits, side):
            raise InputError(f"{origin} has no {side} cases")
    return splits


def load_cohort(folder: Path, splits_file: Path | None, of_run: Splits | None = None) -> Cohort:
    """Find the cases, split them as :func:`choose_splits`, check every header and every label."""
    cases = find_cases(folder)
    for sentence in doubtful_patients({case.name: case.patient for case in cases}):
        print(f"note: {sentence}", file=sys.stderr)
    splits = choose_splits(cases, splits_file, of_run)
    refuse_twins(cases, splits)
    by_name = {case.name: case for case in cases}
    used = [by_name[name] for name in (*splits.train, *splits.test)]
    require(used, MODALITIES, label=True)
    labelled = tuple(LabelledCase(**vars(case)) for case in used)
    train, test = labelled[: len(splits.train)], labelled[len(splits.train) :]
    values: set[int] = set()
    for case in progress(labelled, desc="checking cases", unit="case"):
        values |= _checked_labels(case)
    if values <= {0}:
        raise InputError(f"no case of {folder} has a labelled voxel; there is nothing to segment")
    cohort = Cohort(folder, train, test, label_scheme(values, cases[0].naming))
    refuse_leak(cohort, splits.train, "the segmenter's training cases")
    return cohort


def _checked_labels(case: LabelledCase) -> set[int]:
    check_same_grid([*(case.images[name] for name in MODALITIES), case.label])
    values = {*np.unique(read_label(case.label).data).tolist()}
    try:
        label_scheme(values)
    except InputError as error:
        raise InputError(f"{case.label}: {error}") from error
    return values


def refuse_leak(cohort: Cohort, training: Iterable[str], where: str) -> None:
    """Stop when a patient of the test set is among ``training``, names of cases of any cohort."""
    patients = {case.name: case.patient for case in (*cohort.train, *cohort.test)}
    known = {patients.get(name, patient_of(name)): name for name in training}
    found = [
        case.name if known[case.patient] == case.name else f"{case.name} (as {known[case.patient]})"
        for case in cohort.test
        if case.patient in known
    ]
    if found:
        raise InputError(f"test case {', '.join(found)} is among {where}; its score would be a lie")
