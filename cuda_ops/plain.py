"""Who may be given a short way: plain tensors that nobody looks at while they are computed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def watched() -> bool:
    """Whether somebody looks on who would not see through a hand-written gradient: a compiler, a
    tracer, a transform of torch.func, or forward-mode differentiation.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_plain(*tensors: Tensor) -> bool:
    """Whether these are ordinary CPU tensors that hold values, and nobody looks on.

    Beside :func:`watched` that is a tracer, fake tensors, a batch that stands for one tensor, or
    somebody who counts operations.
    """
    modes = torch._C._TorchDispatchModeKey
    return (
        not watched()
        and all(map(_is_ordinary, tensors))
        and torch._C._get_dispatch_mode(modes.PROXY) is None
        and torch._C._get_dispatch_mode(modes.FAKE) is None
        and torch._ops.mode_stack_state_for_pre_dispatch().count() == 0
        and not is_counted()
    )


def is_counted() -> bool:
    """Whether torch counts what every operation costs, of which one of ours is none."""
    if not torch._C._len_torch_dispatch_stack():
        return False
    modes = _get_current_dispatch_mode_stack()
    return any(type(mode).__module__ == "torch.utils.flop_counter" for mode in modes)


def seen(leaf: Tensor, again: bool, needed: bool) -> Tensor:
    """``leaf`` as a backward differentiates by it; ``again`` where that is differentiated too.

    A view then: by the leaf itself, what else was made from it would count as well.
    """
    return leaf.view_as(leaf) if again else leaf.detach().requires_grad_(needed)


def openly(
    formula: Callable[..., Tensor],
    tensors: Sequence[Tensor | None],
    wanted: Sequence[bool],
    grad: Tensor,
) -> list[Tensor | None]:
    """The gradients of a formula in torch's own operations, themselves differentiable.

    For the backward of a hand-written function, where somebody differentiates it or looks on.

    Args:
        formula: Of the tensors, gives one of the shape of ``grad``.
        tensors: What it was given, of any shapes; None where it was given none.
        wanted: As many: whose gradients.
        grad: Of the result, of its shape.

    Returns:
        A gradient of the shape of each tensor, None where it is not wanted.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        pairs = zip(tensors, wanted, strict=True)
        leaves = [t if t is None else seen(t, again, needed) for t, needed in pairs]
        result = formula(*leaves)
    inputs = [leaf for leaf, needed in zip(leaves, wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(result, inputs, grad, create_graph=again))
    return [next(found) if needed else None for needed in wanted]


def _is_ordinary(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.is_cpu
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
        and (tensor.untyped_storage().nbytes() > 0 or tensor.numel() == 0)  # or it was freed
    )
