"""What a row of a benchmark is, and the rows of this one that any device can measure.

The shapes are AGI-Net's, 16 to 512 channels at the sizes where its stages have them: in 3-D patches
of 64^3 halved three times, in 2-D images of 256^2.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ops.bench.clock import Call, Clock, compare, interleave, summary
from cuda_ops.conv import Geometry, rolling_conv_by
from cuda_ops.op import roll_kernel

LAYOUTS = ("contiguous", "channels_last")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
Roll = Callable[[Tensor, Tensor, Tensor], Tensor]
Times = dict[str, list[float]]


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
class Row:
    """Something to measure: usually a candidate against a baseline.

    ``name`` is unique, ``group/shape/...``; ``shape`` is in words. ``bar`` is the limit of the
    value, from above, or from below if ``at_least``. ``--quick`` has the rows that are ``quick``.
    """

    name: str
    shape: str
    measure: Callable[["Row", Setting], list["Result"]]
    dtype: str = "fp32"
    memory_format: str = "contiguous"
    candidate: str = "rolling"
    baseline: str = "plain"
    bar: float | None = None
    at_least: bool = False
    quick: bool = False

    def result(self, **changes: Any) -> "Result":
        """A result of this row, with whether its bar is met; NaN meets none."""
        said = {**vars(self), **changes}
        value, bar = said.get("value"), said["bar"]
        if bar is not None and value is not None:
            said.setdefault("met", value >= bar if self.at_least else value <= bar)
        return Result(**said)


@dataclass(frozen=True)
class Result(Row):
    """One line of the table.

    ``value`` is None where nothing could be measured; ``note`` says why. ``met`` is None
    without a bar and for a line that was skipped, False for one that failed.
    """

    value: float | None = None
    unit: str = "×"
    lowest: float | None = None
    of_minima: float | None = None
    rounds: int = 0
    met: bool | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""


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


def take(setting: Setting, calls: dict[str, Call]) -> Times:
    """The times of ``calls``, as the setting wants them taken."""
    return interleave(calls, setting.clock, setting.rounds, setting.least)


def rated(row: Row, taken: Times, **changes: Any) -> Result:
    """The result of a row whose value is its candidate's time divided by its baseline's."""
    candidate = taken[changes.get("candidate", row.candidate)]
    ratio = compare(candidate, taken[row.baseline])
    found = {"value": ratio.median, "lowest": ratio.lowest, "of_minima": ratio.of_minima}
    found |= {"rounds": len(candidate), "seconds": summary(taken)}
    return row.result(**found | changes)


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


def leaves(
    shape: Shape, device: torch.device, memory_format: str = "contiguous"
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight (C, C, \\*3), offsets (B, n, d) ~ N(0, 1) and scale (B, n); all want gradients."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(shape.channels, shape.channels, *[3] * shape.dim, generator=g)
    weight = laid_out(weight / (shape.channels * 3**shape.dim) ** 0.5, memory_format)
    offsets = torch.randn(shape.batch, shape.groups, shape.dim, generator=g)
    scale = torch.rand(shape.batch, shape.groups, generator=g)
    weight, offsets, scale = (x.to(device).requires_grad_() for x in (weight, offsets, scale))
    return weight, offsets, scale


def laid_out(tensor: Tensor, memory_format: str) -> Tensor:
    """``tensor`` (A, C, \\*S) as ``contiguous`` or ``channels_last`` memory."""
    last = memory_format == "channels_last"
    return tensor.contiguous(memory_format=LAST[tensor.ndim] if last else torch.contiguous_format)


def naive_roll(weight: Tensor, offsets: Tensor, scale: Tensor) -> Tensor:
    """The roll as 2^d calls of ``torch.roll`` for every sample and group, summed with autograd.

    What one writes first, without waste: the corners' shares are worked out for all samples and
    groups at once. Arguments and result are those of :func:`cuda_ops.roll_kernel`.
    """
    dims = tuple(range(2, weight.ndim))
    corners = torch.tensor(list(product((0, 1), repeat=len(dims))), device=offsets.device)
    lower = offsets.detach().floor()
    upper = (offsets - lower)[:, :, None]
    shares = scale[..., None] * torch.where(corners == 1, upper, 1 - upper).prod(-1)
    shifts = (lower[:, :, None].long() + corners).tolist()
    slices = weight.chunk(offsets.shape[1], dim=1)

    def rolled(b: int, g: int) -> Tensor:
        pairs = zip(shares[b, g], shifts[b][g], strict=True)
        return reduce(torch.add, (share * slices[g].roll(shift, dims) for share, shift in pairs))

    groups = range(len(slices))
    return torch.stack([torch.cat([rolled(b, g) for g in groups], 1) for b in range(len(scale))])


FORMS: dict[str, Roll] = {"naive": naive_roll, "rolled": roll_kernel}


def measure_forms(row: Row, setting: Setting, shape: Shape, forms: dict[str, Roll]) -> list[Result]:
    """Forms of making the kernels; where the row says ``both``, all gradients as well."""
    inputs = leaves(shape, setting.device, row.memory_format)
    with torch.no_grad():  # a gradient comes in the layout of the kernels that were handed out
        grads = {name: torch.randn_like(form(*inputs)) for name, form in forms.items()}

    def forward(name: str) -> None:
        with torch.no_grad():
            forms[name](*inputs)

    def both(name: str) -> None:
        torch.autograd.grad(forms[name](*inputs), inputs, grads[name])

    call = both if "/both" in row.name else forward
    return [rated(row, take(setting, {name: partial(call, name) for name in forms}))]


def layer_calls(
    shape: Shape, device: torch.device, dtype: str, memory_format: str, ways: Sequence[str] = ()
) -> dict[str, Call]:
    """``plain`` and ``rolling``: a whole layer forward and backward, to x and all weights.

    Weights are float32 in either; for ``bf16`` both layers convolve under autocast. ``ways`` are
    more candidates: ways to convolve, see :func:`cuda_ops.conv.rolling_conv_by`.
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
            y = convolve(x, inputs[0], None, 1, 1)
        torch.autograd.grad(y, (x, inputs[0]), grad)

    def rolled(way: str) -> None:
        with torch.autocast(device.type, kind, enabled=dtype != "fp32"):
            y = rolling_conv_by(way, x, *inputs, geometry)
        torch.autograd.grad(y, (x, *inputs), grad)

    rolling = {"rolling": "auto", **{way: way for way in ways}}
    return {"plain": plain, **{name: partial(rolled, way) for name, way in rolling.items()}}


GENERATION: tuple[
    tuple[Shape, float | None, float | None], ...
] = (  # shape, bars forward and forward with backward
    (Shape(64, 16), None, None),
    (Shape(256, 16), 0.09, 0.12),
    (Shape(512, 8, batch=4), 0.09, 0.12),
    (Shape(512, 32, batch=16, dim=2), None, None),
)
LAYER_BAR, BARRED_VOXELS = 1.15, 4096
LAYERS: dict[str, tuple[Shape, ...]] = {
    "cpu": (
        Shape(16, 64), Shape(32, 16), Shape(32, 32), Shape(32, 64), Shape(64, 16), Shape(64, 32),
        Shape(128, 8), Shape(128, 16), Shape(256, 8), Shape(512, 4),
        Shape(64, 256, batch=4, dim=2), Shape(512, 32, batch=4, dim=2),
    ),
    "cuda": (
        *(Shape(channels, side) for side in (64, 96, 128) for channels in (16, 32, 64)),
        Shape(32, 64, batch=8), Shape(32, 64, batch=16), Shape(128, 32), Shape(256, 16),
        Shape(512, 8), Shape(512, 4),
        Shape(64, 256, batch=16, dim=2), Shape(512, 32, batch=16, dim=2),
    ),
}  # fmt: skip
MIXED_VOXELS = 512
"""Above this many the columns of the input would fill a GPU for nothing."""


def generate_rows() -> Iterator[Row]:
    """Making the kernels, against the naive form."""
    for shape, *bars in GENERATION:
        for layout in LAYOUTS if shape.channels >= 512 else LAYOUTS[:1]:
            for direction, bar in zip(("forward", "both"), bars, strict=True):
                yield Row(
                    f"generate/{shape.short}/{direction}/{layout}", f"{shape.kernels}, {direction}",
                    partial(measure_forms, shape=shape, forms=FORMS),
                    memory_format=layout, candidate="rolled", baseline="naive", bar=bar,
                )  # fmt: skip


def layer_rows(device: str) -> Iterator[Row]:
    """A rolling layer against a plain one of the same shape, forward and backward."""
    for dtype, shape, layout in product(DTYPES, LAYERS[device], LAYOUTS):
        barred = shape.channels in (32, 64) and shape.side**shape.dim >= BARRED_VOXELS
        if device == "cuda":
            barred = shape.dim == 3 and shape.side >= 64
        yield Row(
            f"layer/{shape.name}/{dtype}/{layout}", str(shape), partial(_layer, shape=shape),
            dtype, layout, bar=LAYER_BAR if barred else None,
        )  # fmt: skip


def _layer(row: Row, setting: Setting, shape: Shape) -> list[Result]:
    """What the layer chooses, which has the bar, and on a GPU each way for comparison."""
    ways: tuple[str, ...] = ()
    if setting.device.type == "cuda":
        few = shape.side**shape.dim <= MIXED_VOXELS
        ways = ("looped", "grouped", "mixed-input") if few else ("looped", "grouped")
    calls = layer_calls(shape, setting.device, row.dtype, row.memory_format, ways)
    taken = take(setting, calls)
    return [rated(row, taken), *(rated(row, taken, candidate=way, bar=None) for way in ways)]
