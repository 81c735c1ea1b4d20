"""The rows that only a GPU has: launches, the fused kernel's gain, bandwidth."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cuda_ops import launcher
from cuda_ops.bench.clock import Call, CudaClock, summary
from cuda_ops.bench.rows import (
    DTYPES,
    GENERATION,
    LAYOUTS,
    Result,
    Row,
    Setting,
    Shape,
    SkipRow,
    leaves,
    measure_forms,
    rated,
    take,
)
from cuda_ops.errors import KernelError
from cuda_ops.op import roll_kernel_op
from cuda_ops.products import roll_forward

SHAPES = [shape for shape, *_ in GENERATION]
FUSED_BARS = {SHAPES[0]: 0.2}
"""Of the fused form's time over the matrix product's."""
BANDWIDTH_BARS = {(SHAPES[2], "forward", "fp32", "channels_last"): 0.6}
"""Of the share of a copy's bandwidth, where AGI-Net trains; the other cells are for the record."""


def gpu_rows() -> Iterator[Row]:
    """All of them, in the order of the table."""
    shape = SHAPES[0]
    directions = (("forward", 1), ("backward", 2))
    for dtype, gated, (direction, bar) in product(DTYPES, (False, True), directions):
        name, words = ("/gated", ", gated") if gated else ("", "")
        yield Row(
            f"gpu/launches/{direction}/{dtype}{name}", f"{shape.kernels}, {direction}{words}",
            partial(_launches, shape=shape, gated=gated), dtype, candidate="fused", baseline="–",
            bar=bar,
        )  # fmt: skip
    for shape, direction in product(SHAPES, ("forward", "both")):
        yield Row(
            f"gpu/fused/{shape.short}/{direction}", f"{shape.kernels}, {direction}",
            partial(_fused, shape=shape), candidate="cupy", baseline="torch",
            bar=FUSED_BARS.get(shape),
        )  # fmt: skip
    directions = ("forward", "backward")
    for shape, direction, dtype, layout in product(SHAPES[1:], directions, DTYPES, LAYOUTS):
        yield Row(
            f"gpu/bandwidth/{shape.short}/{direction}/{dtype}/{layout}",
            f"{shape.kernels}, {direction}", partial(_bandwidth, shape=shape), dtype, layout,
            candidate="fused", baseline="copy of as many bytes",
            bar=BANDWIDTH_BARS.get((shape, direction, dtype, layout)), at_least=True,
        )  # fmt: skip


def _launches(row: Row, setting: Setting, shape: Shape, gated: bool = False) -> list[Result]:
    """What the device is given to do: kernels, fills and copies."""
    _, call = _fused_call(row, setting, shape, gated)
    seen = device_activities(call)
    note = ", ".join(name.split("(")[0][:60] for name in seen)
    return [row.result(value=len(seen), unit="launches", rounds=1, note=note)]


def device_activities(call: Call) -> list[str]:
    """Names of the kernels, fills and copies that a call makes the current device do."""
    return [name for name, _, _ in device_events(call)]


def device_events(call: Call) -> list[tuple[str, float, float]]:
    """The kernels, fills and copies of a call on the current device: name, begin and end in us.

    The call is made twice, and the second time is told of.
    """
    events: Any = ()
    for _ in range(2):  # the first session starts the profiler and may miss something
        call()
        torch.cuda.synchronize()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the profiler has to say is not about us
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as session:
                call()
                torch.cuda.synchronize()
            events = session.events() or ()
    return [
        (event.name, event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type.name == "CUDA" and not event.name.endswith(" Sync")
        if not getattr(event, "is_user_annotation", False)
    ]


def _fused(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    """The fused kernel against the matrix product in torch, launching included."""
    _need_cupy()
    forms = {"cupy": partial(roll_kernel_op, dtype=torch.float32), "torch": roll_forward}
    return measure_forms(row, setting, shape, forms)


def _bandwidth(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    """Bytes per second of the fused kernel as a share of those of a copy on the device."""
    moved, call = _fused_call(row, setting, shape)
    source = torch.empty(moved // 2, dtype=torch.uint8, device=setting.device)
    copy = partial(torch.empty_like(source).copy_, source)
    setting = replace(setting, clock=CudaClock(setting.device, queued=True))
    taken = take(setting, {row.candidate: call, row.baseline: copy})
    seconds = summary(taken)
    speed = f"{moved / seconds[row.candidate] / 1e9:.0f} GB/s"
    inverse = {row.candidate: taken[row.baseline], row.baseline: taken[row.candidate]}
    return [rated(row, inverse, seconds=seconds, note=speed)]


def _fused_call(row: Row, setting: Setting, shape: Shape, gated: bool = False) -> tuple[int, Call]:
    """The fused kernel's forward or backward, as the row is named, and how many bytes it moves."""
    _need_cupy()
    inputs = leaves(shape, setting.device, row.memory_format)
    gates = [inputs[2].new_full((shape.batch, shape.channels), 0.5).requires_grad_()] * gated
    out = roll_kernel_op(*inputs, DTYPES[row.dtype], *gates)
    grad = torch.randn_like(out)

    def forward() -> Tensor:
        with torch.no_grad():
            return roll_kernel_op(*inputs, DTYPES[row.dtype], *gates)

    def backward() -> None:
        torch.autograd.grad(out, [*inputs, *gates], grad, retain_graph=True)

    back = "/backward/" in row.name
    moved = out.nbytes + inputs[0].nbytes * (2 if back else 1)
    return moved, backward if back else forward


def _need_cupy() -> None:
    try:
        launcher.load_cupy()
    except KernelError as error:
        raise SkipRow(str(error)) from error
