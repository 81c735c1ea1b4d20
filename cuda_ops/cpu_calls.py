"""What ``cpu_conv.cpp`` computes, called: convolutions and the gradients of their kernels.

For what libraries do not offer (kernels per sample) or do slowly (few channels a group): float32,
channels-last, 3 taps along x, the size kept or halved. Everything else is torch's.
"""

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache
from threading import Thread
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ops import cpu_library
from cuda_ops.layout import FORMATS, empty_kernels, is_channels_last
from cuda_ops.plain import is_plain, watched

LANES = 8
THIN = (1, 2, 4)
CONV = {4: F.conv2d, 5: F.conv3d}


def fits(shape: Sequence[int], groups: int = 1) -> bool:
    """Whether a kernel (C_out, C_in / groups, \\*k) is one of those that the library convolves.

    Its sides are 3, along z and y also 1; its groups have multiples of 8 channels both ways, or 1,
    2 or 4 channels, and 8 divides all channels.
    """
    outputs, width, *sides = shape
    if len(sides) not in (2, 3) or sides[-1] != 3 or any(side not in (1, 3) for side in sides):
        return False
    if outputs % groups or outputs % LANES or width * groups % LANES:
        return False
    each = outputs // groups
    return (each % LANES == 0 and width % LANES == 0) or (each == width and width in THIN)


def matches(
    x: Tensor, kernels: Tensor, gates: Tensor | None, bias: Tensor | None, groups: int
) -> bool:
    """Whether these are what :func:`convolved` takes, as far as their shapes tell."""
    batched = kernels.ndim > x.ndim
    if x.ndim not in FORMATS or kernels.ndim != x.ndim + batched:
        return False
    shape = kernels.shape[batched:]
    if batched and len(kernels) != len(x) or shape[1] * groups != x.shape[1]:
        return False
    ones = [1] * (x.ndim - 2)
    gated = gates is None or list(gates.shape) == [*x.shape[:2], *ones]
    return fits(shape, groups) and gated and (bias is None or list(bias.shape) == [shape[0]])


def is_for(x: Tensor, *others: Tensor | None) -> bool:
    """Whether tensors like these, the samples first, go to the library: float32 on the CPU.

    With them go tensors that have no values, so that what a step keeps can be counted without
    them; to a compiler, a tracer or a transform of torch.func, which want torch's own operations,
    this says no.

    Raises:
        cpu_library.NoLibraryError: ``CUDA_OPS_CPU=compiled`` and there is none.
    """
    known = all(t is None or t.dtype == torch.float32 for t in (x, *others))
    if not known or x.device.type != "cpu" or watched() or not x.numel():
        return False
    return cpu_library.library() is not None


def is_there(*tensors: Tensor | None) -> bool:
    """Whether these are plain (:func:`cuda_ops.plain.is_plain`), and the library there and right.

    Raises:
        cpu_library.NoLibraryError: ``CUDA_OPS_CPU=compiled`` and there is none.
    """
    if not is_plain(*(tensor for tensor in tensors if tensor is not None)):
        return False
    return is_proved(_gives_torchs_numbers, "it does not give torch's numbers")


def convolved(
    x: Tensor,
    kernels: Tensor,
    gates: Tensor | None,
    bias: Tensor | None,
    groups: int,
    stride: int = 1,
    transposed: bool = False,
) -> Tensor:
    """What :func:`cuda_ops.cpu_conv.conv_compiled` gives, not differentiable, also at stride 2.

    Args:
        x: (B, C_in, \\*S), plain.
        kernels: (C_out, C_in / groups, \\*k), or (B, C_out, C_in / groups, \\*k).
        gates: (B, C_in, 1, ...), or None for ones.
        bias: (C_out,) or None.
        groups: Of the convolution.
        stride: 1 or 2, the same along all axes.
        transposed: Instead, with ``x`` a result's gradient, the gradient of what was convolved,
            at stride 1.

    Returns:
        (B, C_out, \\*S') in the memory format of ``x``, S' = ceil(S / stride).
    """
    outputs = kernels.shape[1 - x.ndim] * groups if transposed else kernels.shape[-x.ndim]
    sizes = (outputs, *(-(-size // stride) for size in x.shape[2:]))
    numbers = (groups, stride, transposed)
    if is_channels_last(x):
        y = _empty(len(x), sizes, x)
        call_convolve(x, kernels, gates, bias, y, *numbers)
        return y
    whole = x.new_empty(len(x), *sizes)
    for b, (sample, y) in enumerate(zip(x.split(1), whole.split(1), strict=True)):
        kernel = kernels[b : b + 1] if kernels.ndim > x.ndim else kernels
        gate = gates[b : b + 1] if gates is not None else None
        result = _empty(1, sizes, x)
        call_convolve(turned(sample), kernel, gate, bias, result, *numbers)
        y.copy_(result)
    return whole


def kernel_gradients(
    x: Tensor, kernels: Tensor, each: bool, grad: Tensor, groups: int, stride: int = 1
) -> Tensor:
    """The gradients of the kernels that :func:`convolved` took, as if there had been no gates.

    Args:
        x: (B, C_in, \\*S), plain.
        kernels: As there, of which the layout is read.
        each: For each sample its own, even if all share their kernel.
        grad: Of the result, (B, C_out, \\*S').
        groups: Of the convolution.
        stride: Of the convolution.

    Returns:
        (B, C_out, C_in / groups, \\*k), or without B where all share one.
    """
    one = kernels if kernels.ndim == x.ndim else kernels[0]
    each = each or kernels.ndim > x.ndim
    found = empty_kernels(len(x) if each else 1, one, one.dtype)
    if is_channels_last(x):
        _gradient(x, turned(grad), found, groups, stride)
    elif each:
        for triple in zip(x.split(1), grad.split(1), found.split(1), strict=True):
            _gradient(turned(triple[0]), turned(triple[1]), triple[2], groups, stride)
    else:
        found.zero_()
        part = torch.empty_like(found)
        for sample, slope in zip(x.split(1), grad.split(1), strict=True):
            _gradient(turned(sample), turned(slope), part, groups, stride)
            found += part
    return found if each else found[0]


def by_torch(
    x: Tensor,
    kernels: Tensor,
    gates: Tensor | None = None,
    bias: Tensor | None = None,
    groups: int = 1,
    stride: int = 1,
) -> Tensor:
    """What :func:`convolved` gives, in torch's operations, of any type, differentiable."""
    if gates is not None:
        x = x * gates
    sides = [side // 2 for side in kernels.shape[2 - x.ndim :]]
    if kernels.ndim == x.ndim:
        return CONV[x.ndim](x, kernels, bias, stride, sides, 1, groups)
    joined, stacked = x.reshape(1, -1, *x.shape[2:]), kernels.flatten(0, 1)
    y = CONV[x.ndim](joined, stacked, None, stride, sides, 1, groups * len(x))
    y = y.reshape(len(x), -1, *y.shape[2:])
    return y if bias is None else y + bias.reshape(-1, *[1] * (x.ndim - 2))


def _empty(batch: int, sizes: tuple[int, ...], x: Tensor) -> Tensor:
    layout = FORMATS[x.ndim]
    return torch.empty((batch, *sizes), dtype=x.dtype, device=x.device, memory_format=layout)


def turned(x: Tensor) -> Tensor:
    """``x`` in channels-last memory."""
    return x.contiguous(memory_format=FORMATS[x.ndim])


def call_convolve(
    x: Tensor,
    kernels: Tensor,
    gates: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    groups: int,
    stride: int,
    transposed: bool,
) -> None:
    """Call the library; ``x`` and ``y`` are channels-last."""
    if _tap_stride(kernels, x.ndim - 2) is None:
        kernels = kernels.contiguous()
    gates = gates.contiguous() if gates is not None else None
    bias = bias.contiguous() if bias is not None else None
    shape = _shape(x, y.shape[1], kernels, groups, stride, transposed)
    own = gates is not None and kernels.ndim == x.ndim  # a copy for each sample
    packed = x.new_empty(kernels.numel() * (len(x) if own else 1))
    cpu_library.opened().convolve(shape, *map(_address, (x, kernels, gates, bias, packed, y)))


def _gradient(x: Tensor, grad: Tensor, found: Tensor, groups: int, stride: int) -> None:
    """Call the library, which writes ``found`` (B or 1, C_out, C_in / groups, \\*k)."""
    kernels = found if len(found) > 1 else found[0]
    shape = _shape(x, grad.shape[1], kernels, groups, stride, False)
    packed = x.new_empty(found.numel())
    cpu_library.opened().kernel_gradient(shape, *map(_address, (x, grad, packed, found)))


def _shape(
    x: Tensor, outputs: int, kernels: Tensor, groups: int, stride: int, transposed: bool
) -> "ctypes.Array[ctypes.c_int64]":
    """The library's ``Shape``."""
    batch, inputs, *sizes = x.shape
    sides = kernels.shape[2 - x.ndim :]
    deep, depth = (sides[0], sizes[0]) if x.ndim == 5 else (1, 1)
    strides = kernels.stride()
    sample = strides[0] if kernels.ndim > x.ndim else 0
    return _Numbers(
        batch, depth, *sizes[-2:], inputs, outputs, groups, deep, sides[-2],
        sample, *strides[-x.ndim : 2 - x.ndim], _tap_stride(kernels, x.ndim - 2), transposed,
        stride, torch.get_num_threads(),
    )  # fmt: skip


_Numbers = ctypes.c_int64 * 16


def _tap_stride(kernels: Tensor, axes: int) -> int | None:
    """From tap to tap, the last ``axes`` taken as one; None where no one stride does it."""
    first, taps = kernels.stride(-1), kernels.shape[-1]
    for axis in range(2, axes + 1):
        if kernels.shape[-axis] > 1 and kernels.stride(-axis) != first * taps:
            return None
        taps *= kernels.shape[-axis]
    return first


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def is_proved(proof: Callable[[], bool], fault: str) -> bool:
    """Whether the library is there, and right: a compiler that gets loops wrong must not train.

    Args:
        proof: Whether it gives torch's numbers on small cases; asked once for each library.
        fault: What is wrong with one that does not.

    Raises:
        cpu_library.NoLibraryError: ``CUDA_OPS_CPU=compiled`` and there is none that is right.
    """
    loaded = cpu_library.library()
    if loaded is None or _holds(loaded, proof):
        return loaded is not None
    return cpu_library.refuse(fault)


@cache
def _holds(_: ctypes.CDLL, proof: Callable[[], bool]) -> bool:
    return alone(proof)


def _gives_torchs_numbers() -> bool:
    draw = torch.Generator().manual_seed(0)
    place: Any = {"generator": draw, "device": "cpu", "dtype": torch.float32}
    for groups, channels, sides in ((1, 16, (3, 3, 3)), (2, 16, (3, 3, 3)), (4, 16, (1, 3, 3))):
        for stride in (1, 2):
            x = torch.randn(2, channels, 4, 5, 13, **place)
            kernels = torch.randn(2, channels, channels // groups, *sides, **place)
            with torch.enable_grad():
                leaves = [leaf.double().requires_grad_() for leaf in (x, kernels)]
                y = by_torch(*leaves, None, None, groups, stride)
                grad = torch.randn(y.shape, **place)
                truth = [y, *torch.autograd.grad(y, leaves, grad.double())]
            x, grad = turned(x), turned(grad)
            found = [convolved(x, kernels, None, None, groups, stride)]
            if stride == 1:
                found.append(convolved(grad, kernels, None, None, groups, transposed=True))
            else:
                del truth[1]
            found.append(kernel_gradients(x, kernels, True, grad, groups, stride))
            if not agree(found, truth):
                return False
    return True


def alone(proof: Callable[[], bool]) -> bool:
    """``proof()`` in a thread of its own, where nothing is switched on or off.

    The caller may be without gradients, or in a checkpoint that keeps what is computed.
    """
    found: Future[bool] = Future()

    def work() -> None:
        try:
            found.set_result(proof())
        except BaseException as error:
            found.set_exception(error)

    thread = Thread(target=work)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending
        return proof()
    thread.join()
    return found.result()


def agree(found: Sequence[Tensor], truth: Sequence[Tensor]) -> bool:
    """Whether float32 tensors differ from float64 ones by rounding only."""
    pairs = zip(found, truth, strict=True)
    return all(
        float((a - b).detach().abs().max()) <= 1e-4 * float(b.detach().abs().max())
        for a, b in pairs
    )
