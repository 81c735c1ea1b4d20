"""What a table will cost: steps that fit a duration, and the time of a step of every cell."""

import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from synth3d.errors import InputError
from synth3d.experiments.cells import How, train_command
from synth3d.experiments.plan import Item, configure, digest_of, identity_of, with_budget
from synth3d.files import make_folder, read_json, write_json
from synth3d.training import RunConfig, read_log

TIMED_STEPS = 40
"""Of the run that a duration is measured by; the first ten are not counted."""

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def parse_budget(text: str) -> tuple[int, float]:
    """``600`` → (600 steps, 0); ``10min``, ``90s``, ``1.5h`` → (0, seconds).

    Raises:
        InputError: Neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)?", text.strip())
    if match and match[2] and float(match[1]) > 0:
        return 0, float(match[1]) * UNITS[match[2]]
    if match and not match[2] and match[1].isdigit() and int(match[1]) > 0:
        return int(match[1]), 0.0
    raise InputError(f"--budget takes steps (600) or a duration (90s, 10min, 1.5h), got {text!r}")


def steps_in(seconds: float, baseline: Item, how: How, values: Mapping[str, Any]) -> int:
    """How many steps of ``baseline`` take ``seconds`` on this machine, in tens.

    They are measured once, by a short training of its own, and remembered beside it: the same
    command later means the same steps, however busy the machine is then.

    Args:
        seconds: Of one run.
        baseline: The first baseline of the table.
        how: Of the table.
        values: Base settings, normalised, before any budget.

    Raises:
        InputError: The short training fails.
    """
    short = with_budget(dict(values), TIMED_STEPS, ())
    config = configure(short, baseline.tests[0].cell.overrides)
    train = replace(config.train, checkpoint_every=TIMED_STEPS)
    config = replace(config, train=train)
    digest = digest_of([identity_of(config), how.cohort.sides, how.device, how.threads])
    folder = make_folder(how.root / "timing" / digest)
    known = folder / "timing.json"
    if not known.is_file():
        print(f"timing {TIMED_STEPS} steps of {baseline.tests[0].cell.name} for the budget")
        item = Item(folder / "runs" / "timed", config, (), folder)
        command = train_command(item, replace(how, root=folder))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"the run that times the budget failed: {done.stderr.strip()[-500:]}")
        write_json(known, {"seconds_per_step": _pace(item.run), "steps": TIMED_STEPS})
    pace = float(read_json(known)["seconds_per_step"])
    return max(10, int(seconds / pace) // 10 * 10)


def _pace(run: Path) -> float:
    """Seconds per step, data included, without the first ten."""
    lines = [line for line in read_log(run / "log.jsonl") if "seconds" in line][1:]
    seconds = sum(sum(line["seconds"].values()) for line in lines)
    return seconds / (TIMED_STEPS - 10)


def seconds_per_step(config: RunConfig, device: str) -> float:
    """Timed on random voxels: without data, and once with and once without a late critic.

    Raises:
        InputError: The cell cannot be built on this machine.
    """
    import torch

    from synth3d.data import Batch
    from synth3d.machine import keep_memory
    from synth3d.training import Trainer

    keep_memory()
    torch.set_num_threads(config.train.threads)
    trainer = Trainer(config, torch.device(device))
    size, sides = config.data.batch, config.data.patch
    draws = torch.Generator().manual_seed(0)
    shape = (size, len(config.targets), *sides)
    batch = Batch(
        sources=torch.rand(size, len(config.sources), *sides, generator=draws),
        targets=torch.rand(shape, generator=draws),
        present=torch.ones(size, len(config.sources), dtype=torch.bool),
        wanted=torch.ones(size, len(config.targets), dtype=torch.bool),
        brain=torch.ones(size, 1, *sides, dtype=torch.bool),
    )

    def timed(step: int) -> float:
        trainer.step = step
        trainer.advance(batch)
        began = time.perf_counter()
        trainer.advance(batch)
        return time.perf_counter() - began

    late = getattr(config.train.options, "adversarial_start", 0)
    steps = config.train.steps
    share = min(late / steps, 1.0)
    before = timed(0) if share > 0 else 0.0
    return share * before + (1 - share) * (timed(max(late, steps)) if share < 1 else 0.0)


def estimate(items: list[Item], device: str) -> dict[str, float | str]:
    """Per run: seconds, or why it cannot be trained here; runs that differ in the seed are timed
    once, finished ones cost nothing.
    """
    known: dict[str, float | str] = {}
    found: dict[str, float | str] = {}
    for item in items:
        if item.trained:
            found[item.name] = 0.0
            continue
        kind = digest_of({k: v for k, v in identity_of(item.config).items() if k != "train.seed"})
        if kind not in known:
            try:
                pace = seconds_per_step(item.config, device)
                known[kind] = pace * item.config.train.steps
            except InputError as error:
                known[kind] = str(error)
        found[item.name] = known[kind]
    return found
