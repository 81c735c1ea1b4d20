"""The rows of the benchmark on any device, each with its bar.

A bar is the smaller of two: what the founding specification of the operator asks, and what was
reached when the operator was designed, on one thread of an AVX-512 processor.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from cuda_ops import roll_kernel
from cuda_ops.bench_cases import Shape, dispatched, generation_calls, layer_calls, naive_roll
from cuda_ops.bench_memory import measure_memory
from cuda_ops.bench_rows import Result, Row, Setting, SkipRow, timed

LAYOUTS = ("contiguous", "channels_last")
GENERATION = (  # shape, bars forward and forward with backward
    (Shape(64, 16), 0.12, 0.12),
    (Shape(256, 16), 0.09, 0.12),
    (Shape(512, 8, batch=4), 0.09, 0.12),
    (Shape(512, 32, batch=16, dim=2), 0.22, 0.20),
)
MOST_OPERATIONS = 70
OPERATION_CASES = ((1, 2), (2, 2), (2, 4), (4, 8), (16, 8))  # B, n
LAYERS = (
    Shape(16, 32), Shape(16, 64), Shape(16, 96), Shape(32, 16), Shape(32, 24), Shape(32, 32),
    Shape(32, 64), Shape(32, 96), Shape(64, 16), Shape(64, 32), Shape(64, 64), Shape(128, 8),
    Shape(128, 12), Shape(128, 16), Shape(128, 32), Shape(256, 8), Shape(256, 16), Shape(512, 8),
    Shape(16, 32, batch=8), Shape(32, 32, batch=8),
    Shape(64, 256, batch=4, dim=2), Shape(128, 128, batch=4, dim=2),
    Shape(256, 64, batch=4, dim=2), Shape(512, 32, batch=4, dim=2),
    Shape(512, 32, batch=16, dim=2),
)  # fmt: skip
# Where the general rules of layer_bar are not the bar: (shape, dtype, memory format).
OWN_BARS = {
    ("16@64^3-b2", "fp32", "contiguous"): 1.00,
    ("16@64^3-b2", "fp32", "channels_last"): 1.10,
    ("128@12^3-b2", "fp32", "contiguous"): 1.17,
    ("128@12^3-b2", "fp32", "channels_last"): 1.17,
    ("128@8^3-b2", "fp32", "contiguous"): 1.36,
    ("128@8^3-b2", "fp32", "channels_last"): 1.36,
    ("64@32^3-b2", "bf16", "channels_last"): 1.06,
    ("128@16^3-b2", "bf16", "channels_last"): 1.13,
    ("128@8^3-b2", "bf16", "channels_last"): 1.55,
}
NO_CLIFF = 1.6
SINGLE = (Shape(16, 32, 1), Shape(32, 16, 1), Shape(64, 16, 1), Shape(128, 8, 1), Shape(128, 12, 1))
FEW_VOXELS = (  # bars where the x-side form was measured as the best of all
    (Shape(512, 4), 1.55),
    (Shape(512, 4, batch=4), None),
    (Shape(320, 4, batch=4), None),
    (Shape(256, 4), None),
    (Shape(512, 8, batch=16, dim=2), 1.9),
    (Shape(256, 8, batch=8, dim=2), None),
)
SHARED = (Shape(32, 32, batch=8), Shape(64, 16, batch=4), Shape(128, 8, batch=8))
GROUPED = (  # so small that one sample alone would leave oneDNN
    Shape(16, 32, 4), Shape(64, 16, 4), Shape(128, 8, 8), Shape(128, 12, 4), Shape(32, 16, 8),
)  # fmt: skip
SCAN_SECONDS = 0.08
MEMORY = (
    (Shape(16, 64), "fp32", 1.15), (Shape(32, 64), "fp32", 1.15), (Shape(64, 32), "fp32", 1.15),
    (Shape(64, 256, batch=4, dim=2), "fp32", 1.15), (Shape(512, 8), "fp32", None),
    (Shape(32, 64), "bf16", 1.15),
)  # fmt: skip
QUICK = {
    "generate/3d-2x64/forward/contiguous", "generate/3d-2x64/both/contiguous",
    "generate/3d-2x256/forward/contiguous", "generate/3d-2x256/both/contiguous",
    "dispatch/3d/forward", "dispatch/3d/both", "dispatch/2d/forward",
    "layer/32@32^3-b2/fp32/contiguous", "layer/32@32^3-b2/fp32/channels_last",
    "layer/64@16^3-b2/fp32/contiguous", "layer/64@16^3-b2/fp32/channels_last",
    "layer/128@8^3-b2/fp32/channels_last", "layer/128@8^3-b2/bf16/channels_last",
    "cliff/single/64@16^3-b1/channels_last", "cliff/few-voxels/512@4^3-b2/channels_last",
    "cliff/grouped/128@8^3-b8", "memory/64@32^3-b2/fp32/channels_last",
}  # fmt: skip


def rows(device: torch.device) -> list[Row]:
    """Every row for a device, in the order of the table."""
    if device.type == "cuda":
        from cuda_ops.bench_gpu import cuda_rows

        return [*generate_rows(), *dispatch_rows(), *cuda_rows()]
    parts = generate_rows, dispatch_rows, layer_rows, shared_rows, cliff_rows, memory_rows
    return [row for part in parts for row in part()]


def _row(name: str, shape: object, measure: Callable[..., list[Result]], **rest: object) -> Row:
    return Row(name, str(shape), measure, quick=name in QUICK, **rest)  # type: ignore[arg-type]


def generate_rows() -> Iterator[Row]:
    """Making the kernels, against the naive form."""
    for shape, *bars in GENERATION:
        thick = shape.channels >= 512
        for layout in LAYOUTS if thick else LAYOUTS[:1]:
            for direction, bar in zip(("forward", "both"), bars, strict=True):
                name = f"{shape.dim}d-{shape.batch}x{shape.channels}"
                kernels = f"B {shape.batch}, {shape.channels}→{shape.channels}, 3^{shape.dim}, n 8"
                elements = shape.batch * shape.channels**2 * 3**shape.dim
                yield _row(
                    f"generate/{name}/{direction}/{layout}",
                    f"{kernels}, {'forward' if direction == 'forward' else 'forward + backward'}",
                    partial(_generate, shape=shape, backward=direction == "both"),
                    memory_format=layout, candidate="rolled", baseline="naive", bar=bar,
                    cost=elements * (3e-8 if direction == "both" else 1.2e-8),
                )  # fmt: skip


def _generate(row: Row, setting: Setting, shape: Shape, backward: bool) -> list[Result]:
    forms = {"naive": naive_roll, "rolled": roll_kernel}
    calls = generation_calls(shape, forms, setting.device, row.memory_format, backward)
    return [timed(row, setting, calls)]


def dispatch_rows() -> Iterator[Row]:
    """How many operations torch dispatches; it must not depend on B or n."""
    for dim in (3, 2):
        for direction, bar in (("forward", MOST_OPERATIONS), ("both", None)):
            yield _row(
                f"dispatch/{dim}d/{direction}",
                f"3^{dim}, {'forward + backward' if direction == 'both' else 'forward'}",
                partial(_dispatch, dim=dim, backward=direction == "both"),
                candidate="rolled", baseline="–", bar=bar, cost=0.1,
            )  # fmt: skip


def _dispatch(row: Row, setting: Setting, dim: int, backward: bool) -> list[Result]:
    counts = {}
    for batch, groups in OPERATION_CASES:
        shape = Shape(16, 8, batch, dim, groups)
        calls = generation_calls(shape, {"": roll_kernel}, setting.device, "contiguous", backward)
        counts[batch, groups] = dispatched(calls[""])
    most = max(counts.values())
    many = {count for (batch, _), count in counts.items() if batch > 1}
    note = ", ".join(f"B {b} n {n}: {count}" for (b, n), count in counts.items())
    # A single sample may save a copy; more samples or groups may never cost an operation more.
    met = None if many == {most} else False
    return [row.result(value=most, unit="operations", rounds=1, met=met, note=note)]


def layer_bar(shape: Shape, dtype: str, memory_format: str) -> float | None:
    """The bar of a rolling layer over a plain one on a CPU, None where none was set."""
    own = OWN_BARS.get((shape.name, dtype, memory_format))
    if own is not None:
        return own
    if shape.voxels >= 4096 and shape.channels in (32, 64):
        return 1.08
    if dtype != "fp32":
        return None
    if shape.voxels >= 4096 and shape.channels > 64:
        return 1.10
    return NO_CLIFF if shape.voxels >= 512 and 2 <= shape.batch <= 8 else None


def layer_rows() -> Iterator[Row]:
    """A rolling layer against a plain one of the same shape, forward and backward."""
    share = {"fp32": 1.0, "bf16": 0.5 if has_bf16() else 0.0}
    for dtype in share:
        for shape in LAYERS:
            for layout in LAYOUTS:
                yield _row(
                    f"layer/{shape.name}/{dtype}/{layout}", shape, partial(_layer, shape=shape),
                    dtype=dtype, memory_format=layout, bar=layer_bar(shape, dtype, layout),
                    cost=2 * shape.seconds * share[dtype],
                )  # fmt: skip


def _layer(row: Row, setting: Setting, shape: Shape, shared: bool = False) -> list[Result]:
    _refuse_slow_bf16(row, setting)
    place = (setting.device, row.dtype, row.memory_format)
    return [timed(row, setting, layer_calls(shape, *place, shared=shared))]


def shared_rows() -> Iterator[Row]:
    """A layer whose samples share offsets and scales: one kernel, one plain convolution."""
    for shape in SHARED:
        for layout in LAYOUTS:
            yield _row(
                f"shared/{shape.name}/{layout}", f"{shape}, one kernel for all samples",
                partial(_layer, shape=shape, shared=True), memory_format=layout,
                bar=layer_bar(shape, "fp32", layout), cost=2 * shape.seconds,
            )  # fmt: skip


def _refuse_slow_bf16(row: Row, setting: Setting) -> None:
    if row.dtype == "bf16" and setting.device.type == "cpu" and not has_bf16():
        raise SkipRow("this processor has no bfloat16 instructions")


def has_bf16() -> bool:
    """Whether oneDNN convolves bfloat16 on this CPU; else it emulates, tens of times slower."""
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is None or known()


def cliff_rows() -> Iterator[Row]:
    """Shapes where one of the ways to convolve is several times slower than another."""
    for shape in SINGLE:
        for layout in LAYOUTS:
            yield _row(
                f"cliff/single/{shape.name}/{layout}", shape, partial(_single, shape=shape),
                memory_format=layout, bar=NO_CLIFF, cost=12 * shape.seconds,
            )  # fmt: skip
    for shape, bar in FEW_VOXELS:
        for layout in LAYOUTS:
            yield _row(
                f"cliff/few-voxels/{shape.name}/{layout}", shape, partial(_layer, shape=shape),
                memory_format=layout, bar=bar, cost=3 * shape.seconds,
            )  # fmt: skip
    for shape in GROUPED:
        yield _row(
            f"cliff/grouped/{shape.name}", shape, partial(_layer, shape=shape),
            memory_format="channels_last", bar=NO_CLIFF, cost=2.3 * shape.seconds,
        )  # fmt: skip
    for layout in LAYOUTS:
        shapes = list(_scanned())
        yield _row(
            f"cliff/scan/{layout}", f"the worst of {len(shapes)} shapes, 512 voxels and up",
            partial(_scan, shapes=shapes), memory_format=layout, bar=NO_CLIFF,
            cost=2.5 * sum(shape.seconds for shape in shapes),
        )  # fmt: skip


def _single(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    """One sample against a plain layer of one sample, and against half a plain layer of two."""
    place = (setting.device, row.dtype, row.memory_format)
    calls = layer_calls(shape, *place)
    alone = timed(row, setting, calls)
    half = "half of plain, B 2"
    pair = Shape(shape.channels, shape.side, 2, shape.dim, shape.groups)
    calls = {"rolling": calls["rolling"], half: layer_calls(pair, *place)["plain"]}
    return [alone, timed(replace(row, baseline=half), setting, calls, factor=2.0)]


def _scanned() -> Iterator[Shape]:
    for channels in (16, 32, 64, 128, 256):
        for side in (8, 12, 16, 20, 24, 32):
            for batch in (2, 3, 4, 8):
                shape = Shape(channels, side, batch)
                if shape.seconds <= SCAN_SECONDS:
                    yield shape


def _scan(row: Row, setting: Setting, shapes: list[Shape]) -> list[Result]:
    """The worst shape of a hasty look at all of them, then measured properly."""
    hasty = replace(setting, rounds=min(3, setting.rounds))
    worst = (0.0, shapes[0])
    for shape in shapes:
        calls = layer_calls(shape, setting.device, row.dtype, row.memory_format)
        seen = timed(row, hasty, calls).of_minima or 0.0
        worst = max(worst, (seen, shape), key=lambda pair: pair[0])
    calls = layer_calls(worst[1], setting.device, row.dtype, row.memory_format)
    return [timed(row, setting, calls, note=f"worst: {worst[1].name}")]


def memory_rows() -> Iterator[Row]:
    """Peak memory of a rolling layer over a plain one."""
    for shape, dtype, bar in MEMORY:
        for layout in LAYOUTS:
            yield _row(
                f"memory/{shape.name}/{dtype}/{layout}", shape, partial(_memory, shape=shape),
                dtype=dtype, memory_format=layout, bar=bar, cost=1.0,
            )  # fmt: skip


def _memory(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    _refuse_slow_bf16(row, setting)
    return measure_memory(row, setting, shape)
