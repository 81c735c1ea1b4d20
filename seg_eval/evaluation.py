"""From a request to experiments and their reports: plan everything, carry it out, write it down."""

import functools
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec

from nnunet_plans.presets import PRESETS
from seg_eval.arms import ARM_KINDS
from seg_eval.experiment import (
    Choice,
    Engines,
    Experiment,
    Plan,
    RunRequest,
    arms_ahead,
    choose,
    choose_folder,
    expected,
    experiment_plan,
    make_plan,
    plan_in_words,
    real_engines,
    refuse_teachers,
    remembered,
    scores_of,
    steps_left,
    steps_of,
    time_in_words,
    train_coupled,
    train_synthesiser,
    trainings_ahead,
    transfer_of,
)
from seg_eval.pooling import (
    FoldedPlan,
    folded_plan,
    folds_in_words,
    own_run,
    pool,
    refuse_taken,
    requests_of,
    tell_folds,
)
from seg_eval.report import (
    OUTPUTS,
    rebuild,
    render_ending,
    render_overview,
    render_power,
    write_curve,
    write_index,
    write_outputs,
)
from seg_eval.segmenter import segmenters_folder
from synth3d.cohort import write_splits
from synth3d.console import Steps, answer, conclude, event, manner
from synth3d.errors import InputError
from synth3d.files import (
    claim,
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
    steps = _cohort_there(request, engines)
    if steps is None:
        preset = PRESETS[request.segmenter_preset]
        answer(
            f"would make it first, train a synthesiser and a segmenter ({preset.name}: "
            f"{preset.purpose}) on it, and write a report into {parent}; how long that takes is "
            f"timed on its cases: make them with synth3d phantom {request.cohort}, and ask again; "
            "nothing was done"
        )
        return Outcome(parent, 0)
    if request.cross_validate is not None:
        return _cross_validate(request, engines, words)
    choices = {missing: choose(request, missing) for missing in request.wanted}
    plans = {missing: make_plan(request, missing, choices[missing].sources) for missing in choices}
    if request.dry_run:
        experiments = [_place(request, plan, engines) for plan in plans.values()]
        _tell_plans(experiments, choices, request)
        return Outcome(experiments[0].folder, 0)
    if not steps.number:
        trainings = sum(bool(one.training) + 2 * bool(one.coupled) for one in choices.values())
        steps = steps_of(request, trainings)
    for missing, choice in choices.items():
        plans[missing] = _trained(request, choice, plans[missing], engines, steps)
    experiments = [_place(request, plan, engines) for plan in plans.values()]
    steps.of = steps.number + steps_left(experiments, request.transfer is not None)
    code = max([_carry_out(each, words, request.transfer, steps) for each in experiments])
    if len(experiments) == 1:
        return Outcome(experiments[0].folder, code)
    name = request.name or f"all-{plain(request.cohort.resolve().name)}"
    folder = place(parent, name)
    _write_overview(folder, experiments)
    return Outcome(folder, code)


def _cohort_there(request: RunRequest, engines: Engines) -> Steps | None:
    """Make the phantoms, where they are asked for and not there; None where a dry run would."""
    steps = steps_of(request, 1 + trainings_ahead(request))
    if request.data is None:
        print(
            f"No --data given: using the built-in phantom cohort in {request.cohort} "
            "(simulated brains, no real patients)"
        )
        if not request.cohort.is_dir():
            if request.dry_run:
                return None
            steps.begin("making the phantom cohort")
        if not request.dry_run:
            engines.synth3d(["phantom", str(request.cohort)])
    return steps


def _trained(
    request: RunRequest, choice: Choice, plan: Plan, engines: Engines, steps: Steps
) -> Plan:
    """``plan`` with the synthesiser that has to be trained first, if there is one."""
    missing = plan.missing
    if choice.training:
        steps.begin(
            f"training the synthesiser of {' and '.join(missing)}",
            lambda: engines.forecast(choice.training)["seconds"],
        )
        run = train_synthesiser(request, missing, choice.training, engines.synth3d)
        return make_plan(request, missing, [run])
    if choice.coupled:
        refuse_teachers(plan, expected(plan))  # before hours of training
        run = train_coupled(choice.coupled, request, plan, engines, steps)
        return make_plan(request, missing, [*choice.sources, run])
    return plan


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


def _carry_out(experiment: Experiment, words: str, transfer: str | None, steps: Steps) -> int:
    """Score and report one experiment; 1 if its check of the export path failed, else 0.

    First of all its arms once more, by segmenters of the preset ``transfer``.
    """
    plan, folder = experiment.plan, experiment.folder
    print(f"{len(plan.cohort.train)} training and {len(plan.cohort.test)} test cases, in {folder}")
    with lock(folder):
        sweep(folder)
        write_json(folder / "config.json", remembered(folder, plan.describe()))
        if words:
            experiment.note_command(words)
        scores, images = scores_of(experiment, steps)
        if transfer is not None:
            _judge_again(transfer_of(experiment, transfer), steps)
        summary = write_outputs(experiment, scores, images)
    return _conclude(folder, summary)


def _conclude(folder: Path, summary: dict[str, Any]) -> int:
    """Say what came out; 1 if the check of the export path failed, else 0."""
    if manner() == "words":
        print(f"\n{render_ending(summary, folder)}")
        print(f"report: {folder / 'report.html'}")
    conclude(path=folder / "report.html", headline=summary["headline"])
    plumbing = summary["plumbing"]
    if not plumbing or plumbing["passed"]:
        return 0
    missing = summary["config"]["missing"]
    worst = max(plumbing["dice_change"].items(), key=lambda item: abs(item[1]))
    print(
        f"error: the plumbing check failed: the real {', '.join(missing)} sent through the export "
        f"path changes {worst[0]} Dice by {worst[1]:+.4f}, more than {plumbing['tolerance']}; "
        "do not trust the synthetic arms",
        file=sys.stderr,
    )
    return 1


def pool_experiments(
    folders: Sequence[Path], work: Path = Path("work"), name: str | None = None, words: str = ""
) -> Outcome:
    """One certificate of finished experiments whose test patients are different; see ``pool``."""
    folder, summary = pool(folders, work, name, words)
    return Outcome(folder, _conclude(folder, summary))


def _cross_validate(request: RunRequest, engines: Engines, words: str) -> Outcome:
    """An experiment for each fold, and one certificate of all; what is done is not done again.

    Other processes of the same command take other folds; each waits for all.
    """
    plan, parent = folded_plan(request), request.work / "eval"
    asked, out = requests_of(request, plan), place(request.work / "eval", plan.name)
    refuse_taken(out, {str(fold.name): parent / str(fold.name) for fold in asked})
    if request.dry_run:
        told = _fold_ahead(request, plan, asked, engines)
        event("plan", **told)
        answer(folds_in_words(told))
        return Outcome(out, 0)
    plan.write()
    done: dict[int, Outcome] = {}
    for wait in (False, True):  # first what nobody else does, then what others have not ended
        for number, fold in enumerate(asked, 1):
            if number in done:
                continue
            if wait:
                print(f"waiting for fold {number}")
            with claim(plan.files[number - 1].with_suffix(".lock"), wait) as ours:
                if ours:
                    done[number] = _judge_fold(request, plan, number, fold, engines, words)
                else:
                    print(f"fold {number} of {len(asked)}: another process works on it")
    folders = [done[number].folder for number in sorted(done)]
    with claim(plan.files[0].with_name("pool.lock"), wait=True):
        found = pool_experiments(folders, request.work, plan.name, words)
    return replace(found, code=max(found.code, *(each.code for each in done.values())))


def _judge_fold(
    request: RunRequest,
    plan: FoldedPlan,
    number: int,
    fold: RunRequest,
    engines: Engines,
    words: str,
) -> Outcome:
    """The experiment of one fold, from 1, with its synthesiser trained first if need be."""
    print(f"fold {number} of {len(plan.files)}, split {plan.files[number - 1]}")
    if own := own_run(request, plan, number):
        run, training = own
        if training:
            print(f"training the synthesiser of fold {number}: {run}")
            engines.synth3d(training)
        if not (run / "done.json").is_file():
            raise InputError(f"training left no finished run in {run}")
        fold = replace(fold, run=(run,))
    return evaluate(fold, engines, words)


def _fold_ahead(
    request: RunRequest, plan: FoldedPlan, asked: Sequence[RunRequest], engines: Engines
) -> dict[str, Any]:
    """What all folds take, by the first one that is not finished; its split is there meanwhile."""
    parent, missing = request.work / "eval", request.wanted[0]
    left = [number for number, fold in enumerate(asked, 1)
            if not (parent / str(fold.name) / "summary.json").is_file()]  # fmt: skip
    number = (*left, 1)[0]
    with tempfile.TemporaryDirectory() as kept:
        split, real = Path(kept) / "split.json", plan.files[number - 1]
        write_splits(split, plan.splits[number - 1])
        fold, words = replace(asked[number - 1], splits=split), ()
        own = own_run(request, plan, number)
        if own and not own[1]:
            fold = replace(fold, run=(own[0],))
        elif own:
            words = tuple(str(split) if word == str(real) else word for word in own[1])
        found = Choice() if words and not fold.completed else choose(fold, missing)
        choice = replace(found, training=words) if words else found
        experiment = _place(fold, make_plan(fold, missing, choice.sources), engines)
        transfer = request.transfer and transfer_of(experiment, request.transfer)
        teaches = choice.coupled is not None
        coming = arms_ahead(fold, choice)
        one = experiment_plan(experiment, choice.ahead(), coming, teaches, transfer or None)
        one["training"] = [text.replace(str(split), str(real)) for text in one["training"]]
    return tell_folds(plan, one, len(left), place(parent, plan.name))


def _judge_again(experiment: Experiment, steps: Steps) -> None:
    """Score and report the arms of another experiment, which has made them."""
    folder = experiment.folder
    print(f"the same arms, judged by segmenters of the preset {experiment.plan.preset}: {folder}")
    make_folder(folder)
    sweep(folder)
    write_json(folder / "config.json", remembered(folder, experiment.plan.describe()))
    write_outputs(experiment, *scores_of(experiment, steps))


def _write_overview(folder: Path, experiments: Sequence[Experiment]) -> None:
    """One page and one table over the experiments of ``--missing all``."""
    summaries = [read_json(each.folder / "summary.json") for each in experiments]
    text = render_overview(summaries)
    write_text(folder / "overview.md", text)
    pages = [os.path.relpath(each.folder / "report.html", folder) for each in experiments]
    stems = [each.plan.stem for each in experiments]
    page = write_index(folder, dict(zip(stems, zip(pages, summaries, strict=True), strict=True)))
    if manner() == "words":
        print(f"\n{text}\nreport: {page}")
    conclude(path=page)


def _print_files(folder: Path) -> None:
    print("\n".join(str(folder / name) for name in OUTPUTS if (folder / name).is_file()))


def _tell_plans(
    experiments: Sequence[Experiment], choices: Mapping[Any, Choice], request: RunRequest
) -> None:
    """Say what would be done: an event for each experiment, or some lines for the first one and a
    line for each other.
    """
    for number, experiment in enumerate(experiments):
        choice = choices[experiment.plan.missing]
        transfer = request.transfer and transfer_of(experiment, request.transfer)
        about = choice.ahead(), arms_ahead(request, choice), choice.coupled is not None
        plan = experiment_plan(experiment, *about, transfer or None)
        event("plan", **plan)
        if number == 0:
            answer(plan_in_words(plan))
        else:
            answer(f"and {experiment.plan.stem}: {time_in_words(plan)}, in {experiment.folder}")
