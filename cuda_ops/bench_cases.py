"""What is measured: tensors of the shapes that AGI-Net uses, and the forms that are compared.

The widths are AGI-Net's, 16 to 512 channels, at the sizes where its stages have them: in 3-D
patches of 64^3 halved three times, in 2-D images of 256^2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ops import rolling_conv
from cuda_ops.bench_clock import Call

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
Roll = Callable[[Tensor, Tensor, Tensor], Tensor]


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

    def __str__(self) -> str:
        return (
            f"B {self.batch}, {self.channels}→{self.channels}, 3^{self.dim} on "
            f"{self.side}^{self.dim}, n {self.groups}"
        )

    @property
    def voxels(self) -> int:
        """Of one sample."""
        return self.side**self.dim

    @property
    def seconds(self) -> float:
        """About how long a plain convolution takes forward and backward, at 80 GFLOP/s."""
        products = 3**self.dim * self.channels**2 * self.voxels * self.batch
        return 3 * 2 * products / 80e9


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
    return Leaves(*(leaf.detach().to(device).requires_grad_() for leaf in (weight, offsets, scale)))


def laid_out(tensor: Tensor, memory_format: str) -> Tensor:
    """``tensor`` (A, C, \\*S) as ``contiguous`` or ``channels_last`` memory."""
    if memory_format == "contiguous":
        return tensor.contiguous()
    return tensor.contiguous(memory_format=LAST[tensor.ndim - 2])


def naive_roll(weight: Tensor, offsets: Tensor, scale: Tensor) -> Tensor:
    """The roll as 2^d calls of ``torch.roll`` for every sample and group, summed with autograd.

    What one writes first, without waste: the corners' shares are worked out for all samples and
    groups at once. Arguments and result are those of :func:`cuda_ops.roll_kernel`.
    """
    axes = weight.ndim - 2
    dims = tuple(range(2, weight.ndim))
    lower = offsets.detach().floor()
    upper = offsets - lower
    sides = lower.new_tensor(weight.shape[2:])
    shifts = lower.remainder(sides).long().tolist()
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
            rolled = (
                part.roll([w + f for w, f in zip(whole, corner, strict=True)], dims)
                for corner in corners
            )
            terms = (share * one for share, one in zip(joined[b, g], rolled, strict=True))
            total = next(terms)
            for term in terms:
                total = total + term
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

    step = both if backward else forward
    return {name: lambda name=name: step(name) for name in forms}


def layer_calls(
    shape: Shape,
    device: torch.device,
    dtype: str,
    memory_format: str,
    ways: Sequence[str] = (),
    shared: bool = False,
) -> dict[str, Call]:
    """``plain`` and ``rolling``: a whole layer forward and backward, to x and all weights.

    Args:
        shape: Of the layer.
        device: Where.
        dtype: Weights are float32 in either; for ``bf16`` both layers convolve under autocast.
        memory_format: Of x, the weights and the result's gradient.
        ways: More candidates: ways to convolve, see :func:`cuda_ops.rolling_conv`.
        shared: Whether all samples have the same offsets and scales.
    """
    inputs = leaves(replace(shape, batch=1) if shared else shape, device, memory_format)
    kind = DTYPES[dtype]
    x = torch.randn(shape.batch, shape.channels, *[shape.side] * shape.dim, device=device)
    x = laid_out(x.to(kind), memory_format)
    grad = torch.randn_like(x)
    x.requires_grad_()
    convolve = F.conv3d if shape.dim == 3 else F.conv2d

    def plain() -> None:
        with torch.autocast(device.type, kind, enabled=dtype != "fp32"):
            y = convolve(x, inputs.weight, None, 1, 1)
        torch.autograd.grad(y, (x, inputs.weight), grad)

    def rolled(way: str) -> None:
        with torch.autocast(device.type, kind, enabled=dtype != "fp32"):
            y = rolling_conv(x, *inputs, 1, 1, way=way)
        torch.autograd.grad(y, (x, *inputs), grad)

    names = {"rolling": "auto", **{way: way for way in ways}}
    return {"plain": plain, **{name: lambda way=way: rolled(way) for name, way in names.items()}}


def dispatched(call: Call) -> int:
    """How many operations torch dispatches in a call, backward included, after a first call."""
    call()
    with _Counter() as counter:
        call()
    return counter.seen


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen += 1
        return func(*args, **(kwargs or {}))
