"""What a run folder says of itself, whatever state it is in; written by ``synth3d.training``."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from synth3d.errors import InputError
from synth3d.files import is_claimed, plain_values, read_object, read_text
from synth3d.settings import parse

State = Literal["finished", "training", "unfinished", "damaged"]

TRIAL = "a trial"
"""What a run is called that has fewer steps than its recipe has."""


@dataclass(frozen=True)
class KnownRun:
    """A run folder as it is now.

    Attributes:
        folder: Where it is; its name is the run's.
        state: ``finished``; ``training``, a process of this machine is at it; ``unfinished``, it
            was stopped or killed; or ``damaged``, with a ``fault``.
        targets: What it makes; ``data``, the cohort it learns from, where it says so.
        what: What it makes of what, and by which network, in words.
        changed: When something was last written to it, in seconds since 1970.
        step: How many steps it has made; ``steps``, how many it has when it is finished.
        recipe: The recipe it was begun with; empty where it does not say.
        recipe_steps: How many steps that recipe has; 0 where it does not say.
        validation: Its last scores, by name; empty where there are none yet.
        size: In bytes, of all its files.
        start: The run that it was begun from, if any.
        fault: Why it cannot be read.
    """

    folder: Path
    state: State
    targets: tuple[str, ...] = ()
    data: str = ""
    what: str = ""
    changed: float = 0.0
    step: int = 0
    steps: int = 0
    recipe: str = ""
    recipe_steps: int = 0
    validation: Mapping[str, float] = field(default_factory=dict)
    size: int = 0
    start: str = ""
    fault: str = ""

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.folder.name

    @property
    def is_trial(self) -> bool:
        """Whether it has fewer steps than its recipe, as far as it says."""
        return 0 < self.steps < self.recipe_steps

    @property
    def words(self) -> str:
        """How far it is: ``60 of 1400 steps, unfinished`` or ``60 steps, a trial (cpu has 1400)``.

        Of a damaged one what is wrong.
        """
        if self.state == "damaged":
            return f"damaged: {self.fault}"
        trial = f", {TRIAL} ({self.recipe} has {self.recipe_steps})" if self.is_trial else ""
        if self.state == "finished":
            return f"{self.steps} steps{trial}"
        if not self.steps and self.state == "training":
            return "training, its cases are being prepared"
        return f"{self.step} of {self.steps} steps, {self.state}{trial}"


def known_run(folder: Path) -> KnownRun:
    """What the run in ``folder`` says of itself; what is wrong with it is told, not raised."""
    facts: dict[str, Any] = {"changed": _changed(folder), "size": _size(folder)}
    try:
        return KnownRun(folder, **(facts | _read(folder)))
    except (InputError, KeyError, TypeError, AttributeError, OSError) as error:
        return KnownRun(folder, "damaged", fault=str(error) or type(error).__name__, **facts)


def known_runs(work: Path) -> list[KnownRun]:
    """The runs in ``work/runs``, the newest first; hidden folders and other files are none.

    One that is being begun, of which nothing is written yet, is one that is trained.
    """
    folder = work / "runs"
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    runs = [
        known_run(path)
        for path in found
        if path.is_dir() and not path.name.startswith(".") and _is_run(path)
    ]
    return sorted(runs, key=lambda run: (-run.changed, run.name))


def trial_words(folders: Iterable[Path]) -> str:
    """Which of these runs have fewer steps than their recipes, for a reader; empty if none."""
    trials = [run for run in map(known_run, folders) if run.is_trial]
    return " and ".join(f"{run.name} has {run.words}" for run in trials)


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file() or is_claimed(folder / ".lock")


def _read(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file() and is_claimed(folder / ".lock"):
        return {"state": "training"}
    config = read_object(folder / "config.json")
    train = parse(dict[str, Any], config.get("train", {}), "train")
    told = folder / "cohort.json"
    cohort = read_object(told) if told.is_file() else {}
    recipe = folder / "recipe.json"
    about = read_object(recipe, "name", "steps") if recipe.is_file() else {}
    facts: dict[str, Any] = {
        "state": "finished",
        "what": _what(config, train),
        "targets": parse(tuple[str, ...], config.get("targets", ()), "targets"),
        "data": parse(str, cohort.get("data_folder", ""), "data_folder"),
        "steps": parse(int, train.get("steps", 0), "train.steps"),
        "recipe": parse(str, about.get("name", ""), "name"),
        "recipe_steps": parse(int, about.get("steps", 0), "steps"),
        "start": parse(str, train.get("start", ""), "train.start"),
    }
    scores = dict[str, float]
    if (folder / "done.json").is_file():
        done = read_object(folder / "done.json")
        facts["steps"] = parse(int, done.get("steps", facts["steps"]), "steps")
        facts["validation"] = parse(scores, done.get("validation", {}), "validation")
        return facts | {"step": facts["steps"]}
    busy = is_claimed(folder / ".lock")
    log = _log(folder / "log.jsonl")
    seen = [line["validation"] for line in log if "validation" in line]
    facts["validation"] = parse(scores, seen[-1], "validation") if seen else {}
    step = parse(int, log[-1]["step"], "step") if log else 0
    return facts | {"state": "training" if busy else "unfinished", "step": step}


def _what(config: Mapping[str, Any], train: Mapping[str, Any]) -> str:
    """``t1n+t1c+t2w -> t2f, agi-net by pix2pix, 3-D``, as far as it is told."""
    names = tuple[str, ...]
    sources = "+".join(parse(names, config.get("sources", ()), "sources"))
    targets = "+".join(parse(names, config.get("targets", ()), "targets"))
    made = f"any of {sources}" if config.get("mode") == "any" else f"{sources} -> {targets}"
    model = parse(dict[str, Any], config.get("model", {}), "model").get("name", "")
    how = " by ".join(str(word) for word in (model, train.get("framework", "")) if word)
    return ", ".join(filter(None, (made, how, f"{config.get('dim', 3)}-D")))


def _log(path: Path) -> list[Mapping[str, Any]]:
    lines = filter(None, read_text(path).splitlines()) if path.is_file() else ()
    read = [plain_values(json.loads, line, f"{path} is not valid JSON") for line in lines]
    return [parse(dict[str, Any], line, path.name) for line in read]


def _changed(folder: Path) -> float:
    """When it was finished, else when its state or its settings were last written, or begun."""
    for name in ("done.json", "resume.pt", "log.jsonl", "config.json", ".lock"):
        with contextlib.suppress(OSError):  # it is not there, or is being replaced
            return (folder / name).stat().st_mtime
    return 0.0


def _size(folder: Path) -> int:
    """A run that is being trained replaces its files meanwhile."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += path.lstat().st_size if path.is_file() else 0
    return size
