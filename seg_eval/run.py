"""From the flags of `seg_eval run` to experiments: cohort, synthesisers, segmenters, folders."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seg_eval.arms import (
    RETRAINED_KINDS,
    SYNTHETIC,
    SynthesisRun,
    check_out_of_fold,
    name_arms,
    parse_kinds,
    run_synth3d,
    share_one_grid,
)
from seg_eval.cohort import Cohort, load_cohort, refuse_leak
from seg_eval.experiment import (
    Engines,
    Experiment,
    Plan,
    Segmenter,
    Source,
    choose_folder,
    choose_sources,
    parse_missing,
    parse_seeds,
    remembered,
)
from seg_eval.report import OUTPUTS, render, render_overview, write_outputs
from seg_eval.segmenter import segmenters_folder, train
from synth3d.cohort import MODALITIES, Modality
from synth3d.errors import InputError
from synth3d.files import lock, read_json, sweep, write_json, write_text

PHANTOM_PRESET, REAL_PRESET = "cpu-mini", "cpu-small"


def real_engines(device: str, trust: bool = False, own: Path | None = None) -> Engines:
    """The engines that do the true work: the `synth3d` program and nnU-Net.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        trust: A segmenter from elsewhere may be unpickled.
        own: The user's work folder; what was trained there is trusted.
    """
    return Engines(
        synth3d=partial(run_synth3d, device=device),
        train_segmenter=partial(train, device=device),
        load_segmenter=partial(_load_segmenter, device=device),
        open_segmenter=partial(_open_segmenter, device=device, trust=trust, own=own),
    )


def _load_segmenter(model: Path, threads: int, device: str) -> Segmenter:
    from seg_eval.segmenter import Segmenter as NnunetSegmenter

    return NnunetSegmenter(model, threads=threads, device=device)


def _open_segmenter(
    model: Path, threads: int, device: str, trust: bool, own: Path | None
) -> Segmenter:
    from seg_eval.segmenter import open_model_folder

    return open_model_folder(model, trust=trust, threads=threads, device=device, own=own)


def run_command(args: argparse.Namespace, engines: Engines | None = None) -> int:
    """`seg_eval run`; 1 when a plumbing check fails, else 0.

    Args:
        args: The parsed flags.
        engines: What does the heavy work; by default the real ones.

    Raises:
        InputError: Something the user gave cannot be used.
        StageFailedError: A program that was called failed.
    """
    wanted = parse_missing(args.missing)
    engines = engines or real_engines(args.device, args.trust, args.work)
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
    experiments = []
    for missing in wanted:
        sources = choose_sources(args, missing, data, engines.synth3d)
        plan = _plan(args, missing, data, sources)
        name = args.name if len(wanted) == 1 or not args.name else f"{args.name}-{plan.stem}"
        folder = choose_folder(args.work / "eval", name, plan)
        models = segmenters_folder(args.work, plan.cohort)
        experiment = Experiment(plan, folder, models, engines)
        if args.dry_run:
            _print_plan(experiment, sources, args.kinds)
        experiments.append(experiment)
    if args.dry_run:
        return 0
    words = getattr(args, "command_line", "")
    codes = [_execute(experiment, words) for experiment in experiments]
    if len(experiments) > 1:
        _write_overview(args, experiments)
    return max(codes)


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with their defaults that depend on other flags.

    Raises:
        InputError: A flag has no sense.
    """
    from nnunet_plans.presets import PRESETS

    values = dict(vars(args))
    values["preset"] = args.preset or (PHANTOM_PRESET if args.data is None else REAL_PRESET)
    values["threads"] = os.cpu_count() or 1 if args.threads is None else args.threads
    values["seeds"] = parse_seeds(args.seeds, args.seed)
    values["kinds"] = parse_kinds(args.arms or ["default"])
    if values["preset"] not in PRESETS:
        raise InputError(f"unknown preset {values['preset']!r}; known: {', '.join(PRESETS)}")
    if values["threads"] < 1:
        raise InputError(f"--threads must be at least 1, got {args.threads}")
    if not 0 <= args.margin < 1:
        raise InputError(f"--margin is a Dice difference in [0, 1), got {args.margin}")
    if args.name is not None and (Path(args.name).name != args.name or args.name[:1] in ".-"):
        raise InputError(f"--name wants a plain folder name, got {args.name!r}")
    if args.data is not None and args.work.resolve().is_relative_to(args.data.resolve()):
        raise InputError(
            f"--work {args.work} lies in the cohort folder {args.data}, where its files would be "
            "taken for cases; choose a folder outside"
        )
    if args.segmenter is not None:
        if len(values["seeds"]) > 1:
            raise InputError("--segmenter is one model; --seeds are for segmenters trained here")
        if not args.segmenter.is_dir():
            raise InputError(f"--segmenter: no folder {args.segmenter}")
        values["segmenter"] = args.segmenter.resolve()
    return argparse.Namespace(**values)


def _plan(
    args: argparse.Namespace, missing: tuple[Modality, ...], data: Path, sources: Sequence[Source]
) -> Plan:
    runs = [source for source in sources if isinstance(source, SynthesisRun)]
    cohort = load_cohort(data, args.splits, runs[0].splits if runs else None)
    for run in runs:
        refuse_leak(cohort, run.seen_cases, f"the cases that the run {run.name} was trained on")
    for source in sources:
        if not isinstance(source, SynthesisRun):
            source.require(cohort.test, missing)
    kinds = _without_vain_template(args, cohort, missing)
    if args.segmenter is not None:
        _check_foreign(args, missing)
    arms = tuple(name_arms(kinds, sources))
    for arm in arms:
        if arm.segmenter == "retrained":
            check_out_of_fold(arm, cohort, missing, args.folds)
    return Plan(
        missing=missing,
        cohort=cohort,
        arms=arms,
        preset=args.preset,
        seeds=args.seeds,
        seed=args.seed,
        threads=args.threads,
        empty=args.empty,
        margin=args.margin,
        folds=args.folds,
        foreign=args.segmenter,
    )


def _without_vain_template(
    args: argparse.Namespace, cohort: Cohort, missing: tuple[Modality, ...]
) -> tuple[str, ...]:
    """The kinds without a template that nobody named and that would mean nothing here."""
    named = {word.strip() for text in args.arms or () for word in text.split(",")}
    if "template" not in args.kinds or "template" in named:
        return args.kinds
    if share_one_grid([*cohort.train, *cohort.test], missing[0]):
        return args.kinds
    print("note: the cases do not share one grid, so the arm template is left out")
    return tuple(kind for kind in args.kinds if kind != "template")


def _check_foreign(args: argparse.Namespace, missing: tuple[Modality, ...]) -> None:
    """Refuse a segmenter that cannot be asked the question, before anything is trained."""
    from seg_eval.segmenter import read_model_folder, refuse_untrusted

    found = read_model_folder(args.segmenter)
    refuse_untrusted(found, args.trust, args.work)
    if lacking := [name for name in missing if name not in found.channels]:
        raise InputError(
            f"the segmenter {args.segmenter} takes {', '.join(found.channels)}; it does not miss "
            f"{', '.join(lacking)}"
        )
    if set(found.channels) <= set(missing):
        raise InputError(
            f"the segmenter {args.segmenter} takes {', '.join(found.channels)} alone; without "
            f"{', '.join(missing)} it would have nothing to look at"
        )
    if strange := [name for name in found.channels if name not in MODALITIES]:
        raise InputError(
            f"the segmenter {args.segmenter} wants {', '.join(strange)}, which is not among "
            f"{', '.join(MODALITIES)}"
        )


def _execute(experiment: Experiment, words: str) -> int:
    plan, folder = experiment.plan, experiment.folder
    print(
        f"{len(plan.cohort.train)} training and {len(plan.cohort.test)} test cases, "
        f"arms {', '.join(arm.name for arm in plan.arms)}; experiment in {folder}"
    )
    with lock(folder):
        sweep(folder)
        write_json(folder / "config.json", remembered(folder, plan.describe()))
        if words:
            experiment.note_command(words)
        scores, images = experiment.score()
        summary = write_outputs(experiment, scores, images)
    print()
    print_report(folder, summary)
    plumbing = summary["plumbing"]
    if plumbing and not plumbing["passed"]:
        worst = max(plumbing["dice_change"].items(), key=lambda item: abs(item[1]))
        print(
            f"error: the plumbing check failed: the real {plan.stem} sent through the export "
            f"path changes {worst[0]} Dice by {worst[1]:+.4f}, more than {plumbing['tolerance']}; "
            "do not trust the synthetic arms",
            file=sys.stderr,
        )
        return 1
    return 0


def _write_overview(args: argparse.Namespace, experiments: Sequence[Experiment]) -> None:
    """One page and one table over the experiments of ``--missing all``."""
    from seg_eval.report import write_index

    first = experiments[0].plan
    name = args.name or f"all-{first.cohort.folder.resolve().name}"
    folder = args.work / "eval" / name
    summaries = {e.plan.stem: read_json(e.folder / "summary.json") for e in experiments}
    text = render_overview(list(summaries.values()))
    write_text(folder / "overview.md", text)
    links = {
        e.plan.stem: (os.path.relpath(e.folder / "report.html", folder), summaries[e.plan.stem])
        for e in experiments
    }
    page = write_index(folder, links)
    print(text)
    print(f"{folder / 'overview.md'}\n{page}")


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


def _print_plan(experiment: Experiment, sources: Sequence[Source], kinds: Sequence[str]) -> None:
    plan = experiment.plan
    print(json.dumps(plan.describe(), indent=2))
    print(f"experiment folder: {experiment.folder}")
    if plan.foreign:
        print(f"segmenter: {plan.foreign}")
    else:
        print(f"segmenter ({plan.preset}) in {experiment.models}")
    if not sources and SYNTHETIC in kinds:
        print("synthesiser: to be trained")
    for arm in plan.arms:
        done = all(experiment.score_file(arm, seed).is_file() for seed in plan.seeds)
        own = " (trains a segmenter of its own)" if arm.kind in RETRAINED_KINDS else ""
        print(f"arm {arm.name}: {'scored' if done else 'to do'}{own}")
