"""From a request to experiments and their reports: plan everything, carry it out, write it down."""

import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

from seg_eval.arms import ARM_KINDS
from seg_eval.experiment import (
    Choice,
    Engines,
    Experiment,
    Plan,
    RunRequest,
    choose,
    choose_folder,
    expected,
    make_plan,
    real_engines,
    refuse_teachers,
    remembered,
    scores_of,
    teacher_of,
    teaching_split,
    train_coupled,
    train_synthesiser,
    transfer_of,
)
from seg_eval.report import (
    OUTPUTS,
    rebuild,
    render,
    render_overview,
    render_power,
    write_curve,
    write_index,
    write_outputs,
)
from seg_eval.segmenter import segmenters_folder
from synth3d.files import (
    lock,
    make_folder,
    place,
    plain,
    read_json,
    sweep,
    write_json,
    write_text,
)

P = ParamSpec("P")


@dataclass(frozen=True)
class Outcome:
    """The folder of an experiment or of an overview; 1 if its check of the export path failed."""

    folder: Path
    code: int


def evaluate(request: RunRequest, engines: Engines | None = None, words: str = "") -> Outcome:
    """Do what is asked; whatever was done before is not done again.

    Args:
        request: What is asked.
        engines: What does the heavy work; by default the real ones.
        words: The command line, for the record.

    Raises:
        StageFailedError: A program that was called failed.
    """
    engines = engines or real_engines(request.device, request.trust, request.work)
    parent = request.work / "eval"
    if request.data is None:
        print(
            f"No --data given: using the built-in phantom cohort in {request.cohort} "
            "(simulated brains, no real patients)"
        )
        if not request.dry_run:
            engines.synth3d(["phantom", str(request.cohort)])
    if request.dry_run and request.data is None and not request.cohort.is_dir():
        print("would make the phantom cohort and train on it; nothing was done")
        return Outcome(parent, 0)
    choices = {missing: choose(request, missing) for missing in request.wanted}
    plans = {missing: make_plan(request, missing, choices[missing].sources) for missing in choices}
    for missing, choice in choices.items():
        if choice.training and not request.dry_run:
            run = train_synthesiser(request, missing, choice.training, engines.synth3d)
            plans[missing] = make_plan(request, missing, [run])
        if choice.coupled and not request.dry_run:
            refuse_teachers(plans[missing], expected(plans[missing]))  # before hours of training
            run = train_coupled(choice.coupled, request, plans[missing], engines)
            plans[missing] = make_plan(request, missing, [*choice.sources, run])
    experiments = [_place(request, plan, engines) for plan in plans.values()]
    if request.dry_run:
        for experiment in experiments:
            _print_plan(experiment, choices[experiment.plan.missing], request)
        return Outcome(experiments[0].folder, 0)
    code = max([_carry_out(each, words, request.transfer) for each in experiments])
    if len(experiments) == 1:
        return Outcome(experiments[0].folder, code)
    name = request.name or f"all-{plain(request.cohort.resolve().name)}"
    folder = place(parent, name)
    _write_overview(folder, experiments)
    return Outcome(folder, code)


def _from_python(request: Callable[P, RunRequest]) -> Callable[P, Path]:
    @functools.wraps(request)
    def run(*args: P.args, **settings: P.kwargs) -> Path:
        return evaluate(request(*args, **settings)).folder

    return run


run = _from_python(RunRequest)
"""``seg_eval.run``: a function of the settings of a request."""


def report(folder: Path) -> None:
    """Write a finished experiment's report anew and print it."""
    print(rebuild(folder))
    _print_files(folder)


def power(folder: Path) -> None:
    """Print how many patients and segmenter seeds a clearer answer would take."""
    print(render_power(folder))


def curve(experiments: Sequence[Path], out: Path) -> None:
    """Write Dice against the thickness of slices, from finished experiments, and print it."""
    print(write_curve(experiments, out))
    print("\n".join(str(out / f"curve.{ending}") for ending in ("md", "png", "csv")))


def _place(request: RunRequest, plan: Plan, engines: Engines) -> Experiment:
    """The experiment in the folder that holds it already, or in a free one."""
    refuse_teachers(plan, expected(plan))
    there = {arm.kind for arm in plan.arms}
    for kind in request.kinds:
        if ARM_KINDS[kind].needs_one_grid and kind not in there:
            print(f"note: the cases do not share one grid, so the arm {kind} is left out")
    several = request.name and len(request.wanted) > 1
    name = f"{request.name}-{plan.stem}" if several else request.name
    folder = choose_folder(request.work / "eval", name, plan)
    placed = Experiment(plan, folder, segmenters_folder(request.work, plan.cohort), engines)
    if request.transfer is not None:
        other = transfer_of(placed, request.transfer).plan
        refuse_teachers(other, expected(other))
    return placed


def _carry_out(experiment: Experiment, words: str, transfer: str | None = None) -> int:
    """Score and report one experiment; 1 if its check of the export path failed, else 0.

    First of all its arms once more, by segmenters of the preset ``transfer``.
    """
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
        scores, images = scores_of(experiment)
        if transfer is not None:
            _judge_again(transfer_of(experiment, transfer))
        summary = write_outputs(experiment, scores, images)
    print()
    print(render(summary))
    _print_files(folder)
    plumbing = summary["plumbing"]
    if not plumbing or plumbing["passed"]:
        return 0
    worst = max(plumbing["dice_change"].items(), key=lambda item: abs(item[1]))
    print(
        f"error: the plumbing check failed: the real {plan.stem} sent through the export "
        f"path changes {worst[0]} Dice by {worst[1]:+.4f}, more than {plumbing['tolerance']}; "
        "do not trust the synthetic arms",
        file=sys.stderr,
    )
    return 1


def _judge_again(experiment: Experiment) -> None:
    """Score and report the arms of another experiment, which has made them."""
    folder = experiment.folder
    print(f"the same arms, judged by segmenters of the preset {experiment.plan.preset}: {folder}")
    make_folder(folder)
    sweep(folder)
    write_json(folder / "config.json", remembered(folder, experiment.plan.describe()))
    write_outputs(experiment, *scores_of(experiment))


def _write_overview(folder: Path, experiments: Sequence[Experiment]) -> None:
    """One page and one table over the experiments of ``--missing all``."""
    summaries = [read_json(each.folder / "summary.json") for each in experiments]
    text = render_overview(summaries)
    write_text(folder / "overview.md", text)
    pages = [os.path.relpath(each.folder / "report.html", folder) for each in experiments]
    stems = [each.plan.stem for each in experiments]
    page = write_index(folder, dict(zip(stems, zip(pages, summaries, strict=True), strict=True)))
    print(text)
    print(f"{folder / 'overview.md'}\n{page}")


def _print_files(folder: Path) -> None:
    print("\n".join(str(folder / name) for name in OUTPUTS if (folder / name).is_file()))


def _print_plan(experiment: Experiment, choice: Choice, request: RunRequest) -> None:
    plan = experiment.plan
    print(json.dumps(plan.describe(), indent=2))
    print(f"experiment folder: {experiment.folder}")
    trained = f"segmenter ({plan.preset}) in {experiment.models}"
    print(f"segmenter: {plan.foreign}" if plan.foreign else trained)
    if request.transfer:
        print(f"and the same arms by segmenter ({request.transfer}) in {experiment.models}")
    if choice.training:
        print(f"synthesiser: to be trained: {shlex.join(['synth3d', *choice.training])}")
    if (coupled := choice.coupled) is not None:
        task = teacher_of(request, plan)
        splits = request.splits or teaching_split(coupled, task.folder)
        words = coupled.training(splits, Path("EXPORT"), plan.threads)
        print(
            f"teacher: segmenter ({task.preset}, seed {task.seed}), which judges nothing, in "
            f"{task.folder}; exported as EXPORT"
        )
        print(f"coupled run: to be trained: {shlex.join(['synth3d', *words])}")
    for arm in plan.arms:
        done = all(experiment.score_file(arm, seed).is_file() for seed in plan.seeds)
        own = " (trains a segmenter of its own)" if arm.about.own_segmenter else ""
        print(f"arm {arm.name}: {'scored' if done else 'to do'}{own}")
