"""What a row of a benchmark is, and the rows of this one that any device can measure.

The shapes are AGI-Net's, 16 to 512 channels at the sizes where its stages have them: in 3-D patches
of 64^3 halved three times, in 2-D images of 256^2.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ops.bench.clock import Call, Clock, Taken, compare, interleave, summary
from cuda_ops.conv import Geometry, rolling_conv_by
from cuda_ops.op import roll_kernel

LAYOUTS = ("contiguous", "channels_last")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
Roll = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """How to measure, the same for every row."""

    device: torch.device
    clock: Clock
    rounds: int
    threads: int = 1
    least: float = 0.05
    """Seconds of a turn, see :func:`cuda_ops.bench.clock.interleave`."""


@dataclass(frozen=True)
class Result:
    """One line of the table.

    ``value`` is None where nothing could be measured; ``note`` says why. ``met`` is None
    without a bar and for a line that was skipped, False for one that failed.
    """

    name: str
    shape: str
    dtype: str
    memory_format: str
    candidate: str
    baseline: str
    value: float | None = None
    unit: str = "×"
    lowest: float | None = None
    of_minima: float | None = None
    rounds: int = 0
    bar: float | None = None
    at_least: bool = False
    met: bool | None = None
    seconds: dict[str, dict[str, Any]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Row:
    """Something to measure: usually a candidate against a baseline.

    Args:
        name: ``group/shape/...``, unique; ``--only`` chooses by it.
        shape: What is measured, in words.
        measure: Does it.
        dtype: Of weights and data.
        memory_format: Of weights and data.
        candidate: What is measured.
        baseline: Against what.
        bar: The limit of the value, or None.
        at_least: Whether the bar is a lower limit.
        quick: Whether ``--quick`` has it.
    """

    name: str
    shape: str
    measure: Callable[["Row", Setting], list[Result]]
    dtype: str = "fp32"
    memory_format: str = "contiguous"
    candidate: str = "rolling"
    baseline: str = "plain"
    bar: float | None = None
    at_least: bool = False
    quick: bool = False

    def result(self, **changes: Any) -> Result:
        """A result of this row, with whether its bar is met; NaN meets none."""
        result = Result(
            self.name, self.shape, self.dtype, self.memory_format, self.candidate, self.baseline,
            bar=self.bar, at_least=self.at_least,
        )  # fmt: skip
        result = replace(result, **changes)
        value, bar = result.value, result.bar
        if result.met is None and bar is not None and value is not None:
            result = replace(result, met=value >= bar if result.at_least else value <= bar)
        return result


class SkipRow(Exception):  # noqa: N818  (nothing has gone wrong)
    """A row cannot be measured here; the message says why."""


def run(row: Row, setting: Setting) -> list[Result]:
    """The results of a row; what goes wrong in it becomes a failed result, not an exception."""
    try:
        if row.dtype == "bf16" and setting.device.type == "cpu" and not has_bf16():
            raise SkipRow("this processor has no bfloat16 instructions")
        return row.measure(row, setting)
    except SkipRow as reason:
        return [row.result(note=f"skipped: {reason}")]
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        return [row.result(met=False, note=f"failed: {type(error).__name__}: {reason}")]


def has_bf16() -> bool:
    """Whether oneDNN convolves bfloat16 on this CPU; else it emulates, tens of times slower."""
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is None or known()


def take(setting: Setting, calls: dict[str, Call]) -> dict[str, list[Taken]]:
    """The times of ``calls``, as the setting wants them taken."""
    return interleave(calls, setting.clock, setting.rounds, least=setting.least)


def rated(
    row: Row, setting: Setting, taken: dict[str, list[Taken]], over: str, under: str, note: str = ""
) -> Result:
    """The result of a row whose value is ``over``'s time divided by ``under``'s."""
    ratio = compare(taken[over], taken[under])
    return row.result(
        value=ratio.median, lowest=ratio.lowest, of_minima=ratio.of_minima, rounds=setting.rounds,
        seconds=summary(taken), note=note,
    )  # fmt: skip


def timed(row: Row, setting: Setting, calls: dict[str, Call]) -> list[Result]:
    """Time ``row.candidate`` against ``row.baseline``, both keys of ``calls``."""
    return [rated(row, setting, take(setting, calls), row.candidate, row.baseline)]


@dataclass(frozen=True)
class Shape:
    """A 3^d convolution of C to C channels at stride 1 on B samples of side^d, in n groups."""

    channels: int
    side: int
    batch: int = 2
    dim: int = 3
    groups: int = 8

    @property
    def name(self) -> str:
        """As in a row's name: ``64@32^3-b2``."""
        return f"{self.channels}@{self.side}^{self.dim}-b{self.batch}"

    @property
    def short(self) -> str:
        """Of the kernels alone, in a row's name: ``3d-2x64``."""
        return f"{self.dim}d-{self.batch}x{self.channels}"

    @property
    def kernels(self) -> str:
        """The kernels in words."""
        return f"B {self.batch}, {self.channels}→{self.channels}, 3^{self.dim}, n {self.groups}"

    def __str__(self) -> str:
        return f"{self.kernels}, on {self.side}^{self.dim}"


class Leaves(NamedTuple):
    """What a rolled kernel is made of; all want gradients."""

    weight: Tensor
    offsets: Tensor
    scale: Tensor


def leaves(shape: Shape, device: torch.device, memory_format: str = "contiguous") -> Leaves:
    """Weight (C, C, \\*3) as a network holds it, offsets (B, n, d) ~ N(0, 1), scale (B, n)."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(shape.channels, shape.channels, *[3] * shape.dim, generator=g)
    weight = weight / (shape.channels * 3**shape.dim) ** 0.5
    offsets = torch.randn(shape.batch, shape.groups, shape.dim, generator=g)
    scale = torch.rand(shape.batch, shape.groups, generator=g)
    weight = laid_out(weight.to(device), memory_format)
    return Leaves(*(leaf.to(device).requires_grad_() for leaf in (weight, offsets, scale)))


def laid_out(tensor: Tensor, memory_format: str) -> Tensor:
    """``tensor`` (A, C, \\*S) as ``contiguous`` or ``channels_last`` memory."""
    if memory_format == "contiguous":
        return tensor.contiguous()
    return tensor.contiguous(memory_format=LAST[tensor.ndim])


def naive_roll(weight: Tensor, offsets: Tensor, scale: Tensor) -> Tensor:
    """The roll as 2^d calls of ``torch.roll`` for every sample and group, summed with autograd.

    What one writes first, without waste: the corners' shares are worked out for all samples and
    groups at once. Arguments and result are those of :func:`cuda_ops.roll_kernel`.
    """
    axes = weight.ndim - 2
    dims = tuple(range(2, weight.ndim))
    lower = offsets.detach().floor()
    upper = offsets - lower
    shifts = lower.remainder(lower.new_tensor(weight.shape[2:])).long().tolist()
    corners = list(product((0, 1), repeat=axes))
    shares = []
    for corner in corners:
        share = scale
        for axis, far in enumerate(corner):
            share = share * (upper[..., axis] if far else 1 - upper[..., axis])
        shares.append(share)
    joined = torch.stack(shares, dim=-1)
    slices = weight.chunk(offsets.shape[1], dim=1)
    samples = []
    for b, shifted in enumerate(shifts):
        parts = []
        for g, (part, whole) in enumerate(zip(slices, shifted, strict=True)):
            total = None
            for share, corner in zip(joined[b, g], corners, strict=True):
                moved = part.roll([w + far for w, far in zip(whole, corner, strict=True)], dims)
                total = share * moved if total is None else total + share * moved
            parts.append(total)
        samples.append(torch.cat(parts, dim=1))
    return torch.stack(samples)


def generation_calls(
    shape: Shape, forms: dict[str, Roll], device: torch.device, memory_format: str, backward: bool
) -> dict[str, Call]:
    """For each form a call that makes the kernels, or makes them and takes all gradients."""
    inputs = leaves(shape, device, memory_format)
    with torch.no_grad():  # a gradient comes in the layout of the kernels that were handed out
        grads = {name: torch.randn_like(form(*inputs)) for name, form in forms.items()}

    def forward(name: str) -> None:
        with torch.no_grad():
            forms[name](*inputs)

    def both(name: str) -> None:
        torch.autograd.grad(forms[name](*inputs), inputs, grads[name])

    return {name: partial(both if backward else forward, name) for name in forms}


def layer_calls(
    shape: Shape, device: torch.device, dtype: str, memory_format: str, ways: Sequence[str] = ()
) -> dict[str, Call]:
    """``plain`` and ``rolling``: a whole layer forward and backward, to x and all weights.

    Args:
        shape: Of the layer.
        device: Where.
        dtype: Weights are float32 in either; for ``bf16`` both layers convolve under autocast.
        memory_format: Of x, the weights and the result's gradient.
        ways: More candidates: ways to convolve, see :func:`cuda_ops.conv.rolling_conv_by`.
    """
    inputs, kind = leaves(shape, device, memory_format), DTYPES[dtype]
    x = torch.randn(shape.batch, shape.channels, *[shape.side] * shape.dim, device=device)
    x = laid_out(x.to(kind), memory_format)
    grad = torch.randn_like(x)
    x.requires_grad_()
    convolve = F.conv3d if shape.dim == 3 else F.conv2d
    geometry = Geometry.of(1, 1, 1, shape.dim)

    def plain() -> None:
        with torch.autocast(device.type, kind, enabled=dtype != "fp32"):
            y = convolve(x, inputs.weight, None, 1, 1)
        torch.autograd.grad(y, (x, inputs.weight), grad)

    def rolled(way: str) -> None:
        with torch.autocast(device.type, kind, enabled=dtype != "fp32"):
            y = rolling_conv_by(way, x, *inputs, geometry)
        torch.autograd.grad(y, (x, *inputs), grad)

    rolling = {"rolling": "auto", **{way: way for way in ways}}
    return {"plain": plain, **{name: partial(rolled, way) for name, way in rolling.items()}}


GENERATION = (  # shape, bars forward and forward with backward
    (Shape(64, 16), None, None),
    (Shape(256, 16), 0.09, 0.12),
    (Shape(512, 8, batch=4), 0.09, 0.12),
    (Shape(512, 32, batch=16, dim=2), None, None),
)
LAYER_BAR = 1.15
"""Of a rolling layer over a plain one on a CPU, from ``BARRED_VOXELS`` up, 32 or 64 channels."""
BARRED_VOXELS = 4096
LAYERS = (
    Shape(16, 64), Shape(32, 16), Shape(32, 32), Shape(32, 64), Shape(64, 16), Shape(64, 32),
    Shape(128, 8), Shape(128, 16), Shape(256, 8), Shape(512, 4),
    Shape(64, 256, batch=4, dim=2), Shape(512, 32, batch=4, dim=2),
)  # fmt: skip
QUICK_LAYERS = ("32@32^3-b2", "64@16^3-b2", "512@4^3-b2")


def generate_rows() -> Iterator[Row]:
    """Making the kernels, against the naive form."""
    for shape, *bars in GENERATION:
        for layout in LAYOUTS if shape.channels >= 512 else LAYOUTS[:1]:
            for direction, bar in zip(("forward", "both"), bars, strict=True):
                yield Row(
                    f"generate/{shape.short}/{direction}/{layout}", f"{shape.kernels}, {direction}",
                    partial(_generate, shape=shape, backward=direction == "both"),
                    memory_format=layout, candidate="rolled", baseline="naive", bar=bar,
                    quick=shape.channels < 512,
                )  # fmt: skip


def _generate(row: Row, setting: Setting, shape: Shape, backward: bool) -> list[Result]:
    forms = {"naive": naive_roll, "rolled": roll_kernel}
    calls = generation_calls(shape, forms, setting.device, row.memory_format, backward)
    return timed(row, setting, calls)


def layer_rows() -> Iterator[Row]:
    """A rolling layer against a plain one of the same shape, forward and backward."""
    for dtype in DTYPES:
        for shape in LAYERS:
            barred = shape.channels in (32, 64) and shape.side**shape.dim >= BARRED_VOXELS
            for layout in LAYOUTS:
                yield Row(
                    f"layer/{shape.name}/{dtype}/{layout}", str(shape),
                    partial(_layer, shape=shape), dtype=dtype, memory_format=layout,
                    bar=LAYER_BAR if barred else None,
                    quick=shape.name in QUICK_LAYERS and layout == "channels_last",
                )  # fmt: skip


def _layer(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    return timed(row, setting, layer_calls(shape, setting.device, row.dtype, row.memory_format))
