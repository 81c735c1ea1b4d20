"""What a second process of a training is worth: a row of the benchmark of networks.

Two processes of one thread each take the same training steps, on AGI-Net as the recipe ``cpu`` has
it: in turn the first one alone on the whole batch, and both on half of it each.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from cuda_ops.bench import Result, Row, Setting
from synth3d.data import Batch, DataConfig
from synth3d.models import ModelConfig
from synth3d.training import ALONE, Ranks, RunConfig, TrainConfig, Trainer, joined, ranks_here

MODULE = "synth3d.experiments.bench.ranks"
EFFICIENCY_BAR = 0.85
SIZE, SAMPLES = 2, 4
"""Processes, and samples of a batch: each has two, as small lone ones take another path."""


def ranks_row(widths: tuple[int, ...], groups: int, side: int) -> Row:
    """The row of two processes, for patches of ``side``^3."""
    named = "-".join(map(str, widths))

    def measure(row: Row, setting: Setting) -> list[Result]:
        task = {"widths": widths, "groups": groups, "side": side, "rounds": setting.rounds}
        alone, both = _ask_two(task)
        ratios = [one / (SIZE * two) for one, two in zip(alone, both, strict=True)]
        return [
            row.result(
                value=statistics.median(ratios),
                unit="of ideal",
                lowest=min(ratios),
                of_minima=min(alone) / (SIZE * min(both)),
                rounds=len(ratios),
                seconds={"one": statistics.median(alone), "two": statistics.median(both)},
            )
        ]

    return Row(
        "train/two-processes/fp32", f"3-D {named}, n={groups}, {side}^3, B={SAMPLES}", measure,
        memory_format="channels_last", candidate="two processes", baseline="one",
        bar=EFFICIENCY_BAR, at_least=True,
    )  # fmt: skip


def _ask_two(task: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Seconds of a step, alone and together, in each round.

    Raises:
        RuntimeError: A process failed; with the end of what it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        told = {
            "WORLD_SIZE": SIZE,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": probe.getsockname()[1],
        }
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    code = f"import sys; from {MODULE} import child; child(sys.argv[1])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(task)],
            env=os.environ
            | {name: str(value) for name, value in told.items()}
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(SIZE)
    ]
    said = [process.communicate() for process in processes]
    for process, (_, error) in zip(processes, said, strict=True):
        if process.returncode:
            raise RuntimeError(f"a process failed: {error.strip()[-300:]}")
    return json.loads(said[0][0])


def child(task: str) -> None:
    """What one of the processes does; the first one prints the seconds as JSON."""
    what, ranks = json.loads(task), ranks_here()
    torch.set_num_threads(1)
    sides = (what["side"],) * 3
    config = RunConfig(
        model=ModelConfig(
            "agi-net", tuple(what["widths"]), groups=what["groups"], routing_stride=2
        ),
        data=DataConfig(sides, (0, 0, 0), batch=SAMPLES),
        train=TrainConfig(framework="l1"),
    )
    draws = torch.Generator().manual_seed(0)
    sources, targets = (torch.rand(SAMPLES, n, *sides, generator=draws) for n in (3, 1))
    masks = torch.ones(SAMPLES, 3, dtype=torch.bool), torch.ones(SAMPLES, 1, dtype=torch.bool)
    batch = Batch(sources, targets, *masks, torch.ones(SAMPLES, 1, *sides, dtype=torch.bool))
    with joined(ranks, "cpu"):
        times = _rounds(config, batch, ranks, what["rounds"])
    if ranks.first:
        print(json.dumps(times))


def _rounds(
    config: RunConfig, batch: Batch, ranks: Ranks, rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of a step: of the first process alone while the others wait, and of all."""
    device = torch.device("cpu")
    together = Trainer(config, device, ranks)
    alone = Trainer(config, device, ALONE) if ranks.first else None
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for trainer, times in zip((alone, together), taken, strict=True):
            ranks.any(False)  # all begin at once
            began = time.perf_counter()
            if trainer is not None:
                trainer.advance(batch)
            times.append(time.perf_counter() - began)
    return taken[0][1:], taken[1][1:]  # in the first round libraries load and settle
