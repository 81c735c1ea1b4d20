"""What a training would do, and what it takes: ``synth3d train --dry-run``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synth3d.console import answer, duration, event, gigabytes, named
from synth3d.machine import busy_in_words, free_bytes
from synth3d.settings import to_plain
from synth3d.training.config import RunConfig
from synth3d.training.forecast.cases import CasesAhead
from synth3d.training.forecast.cost import cost_of
from synth3d.training.recipes import purpose_of
from synth3d.training.run_folder import read_log


def tell_plan(config: RunConfig, recipe: str, device: str, run: Path, cases: CasesAhead) -> None:
    """Say what would be done: an event for machines, else a few lines.

    Raises:
        InputError: As :func:`training_plan`.
    """
    plan = training_plan(config, recipe, device, run, cases)
    event("plan", **plan)
    answer(plan_in_words(plan))


def training_plan(
    config: RunConfig, recipe: str, device: str, run: Path, cases: CasesAhead
) -> dict[str, Any]:
    """All of it as plain values, the event ``plan`` of docs/events.md; a few steps are timed.

    Raises:
        InputError: It cannot be built on this machine.
        RuntimeError: It needs more memory than there is.
    """
    done = steps_done(run)
    finished, left = (run / "done.json").is_file(), max(config.train.steps - done, 0)
    cost = cost_of(config, device)
    return {
        "recipe": recipe,
        "purpose": purpose_of(recipe),
        "what": config.words,
        "device": device,
        "run": str(run),
        "state": "finished" if finished else "begun" if done else "new",
        "steps": config.train.steps,
        "steps_done": done,
        "learnt": cases.learnt,
        "validated": cases.validated,
        "test": cases.test,
        "phantoms_to_make": cases.phantoms,
        "left_out": {reason: [*names] for reason, names in cases.left_out.items()},
        "seconds_per_step": cost.seconds_per_step,
        "busy": busy_in_words(),
        "seconds": 0.0 if finished else cost.seconds_per_step * left,
        "memory_bytes": cost.memory_bytes,
        "disk_bytes": cases.bytes_prepared + cost.state_bytes,
        "free_bytes": free_bytes(run),
        "settings": to_plain(config),
    }


def steps_done(run: Path) -> int:
    """Steps of a training that was begun there; 0 without one."""
    log = run / "log.jsonl"
    lines = read_log(log) if log.is_file() and (run / "resume.pt").is_file() else []
    return max((int(line.get("step", 0)) for line in lines), default=0)


def plan_in_words(plan: Mapping[str, Any]) -> str:
    """The plan for a terminal, at most 15 lines."""
    settings = plan["settings"]
    data, train, model = settings["data"], settings["train"], settings["model"]
    patch = " x ".join(map(str, data["patch"]))
    lines = [
        f"recipe:  {plan['recipe']}" + (f" ({plan['purpose']})" if plan["purpose"] else ""),
        f"makes:   {plan['what']}, by {model['name']} and {train['framework']}",
        f"cases:   {_cases(plan)}",
        *left_out_in_words(plan["left_out"]),
        f"steps:   {plan['steps']} of {data['batch']} patches of {patch}, in "
        f"{train['precision']} on {plan['device']} with {train['threads']} threads",
        f"memory:  about {gigabytes(plan['memory_bytes'])}",
        f"disk:    up to {gigabytes(plan['disk_bytes'])}, {gigabytes(plan['free_bytes'])} are free",
        f"time:    about {duration(plan['seconds'])} (by timed steps, without reading data)"
        + (f"; {plan['busy']}" if plan["busy"] else ""),
        f"goes to: {plan['run']}{_state(plan)}",
        "nothing was done; --json prints all settings",
    ]
    return "\n".join(lines)


def left_out_in_words(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each of the first reasons why cases are left out, and one for the others."""
    reasons = [f"left out, {reason}: {named(names)}" for reason, names in left_out.items()]
    more = sum(len(names) for names in [*left_out.values()][2:])
    return reasons[:2] + ([f"left out for other reasons: {more} cases"] if more else [])


def _cases(plan: Mapping[str, Any]) -> str:
    if count := plan["phantoms_to_make"]:
        return f"{count} simulated brains, which are made first"
    told = f"{plan['learnt']} to learn from, {plan['validated']} to validate on, "
    return f"{told}{plan['test']} test cases never looked at"


def _state(plan: Mapping[str, Any]) -> str:
    told = {"finished": " (trained already)", "new": ""}
    return told.get(plan["state"], f" (goes on at step {plan['steps_done']})")
