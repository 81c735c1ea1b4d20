"""What the flags of `seg_eval run` choose: missing sequences, seeds, synthesisers."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from seg_eval.arms import (
    SYNTHETIC,
    Completed,
    Program,
    SynthesisRun,
    finished_runs,
    parse_completed,
    read_run,
)
from seg_eval.cohort import load_cohort
from synth3d.cohort import MODALITIES, Modality, parse_modality, parse_splits, patient_of
from synth3d.errors import InputError

Source = SynthesisRun | Completed

SEEDS = 2**32
"""NumPy's generators, which nnU-Net and scikit-learn draw from, know no more seeds."""


def parse_missing(text: str) -> list[tuple[Modality, ...]]:
    """What ``--missing`` asks for: one set of sequences per experiment.

    ``flair`` is one, ``flair,t1ce`` one that misses both at once, ``all`` each of the four in
    turn. Sequences of a set are in the order of :data:`MODALITIES`.

    Raises:
        InputError: An unknown sequence, one that the segmenter does not see, or all at once.
    """
    if text.strip().lower() == "all":
        return [(name,) for name in MODALITIES]
    named = {parse_modality(word.strip()) for word in text.split(",") if word.strip()}
    if foreign := sorted(named - set(MODALITIES)):
        raise InputError(
            f"the segmenter sees {', '.join(MODALITIES)}; it cannot miss {', '.join(foreign)}"
        )
    if not named or named == set(MODALITIES):
        raise InputError(f"--missing {text}: expected one to three sequences, or all in turn")
    return [tuple(name for name in MODALITIES if name in named)]


def parse_seeds(text: str | None, seed: int) -> tuple[int, ...]:
    """Seeds of the segmenters from ``--seeds 0,1,2``; without it the one ``seed``.

    Raises:
        InputError: Not whole numbers from 0 up that fit into 32 bits, or one of them twice.
    """
    if not 0 <= seed < SEEDS:
        raise InputError(f"--seed must be a whole number from 0 to {SEEDS - 1}, got {seed}")
    if text is None:
        return (seed,)
    try:
        seeds = tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or max(seeds) >= SEEDS or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds wants different whole numbers as in 0,1,2, got {text!r}")
    return seeds


def choose_sources(
    args: argparse.Namespace, missing: Sequence[Modality], data: Path, synth3d: Program
) -> list[Source]:
    """What synthesises: whom the user named, else the newest fitting run, else one trained now.

    Args:
        args: With ``kinds`` worked out.
        missing: What has to be made.
        data: The cohort.
        synth3d: Trains, if need be.

    Raises:
        InputError: A named run or folder does not fit.
        StageFailedError: The training failed.
    """
    if SYNTHETIC not in args.kinds and "retrained" not in args.kinds:
        if args.run or args.completed:
            print("note: --run and --completed are not used, since --arms leaves out synthetic")
        return []
    named = _named_runs(args, missing, data)
    folders = [parse_completed(text) for text in args.completed or ()]
    if named or folders:
        return [*named, *folders]
    found = _fitting_run(args, missing, data)
    if found is None and not args.dry_run:
        load_cohort(data, args.splits)  # whatever is wrong with it is told before the training
        print(f"no finished run makes {' and '.join(missing)} on this cohort: training one")
        synth3d(_training(args, missing))
        found = _fitting_run(args, missing, data)
        if found is None:
            names = " and ".join(missing)
            raise InputError(f"training left no finished run for {names} in {args.work / 'runs'}")
    if found is not None:
        print(f"synthesiser: {found.folder}")
    return [found] if found else []


def _named_runs(
    args: argparse.Namespace, missing: Sequence[Modality], data: Path
) -> list[SynthesisRun]:
    """The runs of ``--run`` that fit; with several experiments a run need fit one of them."""
    runs = [read_run(folder) for folder in args.run or ()]
    wanted = parse_missing(args.missing)
    for run in runs:
        if not any(run.can_make(each) for each in wanted):
            needs = f" from {', '.join(run.sources)}" if run.sources else ""
            raise InputError(
                f"the run {run.folder} makes {', '.join(run.targets)}{needs}, not "
                f"{' and '.join(missing)}"
            )
    fitting = [run for run in runs if run.can_make(missing)]
    for run in fitting:
        if run.data_folder is None or run.data_folder.resolve() != data.resolve():
            print(f"note: the run {run.name} was trained on another folder, {run.data_folder}")
    return fitting


def _fitting_run(
    args: argparse.Namespace, missing: Sequence[Modality], data: Path
) -> SynthesisRun | None:
    """The newest finished run for the cohort; with --splits, one that has not seen its test set."""
    runs = finished_runs(args.work, missing, data)
    if args.splits is not None:
        test = {patient_of(case) for case in parse_splits(args.splits).test}
        runs = [run for run in runs if not test & {patient_of(case) for case in run.seen_cases}]
    return runs[0] if runs else None


def _training(args: argparse.Namespace, missing: Sequence[Modality]) -> list[str]:
    command = ["train", "--dim", "3d", "--target", ",".join(missing), "--work", str(args.work)]
    command += ["--data", str(args.data)] if args.data else []
    command += ["--splits", str(args.splits)] if args.splits else []
    command += ["--recipe", args.recipe] if args.recipe else []
    return [*command, "--threads", str(args.threads)]
