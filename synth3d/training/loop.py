"""The training loop: legs of steps, each seeded by itself, each ending in a checkpoint.

A leg is ``checkpoint_every`` steps. All its randomness follows from (seed, leg), so a killed
run that repeats its last leg ends with the same weights, bit for bit, as one that was never
disturbed, on one kind of CPU and with the same number of threads. On CUDA it sees the same batches
and draws the same numbers, but cuDNN may round otherwise: its weights end near by.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synth3d.cohort import Case, Splits
from synth3d.data import (
    Batch,
    CaseError,
    Checked,
    Facts,
    Roles,
    Shelf,
    Store,
    Stream,
    fill,
    hashes_of,
    refuse_contradictions,
    refuse_headers,
    seed_of,
    spacing_seen,
)
from synth3d.errors import InputError
from synth3d.files import lock, progress, sha256, write_json, write_text
from synth3d.images import ScalePrior
from synth3d.machine import tuned, use_device
from synth3d.training.board import Board
from synth3d.training.config import RunConfig
from synth3d.training.origin import Origin, check_origin, note_environment, origin_of
from synth3d.training.run_folder import (
    FORMAT,
    leave_finished,
    load_state,
    read_log,
    save_state,
    save_weights,
    write_config,
)
from synth3d.training.trainer import Trainer
from synth3d.training.validation import draw, validate

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


def train(
    config: RunConfig,
    cases: Sequence[Case],
    splits: Splits,
    data_folder: Path,
    run: Path,
    device: str = "cpu",
    cache: Store | None = None,
) -> Path:
    """Train in the folder ``run``, or go on with what a killed process left there.

    Of all ``cases`` only those named in ``splits.train`` are learnt from and only those in
    ``splits.val`` are validated on; ``data_folder`` is for the record. Prepared cases are kept in
    ``cache``, by default a folder beside ``run``. Returns ``run``, finished.

    Raises:
        InputError: No usable training case, or a bad file.
    """
    with lock(run), tuned(device):
        if (run / "done.json").exists():
            leave_finished(run)
            return run
        for path in run.glob(".partial-*"):  # of a killed process; the lock says nobody writes
            path.unlink(missing_ok=True)
        learn, check = cases_read(config, cases, splits)
        hashes = hashes_of([*learn, *check])
        origin = origin_of(hashes, (*config.sources, *config.targets), device)
        cache = cache or Store(run.parent / "cache")
        shelf, checked = (
            Shelf(cache, some, hashes, config.task, config.data, whole)
            for some, whole in ((learn, False), (check, True))
        )
        with cache.used([*shelf.keys, *checked.keys]):
            trainer = Trainer(config, use_device(device))
            log = _resumed(trainer, run, origin)
            shelves = [checked, shelf]
            fill(shelves, AT_ONCE)
            _describe(trainer, run, splits, data_folder)
            told = _describe_cases(run, shelf, config)
            pinned = trainer.device.type == "cuda"
            how = config.task, config.data, config.misalign, pinned, shelf.expect
            feed = _Feed(Stream(shelf, *how), config.train.seed)
            board = Board(run, trainer.step)
            bar = progress(range(trainer.step, config.train.steps), "training", unit="step")
            to_check = Checked(checked, config.misalign)
            while trainer.step < config.train.steps:
                log += _run_leg(trainer, feed, bar, shelves)
                refuse_contradictions(shelves, LOOK)
                _checkpoint(trainer, run, log, to_check, origin)
                board.add(log)
            if not any("validation" in line and line["step"] == trainer.step for line in log):
                _look(trainer, run, log, to_check)  # the log was removed
                board.add(log)
            board.close()
            fill(shelves)
            if not told:
                _describe_cases(run, shelf, config)
            _finish(trainer, run, data_folder, log, _grids(shelf.facts.values(), config))
    return run


def _grids(cases: Iterable[Facts], config: RunConfig) -> dict[str, Any]:
    """Orientations and voxel sizes trained on; a generator knows no others."""
    seen = [spacing_seen(case.own, config.task, config.data) for case in cases]
    spacings = {tuple(round(mm, 3) for mm in spacing) for spacing in seen}
    return {
        "orientations": sorted({case.own.orientation for case in cases}),
        "spacings_mm": sorted(spacings),
    }


def cases_read(
    config: RunConfig, cases: Sequence[Case], splits: Splits, aloud: bool = True
) -> tuple[list[Case], list[Case]]:
    """The cases that are learnt from and those that are validated on; all headers are judged.

    Those that lack a target are left out, and named where ``aloud``.

    Raises:
        InputError: Too few cases, a source that none has, or headers that cannot be used; all
            are named.
    """

    def usable(names: Sequence[str], desc: str) -> list[Case]:
        mine = [case for case in cases if case.name in set(names)]
        whole = [case for case in mine if all(t in case.images for t in config.targets)]
        lacking = sorted({c.name for c in mine} - {c.name for c in whole})
        if lacking and aloud:
            print(f"{desc}: left out, no {'/'.join(config.targets)}: {', '.join(lacking)}")
        return whole

    learn = usable(splits.train, "training")
    check = usable(splits.val, "validation")[: config.data.validation_cases]
    if not learn or not check:
        raise InputError(
            f"training needs at least one training and one validation case with "
            f"{'/'.join(config.targets)}, found {len(learn)} and {len(check)}"
        )
    if dead := [s for s in config.sources if not any(s in case.images for case in learn)]:
        raise InputError(
            f"no training case has {', '.join(dead)}; say with --sources which sequences to use"
        )
    names = (*config.sources, *config.targets)
    refuse_headers([*check, *learn], names, config.data.common_grid)
    return learn, check


def _describe(trainer: Trainer, run: Path, splits: Splits, data_folder: Path) -> None:
    """Write what describes the run."""
    write_config(run, trainer.config)
    note_environment(run / "environment.json", trainer.device)
    cohort = {"data_folder": str(data_folder.resolve()), "train": splits.train, "val": splits.val}
    write_json(run / "cohort.json", cohort | {"test": splits.test})


def _describe_cases(run: Path, shelf: Shelf, config: RunConfig) -> bool:
    """Write what is learnt of the training cases beside weights; False unless all are known."""
    if len(shelf.facts) < len(shelf):
        return False
    facts = [shelf.facts[number] for number in range(len(shelf))]
    write_json(run / "scales.json", ScalePrior([case.scales for case in facts]).to_list())
    roles = Roles.learn([case.looks for case in facts], config.sources)
    if len(roles.sources) > 1 and not roles.planes:
        print("note: too few training cases to learn what exchanged sequences would look like")
    write_json(run / "roles.json", roles.to_dict())
    return True


def _resumed(trainer: Trainer, run: Path, origin: Origin) -> list[dict[str, Any]]:
    """Load the state of a run under way, if there is one; the log so far. Writes nothing."""
    path = run / "resume.pt"
    if not path.exists():
        return []
    state = load_state(path)
    try:
        check_origin(state["origin"], origin, run)
        trainer.load(state["trainer"])
        train = trainer.config.train
        if trainer.step == 0 or (
            trainer.step % train.checkpoint_every and trainer.step < train.steps
        ):
            raise ValueError(f"step {trainer.step} is not the end of a leg")
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise InputError(
            f"{path} belongs to another version or model ({reason}); remove it to start anew"
        ) from error
    print(f"going on at step {trainer.step} of {trainer.config.train.steps}")
    return [line for line in read_log(run / "log.jsonl") if line["step"] <= trainer.step]


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


def _run_leg(
    trainer: Trainer, feed: _Feed, bar: Iterator[int], shelves: Sequence[Shelf]
) -> list[dict[str, Any]]:
    """Steps up to the next checkpoint; a log line for every ``LOG_EVERY`` of them."""
    train = trainer.config.train
    leg = trainer.step // train.checkpoint_every
    end = min((leg + 1) * train.checkpoint_every, train.steps)
    stream = feed.of(leg)
    soon = max(trainer.step, end - AHEAD)
    lines: list[dict[str, Any]] = []
    found: list[dict[str, float]] = []
    waited = worked = 0.0
    while trainer.step < end:
        if trainer.step == soon and end < train.steps:
            feed.begin(leg + 1)
        begin = time.perf_counter()
        try:
            batch = next(stream)
        except CaseError:
            fill(shelves)  # whatever else is wrong is told with it
            raise
        ready = time.perf_counter()
        found.append(trainer.advance(batch))
        next(bar)
        waited, worked = waited + ready - begin, worked + time.perf_counter() - ready
        if trainer.step % LOG_EVERY == 0 or trainer.step == end:
            names = sorted({name for terms in found for name in terms})
            loss = {n: float(np.mean([t[n] for t in found if n in t])) for n in names}
            seconds = {"data": round(waited, 3), "step": round(worked, 3)}
            lines.append({"step": trainer.step, "loss": loss, "seconds": seconds})
            found, waited, worked = [], 0.0, 0.0
    return lines


def _checkpoint(
    trainer: Trainer,
    run: Path,
    log: list[dict[str, Any]],
    check: Checked,
    origin: Origin,
) -> None:
    """Validate when it is time, then log and state, each in one piece."""
    train = trainer.config.train
    before = max(0, trainer.step - train.checkpoint_every)
    due = trainer.step // train.validate_every > before // train.validate_every
    if due or trainer.step == train.steps:
        _look(trainer, run, log, check)
    write_text(run / "log.jsonl", "".join(json.dumps(line) + "\n" for line in log))
    note_environment(run / "environment.json", trainer.device, same=True)  # by now it has rolled
    save_state(run / "resume.pt", {"origin": origin.plain(), "trainer": trainer.state()})


def _look(trainer: Trainer, run: Path, log: list[dict[str, Any]], check: Checked) -> None:
    """Validate, note it in ``log``, and draw."""
    scores, first = validate(trainer, check)
    log.append({"step": trainer.step, "validation": scores})
    text = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
    print(f"step {trainer.step}: validation {text}")
    draw(trainer.config, run, log, check[0], first)


def _finish(
    trainer: Trainer, run: Path, data_folder: Path, log: list[dict], grids: dict[str, Any]
) -> None:
    """Weights, then ``done.json``; the resume state is no longer needed."""
    weights = run / "weights.safetensors"
    with trainer.averaged():
        save_weights(weights, trainer.framework.generator)
    done = {
        "finished": True,
        "format": FORMAT,
        "sources": trainer.config.sources,
        "targets": trainer.config.targets,
        "data_folder": str(data_folder.resolve()),
        "steps": trainer.step,
        "weights_sha256": sha256(weights),
        "scales_sha256": sha256(run / "scales.json"),
        "validation": next(line["validation"] for line in log[::-1] if "validation" in line),
        "seconds": round(sum(sum(line.get("seconds", {}).values()) for line in log), 1),
        **grids,
    }
    write_json(run / "done.json", done)
    leave_finished(run)
