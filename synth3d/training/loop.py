"""The training loop: legs of steps, each seeded by itself, each ending in a checkpoint.

A leg is ``checkpoint_every`` steps. All its randomness follows from (seed, leg), so a killed
run that repeats its last leg ends with the same weights, bit for bit, as one that was never
disturbed, on one kind of CPU and with the same number of threads. On CUDA it sees the same batches
and draws the same numbers, but cuDNN may round otherwise: its weights end near by.

Several processes (``ranks``) draw the same batches and each learns from its share; the first one
writes. With another number of them the sums are rounded otherwise, and nothing else changes.
"""

import contextlib
import io
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synth3d.cohort import Case, Splits, listed
from synth3d.data import (
    Batch,
    Prepared,
    Roles,
    Stream,
    misalign,
    prepare,
    seed_of,
    spacing_seen,
    to_subject,
)
from synth3d.errors import InputError
from synth3d.files import lock, progress, sha256, write_json, write_text
from synth3d.images import Grid, ScalePrior
from synth3d.machine import tuned, use_device
from synth3d.training.config import RunConfig
from synth3d.training.distributed import ALONE, Ranks
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
from synth3d.training.stopping import Stop, stop_on_signals
from synth3d.training.trainer import Trainer
from synth3d.training.validation import draw, validate

LOG_EVERY = 10
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
    ranks: Ranks = ALONE,
) -> Path | None:
    """Train in the folder ``run``, or go on with what a killed process left there.

    Of all ``cases`` only those named in ``splits.train`` are learnt from and only those in
    ``splits.val`` are validated on; ``data_folder`` is for the record. Returns ``run``, finished;
    or None where SIGTERM or SIGUSR1 asked to stop, and the state of that moment is kept.

    Raises:
        InputError: No usable training case, or a bad file.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(tuned(device))
        stop = held.enter_context(stop_on_signals())
        if ranks.first:
            held.enter_context(lock(run))
            if (run / "done.json").exists():
                leave_finished(run)
        if ranks.once((run / "done.json").exists):
            return run
        learn, check = _prepare_all(config, cases, splits)
        trainer = Trainer(config, use_device(device), ranks)
        log: list[dict[str, Any]] = []
        origin = None
        if ranks.first:
            for path in run.glob(".partial-*"):  # of a killed process; our lock says nobody writes
                path.unlink(missing_ok=True)
            used = [prepared.case for prepared in (*learn, *check)]
            origin = origin_of(used, config, device, ranks.size)
            log = _resumed(trainer, run, origin)
            _describe(trainer, run, splits, data_folder, learn)
        _take_over(trainer)
        subjects = [to_subject(case, config.task, config.data) for case in learn]
        grids = _grids(learn, config)
        learn.clear()  # the subjects hold what is needed; the cohort is in memory once
        pinned = trainer.device.type == "cuda"
        stream = Stream(subjects, config.task, config.drawn, config.misalign, pinned)
        feed = _Feed(stream, config.train.seed)
        bar = progress(range(trainer.step, config.train.steps), "training", unit="step")
        while trainer.step < config.train.steps:
            lines = _run_leg(trainer, feed, bar, stop)
            log += lines
            if _mid_leg(trainer) or not lines:
                _save(trainer, run, log, origin)
                print(f"stopped at step {trainer.step} by a signal; the same command goes on")
                return None
            _checkpoint(trainer, run, log, check, origin)
        looked = ("validation" in line and line["step"] == trainer.step for line in log)
        if not ranks.once(lambda: any(looked)):
            _look(trainer, run, log, check)  # the log was removed
        if ranks.first:
            _finish(trainer, run, data_folder, log, grids)
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


def _grids(cases: Sequence[Prepared], config: RunConfig) -> dict[str, Any]:
    """Orientations and voxel sizes trained on; a generator knows no others."""
    seen = [spacing_seen(case, config.task, config.data) for case in cases]
    spacings = {tuple(round(mm, 3) for mm in spacing) for spacing in seen}
    return {
        "orientations": sorted({Grid(c.brain.shape, c.affine).orientation for c in cases}),
        "spacings_mm": sorted(spacings),
    }


def _prepare_all(
    config: RunConfig, cases: Sequence[Case], splits: Splits
) -> tuple[list[Prepared], list[Prepared]]:
    """Training and validation cases in memory; those that lack a target are left out, aloud.

    Validation cases are misaligned already, if that is what is studied.
    """

    def usable(names: Sequence[str], desc: str) -> list[Case]:
        mine = [case for case in cases if case.name in set(names)]
        whole = [case for case in mine if all(t in case.images for t in config.targets)]
        if lacking := sorted({c.name for c in mine} - {c.name for c in whole}):
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
    how = config.task, config.data, config.misalign
    found = _read([*check, *learn], config)
    return found[len(check) :], [misalign(case, *how) for case in found[: len(check)]]


def _read(cases: Sequence[Case], config: RunConfig) -> list[Prepared]:
    """All ``cases`` prepared; what is wrong with any of them is told at once."""
    found, faults = [], []
    notes: dict[str, list[str]] = {}
    for case in progress(cases, "reading cases", unit="case"):
        try:
            found.append(prepare(case, config.sources, config.targets, config.data))
        except InputError as error:
            faults.append(str(error))
            continue
        for note in found[-1].notes:
            notes.setdefault(note, []).append(case.name)
    if faults:
        raise InputError("; ".join(faults))
    for note, names in notes.items():
        print(f"note: {note} ({listed(names)})")
    return found


def _describe(
    trainer: Trainer, run: Path, splits: Splits, data_folder: Path, learn: Sequence[Prepared]
) -> None:
    """Write what describes the run."""
    write_config(run, trainer.config)
    note_environment(run / "environment.json", trainer.device)
    cohort = {"data_folder": str(data_folder.resolve()), "train": splits.train, "val": splits.val}
    write_json(run / "cohort.json", cohort | {"test": splits.test})
    write_json(run / "scales.json", ScalePrior([{**case.scales} for case in learn]).to_list())
    write_json(run / "roles.json", Roles.learn(learn, trainer.config.sources).to_dict())


def _resumed(trainer: Trainer, run: Path, origin: Origin) -> list[dict[str, Any]]:
    """Load the state of a run under way, if there is one; the log so far. Writes nothing."""
    path = run / "resume.pt"
    if not path.exists():
        return []
    state = load_state(path)
    try:
        check_origin(state["origin"], origin, run)
        trainer.load(state["trainer"])
        if trainer.step == 0:
            raise ValueError("it is of step 0")
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


def _mid_leg(trainer: Trainer) -> bool:
    """Whether the next checkpoint is still to come."""
    train = trainer.config.train
    return trainer.step < train.steps and trainer.step % train.checkpoint_every > 0


def _run_leg(trainer: Trainer, feed: _Feed, bar: Iterator[int], stop: Stop) -> list[dict[str, Any]]:
    """Steps up to the next checkpoint, or until ``stop``; a log line for ``LOG_EVERY`` of them.

    A leg that is begun in the middle draws what it has seen already once more.
    """
    train = trainer.config.train
    leg, done = divmod(trainer.step, train.checkpoint_every)
    end = min((leg + 1) * train.checkpoint_every, train.steps)
    stream = feed.of(leg)
    for _ in range(done):
        next(stream)
    soon = max(trainer.step, end - AHEAD)
    lines: list[dict[str, Any]] = []
    found: list[dict[str, float]] = []
    waited = worked = 0.0
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


def _checkpoint(
    trainer: Trainer,
    run: Path,
    log: list[dict[str, Any]],
    check: Sequence[Prepared],
    origin: Origin | None,
) -> None:
    """Validate when it is time, then save."""
    train = trainer.config.train
    before = max(0, trainer.step - train.checkpoint_every)
    due = trainer.step // train.validate_every > before // train.validate_every
    if due or trainer.step == train.steps:
        _look(trainer, run, log, check)
    _save(trainer, run, log, origin)


def _save(trainer: Trainer, run: Path, log: list[dict[str, Any]], origin: Origin | None) -> None:
    """Log and state, each in one piece; by the first process, which alone knows the origin."""
    trainer.ranks.check_alike(trainer.framework)
    if origin is None or trainer.step == 0:
        return
    write_text(run / "log.jsonl", "".join(json.dumps(line) + "\n" for line in log))
    note_environment(run / "environment.json", trainer.device, same=True)  # by now it has rolled
    save_state(run / "resume.pt", {"origin": origin.plain(), "trainer": trainer.state()})


def _look(
    trainer: Trainer, run: Path, log: list[dict[str, Any]], check: Sequence[Prepared]
) -> None:
    """Validate, note it in ``log``, and draw."""
    scores, first = validate(trainer, check)
    log.append({"step": trainer.step, "validation": scores})
    text = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
    print(f"step {trainer.step}: validation {text}")
    if first is not None:
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
