"""The fused kernel ``roll_kernel.cu`` for CUDA tensors: which instance, with which grid.

Imported only for CUDA tensors. Memory is torch's throughout: outputs come from its allocator and
CuPy gets addresses, so nothing is copied. An instance is compiled once per device, types, kernel
size and layout. Before its first use in a process an instance must reproduce torch's own form on a
small case, see :func:`prove`.
"""

import math
from functools import cache

import torch
from torch import Tensor

from cuda_ops import products
from cuda_ops.errors import KernelError
from cuda_ops.launcher import launch as _launch
from cuda_ops.products import empty_kernels, is_channels_last, laid_as

THREADS = 128
WARP = 32
# Up to this many taps a thread keeps a whole row in registers; see the source.
REGISTER_TAPS = 27
TYPES = {
    torch.float64: "double",
    torch.float32: "float",
    torch.float16: "half16",
    torch.bfloat16: "brain16",
}


def roll_forward(weight: Tensor, offsets: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Roll on the GPU in one launch.

    Args:
        weight: (C_out, C_in, \\*k) on CUDA, contiguous or channels-last; other layouts are copied.
        offsets: (B, n, d), float32 (float64 for a float64 weight).
        scale: (B, n), as ``offsets``.
        dtype: Of the result, whose samples each have the layout of ``weight``.

    Raises:
        KernelError: CuPy is missing or does not fit the driver, or the compiled kernel fails its
            proof; the sentence says what to do.
    """
    _prove_first(weight, dtype)
    return _forward(weight, offsets, scale, dtype)


def roll_backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of weight, offsets and scale for ``grad``, in two launches.

    ``grad`` is copied if a sample's layout is not that of ``weight``; the rest is as in
    :func:`roll_forward`.
    """
    _prove_first(weight, grad.dtype)
    return _backward(grad, weight, offsets, scale)


def _forward(weight: Tensor, offsets: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    weight = laid_as(weight, weight[None])[0]
    out = empty_kernels(offsets.shape[0], weight, dtype)
    if out.numel():
        name, rows = _plan("roll_forward", weight, offsets, dtype)
        grid = (_chunks(rows), offsets.shape[1], offsets.shape[0])
        tensors = (weight, offsets.contiguous(), scale.contiguous(), out)
        _launch(name, grid, THREADS, tensors, _sizes(weight, offsets))
    return out


def _backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    weight = laid_as(weight, weight[None])[0]
    grad, offsets, scale = laid_as(weight, grad), offsets.contiguous(), scale.contiguous()
    if not grad.numel():
        return torch.zeros_like(weight), torch.zeros_like(offsets), torch.zeros_like(scale)
    grads = torch.empty_like(weight), torch.empty_like(offsets), torch.empty_like(scale)
    name, rows = _plan("roll_backward", weight, offsets, grad.dtype)
    batch, groups, axes = offsets.shape
    chunks = _chunks(rows)
    partials = offsets.new_empty(batch, groups, chunks, 4)
    tensors = (grad, weight, offsets, scale, grads[0], partials)
    numbers = (batch, *_sizes(weight, offsets))
    _launch(name, (chunks, groups, 1), THREADS, tensors, numbers)
    finish = f"roll_finish<{TYPES[offsets.dtype]}, {axes}>"
    _launch(finish, (batch * groups, 1, 1), WARP, (partials, *grads[1:]), (chunks,))
    return grads


def _prove_first(weight: Tensor, other: torch.dtype) -> None:
    sides, last = tuple(weight.shape[2:]), is_channels_last(weight)
    prove(weight.device, weight.dtype, other, sides, last)


@cache
def prove(
    device: torch.device, kind: torch.dtype, other: torch.dtype, sides: tuple[int, ...], last: bool
) -> None:
    """Hold one compiled instance against torch's form, forward and backward, on a small case.

    Runs once in a process and waits for the device then. A compiler or a driver that gets the
    kernel wrong must not train a network: a KernelError if the numbers differ by more than the
    types explain. For the arguments see :func:`expression`.
    """
    draw = torch.Generator().manual_seed(0)
    sums = torch.promote_types(kind, torch.float32)
    weight = torch.randn(3, 4, *sides, generator=draw).to(device, kind)
    if last:
        weight = weight.movedim(1, -1).contiguous().movedim(-1, 1)
    offsets = (6 * torch.rand(2, 2, len(sides), generator=draw) - 3).to(device, sums)
    scale = torch.rand(2, 2, generator=draw).to(device, sums)
    grad = torch.randn(2, *weight.shape, generator=draw).to(device, other)
    found = (_forward(weight, offsets, scale, other), *_backward(grad, weight, offsets, scale))
    exact = weight.double(), offsets.double(), scale.double()
    wanted = (products.roll_forward(*exact), *products.roll_backward(grad.double(), *exact))
    for name, got, expected in zip(
        ("kernels", "gradient of weight", "of offsets", "of scale"), found, wanted, strict=True
    ):
        steps = 64 if got.dtype.itemsize >= 4 else 2
        error = float((got.double() - expected).abs().max() / expected.abs().max().clamp(min=1))
        if not error <= steps * torch.finfo(got.dtype).eps:
            raise KernelError(
                f"the rolling kernel gives wrong {name} for {kind}, {other} and sides {sides} on "
                f"{device} (relative error {error:.2g}); set CUDA_OPS_BACKEND=torch and report it"
            )


@cache
def expression(
    kernel: str,
    weight: torch.dtype,
    other: torch.dtype,
    sizes: tuple[int, ...],
    last: bool,
    threads: int,
) -> str:
    """The C++ name of one instance: ``roll_forward<float, brain16, 3, 3, 3, 3, false, 128>``.

    ``other`` is the type of the rolled kernels or of their gradient, ``sizes`` are the sides
    ([z,] y, x) of a kernel, ``last`` says whether kernels lie channels-last.
    """
    name = kernel if math.prod(sizes) <= REGISTER_TAPS else f"{kernel}_any"
    sides = ", ".join(map(str, (1,) * (3 - len(sizes)) + sizes))
    layout = "true" if last else "false"
    kinds = f"{TYPES[weight]}, {TYPES[other]}"
    return f"{name}<{kinds}, {len(sizes)}, {sides}, {layout}, {threads}>"


def _plan(kernel: str, weight: Tensor, offsets: Tensor, other: torch.dtype) -> tuple[str, int]:
    """The instance to launch and how many threads one group needs."""
    sizes = tuple(weight.shape[2:])
    name = expression(kernel, weight.dtype, other, sizes, is_channels_last(weight), THREADS)
    rows = weight.shape[0] * weight.shape[1] // offsets.shape[1]
    if "_any<" in name:
        rows *= weight[0, 0].numel()
    if max(offsets.shape[:2]) > 65_535 or weight.numel() > 2**31 - THREADS:
        raise ValueError(
            "expected at most 65 535 samples and groups and 2^31 weights, got weight "
            f"{tuple(weight.shape)} and offsets {tuple(offsets.shape)}"
        )
    return name, rows


def _chunks(rows: int) -> int:
    return -(-rows // THREADS)


def _sizes(weight: Tensor, offsets: Tensor) -> tuple[int, int, int]:
    return weight.shape[0], weight.shape[1], offsets.shape[1]
