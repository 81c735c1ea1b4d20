"""Peak memory of one layer, forward and backward.

On the CPU each candidate runs in a process of its own, which reads how far its resident memory
climbed; ``python -m cuda_ops.bench_memory`` is that process and prints the bytes.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cuda_ops.bench_allocator import give_back_memory
from cuda_ops.bench_cases import Shape, layer_calls
from cuda_ops.bench_rows import Result, Row, Setting, SkipRow

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
SETTLING = Shape(8, 4, dim=3)
STEPS = 2


def measure_memory(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    """Bytes that a rolling layer needs at its peak over those of a plain one, x included.

    Raises:
        SkipRow: The system does not tell a process its peak memory.
    """
    find = _peak_on_cuda if setting.device.type == "cuda" else _peak_in_a_process
    peaks = {}
    for candidate in (row.candidate, row.baseline):
        peaks[candidate] = find(candidate, shape, row.dtype, row.memory_format, setting)
    value = peaks[row.candidate] / peaks[row.baseline]
    mib = [f"{name} {peak / 2**20:.0f} MiB" for name, peak in peaks.items()]
    return [row.result(value=value, rounds=1, note=", ".join(mib))]


def _peak_on_cuda(candidate: str, shape: Shape, dtype: str, layout: str, setting: Setting) -> int:
    device = setting.device
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    call = layer_calls(shape, device, dtype, layout)[candidate]
    call()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_in_a_process(
    candidate: str, shape: Shape, dtype: str, layout: str, setting: Setting
) -> int:
    if not STATUS.exists():
        raise SkipRow(f"peak memory is read from {STATUS}, which this system lacks")
    task = {"candidate": candidate, "shape": asdict(shape), "dtype": dtype, "layout": layout}
    return ask_a_process("cuda_ops.bench_memory", {**task, "threads": setting.threads})


def ask_a_process(module: str, task: dict[str, Any]) -> int:
    """The number that ``python -m module`` prints for a task, given as JSON.

    Raises:
        RuntimeError: It failed; with the end of what it said.
    """
    # The child shall find the package that is running, installed or not.
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    finished = subprocess.run(
        [sys.executable, "-m", module, json.dumps(task)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise RuntimeError(f"the process that measures ended with {finished.stderr[-300:]}")
    return int(finished.stdout)


def child(task: str) -> int:
    """Bytes of resident memory that the layer added to a process that has already convolved.

    Args:
        task: JSON with candidate, shape, dtype, layout and threads.
    """
    what = json.loads(task)
    give_back_memory()
    torch.set_num_threads(what["threads"])
    cpu, kind = torch.device("cpu"), (what["dtype"], what["layout"])
    layer_calls(SETTLING, cpu, *kind)[what["candidate"]]()  # libraries load and settle
    before = resident("VmRSS")
    RESET.write_text("5")  # the peak counts from here
    call = layer_calls(Shape(**what["shape"]), cpu, *kind)[what["candidate"]]
    for _ in range(STEPS):
        call()
    return resident("VmHWM") - before


def resident(key: str) -> int:
    """A line of the kernel's account of this process (``VmRSS``, ``VmHWM``), in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no line {key}")


if __name__ == "__main__":
    print(child(sys.argv[1]))
