"""Out-of-fold synthesis: synthetic channels of training cases by networks that never saw them.

A segmenter retrained on channels that the synthesiser had learned by heart would meet better
images in training than in the test, and look worse, or with a leak better, than it is. So the
training patients are cut into folds, the run's own training is repeated without each fold, and
each fold is completed by the network that has not seen it.
"""

from collections.abc import Mapping
from pathlib import Path

from seg_eval.arms import Arm
from seg_eval.cohort import Cohort
from seg_eval.completed import Completed
from seg_eval.synthesisers import Program, SynthesisRun, completion
from synth3d.cases import Case, Modality
from synth3d.files import InputError, progress, write_json


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
    if isinstance(arm.source, Completed):
        return _take_over(arm.source, cohort, missing, folder / "completed")
    run = arm.source
    if run is None:
        raise ValueError(f"arm {arm.name} has no synthesiser to learn from")
    files: dict[str, dict[Modality, Path]] = {}
    for number, part in enumerate(folds_of(cohort.train, folds), start=1):
        out = folder / f"completed-{number}"
        held_out = {case.name: _places(out, case, missing) for case in part}
        if not all(path.is_file() for paths in held_out.values() for path in paths.values()):
            fold_run = _train_fold(run, part, cohort, missing, folder, number, synth3d, threads)
            names = [case.name for case in part]
            synth3d(completion(fold_run, cohort.folder, out, missing, names, threads))
        files |= held_out
    return files


def _places(out: Path, case: Case, missing: tuple[Modality, ...]) -> dict[Modality, Path]:
    return {name: out / case.name / case.file_name(name) for name in missing}


def _train_fold(
    run: SynthesisRun,
    held_out: tuple[Case, ...],
    cohort: Cohort,
    missing: tuple[Modality, ...],
    folder: Path,
    number: int,
    synth3d: Program,
    threads: int,
) -> Path:
    """The run's training again, with its own settings, without the held-out cases."""
    away = {case.name for case in (*held_out, *cohort.test)}
    train = [case.name for case in cohort.train if case.name not in away]
    known = {case.name for case in cohort.train}
    split = {
        "train": train,
        "val": [name for name in run.splits.val if name not in known | away],
        "test": [case.name for case in held_out],
    }
    path = folder / f"splits-{number}.json"
    write_json(path, split)
    command = ["train", "--recipe", str(run.folder / "config.json"), "--data", str(cohort.folder)]
    command += ["--splits", str(path), "--work", str(folder), "--name", f"fold-{number}"]
    synth3d([*command, "--threads", str(threads)])
    return folder / "runs" / f"fold-{number}"


def _take_over(
    source: Completed, cohort: Cohort, missing: tuple[Modality, ...], out: Path
) -> Mapping[str, Mapping[Modality, Path]]:
    """Another tool's files of the training cases, fit for a segmenter."""
    absent = [
        f"{case.name} {name}"
        for case in cohort.train
        for name in missing
        if source.file(case.name, name) is None
    ]
    if absent:
        raise InputError(
            f"the arm retrained learns from synthetic training cases, and {source.folder} lacks "
            f"{', '.join(absent)}; put their out-of-fold files there, or leave the arm out"
        )
    files = {case.name: _places(out, case, missing) for case in cohort.train}
    for case in progress(cohort.train, desc="taking over training cases", unit="case"):
        for name, path in files[case.name].items():
            if not path.is_file():
                source.write(case, name, missing, path)
    return files
