"""The cases of an experiment: who is trained on, who is tested on, and what labels mean."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from synth3d.cohort import (
    MODALITIES,
    SCHEMES,
    Case,
    LabelScheme,
    Reading,
    Splits,
    doubtful_patients,
    draw_splits,
    find_cases,
    keep_whole,
    lacks_tissues,
    notes_of,
    patient_of,
    read_splits,
    readings_of,
    refuse_twins,
    split_problems,
)
from synth3d.errors import InputError
from synth3d.images import check_same_grids


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
        readings: Which integer is which tissue in each case, and what tells.
        declared: The label scheme that the user named for all cases, if any.
        patients: Of every case in the folder or table, also of those that take no part.
        left_out: A sentence that names those of the split that lack files; empty where none do.
        incomplete: Names of all cases that lack a sequence or the label, whatever the split.
    """

    folder: Path
    train: tuple[LabelledCase, ...]
    test: tuple[LabelledCase, ...]
    readings: Mapping[str, Reading] = field(hash=False)
    declared: str | None = None
    patients: Mapping[str, str] = field(default_factory=dict, hash=False)
    left_out: str = ""
    incomplete: tuple[str, ...] = ()

    def patient(self, name: str) -> str:
        """Whose case ``name`` is, by the cohort, and of a case from elsewhere by its name."""
        return self.patients.get(name, patient_of(name))

    @property
    def schemes(self) -> dict[str, LabelScheme]:
        """Which integer is which tissue, by case name."""
        return {name: reading.scheme for name, reading in self.readings.items()}

    @property
    def notes(self) -> list[str]:
        """What a reader should know of the cases, and of how the labels were read."""
        return [*([self.left_out] if self.left_out else []), *notes_of(self.readings)]

    @property
    def labels(self) -> dict[str, list[str]] | None:
        """Cases by what their integers mean; None where it is the same in all and plain."""
        by_meaning: dict[str, list[str]] = {}
        for name, reading in self.readings.items():
            by_meaning.setdefault(reading.scheme.text, []).append(name)
        declared = any(reading.evidence == "declared" for reading in self.readings.values())
        plain = by_meaning.keys() <= {SCHEMES[name].text for name in ("brats2018", "brats2023")}
        return None if plain and len(by_meaning) == 1 and not declared else by_meaning


def choose_splits(
    cases: Sequence[Case],
    splits_file: Path | None,
    of_run: Splits | None,
    whose: str = "the run's split",
) -> Splits:
    """The user's split, else the one the synthesiser was trained with, else a drawn one.

    ``whose`` says of ``of_run`` what it is, for a reader.
    """
    if splits_file is not None:
        splits, origin = read_splits(splits_file, cases), str(splits_file)
    elif of_run is not None:
        splits, origin = of_run, whose
        if problems := split_problems(splits, cases):
            raise InputError(
                f"{origin} does not fit this cohort: {'; '.join(problems)}; give --splits, who is "
                "trained and tested on here"
            )
    else:
        whole = draw_splits(cases, is_whole, "all four sequences and a label")
        splits, origin = whole[0], "the drawn split"
    for side in ("train", "test"):
        if not getattr(splits, side):
            raise InputError(f"{origin} has no {side} cases")
    return splits


def is_whole(case: Case) -> bool:
    """Whether a segmenter can learn from it and be judged on it."""
    return not case.missing() and case.label is not None


def load_cohort(
    folder: Path,
    splits_file: Path | None,
    of_run: Splits | None = None,
    labels: str | None = None,
    whose: str = "the run's split",
) -> Cohort:
    """Find the cases, split them as :func:`choose_splits`, check every header and every label.

    Cases that lack a sequence or the label take no part, and are named. ``labels`` is the label
    scheme of all cases, where it is declared. ``whose`` says of ``of_run`` what it is.
    """
    cases = find_cases(folder)
    patients = {case.name: case.patient for case in cases}
    for sentence in doubtful_patients(patients):
        print(f"note: {sentence}", file=sys.stderr)
    splits = choose_splits(cases, splits_file, of_run, whose)
    refuse_twins(cases, splits)
    by_name = {case.name: case for case in cases}
    names = {*splits.train, *splits.test}
    used, left_out = keep_whole((c for c in cases if c.name in names), MODALITIES, label=True)
    if left_out:
        print(f"note: {left_out}", file=sys.stderr)
    known = {case.name for case in used}
    train, test = (
        tuple(LabelledCase(**vars(by_name[name])) for name in side if name in known)
        for side in (splits.train, splits.test)
    )
    for side, some in (("train", train), ("test", test)):
        if not some:
            raise InputError(f"no {side} case of the split is left: {left_out}")
    labelled = (*train, *test)
    check_same_grids([*(case.images[name] for name in MODALITIES), case.label] for case in labelled)
    readings = readings_of(labelled, labels)
    if problem := lacks_tissues(readings):
        raise InputError(f"{folder}: {problem}")
    lacking = tuple(case.name for case in cases if not is_whole(case))
    cohort = Cohort(folder, train, test, readings, labels, patients, left_out, lacking)
    refuse_leak(cohort, splits.train, "the segmenter's training cases")
    return cohort


def refuse_leak(cohort: Cohort, training: Iterable[str], where: str) -> None:
    """Stop when a patient of the test set is among ``training``, names of cases of any cohort."""
    known = {cohort.patient(name): name for name in training}
    found = [
        case.name if known[case.patient] == case.name else f"{case.name} (as {known[case.patient]})"
        for case in cohort.test
        if case.patient in known
    ]
    if found:
        raise InputError(f"test case {', '.join(found)} is among {where}; its score would be a lie")
