"""Out-of-fold synthesis: synthetic channels of training cases by networks that never saw them.

A segmenter retrained on channels that the synthesiser had learned by heart would meet better
images in training than in the test, and look worse, or with a leak better, than it is. So the
training patients are cut into folds, the run's own training is repeated without each fold, and
each fold is completed by the network that has not seen it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from seg_eval.arms.completed import Completed
from seg_eval.arms.kinds import Arm
from seg_eval.arms.synthesisers import Program, SynthesisRun, completed_file, completion
from seg_eval.cohort import Cohort
from synth3d.cohort import Case, Modality, Splits, find_cases, patient_of, write_splits
from synth3d.errors import InputError
from synth3d.files import progress, read_object


def folds_of(cases: tuple[Case, ...], folds: int) -> tuple[tuple[Case, ...], ...]:
    """``cases`` in ``folds`` parts of about equal size, a patient in one part only.

    Patients are dealt out in the order of their names, those with the most cases first.

    Raises:
        InputError: Fewer than two folds, or fewer patients than folds.
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
        Of a run, the split of each fold's training; its test cases are those held out.

    Raises:
        InputError: Another tool's folder lacks training cases, or there are too few patients.
    """
    if isinstance(arm.source, Completed):
        _require_training(arm.source, cohort, missing)
        return ()
    if arm.source is None:
        raise ValueError(f"arm {arm.name} has no synthesiser to learn from")
    there = {case.name for case in find_cases(cohort.folder)}
    watched = [name for name in arm.source.splits.val if name in there]
    return tuple(_fold_split(part, cohort, watched) for part in folds_of(cohort.train, folds))


def _fold_split(held_out: Sequence[Case], cohort: Cohort, watched: Sequence[str]) -> Splits:
    """Train without the patients held out, validate on the run's own cases where possible."""
    away = {case.patient for case in (*held_out, *cohort.test)}
    left = [case for case in cohort.train if case.patient not in away]
    val = [name for name in watched if patient_of(name) not in away]
    apart = {patient_of(name) for name in val}
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


def out_of_fold(
    arm: Arm,
    cohort: Cohort,
    missing: tuple[Modality, ...],
    folder: Path,
    synth3d: Program,
    threads: int,
    folds: int,
) -> Mapping[str, Mapping[Modality, Path]]:
    """Synthetic files of all training cases, made now if they are not there.

    Args:
        arm: A retrained arm.
        cohort: Whose training cases are completed.
        missing: What is synthesised.
        folder: Where fold runs and files are kept.
        synth3d: The program.
        threads: For it.
        folds: How many networks are trained.

    Returns:
        By case name and modality.

    Raises:
        InputError: Another tool's folder lacks training cases, or there are too few patients.
        StageFailedError: The program failed.
    """
    splits = check_out_of_fold(arm, cohort, missing, folds)
    if isinstance(arm.source, Completed):
        return _take_over(arm.source, cohort, missing, folder / "completed")
    assert arm.source is not None  # the check has seen to it
    cases = {case.name: case for case in cohort.train}
    files: dict[str, dict[Modality, Path]] = {}
    for number, split in enumerate(splits, start=1):
        out = folder / f"completed-{number}"
        held_out = {name: _places(out, cases[name], missing) for name in split.test}
        if not all(path.is_file() for paths in held_out.values() for path in paths.values()):
            fold_run = _train_fold(arm.source, split, cohort, folder, number, synth3d, threads)
            synth3d(completion(fold_run, cohort.folder, out, missing, split.test, threads))
        files |= held_out
    return files


def _places(out: Path, case: Case, missing: tuple[Modality, ...]) -> dict[Modality, Path]:
    return {name: completed_file(out, case, missing, name) for name in missing}


def _train_fold(
    run: SynthesisRun,
    split: Splits,
    cohort: Cohort,
    folder: Path,
    number: int,
    synth3d: Program,
    threads: int,
) -> Path:
    """The run's training again, with its own settings, without the held-out cases."""
    name = f"fold-{number}"
    begun = folder / "runs" / name / "config.json"
    if begun.is_file():  # a killed training goes on with the threads that it had
        train = read_object(begun, "train")["train"]
        threads = train.get("threads", threads) if isinstance(train, dict) else threads
    path = folder / f"splits-{number}.json"
    write_splits(path, split)
    command = ["train", "--recipe", str(run.folder / "config.json"), "--data", str(cohort.folder)]
    command += ["--splits", str(path), "--work", str(folder), "--name", name]
    synth3d([*command, "--threads", str(threads)])
    return folder / "runs" / name


def _take_over(
    source: Completed, cohort: Cohort, missing: tuple[Modality, ...], out: Path
) -> Mapping[str, Mapping[Modality, Path]]:
    """Another tool's files of the training cases, fit for a segmenter."""
    files = {case.name: _places(out, case, missing) for case in cohort.train}
    for case in progress(cohort.train, desc="taking over training cases", unit="case"):
        for name, path in files[case.name].items():
            if not path.is_file():
                source.write(case, name, missing, path)
    return files


def _require_training(source: Completed, cohort: Cohort, missing: Sequence[Modality]) -> None:
    if absent := source.absent(cohort.train, missing):
        raise InputError(
            f"the arm retrained learns from synthetic training cases, and {source.folder} lacks "
            f"{', '.join(absent)}; put their out-of-fold files there, or leave the arm out"
        )
