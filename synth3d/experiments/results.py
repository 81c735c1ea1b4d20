"""What the scored runs of a table say: one plain value, from which every output is rendered."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from synth3d.errors import InputError
from synth3d.experiments.cell import Cell
from synth3d.experiments.plan import Item
from synth3d.files import read_object
from synth3d.scoring import CONVENTIONS, FEW_CASES, Crossed

FEW_SEEDS = 5
"""Below this many seeds their spread is hardly known."""

Scored = Mapping[int, Mapping[str, Any]]
"""Seed → what ``scores.py`` wrote."""


def collect(items: Sequence[Item]) -> dict[str, dict[int, dict[str, Any]]]:
    """Cell → seed → scores, of all that are there and valid."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for item in items:
        todo = item.todo
        for test in [test for test in item.tests if test not in todo]:
            value = read_object(test.path, "rows")
            if not value["rows"] or not all(row["scores"] for row in value["rows"]):
                raise InputError(
                    f"{test.path} lacks scores; remove it and run the same command again"
                )
            found.setdefault(test.cell.name, {})[test.seed] = value
    return {cell: dict(sorted(seeds.items())) for cell, seeds in found.items()}


def case_scores(results: Mapping[str, Scored]) -> list[dict[str, Any]]:
    """One plain row per cell, seed and image."""
    return [
        {"cell": cell, "seed": seed} | {k: v for k, v in row.items() if k != "scores"}
        | row["scores"]
        for cell, by_seed in results.items()
        for seed, value in by_seed.items()
        for row in value["rows"]
    ]  # fmt: skip


def summarise(
    cells: Sequence[Cell],
    results: Mapping[str, Scored],
    conventions: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Everything about a table's scores.

    A cell is compared with its baseline over the seeds and cases that both have. Cells without
    ``results`` for one of the ``seeds`` that were asked for are listed as not run.

    Returns:
        ``primary``, the score by which the table is read: the PSNR under the first convention;
        ``cells``, each with ``scores``; ``missing``; ``warnings``; ``verdict``.
    """
    rows = [_summary(cell, results, seeds) for cell in cells if results.get(cell.name)]
    lack = {
        cell.name: [seed for seed in seeds if seed not in results.get(cell.name, {})]
        for cell in cells
    }
    convention = CONVENTIONS[conventions[0]]
    primary = f"psnr_{convention.region}@{convention.name}"
    return {
        "primary": primary,
        "cells": rows,
        "missing": [f"{name}-seed{seed}" for name, lacking in lack.items() for seed in lacking],
        "warnings": _warnings(rows, primary, lack, len(seeds)),
        "verdict": verdict(rows, primary),
    }


def _summary(cell: Cell, results: Mapping[str, Scored], wanted: Sequence[int]) -> dict[str, Any]:
    mine = {seed: value for seed, value in results[cell.name].items() if seed in wanted}
    theirs = results.get(cell.against, {})
    first = next(iter(mine.values()))
    names = dict.fromkeys(name for row in first["rows"] for name in row["scores"])
    training = [value["training"] for value in mine.values()]
    about = asdict(cell)
    del about["dims"]
    return about | {
        "seeds": list(mine),
        "runs": [value["run"] for value in mine.values()],
        "parameters": first["parameters"],
        "steps": training[0]["steps"],
        "seconds_per_step": float(np.mean([each["seconds"] / each["steps"] for each in training])),
        "scores": {name: _score(name, mine, theirs) for name in names},
    }


def _score(name: str, mine: Scored, theirs: Scored) -> dict[str, Any]:
    """Level and paired difference of one score, over the rows that have it."""
    own = {seed: _column(value, name) for seed, value in mine.items()}
    keys = _shared(list(own.values()))
    found: dict[str, Any] = {"mean": None, "sd": None, "rows": len(keys), "difference": None}
    if not keys:
        return found
    found |= level(_matrix(own.values(), keys))
    found["patients"] = len({patient for _, _, patient in keys})
    both = [seed for seed in mine if seed in theirs]
    ours, base = [own[seed] for seed in both], [_column(theirs[seed], name) for seed in both]
    if keys := _shared([*ours, *base]):
        patients = [patient for _, _, patient in keys]
        gap = difference(_matrix(ours, keys), _matrix(base, keys), patients)
        found["difference"] = gap | {"rows": len(keys)}
    return found


Key = tuple[str, str, str]
"""(case, sequence, patient)."""


def _column(value: Mapping[str, Any], name: str) -> dict[Key, float]:
    return {
        (row["case"], row["modality"], row["patient"]): row["scores"][name]
        for row in value["rows"]
        if row["scores"].get(name) is not None
    }


def _shared(columns: Sequence[Mapping[Key, float]]) -> list[Key]:
    return [key for key in next(iter(columns), ()) if all(key in each for each in columns)]


def _matrix(columns: Iterable[Mapping[Key, float]], keys: Sequence[Key]) -> np.ndarray:
    return np.array([[column[key] for key in keys] for column in columns])


def level(scores: np.ndarray) -> dict[str, float | None]:
    """``mean`` over seeds of the mean over cases, and ``sd`` (n − 1) of those means over seeds.

    ``scores`` is (seeds, cases), not empty; one seed has no ``sd``.
    """
    means = scores.mean(1)
    sd = float(means.std(ddof=1)) if len(means) > 1 else None
    return {"mean": float(means.mean()), "sd": sd}


def difference(scores: np.ndarray, baseline: np.ndarray, patients: Sequence[str]) -> dict[str, Any]:
    """Cell minus baseline, paired by seed and case, with its interval.

    As :class:`synth3d.scoring.Crossed` makes it, each seed of the cell with the same seed of the
    baseline: what a seed does to the weights it does to all patients at once. Below three seeds the
    interval speaks of these runs alone. It is NaN where a difference is not finite.

    Args:
        scores: (seeds, cases).
        baseline: (seeds, cases), the same seeds and cases in the same order.
        patients: Of each case.

    Returns:
        ``mean`` of all differences, ``low`` and ``high`` of its 95 % interval, and in how many
        ``seeds`` the mean difference is above 0, ``positive``.
    """
    if scores.shape != baseline.shape or scores.ndim != 2 or not scores.size:
        raise ValueError(f"expected equal (seeds, cases), got {scores.shape} and {baseline.shape}")
    gaps = scores - baseline
    found: dict[str, Any] = {"mean": float(gaps.mean()), "low": math.nan, "high": math.nan}
    if np.isfinite(gaps).all():
        estimate = Crossed(patients, len(gaps)).mean(gaps.T)
        found = {"mean": estimate.value, "low": estimate.low, "high": estimate.high}
    return found | {"positive": int((gaps.mean(1) > 0).sum()), "seeds": len(gaps)}


def _warnings(
    rows: Sequence[Mapping[str, Any]], score: str, lack: Mapping[str, Sequence[int]], wanted: int
) -> list[str]:
    found = []
    patients = [row["scores"][score]["patients"] for row in rows if row["scores"][score]["rows"]]
    if patients and min(patients) < FEW_CASES:
        found.append(
            f"{min(patients)} patients are few (under {FEW_CASES}): the intervals are too narrow"
        )
    seeds = min((len(row["seeds"]) for row in rows), default=FEW_SEEDS)
    if seeds == 1:
        found.append("with one seed an interval knows nothing of the spread between trainings")
    elif seeds < FEW_SEEDS:
        found.append(
            f"{seeds} seeds are few (under {FEW_SEEDS}): their spread is hardly known, and "
            "the intervals are too narrow"
        )
    if cells := [
        name if len(seeds) == wanted else f"{name} (seed {', '.join(map(str, seeds))})"
        for name, seeds in lack.items()
        if seeds
    ]:
        found.append(f"not run, or failed: {', '.join(cells)}")
    return found


def verdict(rows: Sequence[Mapping[str, Any]], score: str) -> list[str]:
    """Which cells beat their baseline in ``score``, which fall behind, which do neither.

    A cell beats its baseline when its whole 95 % interval, to 0.01 dB, lies above 0.
    """
    better, worse, neither = found = [], [], []
    for row in rows:
        gap = row["scores"].get(score, {}).get("difference")
        if gap is None:
            continue
        low, high = round(gap["low"], 2), round(gap["high"], 2)
        side = better if low > 0 else worse if high < 0 else neither
        side.append(
            f"{row['name']} ({gap['mean']:+.2f} dB [{gap['low']:+.2f}, {gap['high']:+.2f}] against "
            f"{row['against']})"
        )
    words = ("Better than", "Worse than", "Not told apart from")
    return [
        f"{word} its baseline: {', '.join(names) or 'none'}."
        for word, names in zip(words, found, strict=True)
    ]


def curves(summary: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """For the picture: series → ``level``, ``mean``, ``sd``; ``difference`` where there is one."""
    found: dict[str, dict[str, list[Any]]] = {}
    for row in sorted(summary["cells"], key=lambda row: row["level"]):
        score = row["scores"][summary["primary"]]
        if not row["series"] or score["mean"] is None:
            continue
        point = {key: score[key] for key in ("mean", "sd", "difference")}
        point |= {"level": row["level"], "sd": score["sd"] or 0.0}
        line = found.setdefault(row["series"], {})
        for key, value in point.items():
            line.setdefault(key, []).append(value)
    return found
