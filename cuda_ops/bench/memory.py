"""Peak memory of one layer, forward and backward.

On the CPU each candidate runs in a process of its own, which reads how far its resident memory
climbed: it runs :func:`child` and prints the bytes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from cuda_ops.bench.clock import give_back_memory
from cuda_ops.bench.rows import DTYPES, LAYOUTS, Result, Row, Setting, Shape, SkipRow, layer_calls

STATUS = Path("/proc/self/status")
MEMORY_BAR = 1.15
SHAPES: dict[str, tuple[Shape, ...]] = {
    "cpu": (Shape(32, 64), Shape(64, 32), Shape(64, 256, batch=4, dim=2)),
    "cuda": (Shape(16, 64), Shape(32, 64), Shape(64, 64), Shape(32, 128)),
}


def memory_rows(device: str) -> Iterator[Row]:
    """Peak memory of a rolling layer over a plain one; on a GPU, of torch's allocator."""
    dtypes = ["fp32"] if device == "cpu" else [*DTYPES]
    for shape, dtype, layout in product(SHAPES[device], dtypes, LAYOUTS):
        name, measure = f"memory/{shape.name}/{dtype}/{layout}", partial(_memory, shape=shape)
        yield Row(name, str(shape), measure, dtype, layout, bar=MEMORY_BAR)


def _memory(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    """Bytes that a rolling layer needs at its peak over those of a plain one, x included."""
    find = _peak_on_cuda if setting.device.type == "cuda" else _peak_in_a_process
    peaks = {name: find(name, shape, row, setting) for name in (row.candidate, row.baseline)}
    value = peaks[row.candidate] / peaks[row.baseline]
    mib = [f"{name} {peak / 2**20:.0f} MiB" for name, peak in peaks.items()]
    return [row.result(value=value, rounds=1, note=", ".join(mib))]


def _peak_on_cuda(candidate: str, shape: Shape, row: Row, setting: Setting) -> int:
    device = setting.device
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    call = layer_calls(shape, device, row.dtype, row.memory_format)[candidate]
    call()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_in_a_process(candidate: str, shape: Shape, row: Row, setting: Setting) -> int:
    task = {"candidate": candidate, "shape": asdict(shape), "dtype": row.dtype}
    task |= {"layout": row.memory_format, "threads": setting.threads}
    return ask_a_process("cuda_ops.bench.memory", task)


def ask_a_process(module: str, task: dict[str, Any]) -> int:
    """What ``child`` of a module returns for a task, given as JSON, in a process of its own.

    Raises:
        RuntimeError: It failed; with the end of what it said.
        SkipRow: The system does not tell a process its peak memory.
    """
    if not STATUS.exists():
        raise SkipRow(f"peak memory is read from {STATUS}, which this system lacks")
    # The child shall find the package that is running, installed or not.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    code = f"import sys; from {module} import child; print(child(sys.argv[1]))"
    finished = subprocess.run(
        [sys.executable, "-c", code, json.dumps(task)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise RuntimeError(f"the process that measures ended with {finished.stderr[-300:]}")
    return int(finished.stdout)


def climb(work: Callable[[], object]) -> int:
    """By how many bytes the resident memory of this process climbs in ``work``, at its peak."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    work()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    facts = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(facts[key].split()[0]) * 1024


def child(task: str) -> int:
    """Bytes of resident memory that the layer added to a process that has already convolved."""
    what = json.loads(task)
    give_back_memory()
    torch.set_num_threads(what["threads"])
    place = torch.device("cpu"), what["dtype"], what["layout"]
    layer_calls(Shape(8, 4), *place)[what["candidate"]]()  # libraries load and settle

    def two_steps() -> None:
        call = layer_calls(Shape(**what["shape"]), *place)[what["candidate"]]
        call()
        call()

    return climb(two_steps)
