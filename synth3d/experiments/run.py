"""``synth3d ablate``: a table of the paper, rerun on any cohort.

Cells × seeds are runs that differ in what the cell says and nothing else: data, split, steps and
recipe are the same. What was done before is kept; the same request goes on.
"""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from synth3d.cohort import Modality, parse_modality
from synth3d.completion import open_executor
from synth3d.data import LIMIT_GB
from synth3d.errors import InputError
from synth3d.experiments.asking import Question
from synth3d.experiments.cell import Cell, Choices
from synth3d.experiments.cells import work
from synth3d.experiments.cost import estimate, parse_budget, steps_in
from synth3d.experiments.plan import (
    Item,
    Shared,
    choose_cells,
    configure,
    digest_of,
    identity_of,
    make_items,
    normalised,
    unvaried,
    with_budget,
    with_sources_alike,
)
from synth3d.experiments.probe import PROBE, TITLE, ProbeRequest, probe_shift
from synth3d.experiments.report import write_report
from synth3d.experiments.results import case_scores, collect, summarise
from synth3d.experiments.tables import TABLES, Table, find_table
from synth3d.files import place, read_object, write_json
from synth3d.machine import pick_device, suited
from synth3d.scoring import CONVENTIONS, find_lpips
from synth3d.settings import flatten, override, parse_assignment, to_plain
from synth3d.training import (
    RunConfig,
    TrainRequest,
    begun,
    default_recipe,
    find_cohort,
    read_recipe,
    resolve,
)


@dataclass(frozen=True)
class AblateRequest:
    """A table to be rerun; the fields are the flags of ``synth3d ablate``, explained by its help.

    Modalities, cells and conventions are names with commas between. ``None`` means what the flag's
    absence means: the recipe's dimension, sequences and steps, all cells, phantoms for ``data``,
    T2 or the last source to ``move``, a ``cache`` in ``work``, all cores / ``workers`` for
    ``threads`` of each run.
    """

    table: str | None = None
    list: bool = False
    data: Path | None = None
    splits: Path | None = None
    part: str = "test"
    seeds: int = 3
    budget: str | None = None
    only: str | None = None
    recipe: str | None = None
    assign: Sequence[str] = ()
    dim: str | None = None
    plane: str | None = None
    target: str | None = None
    sources: str | None = None
    move: str | None = None
    draw: str = "fixed"
    mode: str = "test-only"
    convention: str | None = None
    workers: int = 1
    dask: str | None = None
    threads: int | None = None
    device: str = "auto"
    work: Path = Path("work")
    name: str | None = None
    cache: Path | None = None
    cache_limit: float = LIMIT_GB
    report: bool = False
    dry_run: bool = False


def ablate(request: AblateRequest, executor: Executor | None = None) -> int:
    """Rerun a table and write its report; 0 when every run has its scores, 1 when one failed.

    ``executor`` does the runs, each of which is a picklable, idempotent unit of work on folders
    that all workers see; None for what ``request.workers`` and ``request.dask`` say.

    Raises:
        InputError: A flag, the recipe or the cohort cannot be used.
    """
    if request.list:
        titles = {**{name: table.title for name, table in TABLES.items()}, PROBE: TITLE}
        print("\n".join(f"{name:14} {title}" for name, title in titles.items()))
        return 0
    if request.table is None:
        raise InputError("say which TABLE to run, or --list to see them")
    if request.seeds < 1 or request.workers < 1:
        raise InputError("--seeds and --workers must be at least 1")
    if request.table == PROBE:
        return probe_shift(_probe(request))
    return _Ablation(request).run(executor)


PROBED = {"table", "seeds", "budget", "only", "assign", "threads", "device", "work", "name",
          "report", "dry_run"}  # fmt: skip
"""What the probe takes of a request."""


def _probe(request: AblateRequest) -> ProbeRequest:
    """The same for the probe, which has no cohort and trains run after run; the rest is refused."""
    usual = AblateRequest()
    for each in fields(AblateRequest):
        if each.name not in PROBED and getattr(request, each.name) != getattr(usual, each.name):
            flag = each.name.replace("_", "-")
            raise InputError(
                f"{PROBE} draws its own slices and has no --{flag}; it takes --seeds, --budget, "
                "--only, --set, --threads, --device, --work, --name, --report and --dry-run"
            )
    assign = list(request.assign)
    if request.budget:
        steps, seconds = parse_budget(request.budget)
        if seconds:
            raise InputError(f"--budget of {PROBE} takes steps (600), got {request.budget!r}")
        assign.append(f"steps={steps}")
    return ProbeRequest(
        place(request.work / "ablate", request.name or PROBE),
        request.seeds,
        request.only,
        assign,
        request.threads or os.cpu_count() or 1,
        pick_device(request.device),
        request.report,
        request.dry_run,
    )


class _Ablation:
    """One call of the command, resolved."""

    def __init__(self, request: AblateRequest) -> None:
        self.budget = parse_budget(request.budget) if request.budget else (0, 0.0)
        self.name, self.table = find_table(request.table or "")
        device = pick_device(request.device)
        self.request = request = replace(
            request,
            recipe=request.recipe or _usual_recipe(request, self.table, device),
            threads=request.threads or max(1, (os.cpu_count() or 1) // request.workers),
        )
        self.values, self.assigned = _base_values(request, self.table, device)
        base = configure(self.values)
        self.choices = _choose(request, base, self.table)
        self.cells, self.chosen = choose_cells(self.table, base, self.choices, request.only)
        self.values = with_sources_alike(self.values, self.wanted, self.assigned)
        conventions = _conventions_of(request.convention, base, self.table.paper)
        root = request.work / "ablate"
        suffix = f"-{request.mode}" if self.has_modes and self.choices.retrain else ""
        self.folder = place(root, request.name or self.name + suffix)
        data, cases, splits = find_cohort(request.data, request.splits, request.work, base.task)
        names = set(getattr(splits, request.part))
        scored = tuple(sorted((c for c in cases if c.name in names), key=lambda case: case.name))
        if not scored:
            raise InputError(f"the split has no {request.part} cases")
        self.shared = Shared(
            data, splits, request.part, scored, root, conventions, device,
            request.threads or 1, request.cache or request.work / "cache", request.cache_limit,
            self.table.lpips and find_lpips() is not None,
        )  # fmt: skip

    @property
    def has_modes(self) -> bool:
        """Whether the table is a curve whose levels may be tested only, or trained."""
        return bool(self.table.axis) and not self.table.retrained

    @property
    def wanted(self) -> list[Cell]:
        """The cells that are to be run."""
        return [cell for cell in self.cells if cell.name in self.chosen]

    def items(self, cells: Sequence[Cell]) -> list[Item]:
        """Runs of ``cells`` with the settings as they stand."""
        return make_items(cells, self.values, self.request.seeds, self.shared)

    def run(self, executor: Executor | None) -> int:
        """Everything; the exit code."""
        self._set_budget()
        wanted = self.wanted
        items = self.items(wanted)
        for item in items:
            begun(item.config, None, None)  # a stage without a step, as a training refuses it
        done = sum(item.trained for item in items)
        print(f"{self.table.title}: {self.about(wanted)}; {len(items)} runs, {done} trained before")
        if self.request.dry_run:
            print(estimate(items, self.shared.device, self.request.workers))
            return 0
        self._keep_settings()
        failures = {} if self.request.report else self._work(items, executor)
        print(self.report(failures), end="")
        print(f"\nwritten: {self.folder / 'table.md'}, and .csv, .json, scores.csv beside it")
        return 1 if failures else 0

    def _work(self, items: Sequence[Item], executor: Executor | None) -> dict[str, str]:
        """All runs, with a termination taken as an interruption: their programs end, too."""
        alone = threading.current_thread() is threading.main_thread()  # others set no handler
        before = signal.signal(signal.SIGTERM, signal.default_int_handler) if alone else None
        ours = open_executor(self.request.workers, self.request.dask, here=False)
        try:
            with nullcontext(executor) if executor else ours as pool:
                return work(items, self.shared, pool, lambda: self.report({}))
        finally:
            if alone:
                signal.signal(signal.SIGTERM, before)

    def _set_budget(self) -> None:
        steps, seconds = self.budget
        if self.request.budget and "train.steps" in self.assigned:
            raise InputError("give --budget or --set train.steps, not both")
        if seconds:
            steps = steps_in(seconds, self.items(self.wanted[:1])[0], self.shared, self.values)
        steps = steps or self.values["train"]["steps"]
        self.values = with_budget(self.values, steps, self.assigned)
        self.cells, self.chosen = choose_cells(
            self.table, configure(self.values), self.choices, self.request.only
        )

    def about(self, cells: Sequence[Cell]) -> str:
        """What is run on what, in a few words."""
        values, shared, head = self.values, self.shared, self.table.head
        curve = f", {self.request.mode}" if self.has_modes else ""
        more = f"; {head(configure(values), self.choices)}" if head else ""
        sources, targets = ("+".join(values[side]) for side in ("sources", "targets"))
        what = f"any of {sources}" if values["mode"] == "any" else f"{sources} → {targets}"
        return (
            f"{len(cells)} of {len(self.cells)} cells × {self.request.seeds} seeds{curve}, "
            f"{values['train']['steps']} steps each; {what}, {values['dim']}-D, "
            f"recipe {self.request.recipe}; "
            f"{len(shared.splits.train)} training and {len(shared.cases)} {shared.part} cases of "
            f"{shared.data}{more}"
        )

    def _keep_settings(self) -> None:
        """Remember what this table is of; refuse to mix it with another."""
        digests = {c.name: digest_of([dict(c.overrides), dict(c.testing)]) for c in self.cells}
        asked = {c.name: asdict(c.asking) for c in self.cells if c.asking != Question()}
        settings = flatten(
            {
                "base": identity_of(configure(self.values)),
                "cells": digests,
                "cohort": self.shared.cohort,
                "part": self.shared.part,
                "conventions": list(self.shared.conventions),
                **({"asked": asked} if asked else {}),
                **({"lpips": True} if self.shared.lpips else {}),
            }
        )
        path = self.folder / "settings.json"
        if not path.is_file():
            write_json(path, settings)
        before = read_object(path)
        differ = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
        if differ:
            raise InputError(
                f"{self.folder} holds a table of other settings ({', '.join(sorted(differ))}); "
                "give another --name (finished runs are found again all the same)"
            )

    def report(self, failures: Mapping[str, str]) -> str:
        """Write the report of all comparable cells of the table that have scores; its Markdown."""
        apart = unvaried(self.cells, self.values)  # none of them is wanted
        results = collect(self.items([cell for cell in self.cells if cell.name not in apart]))
        first, conventions = int(self.values["train"]["seed"]), self.shared.conventions
        seeds = list(range(first, first + self.request.seeds))
        summary = summarise(self.cells, results, conventions, seeds)
        summary |= {
            "title": self.table.title,
            "axis": self.table.axis,
            "paper": self.table.paper,
            "printed_alone": {
                name: {task: asdict(numbers) for task, numbers in rows.items()}
                for name, rows in self.table.alone.items()
            },
            "apart": self.table.apart,
            "about": self.about([cell for cell in self.cells if cell.name in results]),
            "notes": list(self.table.notes),
            "conventions": list(conventions),
            "failures": dict(failures),
            "settings": self.values,
            "choices": vars(self.choices),
        }
        return write_report(self.folder, summary, case_scores(results))


def _base_values(
    request: AblateRequest, table: Table, device: str
) -> tuple[dict[str, Any], list[str]]:
    """The base as plain settings, and the keys that the user gave with ``--set``.

    The table's defaults lie under the user's own settings, of which the recipe is named. Where the
    recipe asks for bfloat16 and this CPU has none, the base is in float32.
    """
    assert request.recipe is not None
    shared = ("data", "dim", "plane", "target", "sources", "recipe", "threads")
    given = {name: getattr(request, name) for name in shared}
    asked = TrainRequest(**given, assign=tuple(request.assign))
    config = resolve(asked, device)
    if config.mode != table.mode == "fixed":
        raise InputError(
            "this table compares runs of fixed targets; give --target, as in --target t2f"
        )
    if config.mode != table.mode:
        raise InputError(
            "this table compares runs for any gap; give --target any, or a recipe with mode = any, "
            f"as {', '.join(table.recipes.values())}"
        )
    values = normalised(to_plain(config))
    assigned = [parse_assignment(text)[0] for text in request.assign]
    wanted = values["train"]["precision"]
    emulated = device == "cpu" and suited(wanted, device) != wanted
    if emulated and "train.precision" not in assigned:
        values["train"]["precision"] = "fp32"
        print("this CPU has no bfloat16: all runs in fp32 (--set train.precision=bf16 insists)")
    known = {*flatten(read_recipe(request.recipe)), *assigned}
    for key, value in table.defaults.items():
        if key not in known:
            override(values, key, value)
    return values, assigned


def _usual_recipe(request: AblateRequest, table: Table, device: str) -> str:
    """The recipe if none is given: the table's own, or that of a training."""
    own = table.recipes.get(device.split(":")[0])
    return own or default_recipe(request.data, device, request.dim)


def _choose(request: AblateRequest, base: RunConfig, table: Table) -> Choices:
    """What is moved, and how; T2 if it is among what the table may move, as in the paper."""
    names: tuple[Modality, ...] = getattr(base, table.moved)
    usual: Modality = "t2w" if "t2w" in names else names[-1]
    move = parse_modality(request.move) if request.move else usual
    if move not in names:
        raise InputError(f"--move {request.move}: the {table.moved} are {', '.join(names)}")
    draw = {"fixed": "fixed_magnitude", "box": "uniform_box"}[request.draw]
    return Choices(move, draw, request.mode == "train-and-test")


def _conventions_of(text: str | None, base: RunConfig, paper: str) -> tuple[str, ...]:
    """Names of the conventions of the scores; the first leads and has a PSNR."""
    ours = ("real-scale", paper)
    default = ours if base.data.intensity == "median" else ours[::-1]
    names = tuple(dict.fromkeys(text.split(","))) if text else default
    if unknown := [name for name in names if name not in CONVENTIONS]:
        raise InputError(
            f"no convention is called {unknown[0]}; there are {', '.join(CONVENTIONS)}"
        )
    if "psnr" not in CONVENTIONS[names[0]].scores:
        raise InputError(f"the first convention must have a PSNR, which {names[0]} has not")
    return names
