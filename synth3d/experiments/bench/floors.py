"""The rows of TSF-Seq2Seq's training: what stands between a step and the time of its convolutions.

Step and convolutions are taken from the same calls, in wall time: what slows the machine down slows
both.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from cuda_ops.bench import Result, Row, Setting, compare, summary
from synth3d.settings import parse
from synth3d.training import RunConfig, Trainer, random_batch, read_recipe

RECIPE = "tsf-cpu"
STAGES = ("seq2seq", "fusion")
BAR = 1.25
"""Of a step's wall time over that of its convolutions."""


def floor_rows() -> Iterator[Row]:
    """A training step of either stage at the size of the recipe, its optimiser included."""
    config: RunConfig = parse(RunConfig, read_recipe(RECIPE))
    sides = "×".join(map(str, config.data.patch))
    shape = f"{config.dim}-D {'-'.join(map(str, config.model.widths))}, {sides}"
    for stage in STAGES:
        for dtype in ("fp32", "bf16"):
            yield Row(
                f"floor/tsf-{stage}/{dtype}", f"{shape}, B={config.data.batch}",
                partial(_floor, config=config, stage=stage), dtype, "channels_last",
                candidate="step", baseline="convolutions", bar=BAR,
            )  # fmt: skip


def _floor(row: Row, setting: Setting, config: RunConfig, stage: str) -> list[Result]:
    step = training_step(replace(config, train=replace(config.train, precision=row.dtype)), stage)
    step()  # libraries load and settle
    taken: dict[str, list[float]] = {"step": [], "convolutions": []}
    for _ in range(setting.rounds):
        whole, inside = seconds_with_convolutions(step)
        taken["step"].append(whole)
        taken["convolutions"].append(inside)
    ratio = compare(taken["step"], taken["convolutions"])
    said = {"value": ratio.median, "lowest": ratio.lowest, "of_minima": ratio.of_minima}
    return [row.result(**said, rounds=setting.rounds, seconds=summary(taken), note="wall")]


def training_step(config: RunConfig, stage: str) -> Callable[[], object]:
    """A step of a run's training in one of its stages, on random voxels, ready to be repeated."""
    trainer = Trainer(config, torch.device("cpu"))
    batch, first = random_batch(config), {"seq2seq": 0, "fusion": config.train.steps - 1}[stage]

    def step() -> object:
        trainer.step = first
        return trainer.advance(batch)

    return step


def seconds_with_convolutions(call: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds of ``call``, and those it spends in convolutions, forwards and backwards."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        began = time.perf_counter()
        call()
        whole = time.perf_counter() - began
    events = [event for event in seen.key_averages() if "conv" in event.key.lower()]
    return whole, sum(event.self_cpu_time_total for event in events) / 1e6
