"""What a table will cost: steps that fit a duration, and the time of every run."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from synth3d.console import duration
from synth3d.errors import InputError
from synth3d.experiments.cells import train_command
from synth3d.experiments.plan import Item, Shared, configure, digest_of, identity_of, with_budget
from synth3d.files import make_folder, read_json, write_json
from synth3d.training import RunConfig, cost_of, read_log

TIMED_STEPS = 40
"""Of the run that a duration is measured by; the first ten are not counted."""
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def parse_budget(text: str) -> tuple[int, float]:
    """``600`` → (600 steps, 0); ``10min``, ``90s``, ``1.5h`` → (0, seconds); else refused."""
    match = re.fullmatch(r"(?:(\d+)|(\d+(?:\.\d+)?)\s*(s|min|h))", text.strip())
    steps = int(match[1] or 0) if match else 0
    seconds = float(match[2]) * UNITS[match[3]] if match and match[2] else 0.0
    if not steps and not seconds:
        raise InputError(
            f"--budget takes steps (600) or a duration (90s, 10min, 1.5h), got {text!r}"
        )
    return steps, seconds


def steps_in(seconds: float, baseline: Item, shared: Shared, values: Mapping[str, Any]) -> int:
    """How many steps of ``baseline`` take ``seconds`` on this machine, in tens.

    They are measured once, by a short training of its own, and remembered beside it: the same
    command later means the same steps, however busy the machine is then. ``values`` are the base's
    settings before any budget.
    """
    cell = baseline.tests[0].cell
    config = configure(with_budget(dict(values), TIMED_STEPS, ()), cell.overrides)
    config = replace(config, train=replace(config.train, checkpoint_every=TIMED_STEPS))
    digest = digest_of([identity_of(config), shared.cohort, shared.device, shared.threads])
    folder = make_folder(shared.root / "timing" / digest)
    known = folder / "timing.json"
    if not known.is_file():
        print(f"timing {TIMED_STEPS} steps of {cell.name} for the budget")
        item = Item(folder / "runs" / "timed", config, (), folder)
        command = train_command(item, replace(shared, root=folder))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"the run that times the budget failed: {done.stderr.strip()[-500:]}")
        lines = [line for line in read_log(item.run / "log.jsonl") if "seconds" in line][1:]
        pace = sum(sum(line["seconds"].values()) for line in lines) / (TIMED_STEPS - 10)
        write_json(known, {"seconds_per_step": pace, "steps": TIMED_STEPS})
    pace = float(read_json(known)["seconds_per_step"])
    return max(10, int(seconds / pace) // 10 * 10)


def estimate(items: Sequence[Item], device: str, workers: int) -> str:
    """A line per run, how long it will train or why it cannot be trained here, and their sum.

    Runs that differ in the seed alone are timed once.
    """
    known: dict[str, float | str] = {}
    lines, whole = [], 0.0
    for item in items:
        if item.trained:
            text = "trained" if item.todo else "trained, scored"
        else:
            settings = identity_of(item.config)
            kind = digest_of({k: v for k, v in settings.items() if k != "train.seed"})
            cost = known[kind] if kind in known else _cost(item.config, device)
            known[kind] = cost
            text = cost if isinstance(cost, str) else duration(cost)
            whole += 0.0 if isinstance(cost, str) else cost
        cells = ", ".join(sorted({test.cell.name for test in item.tests}))
        lines.append(f"{item.name:28} {text}  [{cells}]")
    lines.append(
        f"about {duration(whole / workers)} of training with --workers {workers} (by timed "
        "steps, without reading data; scoring comes on top)"
    )
    return "\n".join(lines)


def _cost(config: RunConfig, device: str) -> float | str:
    """Seconds that the run will take, or why it cannot be built on this machine."""
    try:
        return cost_of(config, device).seconds_per_step * config.train.steps
    except InputError as error:
        return f"cannot be trained here: {error}"
