"""What a training step gains where freed memory stays with the process, as the command line asks,
against what the C library does by itself.

Two processes take turns, since a process that once kept its memory has it: each is started anew,
takes a few steps and says how long one took.
"""

import json
import platform
import statistics
import sys
import time
from functools import partial

import torch

from cuda_ops.bench_allocator import keep_memory
from cuda_ops.bench_clock import Taken
from cuda_ops.bench_memory import ask_a_process
from cuda_ops.bench_rows import Result, Row, Setting, SkipRow, rated
from synth3d.bench_networks import FORMATS, Case, training_step

PAGES_BAR = 0.90
STEPS = 3


def page_rows(case: Case) -> list[Row]:
    """One row: ResUNet's step in float32."""
    return [
        Row(
            f"pages/{case.name}/fp32/channels_last", str(case), partial(_measure, case=case),
            memory_format="channels_last", candidate="kept", baseline="default", bar=PAGES_BAR,
            cost=2 * (STEPS + 3) * case.seconds,
        )
    ]  # fmt: skip


def _measure(row: Row, setting: Setting, case: Case) -> list[Result]:
    if setting.device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        raise SkipRow("only glibc, on the CPU, can be told to keep freed memory")
    task = {"threads": setting.threads, "widths": case.widths, "groups": case.groups}
    task |= {"side": case.side, "dim": case.dim, "batch": case.batch}
    taken: dict[str, list[Taken]] = {"kept": [], "default": []}
    for turn in range(setting.rounds):
        for name in sorted(taken, reverse=turn % 2 == 1):
            nanoseconds = ask_a_process("synth3d.bench_pages", task | {"keep": name == "kept"})
            taken[name].append(Taken(nanoseconds / 1e9, nanoseconds / 1e9))
    return [rated(row, setting, taken, "kept", "default")]


def child(task: str) -> int:
    """CPU nanoseconds of a training step, the median of ``STEPS`` after one that settles.

    Args:
        task: JSON with widths, groups, side, dim, batch, threads, and whether memory is kept.

    Raises:
        RuntimeError: The C library cannot be told to keep memory.
    """
    what = json.loads(task)
    if what["keep"] and not keep_memory():
        raise RuntimeError("the C library cannot be told to keep freed memory")
    torch.set_num_threads(what["threads"])
    size = {key: what[key] for key in ("groups", "side", "dim", "batch")}
    case = Case("asked", tuple(what["widths"]), **size)
    layout = FORMATS[case.dim]
    step = training_step(
        case.network("plain").to(memory_format=layout), case.image().to(memory_format=layout)
    )
    times = []
    for _ in range(1 + STEPS):
        before = time.process_time_ns()
        step()
        times.append(time.process_time_ns() - before)
    return round(statistics.median(times[1:]))


if __name__ == "__main__":
    print(child(sys.argv[1]))
