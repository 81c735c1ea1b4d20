"""From a table to runs: what is trained, what is tested, in which folder.

Cells of different tables that mean the same run share it: a run's folder is named after what
decides its weights and nothing else. All runs of a table take the same number of steps.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from synth3d.cohort import Case, Splits
from synth3d.errors import InputError
from synth3d.experiments.asking import Question
from synth3d.experiments.cell import Cell, Choices, Overrides
from synth3d.experiments.tables import Table
from synth3d.files import place, read_object
from synth3d.frameworks import FRAMEWORKS
from synth3d.settings import override, parse, to_plain
from synth3d.training import SHARED_KEYS, RunConfig, read_config, read_done, settle, unusual

SCALED = ("warmup", "adversarial_start")
"""Settings of ``train`` and of its frameworks that are counted in steps of the whole run."""


@dataclass(frozen=True)
class Shared:
    """What all runs of a table share: the cohort ``data`` and what is done with it where.

    ``cases`` are those of the side ``part`` (``val`` or ``test``), which is scored; ``root``
    gets ``runs`` and ``scores``; the first of ``conventions`` leads; ``threads`` are those of each
    run; they share ``cache``, of at most ``cache_limit`` GB; ``lpips`` is whether that is taken,
    too.
    """

    data: Path
    splits: Splits
    part: str
    cases: tuple[Case, ...]
    root: Path
    conventions: tuple[str, ...]
    device: str
    threads: int
    cache: Path
    cache_limit: float
    lpips: bool = False

    @property
    def cohort(self) -> dict[str, Any]:
        """What identifies the cohort."""
        sides = {side: list(getattr(self.splits, side)) for side in ("train", "val", "test")}
        return {"data_folder": str(self.data.resolve()), **sides}


@dataclass(frozen=True)
class Test:
    """One cell with one seed, to be scored into the JSON file ``path``.

    ``config`` is the run's with what differs when it is tested, ``identity`` what the scores follow
    from besides the weights.
    """

    cell: Cell
    seed: int
    config: RunConfig
    path: Path
    identity: dict[str, Any]


@dataclass(frozen=True)
class Item:
    """The folder of one run to be trained, and the tests that all cells make on it.

    Its log and its scores lie in ``folder``.
    """

    run: Path
    config: RunConfig
    tests: tuple[Test, ...]
    folder: Path

    @property
    def name(self) -> str:
        """``cell-seed``, of the first cell that uses it."""
        return f"{self.tests[0].cell.name}-seed{self.tests[0].seed}"

    @property
    def trained(self) -> bool:
        """Whether the run is finished and is what it should be."""
        if not (self.run / "done.json").is_file():
            return False
        try:
            read_done(self.run)
            return identity_of(read_config(self.run)) == identity_of(self.config)
        except InputError:
            return False  # its training command says what is wrong

    @property
    def todo(self) -> list[Test]:
        """The tests that have no valid scores of the run's weights yet; damaged ones are none."""
        if not self.trained:
            return list(self.tests)
        digest = read_done(self.run)["weights_sha256"]

        def is_scored(test: Test) -> bool:
            try:
                known = read_object(test.path, "identity")
            except InputError:
                return False
            return known["identity"] == {**test.identity, "weights_sha256": digest}

        return [test for test in self.tests if not is_scored(test)]


def normalised(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings with the shared keys of ``train`` moved into the table of its framework.

    A swap of the framework then keeps none of them by accident.
    """
    config = to_plain(parse(RunConfig, values))
    train = config["train"]
    for key in SHARED_KEYS:
        if train.get(key) is not None:
            train[train["framework"]][key] = train[key]
            train[key] = None
    return config


def with_budget(values: dict[str, Any], steps: int, assigned: Sequence[str]) -> dict[str, Any]:
    """``values`` for runs of ``steps`` steps.

    Warm-up and the critic's start move in proportion, unless the user set them; validation, which
    decides nothing here, is left to the end.
    """
    values = copy.deepcopy(values)
    train = values["train"]
    share = steps / train["steps"]
    tables = {"train": train, **{f"train.{name}": train[name] for name in FRAMEWORKS}}
    for prefix, table in tables.items():
        for key in SCALED:
            if table.get(key) and not {f"{prefix}.{key}", f"train.{key}"} & set(assigned):
                table[key] = round(table[key] * share)
    train["steps"] = steps
    if "train.validate_every" not in assigned:
        train["validate_every"] = steps
    if "data.validation_cases" not in assigned:
        values["data"]["validation_cases"] = 1
    return values


def configure(values: Mapping[str, Any], *layers: Overrides) -> RunConfig:
    """``values`` with dotted settings laid over them, one layer after the other.

    ``data.vary`` of ``values`` is 0 in a cell that may not vary its sources.
    """
    plain = copy.deepcopy(dict(values))
    for layer in layers:
        for key, value in layer.items():
            override(plain, key, copy.deepcopy(value))
    return settle(plain, [key for layer in layers for key in layer])


def identity_of(config: RunConfig) -> dict[str, Any]:
    """What decides the weights of a run: settings that are not the default and have an effect.

    Tables of other frameworks have none; how many threads work decides rounding only.
    """
    silent = {"train.threads", "train.validate_every", "data.validation_cases"}
    foreign = tuple(f"train.{name}." for name in FRAMEWORKS.keys() - {config.train.framework})
    return {
        key: value
        for key, value in unusual(config).items()
        if key not in silent and not key.startswith(foreign)
    }


def digest_of(value: Any) -> str:
    """Ten hexadecimal digits that stand for a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def choose_cells(
    table: Table, base: RunConfig, choices: Choices, only: str | None = None
) -> tuple[list[Cell], list[str]]:
    """The cells that exist for ``base``, and the names of those that are to be run.

    ``only`` has patterns with ``*`` and ``?``, comma-separated; None is all. The baselines of what
    matches are run too. That nothing matches, or what does not exist in this dimension, is refused.
    """
    everything = list(table.cells(base, choices))
    cells = [cell for cell in everything if base.dim in cell.dims]
    patterns = ["*"] if only is None else only.split(",")
    named = [cell for cell in everything if any(fnmatch(cell.name, p) for p in patterns)]
    if not named:
        known = ", ".join(cell.name for cell in everything)
        raise InputError(f"--only {only}: no such cell; the table has {known}")
    foreign = [cell for cell in named if base.dim not in cell.dims]
    if foreign and only is not None:
        names, dim = ", ".join(cell.name for cell in foreign), foreign[0].dims[0]
        raise InputError(
            f"--only {only}: {names} is published in {dim}-D only; use --dim {dim}d, or leave it "
            "out"
        )
    wanted = {cell.name for cell in named} | {cell.against for cell in named}
    return cells, [cell.name for cell in cells if cell.name in wanted]


def unvaried(cells: Sequence[Cell], values: Mapping[str, Any]) -> list[str]:
    """Names of the ``cells`` that may not vary their sources, as those of ``values`` are.

    None where these are not varied (``data.vary``). The others are no fair comparison with them.
    """
    if not values["data"]["vary"]:
        return []
    return [cell.name for cell in cells if not configure(values, cell.overrides).may_vary]


def with_sources_alike(
    values: dict[str, Any], cells: Sequence[Cell], assigned: Sequence[str]
) -> dict[str, Any]:
    """``values`` for a fair comparison of ``cells``: none varies its sources where one may not.

    What is set to 0 is printed.

    Raises:
        InputError: ``data.vary`` is ``assigned``, which is by hand.
    """
    if not (still := unvaried(cells, values)):
        return values
    vary = values["data"]["vary"]
    names = ", ".join(still[:6]) + (" and others" if len(still) > 6 else "")
    why = f"{names} may not vary their sources"
    if "data.vary" in assigned:
        raise InputError(
            f"--set data.vary={vary:g}: {why}, and cells are compared alike; leave it out, or "
            "leave those cells out with --only"
        )
    print(f"data.vary is 0 in all cells, not the recipe's {vary:g}: {why}")
    values = copy.deepcopy(values)
    override(values, "data.vary", 0.0)
    return values


def make_items(
    cells: Sequence[Cell], values: Mapping[str, Any], seeds: int, shared: Shared
) -> list[Item]:
    """The runs of ``cells``, all cells of the first seed before those of the next.

    ``values`` are the base's settings, normalised; ``seeds`` as many as this: the base's own and
    the numbers after it.
    """
    items: dict[Path, Item] = {}
    first = int(values["train"]["seed"])
    for seed in range(first, first + seeds):
        for cell in cells:
            config = configure(values, cell.overrides, {"train.seed": seed})
            model, digest = config.model, digest_of([identity_of(config), shared.cohort])
            module = [model.module] if model.name == "agi-net" else []
            made = ["any"] if config.mode == "any" else config.targets
            parts = *made, config.train.framework, model.name, *module
            run = place(shared.root / "runs", "-".join([*parts, f"seed{seed}", digest]))
            folder = place(shared.root / "scores", run.name)
            tested = configure(to_plain(config), cell.testing)
            identity = {
                "tested_with": identity_of(tested),
                "conventions": list(shared.conventions),
                "part": shared.part,
                "cases": [case.name for case in shared.cases],
                "data_folder": str(shared.data.resolve()),
                **({"lpips": True} if shared.lpips else {}),
                **({"asked": asdict(cell.asking)} if cell.asking != Question() else {}),
            }
            path = folder / f"{shared.part}-{digest_of(identity)}.json"
            known = items.get(run, Item(run, config, (), folder))
            test = Test(cell, seed, tested, path, identity)
            items[run] = replace(known, tests=(*known.tests, test))
    return list(items.values())
