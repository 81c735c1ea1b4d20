"""The command ``synth3d ablate``: a table of the paper, rerun on any cohort.

Cells × seeds are runs that differ in what the cell says and nothing else: data, split, steps and
recipe are the same. What was done before is kept; the same command goes on.
"""

import argparse
import os
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from synth3d.errors import InputError
from synth3d.experiments.tables import TABLES, Cell, find_table
from synth3d.files import lock, read_object, write_json

if TYPE_CHECKING:
    from synth3d.experiments.plan import Item
    from synth3d.training import RunConfig

    # fmt: on


def ablate_command(args: argparse.Namespace) -> int:
    """``synth3d ablate``; 0 when every run has its scores, 1 when one failed.

    Raises:
        InputError: A flag, the recipe or the cohort cannot be used.
    """
    if args.list:
        print("\n".join(f"{name:13} {table.title}" for name, table in TABLES.items()))
        return 0
    if args.table is None:
        raise InputError("say which TABLE to run, or --list to see them")
    if args.seeds < 1 or args.jobs < 1:
        raise InputError("--seeds and --jobs must be at least 1")
    return _Ablation(args).run()


class _Ablation:
    """One call of the command, resolved."""

    def __init__(self, args: argparse.Namespace) -> None:
        from synth3d.experiments.base import base_values, choose, conventions_of, find_scored
        from synth3d.experiments.cells import How
        from synth3d.experiments.cost import parse_budget
        from synth3d.experiments.plan import configure
        from synth3d.machine import pick_device

        self.args = args
        self.budget = parse_budget(args.budget) if args.budget else (0, 0.0)
        self.name, self.table = find_table(args.table)
        device = pick_device(args.device)
        args.threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
        self.values, self.assigned = base_values(args, self.table, device)
        base = configure(self.values)
        self.choices = choose(args, base)
        self.cells, self.chosen = self._choose(base)
        self.conventions = conventions_of(args.convention, base)
        self.cohort = find_scored(args)
        self.root = args.work / "ablate"
        suffix = f"-{args.mode}" if self.table.axis and self.choices.retrain else ""
        self.folder = self.root / (args.name or self.name + suffix)
        self.how: How = How(
            self.cohort, self.root, self.conventions, device, args.jobs, args.threads
        )

    def _choose(self, base: "RunConfig") -> tuple[list[Cell], list[str]]:
        from synth3d.experiments.plan import choose_cells

        return choose_cells(self.table, base, self.choices, self.args.only)

    def items(self, cells: Sequence[Cell]) -> list["Item"]:
        """Runs of ``cells`` with the settings as they stand."""
        from synth3d.experiments.plan import make_items

        seeds = self.args.seeds
        return make_items(cells, self.values, seeds, self.cohort, self.conventions, self.root)

    def run(self) -> int:
        """Everything; the exit code."""
        from synth3d.experiments.cells import work

        self._set_budget()
        wanted = [cell for cell in self.cells if cell.name in self.chosen]
        items = self.items(wanted)
        done = sum(item.trained for item in items)
        print(f"{self.table.title}: {self.about(wanted)}; {len(items)} runs, {done} trained before")
        if self.args.dry_run:
            print(self._estimate(items))
            return 0
        self._keep_settings()
        failures: dict[str, str] = {}
        if not self.args.report:
            before = signal.signal(signal.SIGTERM, _interrupt)
            try:
                failures = work(items, self.how, lambda item: self.report({}))
            finally:
                signal.signal(signal.SIGTERM, before)
        print(self.report(failures), end="")
        print(f"\nwritten: {self.folder / 'table.md'}, and .csv, .json, scores.csv beside it")
        return 1 if failures else 0

    def _set_budget(self) -> None:
        from synth3d.experiments.cost import steps_in
        from synth3d.experiments.plan import configure, with_budget

        steps, seconds = self.budget
        if self.args.budget and "train.steps" in self.assigned:
            raise InputError("give --budget or --set train.steps, not both")
        if seconds:
            first = next(cell for cell in self.cells if cell.name in self.chosen)
            steps = steps_in(seconds, self.items([first])[0], self.how, self.values)
        steps = steps or self.values["train"]["steps"]
        self.values = with_budget(self.values, steps, self.assigned)
        self.cells, self.chosen = self._choose(configure(self.values))

    def about(self, cells: Sequence[Cell]) -> str:
        """What is run on what, in a few words."""
        values, cohort = self.values, self.cohort
        curve = f", {self.args.mode}" if self.table.axis else ""
        return (
            f"{len(cells)} of {len(self.cells)} cells × {self.args.seeds} seeds{curve}, "
            f"{values['train']['steps']} steps each; {'+'.join(values['sources'])} → "
            f"{'+'.join(values['targets'])}, {values['dim']}-D, recipe {self.args.recipe}; "
            f"{len(cohort.splits.train)} training and {len(cohort.cases)} {cohort.part} cases of "
            f"{cohort.folder}"
        )

    def _estimate(self, items: list["Item"]) -> str:
        from synth3d.experiments.cells import duration
        from synth3d.experiments.cost import estimate

        costs = estimate(items, self.how.device)
        lines = []
        for item in items:
            cost = costs[item.name]
            text = f"cannot be trained here: {cost}" if isinstance(cost, str) else duration(cost)
            cells = ", ".join(sorted({test.cell.name for test in item.tests}))
            done = "" if item.todo else ", scored"
            text = f"trained{done}" if item.trained else text
            lines.append(f"{item.name:28} {text}  [{cells}]")
        whole = sum(cost for cost in costs.values() if not isinstance(cost, str))
        return "\n".join(
            [
                *lines,
                f"about {duration(whole / self.args.jobs)} of training with --jobs "
                f"{self.args.jobs} (two timed steps of each kind, without reading data; scoring "
                "comes on top)",
            ]
        )

    def _keep_settings(self) -> None:
        """Remember what this table is of; refuse to mix it with another.

        Raises:
            InputError: The folder holds a table of other settings.
        """
        from synth3d.experiments.plan import configure, digest_of, identity_of
        from synth3d.settings import flatten

        settings = flatten(
            {
                "base": identity_of(configure(self.values)),
                "cells": {cell.name: digest_of([dict(cell.overrides), dict(cell.testing)])
                          for cell in self.cells},
                "cohort": self.cohort.sides,
                "part": self.cohort.part,
                "conventions": list(self.conventions),
            }
        )  # fmt: skip
        with lock(self.folder):
            path = self.folder / "settings.json"
            before = read_object(path) if path.is_file() else settings
            differ = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
            if differ:
                raise InputError(
                    f"{self.folder} holds a table of other settings ({', '.join(sorted(differ))}); "
                    "give another --name (finished runs are found again all the same)"
                )
            write_json(path, settings)

    def report(self, failures: Mapping[str, str]) -> str:
        """Write the report of all cells of the table that have scores; its Markdown."""
        from synth3d.experiments.report import write_report
        from synth3d.experiments.results import collect, summarise

        items = self.items(self.cells)
        results = collect(items)
        first = int(self.values["train"]["seed"])
        seeds = list(range(first, first + self.args.seeds))
        summary = summarise(self.cells, results, self.conventions, seeds)
        summary |= {
            "title": self.table.title,
            "axis": self.table.axis,
            "about": self.about([cell for cell in self.cells if cell.name in results]),
            "notes": list(self.table.notes),
            "conventions": list(self.conventions),
            "failures": dict(failures),
            "settings": self.values,
            "choices": vars(self.choices),
            "case_scores": [
                {"cell": cell, "seed": seed, **{k: v for k, v in row.items() if k != "scores"},
                 **row["scores"]}
                for cell, by_seed in results.items()
                for seed, value in by_seed.items()
                for row in value["rows"]
            ],
        }  # fmt: skip
        return write_report(self.folder, summary)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
