"""From the flags of `seg_eval run` to an experiment: cohort, synthesiser, segmenter, folder."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seg_eval.arms import FIXED, KINDS, SYNTHETIC, name_arms
from seg_eval.cohort import Cohort, load_cohort, refuse_leak
from seg_eval.experiment import Engines, Experiment, Plan, Segmenter, choose_folder, remembered
from seg_eval.outputs import OUTPUTS, write_outputs
from seg_eval.report import render
from seg_eval.synthesisers import SynthesisRun, finished_runs, read_run, run_synth3d
from synth3d.cases import MODALITIES, Modality, parse_modality, patient_of
from synth3d.files import InputError, lock, read_json, write_json
from synth3d.splits import parse_splits

PHANTOM_PRESET, REAL_PRESET = "cpu-mini", "cpu-small"


def real_engines(device: str) -> Engines:
    """The engines that do the true work: the `synth3d` program and nnU-Net.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    return Engines(
        synth3d=partial(run_synth3d, device=device),
        train_segmenter=partial(_train_segmenter, device=device),
        load_segmenter=partial(_load_segmenter, device=device),
    )


def _train_segmenter(
    cohort: Cohort, folder: Path, preset: str, seed: int, threads: int, device: str
) -> Path:
    from seg_eval.nnunet import PRESETS, prepare, train_segmenter
    from seg_eval.raw_dataset import write_raw_dataset

    raw = write_raw_dataset(folder / "raw", cohort.train, 501, "Cohort", scheme=cohort.scheme)
    prepared = prepare(raw, folder, PRESETS[preset], cohort.train, threads=threads)
    return train_segmenter(prepared, seed=seed, threads=threads, device=device)


def _load_segmenter(model: Path, threads: int, device: str) -> Segmenter:
    from seg_eval.nnunet import Segmenter as NnunetSegmenter

    return NnunetSegmenter(model, threads=threads, device=device)


def run_command(args: argparse.Namespace, engines: Engines | None = None) -> int:
    """`seg_eval run`; 1 when the plumbing check fails, else 0.

    Args:
        args: The parsed flags.
        engines: What does the heavy work; by default the real ones.

    Raises:
        InputError: Something the user gave cannot be used.
        StageFailedError: A program that was called failed.
    """
    missing = parse_modality(args.missing)
    if missing not in MODALITIES:
        raise InputError(f"the segmenter sees {', '.join(MODALITIES)}; it cannot miss {missing}")
    engines = engines or real_engines(args.device)
    args = _checked(args)
    data = args.data or args.work / "phantom"
    if args.data is None:
        print(
            f"No --data given: using the built-in phantom cohort in {data} "
            "(simulated brains, no real patients)"
        )
        if not args.dry_run:
            engines.synth3d(["phantom", str(data)])
    if args.dry_run and not data.is_dir():
        print("would make the phantom cohort and train on it; nothing was done")
        return 0
    runs = _choose_runs(args, missing, data, engines)
    plan = _plan(args, missing, data, runs)
    folder = choose_folder(args.work / "eval", args.name, plan)
    models = args.work / "segmenters" / segmenter_name(plan.cohort)
    experiment = Experiment(plan, folder, models, engines)
    if args.dry_run:
        _print_plan(experiment, runs)
        return 0
    return _execute(experiment)


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with their defaults that depend on other flags.

    Raises:
        InputError: A flag has no sense.
    """
    from nnunet_plans.presets import PRESETS

    values = dict(vars(args))
    values["preset"] = args.preset or (PHANTOM_PRESET if args.data is None else REAL_PRESET)
    values["threads"] = os.cpu_count() or 1 if args.threads is None else args.threads
    if values["preset"] not in PRESETS:
        raise InputError(f"unknown preset {values['preset']!r}; known: {', '.join(PRESETS)}")
    if values["threads"] < 1:
        raise InputError(f"--threads must be at least 1, got {args.threads}")
    return argparse.Namespace(**values)


def _arm_kinds(args: argparse.Namespace) -> list[str]:
    kinds = [kind for text in args.arms or KINDS for kind in text.split(",") if kind]
    return [*FIXED, *kinds]


def _choose_runs(
    args: argparse.Namespace, missing: Modality, data: Path, engines: Engines
) -> list[SynthesisRun]:
    """The runs that the user named, else the newest fitting one, else one trained now."""
    name_arms(_arm_kinds(args), [])
    if SYNTHETIC not in _arm_kinds(args):
        if args.run:
            print("note: --run is not used, since --arms leaves out synthetic")
        return []
    runs = [read_run(folder) for folder in args.run or ()]
    for run in runs:
        if missing not in run.targets:
            made = ", ".join(run.targets)
            raise InputError(f"the run {run.folder} makes {made}, not {missing}")
        if run.data_folder is None or run.data_folder.resolve() != data.resolve():
            print(f"note: the run {run.name} was trained on another folder, {run.data_folder}")
    if runs:
        return runs
    found = _fitting_run(args, missing, data)
    if found is None and not args.dry_run:
        load_cohort(data, args.splits)  # whatever is wrong with it is told before the training
        print(f"no finished run makes {missing} on this cohort: training one with synth3d")
        engines.synth3d(_training(args, missing))
        found = _fitting_run(args, missing, data)
        if found is None:
            raise InputError(f"training left no finished run for {missing} in {args.work / 'runs'}")
    if found is not None:
        print(f"synthesiser: {found.folder}")
    return [found] if found else []


def _fitting_run(args: argparse.Namespace, missing: Modality, data: Path) -> SynthesisRun | None:
    """The newest finished run for the cohort; with --splits, one that has not seen its test set."""
    runs = finished_runs(args.work, missing, data)
    if args.splits is not None:
        test = {patient_of(case) for case in parse_splits(args.splits).test}
        runs = [run for run in runs if not test & {patient_of(case) for case in run.seen_cases}]
    return runs[0] if runs else None


def _training(args: argparse.Namespace, missing: Modality) -> list[str]:
    command = ["train", "--dim", "3d", "--target", missing, "--work", str(args.work)]
    command += ["--data", str(args.data)] if args.data else []
    command += ["--splits", str(args.splits)] if args.splits else []
    command += ["--recipe", args.recipe] if args.recipe else []
    return [*command, "--threads", str(args.threads)]


def _plan(
    args: argparse.Namespace, missing: Modality, data: Path, runs: Sequence[SynthesisRun]
) -> Plan:
    arms = name_arms(_arm_kinds(args), runs)
    cohort = load_cohort(data, args.splits, runs[0].splits if runs else None)
    for run in runs:
        refuse_leak(cohort, run.seen_cases, f"the cases that the run {run.name} was trained on")
    return Plan(
        missing=missing,
        cohort=cohort,
        arms=tuple(arms),
        preset=args.preset,
        seed=args.seed,
        threads=args.threads,
        empty=args.empty,
    )


def segmenter_name(cohort: Cohort) -> str:
    """A folder name that says what the segmenter is trained on, whatever is missing later."""
    identity = json.dumps([str(cohort.folder.resolve()), [case.name for case in cohort.train]])
    return f"{cohort.folder.resolve().name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def _execute(experiment: Experiment) -> int:
    plan, folder = experiment.plan, experiment.folder
    print(
        f"{len(plan.cohort.train)} training and {len(plan.cohort.test)} test cases, "
        f"arms {', '.join(arm.name for arm in plan.arms)}; experiment in {folder}"
    )
    with lock(folder):
        write_json(folder / "config.json", remembered(folder, plan.describe()))
        scores, images = experiment.score()
        summary = write_outputs(experiment, scores, images)
    print()
    print_report(folder, summary)
    plumbing = summary["plumbing"]
    if plumbing and not plumbing["passed"]:
        worst = max(plumbing["dice_change"].items(), key=lambda item: abs(item[1]))
        print(
            f"error: the plumbing check failed: the real {plan.missing} sent through the export "
            f"path changes {worst[0]} Dice by {worst[1]:+.4f}, more than {plumbing['tolerance']}; "
            "do not trust the synthetic arms",
            file=sys.stderr,
        )
        return 1
    return 0


def print_report(folder: Path, summary: dict[str, Any]) -> None:
    """The report and where its files are, on standard output."""
    print(render(summary))
    print("\n".join(str(folder / name) for name in OUTPUTS if (folder / name).is_file()))


def report_command(args: argparse.Namespace) -> int:
    """`seg_eval report`: print a finished experiment again.

    Raises:
        InputError: Not a finished experiment.
    """
    path = args.experiment / "summary.json"
    if not path.is_file():
        raise InputError(f"{args.experiment} is not a finished experiment: it has no summary.json")
    try:
        print_report(args.experiment, read_json(path))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error!r}; run the experiment again") from error
    return 0


def _print_plan(experiment: Experiment, runs: Sequence[SynthesisRun]) -> None:
    plan = experiment.plan
    print(json.dumps(plan.describe(), indent=2))
    print(f"experiment folder: {experiment.folder}")
    print(f"segmenter ({plan.preset}) in {experiment.models}")
    if not runs and any(arm.kind == SYNTHETIC for arm in plan.arms):
        print("synthesiser: to be trained")
    for arm in plan.arms:
        done = experiment.score_file(arm).is_file()
        print(f"arm {arm.name}: {'scored' if done else 'to do'}")
