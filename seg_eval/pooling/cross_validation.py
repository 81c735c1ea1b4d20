"""``--cross-validate``: a cohort cut into folds by patient, an experiment each, one certificate.

Each fold is tested by a synthesiser and segmenters that are trained on the others. A run of before
has seen patients of some fold, so every fold trains its own.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seg_eval.arms import ARM_KINDS, deal_patients
from seg_eval.cohort import is_whole
from seg_eval.experiment import (
    INCOMPLETE,
    RunRequest,
    arms_in_words,
    training_of,
    unused_in_words,
)
from seg_eval.records import digest
from synth3d.cohort import Case, Splits, find_cases, parse_splits, write_splits
from synth3d.console import duration, gigabytes
from synth3d.errors import InputError
from synth3d.files import make_folder, place, plain
from synth3d.runs import fold_name

VALIDATED = 0.1
"""Share of the patients that a synthesiser is chosen on, as in a split that is drawn."""


@dataclass(frozen=True)
class FoldedPlan:
    """The folds of a request.

    Attributes:
        name: Of the certificate's folder; those of the folds end in ``-fold1`` and so on.
        splits: One for each fold, in which its patients are ``test``.
        files: Where these are written.
        patients: How many patients each fold tests.
    """

    name: str
    splits: tuple[Splits, ...]
    files: tuple[Path, ...]
    patients: tuple[int, ...]

    def write(self) -> None:
        """Write the split files.

        Raises:
            InputError: Other folds are there under this name. Nothing is written then.
        """
        folder = self.files[0].parent
        there = {path: parse_splits(path) for path in sorted(folder.glob("fold*.json"))}
        wanted = dict(zip(self.files, self.splits, strict=True))
        if any(wanted.get(path) != split for path, split in there.items()):
            raise InputError(
                f"{folder} holds folds of other cases, another --seed or another number; give "
                "another --name"
            )
        make_folder(folder)
        for path in [path for path in wanted if path not in there]:
            write_splits(path, wanted[path])


def draw_folds(cases: Sequence[Case], folds: int, seed: int) -> tuple[Splits, ...]:
    """A split for each of ``folds``, in which each patient is tested once.

    Patients are dealt in an order that ``seed`` draws, those with the most cases first; of those
    who are left, some are drawn for validation. The order of ``cases`` does not matter.

    Raises:
        InputError: There are too few patients.
    """
    patients: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        patients.setdefault(case.patient, []).append(case)
    order = sorted(patients)
    few = InputError(
        f"--cross-validate {folds}: each fold needs a patient to test, and two others to train and "
        "to validate on, all with four sequences and a label, and there are "
        f"{len(order)} such patients"
    )
    if not 2 <= folds <= len(order):
        raise few
    random.Random(f"folds/{seed}").shuffle(order)
    validated = max(1, round(VALIDATED * len(order)))
    found = []
    for number, part in enumerate(deal_patients([patients[name] for name in order], folds), 1):
        tested = {case.patient for case in part}
        left = [name for name in sorted(order) if name not in tested]
        if len(left) < 2:
            raise few
        random.Random(f"validation/{seed}/{number}").shuffle(left)
        val = {*left[: min(validated, len(left) - 1)]}
        names = [sorted(case.name for who in side for case in patients[who])
                 for side in (left[len(val) :], val, tested)]  # fmt: skip
        found.append(Splits(*map(tuple, names)))
    return tuple(found)


def folded_plan(request: RunRequest) -> FoldedPlan:
    """The folds of ``request``, which asks for some; nothing is written.

    Raises:
        InputError: There are too few patients.
    """
    assert request.cross_validate is not None
    if request.settings and not _trains(request):
        raise InputError("--set is for a synthesiser, and --arms leaves out synthetic")
    cases = [case for case in find_cases(request.cohort) if is_whole(case)]
    splits = draw_folds(cases, request.cross_validate, request.seed)
    how = request.degradation
    stem = how.stem if how else f"random-{request.seed}" if request.is_random else ""
    stem = stem or "-".join(request.wanted[0])
    cohort = plain(request.cohort.resolve().name)
    name = request.name or f"{stem}-{cohort}-{len(splits)}folds"
    folder = place(request.work / "eval", f"{name}-folds")
    files = tuple(place(folder, f"fold{i}.json") for i, _ in enumerate(splits, 1))
    whose = {case.name: case.patient for case in cases}
    patients = tuple(len({whose[case] for case in split.test}) for split in splits)
    return FoldedPlan(name, splits, files, patients)


def requests_of(request: RunRequest, plan: FoldedPlan) -> list[RunRequest]:
    """What each fold asks for, without a synthesiser that has to be trained for it first."""
    return [
        replace(request, cross_validate=None, splits=path, name=f"{plan.name}-fold{number}",
                settings=request.settings if request.coupled is not None else ())
        for number, path in enumerate(plan.files, 1)
    ]  # fmt: skip


def own_run(
    request: RunRequest, plan: FoldedPlan, number: int
) -> tuple[Path, tuple[str, ...]] | None:
    """Folder of the run that fold ``number`` (from 1) trains, and arguments of ``synth3d`` for it.

    Its name says all that decides it, also what its recipe holds; there are no arguments for one
    that is finished. None where no arm needs a synthesiser, or ``--coupled`` trains it.
    """
    if request.coupled is not None or not _trains(request):
        return None
    split = plan.splits[number - 1]
    about = [request.missing, request.degraded, request.profile, str(request.cohort.resolve())]
    about += [
        list(split.train),
        list(split.val),
        list(split.test),
        request.labels,
        request.held_recipes,
    ]
    folder = place(request.work / "runs", fold_name(number, digest(*about, request.settings)))
    if (folder / "done.json").is_file():
        return folder, ()
    asked = replace(request, cross_validate=None, splits=plan.files[number - 1], settings=())
    return folder, training_of(asked, request.wanted[0], folder, request.settings)


def _trains(request: RunRequest) -> bool:
    return any(ARM_KINDS[kind].needs_synthesis for kind in request.kinds)


def tell_folds(plan: FoldedPlan, one: Mapping[str, Any], left: int, out: Path) -> dict[str, Any]:
    """The event ``plan`` of all folds, by that of ``one``, of which ``left`` are to be done."""
    all_of = (
        "seconds",
        "seconds_synthesis",
        "seconds_segmenters",
        "seconds_transfer",
        "disk_bytes",
    )
    folds = {"patients": list(plan.patients), "left": left, "seconds": one["seconds"]}
    return {**one, **{key: left * one[key] for key in all_of}, "folder": str(out), "folds": folds}


def folds_in_words(told: Mapping[str, Any]) -> str:
    """The same for a terminal, at most 15 lines."""
    folds = told["folds"]
    patients, count = folds["patients"], len(folds["patients"])
    gap = "restored" if told["degraded"] else "missing"
    each = f", about {duration(folds['seconds'])} each" if folds["seconds"] else ""
    busy = f"; {told['busy']}" if told["busy"] else ""
    each, about = (
        (each, f"about {duration(told['seconds'])} of training")
        if told["seconds"]
        else ("", "nothing to train")
    )
    judge = (
        ""
        if told["segmenter_iterations"] is None
        else (f", {told['segmenters_to_train']} to train a fold")
    )
    transfer = f", and {told['transfer']} ({told['transfer_to_train']} a fold)"
    lines = [
        f"question:    {' and '.join(told['missing'])} {gap}",
        f"folds:       {count} of {sum(patients)} patients, each judged once: "
        f"{', '.join(map(str, patients))} to test",
        f"each fold:   about {told['learnt']} cases to train segmenters on, {told['test']} to test",
        *unused_in_words({INCOMPLETE: told["left_out"][INCOMPLETE]}),
        f"arms:        {arms_in_words(told)}",
        *(f"synthesiser: one for each fold, as by {words}" for words in told["training"]),
        f"segmenter:   {told['segmenter']}{judge}{transfer if told['transfer'] else ''}",
        *([f"memory:      about {gigabytes(told['memory_bytes'])} for the trainings"]
          if told["memory_bytes"] else []),
        f"disk:        up to {gigabytes(told['disk_bytes'])}, {gigabytes(told['free_bytes'])} are "
        "free",
        f"time:        {about}: {folds['left']} of {count} folds to do{each}{busy}; segmenting and "
        "scoring come on top",
        f"goes to:     {told['folder']}, the folds beside it (-fold1 to -fold{count})",
        "nothing was done; --json prints all settings",
    ]  # fmt: skip
    return "\n".join(lines)
