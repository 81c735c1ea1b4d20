"""The fused kernel ``roll_kernel.cu`` for CUDA tensors: which instance, with which grid.

Imported only for CUDA tensors. Memory is torch's throughout: outputs come from its allocator and
CuPy gets addresses, so nothing is copied. An instance is compiled once per device, types, kernel
size and layout. Before its first use in a process an instance must reproduce torch's own form on a
small case, see :func:`prove`.
"""

import math
from functools import cache, partial
from threading import Lock

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
PROVING = Lock()
# What a proof compares, in the order in which it comes.
PROVED = ("kernels", *(f"gradient of {name}" for name in ("weight", "offsets", "scale", "gates")))
TYPES = {
    torch.float64: "double",
    torch.float32: "float",
    torch.float16: "half16",
    torch.bfloat16: "brain16",
}


def roll_forward(
    weight: Tensor,
    offsets: Tensor,
    scale: Tensor,
    dtype: torch.dtype,
    gates: Tensor | None = None,
) -> Tensor:
    """Roll on the GPU in one launch.

    Args:
        weight: (C_out, C_in, \\*k) on CUDA, contiguous or channels-last; other layouts are copied.
        offsets: (B, n, d), float32 (float64 for a float64 weight).
        scale: (B, n), as ``offsets``.
        dtype: Of the result, whose samples each have the layout of ``weight``.
        gates: (B, C_in), as ``offsets``, or None for none.

    Raises:
        KernelError: CuPy is missing or does not fit the driver, or the compiled kernel fails its
            proof, or had none before a stream captures; the sentence says what to do.
    """
    _prove_first(weight, dtype)
    return _forward(weight, offsets, scale, dtype, gates)


def roll_backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor, gates: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of weight, offsets, scale and gates for ``grad``, in two launches.

    ``grad`` is copied if a sample's layout is not that of ``weight``; the rest is as in
    :func:`roll_forward`. Without gates the last of the four is empty.
    """
    _prove_first(weight, grad.dtype)
    return _backward(grad, weight, offsets, scale, gates)


def _forward(
    weight: Tensor, offsets: Tensor, scale: Tensor, dtype: torch.dtype, gates: Tensor | None
) -> Tensor:
    weight, gates = laid_as(weight, weight[None])[0], _present(gates, scale)
    out = empty_kernels(offsets.shape[0], weight, dtype)
    if out.numel():
        name, rows = _plan("roll_forward", weight, offsets, dtype)
        grid = (_chunks(rows), offsets.shape[1], offsets.shape[0])
        tensors = (weight, offsets.contiguous(), scale.contiguous(), gates, out)
        _launch(name, grid, THREADS, tensors, _sizes(weight, offsets))
    return out


def _backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor, gates: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight, gates = laid_as(weight, weight[None])[0], _present(gates, scale)
    grad, offsets, scale = laid_as(weight, grad), offsets.contiguous(), scale.contiguous()
    inputs = weight, offsets, scale, gates
    if not grad.numel():
        first, second, third, fourth = (torch.zeros_like(one) for one in inputs)
        return first, second, third, fourth
    first, second, third, fourth = (torch.empty_like(one) for one in inputs)
    name, rows = _plan("roll_backward", weight, offsets, grad.dtype)
    batch, groups, axes = offsets.shape
    chunks, channels = _chunks(rows), weight.shape[1]
    # What a gate's gradient adds up: a term per output, for large kernels one per output and tap.
    terms = rows * groups // channels if gates.numel() else 0
    partials = offsets.new_empty(batch, groups, chunks, 4)
    dots = offsets.new_empty(batch, terms, channels)
    tensors = (grad, *inputs, first, partials, dots)
    numbers = (batch, *_sizes(weight, offsets))
    _launch(name, (chunks, groups, 1), THREADS, tensors, numbers)
    tensors = (partials, dots, second, third, fourth)
    grid = (batch * groups + gates.numel(), 1, 1)
    numbers = (batch * groups, chunks, terms, channels)
    _launch(f"roll_finish<{TYPES[offsets.dtype]}, {axes}>", grid, WARP, tensors, numbers)
    return first, second, third, fourth


def _present(gates: Tensor | None, scale: Tensor) -> Tensor:
    """The gates, or for None a tensor without elements: its address, 0, tells the kernel."""
    return scale.new_empty(0) if gates is None else gates.contiguous()


def _prove_first(weight: Tensor, other: torch.dtype) -> None:
    sides, last = tuple(weight.shape[2:]), is_channels_last(weight)
    with PROVING:
        prove(weight.device, weight.dtype, other, sides, last)


@cache
def prove(
    device: torch.device, kind: torch.dtype, other: torch.dtype, sides: tuple[int, ...], last: bool
) -> None:
    """Hold one compiled instance against torch's form, both ways, with gates and without.

    Runs once in a process and waits for the device then. A compiler or a driver that gets the
    kernel wrong must not train a network. The case is small but has a full block, a part of one
    and sums over more terms than a warp has threads. For the arguments see :func:`expression`.

    Raises:
        KernelError: The numbers differ by more than the types explain, or the current stream
            captures, which must not wait.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise KernelError(
            f"the rolling kernel for {kind}, {other} and sides {sides} must be proved before a "
            "CUDA graph is captured, and was not yet; roll once before capturing"
        )
    weight, offsets, scale, grad, factors = _case_of_proof(device, kind, other, sides, last)
    for gates in (factors, None):
        inputs = weight, offsets, scale
        found = _forward(*inputs, other, gates), *_backward(grad, *inputs, gates)
        exact = weight.double(), offsets.double(), scale.double()
        gated = None if gates is None else gates.double()
        wanted = (
            products.roll_forward(*exact, gates=gated),
            *products.roll_backward(grad.double(), *exact, gated),
        )
        # Without gates there is one gradient less to compare.
        for name, got, expected in zip(PROVED, found, wanted, strict=False):
            steps = 64 if got.dtype.itemsize >= 4 else 2
            largest = expected.abs().max().clamp(min=1)
            error = float((got.double() - expected).abs().max() / largest)
            if not error <= steps * torch.finfo(got.dtype).eps:
                raise KernelError(
                    f"the rolling kernel gives wrong {name} for {kind}, {other} and sides {sides} "
                    f"on {device} (relative error {error:.2g}); set CUDA_OPS_BACKEND=torch and "
                    "report it"
                )


def _case_of_proof(
    device: torch.device, kind: torch.dtype, other: torch.dtype, sides: tuple[int, ...], last: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Weight, offsets, scale, a gradient and gates, drawn on the CPU whatever the default is."""
    draw = partial(torch.rand, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    sums = torch.promote_types(kind, torch.float32)
    # Rows for a full block and a part of one; where each tap has a thread, four outputs have them.
    outputs = 40 if math.prod(sides) <= REGISTER_TAPS else 4
    weight = (2 * draw(outputs, 8, *sides) - 1).to(device, kind)
    if last:
        weight = weight.movedim(1, -1).contiguous().movedim(-1, 1)
    offsets = (6 * draw(2, 2, len(sides)) - 3).to(device, sums)
    scale, gates = draw(2, 2).to(device, sums), draw(2, 8).to(device, sums)
    grad = (2 * draw(2, *weight.shape) - 1).to(device, other)
    return weight, offsets, scale, grad, gates


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
