"""What the scored runs of a table say: one plain value, from which every output is rendered."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from synth3d.errors import InputError
from synth3d.experiments.plan import Item, Test
from synth3d.experiments.statistics import difference, level
from synth3d.experiments.tables import Cell
from synth3d.files import read_object
from synth3d.scoring import CONVENTIONS, FEW_CASES

FEW_SEEDS = 5
"""Below this many seeds their spread is hardly known."""

Scored = Mapping[int, Mapping[str, Any]]
"""Seed → what ``ablate_scores`` wrote."""


def collect(items: Sequence[Item]) -> dict[str, dict[int, dict[str, Any]]]:
    """Cell → seed → scores, of all that are there and valid."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for item in items:
        missing = {id(test) for test in item.todo}
        for test in item.tests:
            if id(test) not in missing:
                found.setdefault(test.cell.name, {})[test.seed] = _read(test)
    return {cell: dict(sorted(seeds.items())) for cell, seeds in found.items()}


def _read(test: Test) -> dict[str, Any]:
    value = read_object(test.path, "rows")
    if [row["case"] for row in value["rows"] if not row["scores"]] or not value["rows"]:
        raise InputError(f"{test.path} lacks scores; remove it and run the same command again")
    return value


def primary(conventions: Sequence[str]) -> str:
    """The score by which a table is read: PSNR under the first convention."""
    convention = CONVENTIONS[conventions[0]]
    return f"psnr_{convention.region}@{convention.name}"


def summarise(
    cells: Sequence[Cell],
    results: Mapping[str, Scored],
    conventions: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Everything about a table's scores.

    A cell is compared with its baseline over the seeds and cases that both have.

    Args:
        cells: All of the table.
        results: From :func:`collect`; cells without results are listed as not run.
        conventions: Of the scores, the first leads.
        seeds: That were asked for.

    Returns:
        ``cells``, each with ``scores``; ``warnings``; ``verdict``; ``primary``; ``missing``.
    """
    rows = [_summary(cell, results, seeds) for cell in cells if results.get(cell.name)]
    missing = [
        f"{cell.name}-seed{seed}"
        for cell in cells
        for seed in seeds
        if seed not in results.get(cell.name, {})
    ]
    score = primary(conventions)
    return {
        "primary": score,
        "cells": rows,
        "missing": missing,
        "warnings": _warnings(rows, score, _lacking(cells, results, seeds)),
        "verdict": verdict(rows, score),
    }


def _summary(cell: Cell, results: Mapping[str, Scored], wanted: Sequence[int]) -> dict[str, Any]:
    mine = {seed: value for seed, value in results[cell.name].items() if seed in wanted}
    theirs = results.get(cell.against, {}) if cell.against else {}
    first = next(iter(mine.values()))
    names = list(dict.fromkeys(name for row in first["rows"] for name in row["scores"]))
    training = [value["training"] for value in mine.values()]
    return {
        "name": cell.name,
        "against": cell.against,
        "series": cell.series,
        "level": cell.level,
        "overrides": dict(cell.overrides),
        "testing": dict(cell.testing),
        "seeds": list(mine),
        "runs": [value["run"] for value in mine.values()],
        "parameters": first["parameters"],
        "steps": training[0]["steps"],
        "seconds_per_step": float(np.mean([each["seconds"] / each["steps"] for each in training])),
        "printed": {task: asdict(printed) for task, printed in cell.printed.items()},
        "scores": {name: _score(name, mine, theirs) for name in names},
    }


def _score(name: str, mine: Scored, theirs: Scored) -> dict[str, Any]:
    """Level and paired difference of one score, over the rows that have it."""
    own = {seed: _column(value, name) for seed, value in mine.items()}
    keys = _shared(list(own.values()))
    found: dict[str, Any] = {"mean": None, "sd": None, "rows": len(keys), "difference": None}
    if not keys:
        return found
    found |= asdict(level(np.array([[column[key] for key in keys] for column in own.values()])))
    found["patients"] = len({patient for _, _, patient in keys})
    both = [seed for seed in mine if seed in theirs]
    if not both:
        return found
    other = {seed: _column(theirs[seed], name) for seed in both}
    keys = _shared([*(own[seed] for seed in both), *other.values()])
    if keys:
        pair = [np.array([[c[seed][key] for key in keys] for seed in both]) for c in (own, other)]
        patients = [patient for _, _, patient in keys]
        found["difference"] = asdict(difference(*pair, patients)) | {"rows": len(keys)}
    return found


Key = tuple[str, str, str]


def _column(value: Mapping[str, Any], name: str) -> dict[Key, float]:
    """(case, sequence, patient) → score."""
    return {
        (row["case"], row["modality"], row["patient"]): row["scores"][name]
        for row in value["rows"]
        if row["scores"].get(name) is not None
    }


def _shared(columns: Sequence[Mapping[Key, float]]) -> list[Key]:
    return [key for key in columns[0] if all(key in column for column in columns)]


def _lacking(
    cells: Sequence[Cell], results: Mapping[str, Scored], seeds: Sequence[int]
) -> list[str]:
    """Cells that lack seeds, and which."""
    found = []
    for cell in cells:
        lack = [str(seed) for seed in seeds if seed not in results.get(cell.name, {})]
        if len(lack) == len(seeds):
            found.append(cell.name)
        elif lack:
            found.append(f"{cell.name} (seed {', '.join(lack)})")
    return found


def _warnings(rows: Sequence[Mapping[str, Any]], score: str, lacking: Sequence[str]) -> list[str]:
    found = []
    patients = [row["scores"][score]["patients"] for row in rows if row["scores"][score]["rows"]]
    if patients and min(patients) < FEW_CASES:
        found.append(
            f"{min(patients)} patients are few (under {FEW_CASES}): the intervals are too narrow"
        )
    seeds = [len(row["seeds"]) for row in rows]
    if seeds and min(seeds) == 1:
        found.append("with one seed an interval knows nothing of the spread between trainings")
    elif seeds and min(seeds) < FEW_SEEDS:
        found.append(
            f"{min(seeds)} seeds are few (under {FEW_SEEDS}): their spread is hardly known, and "
            "the intervals are too narrow"
        )
    if lacking:
        found.append(f"not run, or failed: {', '.join(lacking)}")
    return found


def verdict(rows: Sequence[Mapping[str, Any]], score: str) -> list[str]:
    """Which cells beat their baseline in ``score``, which fall behind, which do neither.

    A cell beats its baseline when its whole 95 % interval, to 0.01 dB, lies above 0.
    """
    sides: dict[str, list[str]] = {"above": [], "below": [], "neither": []}
    for row in rows:
        gap = row["scores"].get(score, {}).get("difference")
        if gap is None:
            continue
        low, high = round(gap["low"], 2), round(gap["high"], 2)
        side = "above" if low > 0 else "below" if high < 0 else "neither"
        sides[side].append(
            f"{row['name']} ({gap['mean']:+.2f} dB [{gap['low']:+.2f}, {gap['high']:+.2f}] against "
            f"{row['against']})"
        )
    words = {
        "above": "Better than its baseline",
        "below": "Worse than its baseline",
        "neither": "Not told apart from its baseline",
    }
    return [f"{words[side]}: {', '.join(names) or 'none'}." for side, names in sides.items()]


def curves(summary: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """For the picture: series → ``level``, ``mean``, ``sd``; ``difference`` where there is one."""
    found: dict[str, dict[str, list[Any]]] = {}
    for row in sorted(summary["cells"], key=lambda row: row["level"]):
        score = row["scores"][summary["primary"]]
        if not row["series"] or score["mean"] is None:
            continue
        empty: dict[str, list[Any]] = {"level": [], "mean": [], "sd": [], "difference": []}
        line = found.setdefault(row["series"], empty)
        line["level"].append(row["level"])
        line["mean"].append(score["mean"])
        line["sd"].append(score["sd"] or 0.0)
        line["difference"].append(score["difference"])
    return found
