"""What an experiment would do, and what it takes, told before hours are spent: its steps, who is
trained and tested on, time, memory and disk.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from nnunet_plans.presets import PRESETS
from seg_eval.arms import ARM_KINDS
from seg_eval.experiment.engines import Engines
from seg_eval.experiment.folder import Experiment
from seg_eval.experiment.plan import Plan
from seg_eval.experiment.request import DEFAULT_FOR, RunRequest
from seg_eval.segmenter import (
    STOCK_TOTAL,
    SegmenterCost,
    Training,
    iterations_of,
    seems_trained,
)
from synth3d.cohort import MODALITIES
from synth3d.console import Steps, duration, gigabytes, named
from synth3d.images import grid
from synth3d.machine import busy_in_words, free_bytes

OF_AN_EXPERIMENT = 3
"""Steps beside its segmenters: channels, predictions, and scores with the report."""
SMALL = STOCK_TOTAL // 10
"""Iterations below which a segmenter says little of one trained as nnU-Net does by default."""
FEW = 6
"""Test cases; fewer show little."""
INCOMPLETE, OUTSIDE = "incomplete", "not in train or test of the split"
"""Why a case takes no part."""
FLOAT = 4
"""Bytes of a voxel of a channel."""


def steps_of(request: RunRequest, trainings: int) -> Steps:
    """As many as can be told before anything is trained: first of all so many ``trainings``."""
    own = {kind for kind in request.kinds if ARM_KINDS[kind].own_segmenter}
    seeds, frozen = len(request.segmenter_seeds), int(request.segmenter is None)
    each = OF_AN_EXPERIMENT + (len(own) + frozen) * seeds
    again = OF_AN_EXPERIMENT - 1 + seeds if request.transfer else 0
    return Steps(trainings + len(request.wanted) * (each + again))


def trainings_ahead(request: RunRequest) -> int:
    """Trainings that a cohort needs which is not there yet: nothing has been learnt from it."""
    if request.coupled is not None:
        return 2
    needed = any(ARM_KINDS[kind].needs_synthesis for kind in request.kinds)
    return int(needed and not (request.run or request.completed)) * len(request.wanted)


def steps_left(experiments: Sequence[Experiment], transfer: bool) -> int:
    """Of ``experiments``, whose synthesisers are there."""
    own = sum(OF_AN_EXPERIMENT + len(trained_for(each)) for each in experiments)
    again = sum(OF_AN_EXPERIMENT - 1 + len(each.plan.seeds) for each in experiments)
    return own + (again if transfer else 0)


def trained_for(experiment: Experiment) -> list[tuple[str, int]]:
    """Kind and seed of the segmenters that are trained for it, or were."""
    return [key for key in experiment.segmenters() if not experiment.plan.is_foreign(key[0])]


def seconds_ahead(task: Training, plan: Plan, engines: Engines) -> float | None:
    """How long the segmenter ``task`` of ``plan`` will train; None if it is trained."""
    return None if seems_trained(task) else segmenter_cost(plan, engines).seconds


def segmenter_cost(plan: Plan, engines: Engines) -> SegmenterCost:
    """What training one of its segmenters takes."""
    case = plan.cohort.train[0]
    reading = plan.cohort.readings[case.name]
    return engines.segmenter_cost(plan.preset, case, reading, plan.threads)


def experiment_plan(
    experiment: Experiment,
    trainings: Mapping[str, Sequence[str]],
    arms: Sequence[str],
    teaches: bool,
    transfer: Experiment | None = None,
) -> dict[str, Any]:
    """All of it as plain values, the event ``plan`` of docs/events.md.

    Args:
        experiment: In its folder, where nothing is written.
        trainings: Of the synthesisers that are to be trained first the command that a reader is
            told → arguments of ``synth3d`` for a training that costs as much.
        arms: Those that these bring, beside the arms of the plan.
        teaches: Whether a segmenter is trained first that judges nothing.
        transfer: The same arms with judges of another preset, if they are asked for.

    Raises:
        StageFailedError: A training of these would be refused.
    """
    plan, cohort = experiment.plan, experiment.plan.cohort
    forecasts = [experiment.engines.forecast(words) for words in trainings.values()]
    own = sum(name in ARM_KINDS and ARM_KINDS[name].own_segmenter for name in arms)
    to_train = len(_untrained(experiment)) + own * len(plan.seeds) + teaches
    cost = segmenter_cost(plan, experiment.engines) if to_train else None
    judges = to_train * cost.seconds if cost else 0.0
    again = len(_untrained(transfer)) if transfer else 0
    others = again * segmenter_cost(transfer.plan, transfer.engines).seconds if transfer else 0.0
    synthesis = sum(each["seconds"] for each in forecasts)
    used = {case.name for case in (*cohort.train, *cohort.test)}
    memory = [each["memory_bytes"] for each in forecasts] + [cost.memory_bytes or 0 if cost else 0]
    return {
        "folder": str(experiment.folder),
        "missing": [*plan.missing],
        "degraded": plan.degraded.describe() if plan.degraded else None,
        "learnt": len(cohort.train),
        "test": len(cohort.test),
        "left_out": {
            INCOMPLETE: sorted({*cohort.incomplete} - used),
            OUTSIDE: sorted({*cohort.patients} - used - {*cohort.incomplete}),
        },
        "arms": {arm.name: _is_scored(experiment, arm) for arm in plan.arms},
        "arms_to_come": [*arms],
        "training": [*trainings],
        "recipes": [each["recipe"] for each in forecasts],
        "segmenter": str(plan.foreign) if plan.foreign else plan.preset,
        "segmenters_to_train": to_train,
        "segmenter_iterations": None if plan.foreign else iterations_of(plan.preset),
        "segmenter_patch": [*cost.patch] if cost else None,
        "segmenter_batch": cost.batch if cost else None,
        "transfer": transfer.plan.preset if transfer else None,
        "transfer_to_train": again,
        "busy": busy_in_words(),
        "seconds_synthesis": synthesis,
        "seconds_segmenters": judges,
        "seconds_transfer": others,
        "seconds": synthesis + judges + others,
        "memory_bytes": max(memory, default=0),
        "disk_bytes": _bytes_written(experiment) + sum(each["disk_bytes"] for each in forecasts),
        "free_bytes": free_bytes(experiment.folder),
        "settings": plan.describe(),
    }


def _untrained(experiment: Experiment) -> list[tuple[str, int]]:
    return [key for key in trained_for(experiment) if not seems_trained(_task(experiment, key))]


def _task(experiment: Experiment, key: tuple[str, int]) -> Training:
    (name, seed), plan = key, experiment.plan
    about = plan.cohort, experiment.models, plan.preset, seed, plan.threads
    return Training(*about, ARM_KINDS.get(name), plan.missing)


def _is_scored(experiment: Experiment, arm: Any) -> bool:
    return all(experiment.score_file(arm, seed).is_file() for seed in experiment.plan.seeds)


def _bytes_written(experiment: Experiment) -> int:
    """At most: channels and predictions of the test cases, and what nnU-Net keeps of the others."""
    plan = experiment.plan
    sizes = {
        case.name: prod(grid(case.images[MODALITIES[0]]).shape_zyx)
        for case in (*plan.cohort.test, *plan.cohort.train)
    }
    tested = sum(sizes[case.name] for case in plan.cohort.test)
    learnt = sum(sizes[case.name] for case in plan.cohort.train)
    channels = sum(arm.has_files for arm in plan.arms) * len(plan.missing) * FLOAT
    prepared = 0 if plan.foreign else learnt * (len(MODALITIES) * FLOAT + 1)
    return tested * (channels + len(plan.arms) * len(plan.seeds)) + prepared


def plan_in_words(plan: Mapping[str, Any]) -> str:
    """The plan for a terminal, at most 15 lines."""
    scored = [name for name, done in plan["arms"].items() if done]
    gap = "restored" if plan["degraded"] else "missing"
    lines = [
        f"question:    {' and '.join(plan['missing'])} {gap}",
        f"cases:       {plan['learnt']} to train segmenters on, {plan['test']} test cases"
        f"{_few(plan)}",
        *unused_in_words(plan["left_out"]),
        f"arms:        {arms_in_words(plan)}",
        *([f"scored:      {', '.join(scored)}"] if scored else []),
        *(
            f"synthesiser: to be trained, recipe {recipe}: {command}"
            for recipe, command in zip(plan["recipes"], plan["training"], strict=True)
        ),
        f"segmenter:   {_segmenter(plan)}",
        *_small(plan),
        *([f"transfer:    {_transfer(plan)}"] if plan["transfer"] else []),
        *(
            [f"memory:      about {gigabytes(plan['memory_bytes'])} for the trainings"]
            if plan["memory_bytes"]
            else []
        ),
        f"disk:        up to {gigabytes(plan['disk_bytes'])}, {gigabytes(plan['free_bytes'])} "
        "are free",
        f"time:        {time_in_words(plan)}",
        f"goes to:     {plan['folder']}",
        "nothing was done; --json prints all settings",
    ]
    return "\n".join(lines)


def arms_in_words(plan: Mapping[str, Any]) -> str:
    """Those that can be named, and those that a training brings."""
    coming = f"; to be trained: {', '.join(plan['arms_to_come'])}" if plan["arms_to_come"] else ""
    return f"{', '.join(plan['arms'])}{coming}"


def time_in_words(plan: Mapping[str, Any]) -> str:
    """How long it takes; where nothing is to be trained, what else is to be done."""
    if plan["seconds"]:
        busy = f"; {plan['busy']}" if plan["busy"] else ""
        return (
            f"about {duration(plan['seconds'])} of training, by timed steps{busy}; segmenting and "
            "scoring come on top"
        )
    left = sum(not done for done in plan["arms"].values())
    if not left:
        return "nothing to train, to segment or to score: the report is written anew"
    return f"nothing to train; {left} arms of {plan['test']} test cases to segment and to score"


def _few(plan: Mapping[str, Any]) -> str:
    """A hint behind the number of test cases, where they are few."""
    if plan["test"] >= FEW:
        return ""
    whole = plan["learnt"] + plan["test"] >= FEW
    way_out = "; --cross-validate 5 judges each case once" if whole else ""
    return f", which can show little{way_out}"


def unused_in_words(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each reason that some case has to take no part: how many, and which."""
    return [
        f"not used:    {len(cases)} {reason}: {named(cases)}"
        for reason, cases in left_out.items() if cases
    ]  # fmt: skip


def _segmenter(plan: Mapping[str, Any]) -> str:
    if plan["segmenter_iterations"] is None:
        return plan["segmenter"]
    count, told = plan["segmenters_to_train"], f"{plan['segmenter']}, "
    if not count:
        return f"{told}trained already"
    patch = " x ".join(map(str, plan["segmenter_patch"]))
    size = f"{plan['segmenter_iterations']} iterations of {plan['segmenter_batch']} x {patch}"
    each = duration(plan["seconds_segmenters"] / count)
    return f"{told}{size}; {count} to train, about {each} each"


def _transfer(plan: Mapping[str, Any]) -> str:
    about = f"the same arms by {plan['transfer']}, {plan['transfer_to_train']} to train"
    return f"{about}, about {duration(plan['seconds_transfer'])}"


def _small(plan: Mapping[str, Any]) -> list[str]:
    if (plan["segmenter_iterations"] or STOCK_TOTAL) >= SMALL:
        return []
    return [
        f"             small: nnU-Net's default has {STOCK_TOTAL} iterations, as --preset standard"
    ]


def preset_facts() -> list[dict[str, Any]]:
    """The presets as plain values: what each is for, how large, how long, where the default."""
    found = []
    for preset in PRESETS.values():
        network = preset.network
        size = {"patch": [*network.patch_size], "batch": network.batch_size} if network else {}
        size = size or {"patch": None, "batch": None}
        default = DEFAULT_FOR.get(preset.name)
        about = {"name": preset.name, "purpose": preset.purpose, "default_for": default}
        found.append(about | {"iterations": iterations_of(preset.name)} | size)
    return found


def presets_in_words(found: Sequence[Mapping[str, Any]]) -> str:
    """Two lines a preset, for a terminal."""
    lines = []
    for one in found:
        patch = " x ".join(map(str, one["patch"] or ()))
        size = f"of {one['batch']} patches of {patch}" if patch else "as nnU-Net plans them"
        default = f" (default on {one['default_for']})" if one["default_for"] else ""
        lines.append(f"{one['name']:17} {one['iterations']} iterations {size}{default}")
        lines.append(f"{'':17} {one['purpose']}")
    lines.append("how long on this machine: seg_eval run --preset NAME --data COHORT ... --dry-run")
    return "\n".join(lines)
