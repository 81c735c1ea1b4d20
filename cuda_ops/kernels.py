"""The one door of CuPy: compiles ``roll_kernel.cu`` and launches it on torch's own stream.

Imported only for CUDA tensors. Memory is torch's throughout: outputs come from its allocator and
CuPy gets addresses, so nothing is copied. A kernel is compiled once per device, types and kernel
size, and CuPy keeps it on disk for the next process.
"""

from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("roll_kernel.cu")
OPTIONS = ("-std=c++17",)
THREADS = 128
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
        weight: (C_out, C_in, \\*k), contiguous, on CUDA.
        offsets: (B, n, d), contiguous, float32 (float64 for a float64 weight).
        scale: (B, n), as ``offsets``.
        dtype: Of the result.

    Returns:
        (B, C_out, C_in, \\*k) of ``dtype``, contiguous.

    Raises:
        RuntimeError: CuPy is missing or does not fit the driver; the sentence says what to do.
    """
    out = weight.new_empty((offsets.shape[0], *weight.shape), dtype=dtype)
    if out.numel():
        name, rows = _plan("roll_forward", weight, offsets, dtype)
        grid = (_chunks(rows), offsets.shape[1], offsets.shape[0])
        _launch(name, grid, (weight, offsets, scale, out), _sizes(weight, offsets))
    return out


def roll_backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of weight, offsets and scale for ``grad``, in two launches.

    Args:
        grad: (B, C_out, C_in, \\*k), contiguous.
        weight: As in :func:`roll_forward`.
        offsets: As in :func:`roll_forward`.
        scale: As in :func:`roll_forward`.

    Returns:
        Three tensors of the shapes and dtypes of weight, offsets and scale.

    Raises:
        RuntimeError: As :func:`roll_forward`.
    """
    grad_offsets, grad_scale = torch.zeros_like(offsets), torch.zeros_like(scale)
    if not grad.numel():
        return torch.zeros_like(weight), grad_offsets, grad_scale
    grad_weight = torch.empty_like(weight)
    name, rows = _plan("roll_backward", weight, offsets, grad.dtype)
    batch, groups, axes = offsets.shape
    chunks = _chunks(rows)
    partials = offsets.new_empty(batch, groups, chunks, 4)
    tensors = (grad, weight, offsets, scale, grad_weight, partials)
    _launch(name, (chunks, groups, 1), tensors, (batch, *_sizes(weight, offsets)))
    finish = f"roll_finish<{TYPES[offsets.dtype]}, {axes}>"
    ends = (partials, grad_offsets, grad_scale)
    _launch(finish, (batch * groups, 1, 1), ends, (chunks,), threads=32)
    return grad_weight, grad_offsets, grad_scale


def expression(
    kernel: str, weight: torch.dtype, other: torch.dtype, sizes: tuple[int, ...], threads: int
) -> str:
    """The C++ name of one instance: ``roll_forward<float, brain16, 3, 3, 3, 3, 128>``.

    Args:
        kernel: ``roll_forward`` or ``roll_backward``.
        weight: Type of the weight.
        other: Type of the rolled kernels or of their gradient.
        sizes: Sides of the kernel, ([z,] y, x).
        threads: Threads of a block.
    """
    taps = 1
    for size in sizes:
        taps *= size
    name = kernel if taps <= REGISTER_TAPS else f"{kernel}_any"
    sides = ", ".join(str(size) for size in (1,) * (3 - len(sizes)) + tuple(sizes))
    return f"{name}<{TYPES[weight]}, {TYPES[other]}, {len(sizes)}, {sides}, {threads}>"


def _plan(kernel: str, weight: Tensor, offsets: Tensor, other: torch.dtype) -> tuple[str, int]:
    """The instance to launch and how many threads one group needs."""
    sizes = tuple(weight.shape[2:])
    name = expression(kernel, weight.dtype, other, sizes, THREADS)
    rows = weight.shape[0] * weight.shape[1] // offsets.shape[1]
    if "_any<" in name:
        rows *= weight[0, 0].numel()
    if max(offsets.shape[:2]) > 65_535 or weight.numel() >= 2**31:
        raise ValueError(
            "expected at most 65 535 samples and groups and 2^31 weights, got weight "
            f"{tuple(weight.shape)} and offsets {tuple(offsets.shape)}"
        )
    return name, rows


def _chunks(rows: int) -> int:
    return -(-rows // THREADS)


def _sizes(weight: Tensor, offsets: Tensor) -> tuple[int, int, int]:
    return weight.shape[0], weight.shape[1], offsets.shape[1]


def _launch(
    name: str,
    grid: tuple[int, int, int],
    tensors: tuple[Tensor, ...],
    numbers: tuple[int, ...],
    threads: int = THREADS,
) -> None:
    import numpy as np

    device = tensors[0].device
    kernel = _compiled(device.index, name)
    addresses = [np.uintp(tensor.data_ptr()) for tensor in tensors]
    with _on_torchs_stream(device):
        kernel(grid, (threads, 1, 1), (*addresses, *[np.int32(number) for number in numbers]))


@cache
def _compiled(device: int, name: str) -> Any:
    cupy = load_cupy()
    try:
        with cupy.cuda.Device(device):
            code = SOURCE.read_text("utf-8")
            module = cupy.RawModule(code=code, options=OPTIONS, name_expressions=(name,))
            return module.get_function(name)
    except Exception as error:
        raise RuntimeError(
            f"CuPy {cupy.__version__} could not compile the rolling kernel ({error}); install the "
            f"CuPy for CUDA {torch.version.cuda}, e.g. pip install 'synth3d[gpu]', or set "
            "CUDA_OPS_BACKEND=torch"
        ) from error


def load_cupy() -> Any:
    """The CuPy module.

    Raises:
        RuntimeError: It is not installed, or its libraries do not load.
    """
    try:
        import cupy  # pyright: ignore[reportMissingImports]
    except Exception as error:
        raise RuntimeError(
            f"rolling with CUDA_OPS_BACKEND=cupy needs CuPy ({error}); install it with "
            "pip install 'synth3d[gpu]', or set CUDA_OPS_BACKEND=torch"
        ) from error
    return cupy


def _on_torchs_stream(device: torch.device) -> AbstractContextManager[Any]:
    """The device and torch's current stream, made current for CuPy."""
    cupy = load_cupy()
    stream = torch.cuda.current_stream(device)
    stack = ExitStack()
    stack.enter_context(cupy.cuda.Device(device.index))
    if hasattr(cupy.cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):
        stack.enter_context(cupy.cuda.Stream.from_external(stream))
    else:  # CuPy 13 or an older torch
        stack.enter_context(cupy.cuda.ExternalStream(stream.cuda_stream, device.index))
    return stack
