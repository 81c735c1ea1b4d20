"""The rows that need a GPU: launches, bandwidth, the fused kernel's gain, the ways to convolve."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from cuda_ops.bench.clock import Call, CudaClock, summary
from cuda_ops.bench.memory import MEMORY_BAR, measure_memory
from cuda_ops.bench.rows import (
    DTYPES,
    LAYOUTS,
    Result,
    Row,
    Setting,
    Shape,
    SkipRow,
    generation_calls,
    layer_calls,
    leaves,
    rated,
    take,
    timed,
)
from cuda_ops.op import roll_kernel, roll_kernel_op

FUSED = (  # kernels of AGI-Net's stages; bar of the fused form over the matrix product
    (Shape(64, 16), 0.2),
    (Shape(256, 16), None),
    (Shape(512, 8, batch=4), None),
    (Shape(512, 32, batch=16, dim=2), None),
)
BANDWIDTH = (  # aim of the share of a copy's bandwidth
    (Shape(256, 16), None),
    (Shape(512, 8, batch=4), 0.7),
    (Shape(512, 32, batch=16, dim=2), None),
)
LAYER_BAR = 1.15
LAYERS = (
    *(Shape(channels, side) for side in (64, 96, 128) for channels in (16, 32, 64)),
    Shape(32, 64, batch=8), Shape(128, 32), Shape(256, 16), Shape(512, 8), Shape(512, 4),
    Shape(64, 256, batch=16, dim=2), Shape(512, 32, batch=16, dim=2),
)  # fmt: skip
MIXED_VOXELS = 512
"""Above this many the columns of the input would fill the device for nothing."""
MEMORY = (Shape(16, 64), Shape(32, 64), Shape(64, 64), Shape(32, 128))
QUICK = ("launches", "fused/3d-2x64", "bandwidth/3d-4x512", "32@64^3-b2", "memory/32@64^3")


def cuda_rows() -> Iterator[Row]:
    """Every row that only a GPU can measure."""
    parts = launch_rows, fused_rows, bandwidth_rows, layer_rows, memory_rows
    for part in parts:
        for row in part():
            yield replace(row, quick=any(key in row.name for key in QUICK))


def launch_rows() -> Iterator[Row]:
    """What the device is given to do: kernels, fills and copies."""
    shape = Shape(64, 16)
    for dtype in DTYPES:
        for direction, bar in (("forward", 1), ("backward", 3)):
            yield Row(
                f"gpu/launches/{direction}/{dtype}", f"{shape.kernels}, {direction}",
                partial(_launches, shape=shape), dtype=dtype, candidate="fused", baseline="–",
                bar=bar,
            )  # fmt: skip


def _launches(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    _need_cupy()
    inputs = leaves(shape, setting.device)

    def forward() -> Tensor:
        return roll_kernel_op(*inputs, DTYPES[row.dtype])

    out = forward()
    grad = torch.randn_like(out)

    def backward() -> None:
        torch.autograd.grad(out, inputs, grad, retain_graph=True)

    seen = device_activities(backward if "backward" in row.name else forward)
    note = ", ".join(name.split("(")[0][:60] for name in seen)
    return [row.result(value=len(seen), unit="launches", rounds=1, note=note)]


def device_activities(call: Call) -> list[str]:
    """Names of the kernels, fills and copies that a call makes the current device do."""
    names: list[str] = []
    for _ in range(2):  # the first session starts the profiler and may miss something
        call()
        torch.cuda.synchronize()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the profiler has to say is not about us
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as session:
                call()
                torch.cuda.synchronize()
            events = session.events() or ()
        names = [event.name for event in events if _is_activity(event)]
    return names


def _is_activity(event: Any) -> bool:
    if event.device_type != DeviceType.CUDA or event.name.endswith(" Sync"):
        return False
    return not getattr(event, "is_user_annotation", False)


def fused_rows() -> Iterator[Row]:
    """The fused kernel against the matrix product in torch, launching included."""
    for shape, bar in FUSED:
        for direction in ("forward", "both"):
            yield Row(
                f"gpu/fused/{shape.short}/{direction}", f"{shape.kernels}, {direction}",
                partial(_fused, shape=shape), candidate="cupy", baseline="torch", bar=bar,
            )  # fmt: skip


def _fused(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    _need_cupy()
    forms = {backend: rolled_by(backend) for backend in ("cupy", "torch")}
    backward = row.name.endswith("both")
    calls = generation_calls(shape, forms, setting.device, "contiguous", backward)
    return timed(row, setting, calls)


def rolled_by(backend: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """:func:`cuda_ops.roll_kernel` with ``CUDA_OPS_BACKEND`` set for the call."""

    def roll(weight: Tensor, offsets: Tensor, scale: Tensor) -> Tensor:
        with backend_of(backend):
            return roll_kernel(weight, offsets, scale)

    return roll


@contextmanager
def backend_of(backend: str) -> Iterator[None]:
    """``CUDA_OPS_BACKEND`` within the block, and what it was after it."""
    before = os.environ.get("CUDA_OPS_BACKEND")
    os.environ["CUDA_OPS_BACKEND"] = backend
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_OPS_BACKEND"]
        else:
            os.environ["CUDA_OPS_BACKEND"] = before


def bandwidth_rows() -> Iterator[Row]:
    """Bytes per second of the fused kernel as a share of those of a copy on the device."""
    for shape, aim in BANDWIDTH:
        for direction in ("forward", "backward"):
            for dtype in DTYPES:
                for layout in LAYOUTS:
                    yield Row(
                        f"gpu/bandwidth/{shape.short}/{direction}/{dtype}/{layout}",
                        f"{shape.kernels}, {direction}", partial(_bandwidth, shape=shape),
                        dtype=dtype, memory_format=layout, candidate="fused",
                        baseline="copy of as many bytes", bar=aim, at_least=True,
                    )  # fmt: skip


def _bandwidth(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    """The share, and for the forward of what has a bar also its time over the copy's."""
    _need_cupy()
    inputs = leaves(shape, setting.device, row.memory_format)
    out = roll_kernel_op(*inputs, DTYPES[row.dtype])
    grad = torch.randn_like(out)

    def forward() -> None:
        with torch.no_grad():
            roll_kernel_op(*inputs, DTYPES[row.dtype])

    def backward() -> None:
        torch.autograd.grad(out, inputs, grad, retain_graph=True)

    back = "/backward/" in row.name
    weight = inputs.weight.numel() * inputs.weight.element_size()
    moved = out.numel() * out.element_size() + weight * (2 if back else 1)
    source = torch.empty(moved // 2, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    calls = {
        row.candidate: backward if back else forward,
        row.baseline: partial(_copy, target, source),
    }
    setting = replace(setting, clock=CudaClock(setting.device, queued=True))
    taken = take(setting, calls)
    speed = moved / summary(taken)[row.candidate]["clock"] / 1e9
    share = rated(row, setting, taken, row.baseline, row.candidate, note=f"{speed:.0f} GB/s")
    if row.bar is None or back:
        return [share]
    floor = replace(row, name=row.name.replace("bandwidth", "floor"), bar=2.0, at_least=False)
    return [share, rated(floor, setting, taken, row.candidate, row.baseline)]


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


def layer_rows() -> Iterator[Row]:
    """A rolling layer against a plain one, forward and backward, in each way to convolve."""
    for dtype in DTYPES:
        for shape in LAYERS:
            for layout in LAYOUTS:
                large = shape.dim == 3 and shape.side >= 64
                yield Row(
                    f"layer/{shape.name}/{dtype}/{layout}", str(shape),
                    partial(_ways, shape=shape), dtype=dtype, memory_format=layout,
                    bar=LAYER_BAR if large else None,
                )  # fmt: skip


def _ways(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    """What the layer chooses, which has the bar, and each way for comparison."""
    ways = [
        "looped",
        "grouped",
        *(["mixed-input"] if shape.side**shape.dim <= MIXED_VOXELS else []),
    ]
    calls = layer_calls(shape, setting.device, row.dtype, row.memory_format, ways)
    taken = take(setting, calls)
    chosen = rated(row, setting, taken, row.candidate, row.baseline)
    compared = [replace(row, candidate=name, bar=None) for name in ways]
    return [chosen, *(rated(one, setting, taken, one.candidate, "plain") for one in compared)]


def memory_rows() -> Iterator[Row]:
    """Peak of torch's allocator in a rolling layer over a plain one."""
    for shape in MEMORY:
        for dtype in DTYPES:
            for layout in LAYOUTS:
                yield Row(
                    f"memory/{shape.name}/{dtype}/{layout}", str(shape),
                    partial(measure_memory, shape=shape), dtype=dtype, memory_format=layout,
                    bar=MEMORY_BAR,
                )  # fmt: skip


def _need_cupy() -> None:
    from cuda_ops import cuda

    try:
        cuda.load_cupy()
    except RuntimeError as error:
        raise SkipRow(str(error)) from error
