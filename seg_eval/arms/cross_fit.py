"""Out-of-fold synthesis: synthetic channels of training cases by networks that never saw them.

A segmenter retrained on channels that the synthesiser had learned by heart would meet better
images in training than in the test, and look worse, or with a leak better, than it is. So the
training patients are cut into folds, the run's own training is repeated without each fold, and
each fold is completed by the network that has not seen it.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seg_eval.arms.completed import Completed
from seg_eval.arms.gaps import Gaps
from seg_eval.arms.kinds import Arm
from seg_eval.arms.poor import PoorScans
from seg_eval.arms.program import Program
from seg_eval.arms.synthesisers import (
    Teacher,
    completed_file,
    completion,
    threads_begun,
)
from seg_eval.cohort import Cohort
from synth3d.cohort import Case, Modality, Splits, write_splits
from synth3d.completion import open_executor, why_lost, work_through
from synth3d.errors import InputError
from synth3d.files import progress

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
    return deal_patients(patients.values(), folds)


def deal_patients(patients: Iterable[list[Case]], folds: int) -> tuple[tuple[Case, ...], ...]:
    """The cases of ``patients`` in ``folds`` parts of about equal size, each sorted by name.

    Patients are dealt out in their order, those with the most cases first.
    """
    parts: list[list[Case]] = [[] for _ in range(folds)]
    for group in sorted(patients, key=len, reverse=True):
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
        InputError: Another tool's folder lacks training cases, there are too few patients, or the
            run was begun from another one, which has seen the cases that a fold holds out.
    """
    source = arm.synthesiser
    if isinstance(source, Completed):
        if absent := source.absent(cohort.train, Gaps(tuple(missing))):
            raise InputError(
                f"the arm {arm.name} learns from synthetic training cases, and {source.folder} "
                f"lacks {', '.join(absent)}; put their out-of-fold files there, or leave the arm "
                "out"
            )
        _refuse_taught(arm, source.teachers(cohort.train))
        return ()
    if source.is_mean:
        raise InputError(
            f"the arm {arm.name} learns from out-of-fold synthesis by one training, and "
            f"{source.name} is a mean; name a single run first, or leave the arm out"
        )
    if source.start:
        raise InputError(
            f"the arm {arm.name} learns from out-of-fold synthesis, and the run {source.name} was "
            f"begun from {source.start}, which may have seen the cases of every fold; give a run "
            "trained from scratch, in both stages, or leave the arm out"
        )
    _refuse_taught(arm, source.teachers)
    watched = [name for name in source.splits.val if name in cohort.patients]
    return tuple(_fold_split(part, cohort, watched) for part in folds_of(cohort.train, folds))


def _refuse_taught(arm: Arm, teachers: Sequence[Teacher]) -> None:
    """Stop where a segmenter has seen the cases of every fold, and taught by them."""
    if teachers:
        raise InputError(
            f"the arm {arm.name} learns from out-of-fold synthesis, and {arm.of} was coupled to "
            f"the segmenter {teachers[0].origin}, which has seen the cases of every fold; give "
            "synthesis that is coupled to none, or leave the arm out"
        )


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
        synth3d: Picklable if there are several ``workers``.
        threads: Of each ``synth3d``.
        workers: Folds that are done side by side.
        note: Told of each command that will be run.
        poor: Scans of the cases that a source which restores looks at.
    """

    arm: Arm
    cohort: Cohort
    missing: tuple[Modality, ...]
    folds: int
    folder: Path
    synth3d: Program
    threads: int
    workers: int = 1
    note: Callable[[str], object] = lambda words: None
    poor: PoorScans | None = None

    def places(self, out: Path, cases: Sequence[Case]) -> Files:
        """Where the files of ``cases`` are when ``out`` is completed."""
        gone = self.missing
        return {c.name: {name: completed_file(out, c, gone, name) for name in gone} for c in cases}


def out_of_fold(fit: CrossFit) -> Files:
    """Synthetic files of all training cases, made now if they are not there.

    What cannot be done is refused as :func:`check_out_of_fold` refuses it.
    """
    splits = check_out_of_fold(fit.arm, fit.cohort, fit.missing, fit.folds)
    if isinstance(fit.arm.source, Completed):
        return _take_over(fit, fit.arm.source)
    files: dict[str, Mapping[Modality, Path]] = {}
    todo: list[list[list[str]]] = []
    for number, split in enumerate(splits, 1):
        out = fit.folder / f"completed-{number}"
        held_out = fit.places(out, [case for case in fit.cohort.train if case.name in split.test])
        files |= held_out
        if not all(path.is_file() for paths in held_out.values() for path in paths.values()):
            todo.append(_commands(fit, number, split, out))
    for command in [command for commands in todo for command in commands]:
        fit.note(shlex.join(["synth3d", *command]))
    with open_executor(min(fit.workers, max(1, len(todo)))) as pool:
        for _, fold in work_through(pool, partial(_run_all, fit.synth3d), todo):
            if lost := why_lost(fold.exception()):
                raise InputError(f"a fold of the out-of-fold synthesis was lost: {lost}")
            fold.result()
    return files


def _run_all(synth3d: Program, commands: Sequence[Sequence[str]]) -> None:
    """A fold, the unit of work; what was done before is found done by the programs themselves."""
    for command in commands:
        synth3d(command)


def _commands(fit: CrossFit, number: int, split: Splits, out: Path) -> list[list[str]]:
    """The run's training again without the held-out cases, and the completion of those."""
    run, data = fit.folder / "runs" / f"fold-{number}", fit.cohort.folder
    restores = fit.poor is not None and fit.arm.synthesiser.restores
    if fit.poor is not None and restores:
        data = fit.poor.cohort([case for case in fit.cohort.train if case.name in split.test])
    training, how = _training(fit, number, split, run), "restore" if restores else "fill"
    by = ("--run", str(run))
    return [training, completion(by, data, out, fit.missing, split.test, fit.threads, how)]


def _training(fit: CrossFit, number: int, split: Splits, run: Path) -> list[str]:
    """With the run's own settings; the split is written."""
    threads = threads_begun(run, fit.threads)
    path = fit.folder / f"splits-{number}.json"
    write_splits(path, split)
    recipe = fit.arm.synthesiser.folder / "config.json"
    command = ["train", "--recipe", str(recipe), "--data", str(fit.cohort.folder)]
    command += ["--splits", str(path), "--work", str(fit.folder), "--name", run.name]
    command += ["--labels", fit.cohort.declared] if fit.cohort.declared else []
    return [*command, "--threads", str(threads)]


def _take_over(fit: CrossFit, source: Completed) -> Files:
    """Another tool's files of the training cases, made fit for a segmenter."""
    files = fit.places(fit.folder / "completed", fit.cohort.train)
    for case in progress(fit.cohort.train, desc="taking over training cases", unit="case"):
        for name, path in files[case.name].items():
            if not path.is_file():
                source.write(case, name, fit.missing, path)
    return files
