"""``roll_kernel``: per-sample, group-wise rolled convolution kernels on any device.

The meaning is :func:`cuda_ops.reference.roll_kernel_reference`'s. Two forms compute it: the
differentiable matrix product of :mod:`cuda_ops.products`, and for CUDA tensors the fused kernel of
:mod:`cuda_ops.cuda`, as the custom operator ``torch.ops.cuda_ops.roll_kernel`` with its own
backward ``torch.ops.cuda_ops.roll_kernel_backward``.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from cuda_ops.backend import chosen_backend, is_refused, may_try, uses_fused
from cuda_ops.products import empty_kernels, laid_as, roll_backward, roll_forward, roll_in_parts


def roll_kernel(
    weight: Tensor, offsets: Tensor, scale: Tensor, gates: Tensor | None = None
) -> Tensor:
    """Roll each group of input channels of ``weight`` cyclically, by a fractional offset.

    Differentiable, also twice, in all arguments. Zero offsets with unit scale give the weights
    back bit for bit, and gates of ones change no bit. Computed in float32 (float64 for a float64
    weight) also under autocast; only the result is then cast to the autocast type.

    The environment variable ``CUDA_OPS_BACKEND`` chooses the form for CUDA tensors: ``cupy`` (the
    fused kernel), ``torch``, or ``auto``, the default: the fused kernel where it loads, compiles
    and proves itself, else torch's form with one warning in a process that says why and what to
    do.

    Args:
        weight: (C_out, C_in, \\*k) with d = 2 or 3 spatial axes (z, y, x), floating; C_in = n
            groups of contiguous channels.
        offsets: (B, n, d) in taps, axis order (z, y, x), any real value; +1 moves the taps one
            place towards larger indices.
        scale: (B, n), factor of each group.
        gates: (B, C_in), factor of each input channel besides; None for ones. Convolving x with
            such kernels is convolving ``x * gates`` with those without.

    Returns:
        (B, C_out, C_in, \\*k), each sample in the memory layout of ``weight`` (contiguous or
        channels-last), dtype of ``weight`` (under autocast: the autocast type); empty for B = 0.
        Non-finite offsets give NaN in their own group of their own sample.

    Raises:
        KernelError: ``CUDA_OPS_BACKEND`` says ``cupy``, the tensors are on CUDA, and the fused
            kernel cannot be had there, or is first used while a CUDA graph is captured.
        TypeError: An argument is not floating point.
        ValueError: Shapes disagree, the tensors are on different devices, or
            ``CUDA_OPS_BACKEND`` has an unknown value.
    """
    check_roll(weight, offsets, scale, gates)
    device = weight.device.type
    result = weight.dtype
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if casts and result != torch.float64:
        result = torch.get_autocast_dtype(device)
    with full_precision(device):
        compute = _compute_dtype(weight)
        offsets, scale = offsets.to(compute), scale.to(compute)
        gates = None if gates is None else gates.to(compute)
        if device == "cuda" and not _transformed() and _goes_fused(weight, result):
            return roll_kernel_op(weight, offsets, scale, result, gates)
        if device == "cpu" and not watched():
            return _InParts.apply(weight, offsets, scale, result, gates)
        return roll_forward(weight, offsets, scale, result, gates)


def watched() -> bool:
    """Whether a compiler, a tracer, a transform of torch.func or forward-mode differentiation looks
    on: none of them sees through a hand-written gradient.
    """
    tracing = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    return tracing or _transformed()


def _transformed() -> bool:
    """Whether torch.func or forward-mode differentiation looks on: torch takes neither through a
    custom operator's gradient.
    """
    functorch = torch._C._are_functorch_transforms_active()
    return functorch or torch.autograd.forward_ad._current_level >= 0


class _InParts(torch.autograd.Function):
    """The matrix product a part of the kernels at a time, on a CPU."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _save(ctx, inputs, None)
        return roll_in_parts(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, second, third, *fourth = _differentiable_backward(grad, *ctx.saved_tensors)
        return first, second, third, None, *(fourth or [None])


def full_precision(device: str) -> AbstractContextManager[Any]:
    """A context without autocast on a device type; nothing where there is no autocast (meta)."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


@torch.library.custom_op("cuda_ops::roll_kernel", mutates_args=(), device_types="cpu")
def roll_kernel_op(
    weight: Tensor,
    offsets: Tensor,
    scale: Tensor,
    dtype: torch.dtype,
    gates: Tensor | None = None,
) -> Tensor:
    """Roll, giving ``dtype``; all but the weight are float32, or float64 for a float64 weight."""
    return roll_in_parts(weight, offsets, scale, dtype, gates)


@torch.library.custom_op("cuda_ops::roll_kernel_backward", mutates_args=(), device_types="cpu")
def roll_kernel_backward_op(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor, gates: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of weight (in its layout), offsets, scale and gates, each of its own dtype.

    An operator cannot give None: without gates the last is empty.
    """
    return _plain_backward(grad, weight, offsets, scale, gates)


def _plain_backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor, gates: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, *others = _differentiable_backward(grad, weight, offsets, scale, gates)
    second, third, fourth = (one.contiguous() for one in (*others, scale.new_empty(0))[:3])
    return laid_as(weight, first[None])[0], second, third, fourth


@roll_kernel_op.register_kernel("cuda")
def roll_on_cuda(
    weight: Tensor,
    offsets: Tensor,
    scale: Tensor,
    dtype: torch.dtype,
    gates: Tensor | None = None,
) -> Tensor:
    """What the operator does on CUDA: the fused kernel, or torch's form where it cannot be had."""
    if not uses_fused(weight, dtype):
        return roll_in_parts(weight, offsets, scale, dtype, gates)
    from cuda_ops import cuda  # reached only with CUDA tensors

    return cuda.roll_forward(weight, offsets, scale, dtype, gates)


@roll_kernel_backward_op.register_kernel("cuda")
def roll_on_cuda_backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor, gates: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients, as :func:`roll_on_cuda` does it."""
    if not uses_fused(weight, grad.dtype):
        return _plain_backward(grad, weight, offsets, scale, gates)
    from cuda_ops import cuda

    return cuda.roll_backward(grad, weight, offsets, scale, gates)


@roll_kernel_op.register_fake
def _(
    weight: Tensor,
    offsets: Tensor,
    scale: Tensor,
    dtype: torch.dtype,
    gates: Tensor | None = None,
) -> Tensor:
    return empty_kernels(offsets.shape[0], weight, dtype)


@roll_kernel_backward_op.register_fake
def _(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor, gates: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first = empty_kernels(1, weight, weight.dtype)[0]
    fourth = scale.new_empty(0 if gates is None else gates.shape)
    return first, offsets.new_empty(offsets.shape), scale.new_empty(scale.shape), fourth


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """What the backward of a roll reads: everything but the type."""
    weight, offsets, scale, _, gates = inputs
    ctx.save_for_backward(weight, offsets, scale, gates)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gates = ctx.saved_tensors[3]
    first, second, third, fourth = roll_kernel_backward_op(grad, *ctx.saved_tensors)
    return first, second, third, None, None if gates is None else fourth


def _double_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    inputs = [one for one in ctx.saved_tensors if one is not None]
    found = torch.func.vjp(_differentiable_backward, *inputs)[1](grads[: len(inputs) - 1])
    return (*found, None)[:5]


def _differentiable_backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor, gates: Tensor | None = None
) -> tuple[Tensor, ...]:
    compute = offsets.dtype
    first, *others = roll_backward(grad.to(compute), weight.to(compute), offsets, scale, gates)
    return first.to(weight.dtype), *others


roll_kernel_op.register_autograd(_backward, setup_context=_save)
roll_kernel_backward_op.register_autograd(
    _double_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
)


def _one_by_one(operator: Any) -> Any:
    """A vmap rule: one call for each index, since every index may have a weight of its own."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        def at(index: int) -> list[Any]:
            pairs = zip(args, in_dims, strict=True)
            return [a if dim is None else a.select(dim, index) for a, dim in pairs]

        results = [operator(*at(index)) for index in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


roll_kernel_op.register_vmap(_one_by_one(roll_kernel_op))
roll_kernel_backward_op.register_vmap(_one_by_one(roll_kernel_backward_op))


def _compute_dtype(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def _goes_fused(weight: Tensor, result: torch.dtype) -> bool:
    """Whether a CUDA weight goes to the operator, which decides anew on what it then is given.

    Where somebody looks on nothing can be tried, so that is left to the operator.
    """
    if torch.compiler.is_compiling():
        return chosen_backend() != "torch"
    if watched() or not may_try(weight):
        return not is_refused(weight.device)
    return uses_fused(weight, result)


def check_roll(weight: Tensor, offsets: Tensor, scale: Tensor, gates: Tensor | None = None) -> None:
    """Refuse, with a ValueError that names the shapes, what :func:`roll_kernel` cannot roll."""
    # Messages are put together only when they are needed: torch.compile cannot print the symbolic
    # batch size of a graph that serves every batch.
    axes = weight.ndim - 2
    if axes not in (2, 3) or offsets.ndim != 3 or offsets.shape[2] != axes:
        raise ValueError(
            "roll_kernel takes weight (C_out, C_in, *k) with d = 2 or 3 spatial axes, offsets "
            f"(B, n, d) and scale (B, n), {_shapes(weight, offsets, scale)}"
        )
    if scale.shape != offsets.shape[:2]:
        raise ValueError(
            f"scale must be (B, n) = {tuple(offsets.shape[:2])}, {_shapes(weight, offsets, scale)}"
        )
    groups = offsets.shape[1]
    if groups < 1 or weight.shape[1] % groups:
        raise ValueError(
            f"{weight.shape[1]} input channels do not split into {groups} equal groups; choose a "
            "number of groups that divides the channels"
        )
    if min(weight.shape[2:]) < 1:
        raise ValueError(
            "a kernel has at least one tap along each axis, " + _shapes(weight, offsets, scale)
        )
    if not (weight.is_floating_point() and offsets.is_floating_point()):
        raise TypeError(f"expected floating point, got {weight.dtype} and {offsets.dtype}")
    if not scale.is_floating_point():
        raise TypeError(f"expected a floating-point scale, got {scale.dtype}")
    if not weight.device == offsets.device == scale.device:
        raise ValueError(
            f"expected one device, got weight on {weight.device}, offsets on {offsets.device}, "
            f"scale on {scale.device}"
        )
    if gates is not None:
        _check_gates(weight, offsets, gates)


def _check_gates(weight: Tensor, offsets: Tensor, gates: Tensor) -> None:
    if gates.ndim != 2 or gates.shape[0] != offsets.shape[0] or gates.shape[1] != weight.shape[1]:
        raise ValueError(
            f"gates must be (B, C_in) = {(offsets.shape[0], weight.shape[1])}, got "
            f"{tuple(gates.shape)}"
        )
    if not gates.is_floating_point():
        raise TypeError(f"expected floating-point gates, got {gates.dtype}")
    if gates.device != weight.device:
        raise ValueError(
            f"expected one device, got weight on {weight.device}, gates on {gates.device}"
        )


def _shapes(weight: Tensor, offsets: Tensor, scale: Tensor) -> str:
    return (
        f"got weight {tuple(weight.shape)}, offsets {tuple(offsets.shape)} and scale "
        f"{tuple(scale.shape)}"
    )
