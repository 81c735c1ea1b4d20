"""An experiment's record: caveats of its plan, hashes, versions, and its rows as CSV and back."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_type_hints

from seg_eval.analysis import Caveat
from seg_eval.arms import ARM_KINDS, Completed, SynthesisRun, kinds_with
from seg_eval.experiment import SMALL, Experiment, Plan
from seg_eval.records import GUARD, Pin, is_likely
from seg_eval.scoring import IMAGE_SCORES, Score
from seg_eval.segmenter import BEST, FINAL, STOCK_TOTAL, iterations_of
from synth3d.errors import InputError
from synth3d.files import from_csv_cell, read_text, sha256, write_csv, write_text
from synth3d.machine import versions as versions_here
from synth3d.scoring import FEWEST_TRAININGS
from synth3d.settings import read_as

LIBRARIES = ("torch", "nnunetv2", "scikit-learn", "numpy", "nibabel", "torchio")
IMAGE_COLUMNS = ("case", "patient", "arm", "modality", *IMAGE_SCORES, "replicate")


def caveats_of(plan: Plan) -> list[Caveat]:
    """What a reader has to know of the plan that the figures do not say."""
    found = []
    found += [Caveat("label_scheme", {"warning": note}) for note in plan.cohort.notes]
    kinds = {arm.kind for arm in plan.arms}
    if absent := [kind for kind in kinds_with("own_segmenter") if kind not in kinds]:
        found.append(Caveat("rivals_not_run", {"kinds": absent, "degraded": bool(plan.degraded)}))
    how, restoring = plan.degraded, [arm.source for arm in plan.arms if arm.kind == "restored"]
    for run in [source for source in restoring if isinstance(source, SynthesisRun)]:
        if how is not None and not how.is_learnt_by(run, plan.cohort.test[0]):
            about = {"name": run.name, "ratio": run.ratio, "profile": run.profile}
            found.append(Caveat("other_slices", about))
    if thick := how.thick_already(plan.cohort.test) if how else {}:
        found.append(Caveat("thick_truth", {"name": plan.missing[0], "cases": thick}))
    if not plan.foreign and (count := iterations_of(plan.preset)) < SMALL:
        about = {"preset": plan.preset, "iterations": count, "stock": STOCK_TOTAL}
        found.append(Caveat("small_segmenter", about))
    if plan.foreign is not None:
        found.append(Caveat("foreign_segmenter", {"name": plan.foreign.name}))
        if kinds & set(kinds_with("own_segmenter")):
            found.append(Caveat("rivals_of_another_preset", {"preset": plan.preset}))
    found += _of_chance(plan)
    other = [arm for arm in plan.arms if ARM_KINDS[arm.kind].group == "synthesis"]
    if unknown := [arm.name for arm in other if not isinstance(arm.source, SynthesisRun)]:
        found.append(Caveat("unknown_training", {"names": unknown}))
    if taught := [arm.of for arm in plan.arms if isinstance(arm.source, Completed) and arm.of]:
        found.append(Caveat("retrained_on_files", {"name": taught[0]}))
    return found


def _of_chance(plan: Plan) -> list[Caveat]:
    """What might have come out otherwise and is not drawn at random."""
    found, untold = [], [case.name for case in plan.cohort.test if not case.centre]
    if 0 < len(untold) < len(plan.cohort.test):
        found.append(Caveat("untold_centres", {"cases": untold}))
    few = [arm for arm in plan.judged if len(plan.groups[arm.name]) < FEWEST_TRAININGS]
    ours = [arm for arm in few if isinstance(arm.source, SynthesisRun)]
    if own := [arm.name for arm in ours if arm.about.is_synthesis]:
        found.append(Caveat("these_weights", {"names": own}))
    return found


def hashes(experiment: Experiment) -> dict[str, str]:
    """SHA-256 of whatever was learned: synthesisers and segmenters.

    Raises:
        InputError: The record of the segmenters is damaged.
    """
    found: dict[str, str] = {}
    for arm in experiment.plan.arms:
        if isinstance(arm.source, SynthesisRun):
            found[f"synthesiser {arm.source.name}"] = arm.source.weights_sha256
    models = read_as(dict[str, Pin], experiment.folder / "segmenters.json", GUARD)
    for name in (f"{kind}-seed{seed}" for kind, seed in experiment.segmenters()):
        folder = Path(models[name].model)
        final, best = (folder.glob(f"fold_*/{file}") for file in (FINAL, BEST))
        for path in sorted(final) or sorted(best):
            found[f"segmenter {name} {path.parent.name}"] = sha256(path)
    return found


def versions() -> dict[str, str]:
    """Of synth3d, of Python and of the libraries that have a part in the figures."""
    found = dict.fromkeys(LIBRARIES, "not installed") | versions_here()
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A CSV file; an undefined score is an empty cell. Replicates, if any, have a column."""
    text, rows = io.StringIO(), list(rows)
    named = [c for c in columns if c != "replicate" or any(row.get(c) for row in rows)]
    write_csv(text, [{name: row.get(name) for name in named} for row in rows], named)
    write_text(path, text.getvalue())


def read_results(folder: Path) -> tuple[list[Score], list[dict[str, Any]]]:
    """The rows of ``results.csv`` and ``image_scores.csv`` of an experiment's folder.

    Raises:
        InputError: A file is missing or cannot be read.
        ValueError, LookupError, TypeError: It is no such table, or its numbers are no scores.
    """
    scores = [Score(**row) for row in _read_rows(folder / "results.csv", get_type_hints(Score))]
    texts = (*IMAGE_COLUMNS[:4], "replicate")
    columns = dict.fromkeys(IMAGE_COLUMNS, float) | dict.fromkeys(texts, str)
    return scores, _read_rows(folder / "image_scores.csv", columns)


def _read_rows(path: Path, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The inverse of :func:`write_rows`, with the type of each column: str, int, else float."""

    def parse(cell: str, kind: Any) -> Any:
        if kind is str:
            return from_csv_cell(cell)
        return kind(cell) if kind is int else float(cell) if cell else None

    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path))))
    except InputError as error:
        raise InputError(f"{error}; run the experiment again") from error
    except csv.Error as error:
        raise ValueError(f"{path.name}: {error}") from error
    parsed = [{name: parse(cell, columns[name]) for name, cell in row.items()} for row in rows]
    if not all(map(is_likely, parsed)):
        raise ValueError(f"{path.name} holds numbers that are no scores")
    return parsed
