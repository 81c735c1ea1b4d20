"""Out-of-fold synthesis: synthetic channels of training cases by networks that never saw them.

A segmenter retrained on channels that the synthesiser had learned by heart would meet better
images in training than in the test, and look worse, or with a leak better, than it is. So the
training patients are cut into folds, the run's own training is repeated without each fold, and
each fold is completed by the network that has not seen it.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seg_eval.arms.completed import Completed
from seg_eval.arms.kinds import Arm
from seg_eval.arms.synthesisers import Program, completed_file, completion
from seg_eval.cohort import Cohort
from synth3d.cohort import Case, Modality, Splits, write_splits
from synth3d.errors import InputError
from synth3d.files import progress, read_object

Files = Mapping[str, Mapping[Modality, Path]]
"""Synthetic files by case name and modality."""


def folds_of(cases: Sequence[Case], folds: int) -> tuple[tuple[Case, ...], ...]:
    """``cases`` in ``folds`` parts of about equal size, a patient in one part only.

    Patients are dealt out in the order of their names, those with the most cases first.
    """
    patients: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        patients.setdefault(case.patient, []).append(case)
    if folds < 2 or len(patients) < folds:
        raise InputError(
            f"--folds must be at least 2 and at most the {len(patients)} training patients, "
            f"got {folds}"
        )
    parts: list[list[Case]] = [[] for _ in range(folds)]
    for group in sorted(patients.values(), key=len, reverse=True):
        min(parts, key=len).extend(group)
    return tuple(tuple(sorted(part, key=lambda case: case.name)) for part in parts)


def check_out_of_fold(
    arm: Arm, cohort: Cohort, missing: Sequence[Modality], folds: int
) -> tuple[Splits, ...]:
    """Make sure, before anything is trained, that :func:`out_of_fold` can be done.

    Returns:
        Of a run, the split of each fold's training; its test cases are those held out. Of
        another tool's files, nothing.

    Raises:
        InputError: Another tool's folder lacks training cases, or there are too few patients.
    """
    source = arm.synthesiser
    if isinstance(source, Completed):
        if absent := source.absent(cohort.train, missing):
            raise InputError(
                f"the arm {arm.name} learns from synthetic training cases, and {source.folder} "
                f"lacks {', '.join(absent)}; put their out-of-fold files there, or leave the arm "
                "out"
            )
        return ()
    watched = [name for name in source.splits.val if name in cohort.patients]
    return tuple(_fold_split(part, cohort, watched) for part in folds_of(cohort.train, folds))


def _fold_split(held_out: Sequence[Case], cohort: Cohort, watched: Sequence[str]) -> Splits:
    """Train without the patients held out, validate on the run's own cases where possible."""
    away = {case.patient for case in (*held_out, *cohort.test)}
    left = [case for case in cohort.train if case.patient not in away]
    val = [name for name in watched if cohort.patient(name) not in away]
    apart = {cohort.patient(name) for name in val}
    if left and (not val or all(case.patient in apart for case in left)):
        apart = {left[-1].patient}
        val = [case.name for case in left if case.patient in apart]
    train = [case.name for case in left if case.patient not in apart]
    if not train:
        raise InputError(
            "the arm retrained needs at least one patient to train and one to validate on beside "
            f"those held out ({', '.join(case.name for case in held_out)}); there are too few"
        )
    return Splits(tuple(train), tuple(val), tuple(case.name for case in held_out))


@dataclass(frozen=True)
class CrossFit:
    """Synthesis of a cohort's training cases for an arm that learns from it.

    Attributes:
        arm: Whose synthesiser's training is repeated without each fold.
        folds: How many networks are trained.
        folder: Where the runs and files of the folds are kept.
        threads: Of ``synth3d``.
    """

    arm: Arm
    cohort: Cohort
    missing: tuple[Modality, ...]
    folds: int
    folder: Path
    synth3d: Program
    threads: int

    def places(self, out: Path, cases: Sequence[Case]) -> Files:
        """Where the files of ``cases`` are when ``out`` is completed."""
        gone = self.missing
        return {c.name: {name: completed_file(out, c, gone, name) for name in gone} for c in cases}


def out_of_fold(fit: CrossFit, executor: Executor | None = None) -> Files:
    """Synthetic files of all training cases, made now if they are not there.

    An ``executor`` does the folds, each on its own; without one they are done in order, here.
    What cannot be done is refused as :func:`check_out_of_fold` refuses it.
    """
    splits = check_out_of_fold(fit.arm, fit.cohort, fit.missing, fit.folds)
    if isinstance(fit.arm.source, Completed):
        return _take_over(fit, fit.arm.source)
    fold = partial(_complete_fold, fit)
    made = (executor.map if executor else map)(fold, range(1, len(splits) + 1), splits)
    return {case: paths for files in made for case, paths in files.items()}


def _complete_fold(fit: CrossFit, number: int, split: Splits) -> Files:
    """Files of the cases held out, by a training that has not seen them."""
    out = fit.folder / f"completed-{number}"
    files = fit.places(out, [case for case in fit.cohort.train if case.name in split.test])
    if not all(path.is_file() for paths in files.values() for path in paths.values()):
        run, data = _train_fold(fit, number, split), fit.cohort.folder
        fit.synth3d(completion(run, data, out, fit.missing, split.test, fit.threads))
    return files


def _train_fold(fit: CrossFit, number: int, split: Splits) -> Path:
    """The run's training again, with its own settings, without the held-out cases."""
    name, threads = f"fold-{number}", fit.threads
    begun = fit.folder / "runs" / name / "config.json"
    if begun.is_file():  # a killed training goes on with the threads that it had
        train = read_object(begun, "train")["train"]
        threads = train.get("threads", threads) if isinstance(train, dict) else threads
    path = fit.folder / f"splits-{number}.json"
    write_splits(path, split)
    recipe = fit.arm.synthesiser.folder / "config.json"
    command = ["train", "--recipe", str(recipe), "--data", str(fit.cohort.folder)]
    command += ["--splits", str(path), "--work", str(fit.folder), "--name", name]
    command += ["--labels", fit.cohort.declared] if fit.cohort.declared else []
    fit.synth3d([*command, "--threads", str(threads)])
    return fit.folder / "runs" / name


def _take_over(fit: CrossFit, source: Completed) -> Files:
    """Another tool's files of the training cases, made fit for a segmenter."""
    files = fit.places(fit.folder / "completed", fit.cohort.train)
    for case in progress(fit.cohort.train, desc="taking over training cases", unit="case"):
        for name, path in files[case.name].items():
            if not path.is_file():
                source.write(case, name, fit.missing, path)
    return files
