"""The training loop: legs of steps, each seeded by itself, each ending in a checkpoint.

A leg is ``checkpoint_every`` steps. All its randomness follows from (seed, leg), so a killed
run that repeats its last leg ends with the same weights, bit for bit, as one that was never
disturbed, on one kind of CPU and with the same number of threads. On CUDA it sees the same batches
and draws the same numbers, but cuDNN may round otherwise: its weights end near by.

Several processes (``ranks``) draw the same batches and each learns from its share; the first one
prepares cases and writes. With another number of them the sums are rounded otherwise, and nothing
else changes.
"""

import contextlib
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synth3d.cohort import FEWEST, Case, Splits, never_together
from synth3d.console import conclude
from synth3d.data import (
    Batch,
    CaseError,
    Checked,
    Shelf,
    Store,
    Stream,
    fill,
    hashes_of,
    motion_seed,
    ratio_on,
    refuse_contradictions,
    refuse_headers,
    seed_of,
    thick_cases,
)
from synth3d.errors import InputError
from synth3d.files import lock, progress
from synth3d.images import grid
from synth3d.machine import tuned, use_device
from synth3d.training.config import RunConfig
from synth3d.training.distributed import ALONE, Ranks
from synth3d.training.record import Log, Record
from synth3d.training.run_folder import (
    Recipe,
    is_finished,
    leave_finished,
    note_recipe,
    open_again,
)
from synth3d.training.start import refuse_coupled, refuse_seen, segmenter_of
from synth3d.training.trainer import Trainer
from synth3d.training.watch import Stop, stop_on_signals

LOG_EVERY = 10
AT_ONCE = 15.0
"""Seconds for which cases are prepared before the first step; the rest is, while training runs."""
LOOK = 1.0
"""Seconds at the end of a leg for seeing which cases were prepared meanwhile."""
AHEAD = 20
"""Steps before the end of a leg at which workers begin to draw for the next one."""


def leg_seed(seed: int, leg: int) -> int:
    """A 63-bit seed that differs for every (seed, leg)."""
    return seed_of(f"{seed}/{leg}")


@dataclass(frozen=True)
class Place:
    """Where a training runs.

    Attributes:
        device: Of this process.
        cache: The store of prepared cases; None is a folder beside the run's.
        ranks: The processes that are this training.
    """

    device: str = "cpu"
    cache: Store | None = None
    ranks: Ranks = ALONE


def train(
    config: RunConfig,
    cases: Sequence[Case],
    splits: Splits,
    data_folder: Path,
    run: Path,
    place: Place = Place(),
    recipe: Recipe | None = None,
) -> Path | None:
    """Train in the folder ``run``, or go on with what a killed process left there.

    Of all ``cases`` only those named in ``splits.train`` are learnt from and only those in
    ``splits.val`` are validated on; ``data_folder`` and ``recipe`` are for the record. Returns
    ``run``, finished; or None where SIGTERM or SIGUSR1 asked to stop, and the state of that moment
    is kept.

    Raises:
        InputError: No usable training case, or a bad file.
    """
    ranks = place.ranks
    with contextlib.ExitStack() as held:
        held.enter_context(tuned(place.device))
        stop = held.enter_context(stop_on_signals())
        if ranks.first:
            held.enter_context(lock(run))
            if is_finished(run, config):
                leave_finished(run)
        if ranks.once(lambda: is_finished(run, config)):
            return run
        about = used_of(cases, splits), config.task, config.data, not config.degrade.keep_thick
        thick = ranks.once(lambda: thick_cases(*about))
        learn, check = cases_read(config, cases, splits, thick=thick)
        hashes = ranks.once(lambda: hashes_of([*learn, *check]))
        cache = place.cache or Store(run.parent / "cache")
        shelf, checked = (
            held.enter_context(Shelf(cache, some, hashes, config.task, config.data, whole))
            for some, whole in ((learn, False), (check, True))
        )
        if ranks.first:
            held.enter_context(cache.used([*shelf.keys, *checked.keys]))
        trainer = Trainer(config, use_device(place.device), ranks)
        record = Record(trainer, run, hashes, place.device)
        _take_over(trainer)
        ranks.once(lambda: fill([checked, shelf], AT_ONCE))
        ranks.once(lambda: record.check_room([checked, shelf]))
        ranks.once(lambda: open_again(run))
        record.describe(splits, data_folder, thick)
        if ranks.first:
            note_recipe(run, recipe)
        record.describe_cases(shelf)
        if not _learn(record, shelf, checked, stop):
            print(f"warning: stopped at step {trainer.step} by a signal; the same command goes on")
            conclude(stopped=trainer.step)
            return None
        ranks.once(lambda: fill([checked, shelf]))
        record.describe_cases(shelf)
        record.finish(shelf, data_folder, ranks.once(lambda: record.remarks(shelf)))
    return run


def _take_over(trainer: Trainer) -> None:
    """Give all processes the state of the first one."""

    def packed() -> bytes:
        buffer = io.BytesIO()
        torch.save(trainer.state(), buffer)
        return buffer.getvalue()

    if trainer.ranks.size == 1:
        return
    state = trainer.ranks.once(packed)
    if not trainer.ranks.first:
        trainer.load(torch.load(io.BytesIO(state), map_location="cpu", weights_only=True))


def _learn(record: Record, shelf: Shelf, checked: Shelf, stop: Stop) -> bool:
    """All steps that are left, with a checkpoint after each leg; False where ``stop`` was asked."""
    trainer, config = record.trainer, record.trainer.config
    pinned, shelves = trainer.device.type == "cuda", [checked, shelf]
    about = segmenter_of(config)
    scores = "" if about is None else ("head" if about.masked else "box")
    how: dict[str, Any] = {"pinned": pinned, "expect": shelf.expect, "coupled": scores}
    seeds = [motion_seed(config.train.seed, case.name) for case in shelf.cases]
    how |= {"degrade": config.degrade, "seeds": seeds}
    stream = Stream(shelf, config.task, config.drawn, config.misalign, **how)
    feed = _Feed(stream, config.train.seed)
    to_check = Checked(checked, config.misalign, config.degrade)
    bar = progress(range(trainer.step, config.train.steps), "training", unit="step")
    while trainer.step < config.train.steps:
        lines = _run_leg(trainer, feed, bar, shelves, stop)
        if record.writes:
            record.log += lines
            refuse_contradictions(shelves, LOOK)
        if _mid_leg(trainer) or not lines:
            record.save()
            return False
        record.checkpoint(to_check)
    next(bar, None)  # which ends it
    if not record.looked:
        record.look(to_check)  # the log was removed
    return True


def cases_read(
    config: RunConfig,
    cases: Sequence[Case],
    splits: Splits,
    aloud: bool = True,
    thick: Mapping[str, str] | None = None,
) -> tuple[list[Case], list[Case]]:
    """The cases that are learnt from and those that are validated on; all headers are judged.

    Those that lack a target, or in mode ``any`` have fewer than two of the sequences, are left out,
    and named where ``aloud``. So are those that are no truth for what is to be restored, ``thick``
    (:func:`synth3d.data.thick_cases`); None is those that headers tell.

    Raises:
        InputError: Too few cases, a source that none has, headers that cannot be used, or cases
            held out that the run that this one begins from has seen; all are named.
    """
    refuse_seen(config, cases, splits)
    refuse_coupled(config, cases, splits, aloud)
    either, listed = config.mode == "any", "/".join(config.targets)
    needed = f"two of {listed}" if either else listed
    if thick is None:
        about = used_of(cases, splits), config.task, config.data
        thick = thick_cases(*about, voxels=False)

    def usable(names: Sequence[str], desc: str) -> list[Case]:
        mine = [case for case in cases if case.name in set(names)]
        without = left_out(config, mine, thick)
        for reason, those in without.items() if aloud else ():
            told = [f"{name} ({thick[name]})" if name in thick else name for name in those]
            print(f"{desc}: left out, {reason}: {', '.join(told)}")
        gone = {name for those in without.values() for name in those}
        return [case for case in mine if case.name not in gone]

    learn = usable(splits.train, "training")
    check = usable(splits.val, "validation")[: config.data.validation_cases]
    if not learn or not check:
        raise InputError(
            f"training needs at least one training and one validation case with "
            f"{needed}, found {len(learn)} and {len(check)}{_hint(thick, config)}"
        )
    if dead := [s for s in config.sources if not any(s in case.images for case in learn)]:
        which = f"no training case with {needed}" if either else "no training case"
        raise InputError(
            f"{which} has {', '.join(dead)}; say with --sources which sequences to use"
        )
    if either and aloud:
        for text in never_together([case.images for case in learn], config.sources):
            print(f"warning: {text}")
    names = tuple(dict.fromkeys((*config.sources, *config.targets)))
    refuse_headers([*check, *learn], names, config.data.common_grid)
    for case in (*check, *learn) if config.task.poor else ():
        _refuse_coarser(config, case)
    return learn, check


def left_out(
    config: RunConfig, cases: Sequence[Case], thick: Mapping[str, str]
) -> dict[str, list[str]]:
    """Why some of ``cases`` can be neither learnt from nor validated on: reason → their names.

    ``thick`` names those that are no truth for what is to be restored, as
    :func:`synth3d.data.thick_cases` does.
    """
    either, listed = config.mode == "any", "/".join(config.targets)
    fewest = FEWEST if either else len(config.targets)
    found: dict[str, list[str]] = {}
    for case in cases:
        there = len(config.targets) - len(case.missing(config.targets))
        if case.name in thick:
            reason = f"{listed} is thick there already, no truth to learn"
        elif there < fewest:
            reason = f"no {'two of ' if either else ''}{listed}"
        else:
            continue
        found.setdefault(reason, []).append(case.name)
    return {reason: sorted(names) for reason, names in found.items()}


def used_of(cases: Sequence[Case], splits: Splits) -> list[Case]:
    """Those of ``cases`` that are learnt from or validated on."""
    names = {*splits.train, *splits.val}
    return [case for case in cases if case.name in names]


def _hint(thick: Mapping[str, str], config: RunConfig) -> str:
    """Why so few, where it is for thick slices, and what to do."""
    if not thick:
        return ""
    told = ", ".join(f"{name} ({how})" for name, how in sorted(thick.items())[:5])
    return (
        f" beside {len(thick)} in which {config.task.poor[0]} is thick already, as in {told}; give "
        "cases that have it whole, or learn from interpolated ones with degrade.keep_thick=true"
    )


def _refuse_coarser(config: RunConfig, case: Case) -> None:
    """Stop where what is to be restored would have voxels larger than the case."""
    there = grid(case.images[config.task.poor[0]])
    ratio = ratio_on(there, config.task, config.data)
    if any(by > side for by, side in zip(ratio, there.shape_zyx, strict=True)):
        raise InputError(
            f"case {case.name}: voxels {ratio} times as long (degrade.ratio, z, y, x) are larger "
            f"than its grid of {there.shape_zyx}; take a smaller ratio, or leave the case out"
        )


class _Feed:
    """The batches of each leg; workers draw those of the next one before it begins."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self.stream, self.seed = stream, seed
        self.begun: dict[int, Iterator[Batch]] = {}

    def of(self, leg: int) -> Iterator[Batch]:
        """The batches of a leg, torch's global generator being seeded for it."""
        seed = leg_seed(self.seed, leg)
        if leg not in self.begun:
            return self.stream.batches(seed)
        torch.manual_seed(seed)
        return self.begun.pop(leg)

    def begin(self, leg: int) -> None:
        """Let workers, if there are any, draw for a leg that is still to come."""
        if self.stream.data.workers > 0:
            self.begun[leg] = self.stream.drawn_by_workers(leg_seed(self.seed, leg))


def _mid_leg(trainer: Trainer) -> bool:
    """Whether the next checkpoint is still to come."""
    train = trainer.config.train
    return trainer.step < train.steps and trainer.step % train.checkpoint_every > 0


def _run_leg(
    trainer: Trainer, feed: _Feed, bar: Iterator[int], shelves: Sequence[Shelf], stop: Stop
) -> Log:
    """Steps up to the next checkpoint, or until ``stop``; a log line for ``LOG_EVERY`` of them.

    A leg that is begun in the middle draws what it has seen already once more.
    """
    train = trainer.config.train
    leg, done = divmod(trainer.step, train.checkpoint_every)
    end = min((leg + 1) * train.checkpoint_every, train.steps)
    stream = feed.of(leg)
    soon = max(trainer.step, end - AHEAD)
    lines: Log = []
    found: list[dict[str, float]] = []
    waited = worked = 0.0
    try:
        for _ in range(done):
            next(stream)
        while trainer.step < end and not trainer.ranks.any(stop.asked):
            if trainer.step == soon and end < train.steps:
                feed.begin(leg + 1)
            begin = time.perf_counter()
            batch = next(stream)
            ready = time.perf_counter()
            found.append(trainer.advance(batch))
            next(bar)
            waited, worked = waited + ready - begin, worked + time.perf_counter() - ready
            if trainer.step % LOG_EVERY == 0 or trainer.step == end:
                lines.append(_line(trainer.step, found, waited, worked))
                found, waited, worked = [], 0.0, 0.0
    except CaseError:
        fill(shelves)  # whatever else is wrong is told with it
        raise
    return [*lines, _line(trainer.step, found, waited, worked)] if found else lines


def _line(
    step: int, found: Sequence[dict[str, float]], waited: float, worked: float
) -> dict[str, Any]:
    """A line of the log: the mean terms of the steps since the last one, and their seconds."""
    names = sorted({name for terms in found for name in terms})
    loss = {n: float(np.mean([t[n] for t in found if n in t])) for n in names}
    return {
        "step": step,
        "loss": loss,
        "seconds": {"data": round(waited, 3), "step": round(worked, 3)},
    }
