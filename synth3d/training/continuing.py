"""A run that is gone on with by its name, also to more steps than it was begun for.

A finished run keeps its state, so that more steps follow on the last one as if it had never been
finished. What depends on how many steps there are in all, as a cosine's fall, is from there on that
of the longer training.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from synth3d.cohort import Splits
from synth3d.errors import InputError
from synth3d.files import place, read_object
from synth3d.runs import LATEST, find_run
from synth3d.settings import flatten, parse, parse_assignment, to_plain
from synth3d.training.config import RunConfig, build_framework
from synth3d.training.recipes import read_recipe
from synth3d.training.run_folder import Recipe, read_config, read_done
from synth3d.training.trainer import rate_factor

if TYPE_CHECKING:
    from synth3d.training.request import TrainRequest

FREE = {"continued", "steps", "device", "work", "cache", "cache_limit", "dry_run"}
"""Fields of a request that may be given beside the run that is gone on with."""

SIDES = ("train", "val", "test")


def recipe_of(name: str, request: "TrainRequest", config: RunConfig) -> Recipe:
    """The recipe called ``name``, a shipped one or a file, as ``request`` uses it for ``config``.

    A run of fewer steps than its recipe is a trial.
    """
    asked = {parse_assignment(text)[0] for text in request.assign}
    if request.steps is None and "train.steps" not in asked:
        return Recipe(Path(name).name, config.train.steps)
    values = flatten(read_recipe(name))
    usual = flatten(to_plain(RunConfig()))
    steps = values.get("train.steps", usual["train.steps"])
    if config.train.start:  # the second of two stages
        key = f"train.{config.train.framework}.pretrain"
        share = 1 - values.get(key, usual.get(key, 0))
        steps = max(1, round((share or 1) * steps))
    return Recipe(Path(name).name, steps)


def run_called(request: "TrainRequest", usual: str) -> Path:
    """Where the run goes: by its ``--name``, else by what it is called without one.

    Raises:
        InputError: That is no name for a run.
    """
    if request.name == LATEST:
        raise InputError(f"no run can be called {LATEST}: --run {LATEST} means the one that was "
                         "finished last; choose another --name")  # fmt: skip
    return place(request.work / "runs", usual if request.name is None else request.name)


def again(request: "TrainRequest") -> "TrainRequest":
    """``request`` with runs as folders; to go on with one, as the request that began it.

    Raises:
        InputError: There is no such run, it does not say what it learnt from, other settings are
            given beside it, or it cannot have so many steps.
    """
    if request.start is not None:
        request = replace(request, start=find_run(request.start, request.work))
    if request.continued is None:
        return request
    given = [f.name for f in fields(request) if getattr(request, f.name) not in (f.default, (), [])]
    if other := sorted({*given} - FREE):
        raise InputError(
            f"--continue takes a run as it is, and {', '.join(other)} would make it another; give "
            "only --steps beside it, or begin a new run with --recipe RUN/config.json"
        )
    run = find_run(request.continued, request.work)
    config, cohort = read_config(run), run / "cohort.json"
    if not cohort.is_file():
        raise InputError(
            f"{run} does not say which cases it learnt from, for it has no cohort.json, as one "
            "that was exported; go on with the run folder that synth3d train left"
        )
    told, names = read_object(cohort, "data_folder", *SIDES), tuple[str, ...]
    splits = Splits(*(parse(names, told[side], f"{cohort}: {side}") for side in SIDES))
    steps = config.train.steps if request.steps is None else request.steps
    _check_growth(run, config, steps)
    data = Path(parse(str, told["data_folder"], f"{cohort}: data_folder"))
    recipe = str(run / "config.json")
    return replace(request, continued=run, data=data, splits=splits, recipe=recipe, steps=steps)


def _check_growth(run: Path, config: RunConfig, steps: int) -> None:
    """Refuse fewer steps, and more where they would not follow on what was done."""
    before, name = config.train.steps, config.train.framework
    if steps < before:
        raise InputError(f"the run {run} has {before} steps, which can only grow; got {steps}")
    if steps == before:
        return
    with torch.device("meta"):
        stages = len(build_framework(config).stages)
    if stages > 1:
        raise InputError(
            f"the run {run} learns in {stages} stages ({name}), each a share of all steps, so more "
            "steps would begin in the first again; train a new one, or its second stage --from it"
        )
    if (run / "done.json").is_file() and not (run / "resume.pt").is_file():
        raise InputError(
            f"the finished run {run} keeps no resume.pt to go on from; train a new one, as with "
            f"--recipe {run / 'config.json'} --steps {steps}"
        )


def tell_growth(run: Path, config: RunConfig) -> None:
    """Say how many steps a finished run gets, and what becomes of its learning rate."""
    done = read_done(run)["steps"]
    more = config.train.steps - done
    print(f"{run.name}: {done} steps are done, {more} more; {_rate(config, done)}")


def _rate(config: RunConfig, step: int) -> str:
    """What becomes of the learning rate after ``step``."""
    train: Any = config.train
    if train.decay == "constant":
        return "the learning rate stays what it was"
    now = rate_factor(step, train.steps, train)
    return (
        f"the learning rate, which had fallen to 0, is {now:.0%} of {train.learning_rate:g} again "
        f"and falls to 0 at step {train.steps}, as a cosine over all steps"
    )
