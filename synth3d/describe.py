"""The size of a model: parameters, operations and memory, counted without running it.

Counting happens on torch's meta device, so even the widest network takes a moment. The rules
for operations (they reproduce the tables of the AGI-Net paper):

- convolution, transposed convolution, linear: 2 per multiply-accumulate, 1 per output for a bias;
- ReLU, leaky ReLU, GELU, pooling: 1 per input element; normalisation: 5 per element;
- elementwise sums and products, sigmoids of pooled vectors and the making of rolled kernels:
  not counted.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cuda_ops import RollingConv
from synth3d.models import GENERATORS
from synth3d.models.agi_net import OffsetHead, ScaleHead
from synth3d.models.blocks import ChannelNorm, GlobalMean, GroupedConv2d, GroupedConv3d

SIDES = {2: 256, 3: 64}

Rule = Callable[[Any, Tensor, Tensor], int]


def _conv(layer: Any, x: Tensor, y: Tensor) -> int:
    macs = y.numel() * math.prod(layer.weight.shape[1:])
    return 2 * macs + (y.numel() if getattr(layer, "bias", None) is not None else 0)


def _transposed(layer: Any, x: Tensor, y: Tensor) -> int:
    macs = x.numel() * math.prod(layer.weight.shape[1:])
    return 2 * macs + (y.numel() if layer.bias is not None else 0)


def _per_element(count: int) -> Rule:
    return lambda layer, x, y: count * x.numel()


RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: _conv,
    nn.Conv3d: _conv,
    GroupedConv2d: _conv,
    GroupedConv3d: _conv,
    RollingConv: _conv,
    nn.ConvTranspose2d: _transposed,
    nn.ConvTranspose3d: _transposed,
    nn.Linear: _conv,
    OffsetHead: _conv,
    ScaleHead: _conv,
    nn.ReLU: _per_element(1),
    nn.LeakyReLU: _per_element(1),
    nn.GELU: _per_element(1),
    GlobalMean: _per_element(1),
    ChannelNorm: _per_element(5),
    nn.InstanceNorm2d: _per_element(5),
    nn.InstanceNorm3d: _per_element(5),
}


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_flops(model: nn.Module, shape: Sequence[int]) -> int:
    """Floating-point operations of one forward pass, by this module's rules.

    Args:
        model: On any device; only a model on ``meta`` is counted without being computed.
        shape: Of the input, (B, C, \\*S).

    Raises:
        ValueError: A layer with parameters for which there is no rule.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        nonlocal total
        total += RULES[type(layer)](layer, inputs[0], output)

    handles = []
    for layer in model.modules():
        if type(layer) in RULES:
            handles.append(layer.register_forward_hook(count))
        elif any(True for _ in layer.parameters(recurse=False)):
            raise ValueError(f"no counting rule for {type(layer).__name__}; add one to RULES")
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model(torch.zeros(tuple(shape), device=device))
    finally:
        for handle in handles:
            handle.remove()
    return total


def count_saved_bytes(model: nn.Module, shape: Sequence[int]) -> int:
    """Bytes of float32 activations that one training step keeps for the backward.

    Tensors that share memory count once; parameters do not count.

    Args:
        model: Best on ``meta``.
        shape: Of the input, (B, C, \\*S).
    """
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    device = next(model.parameters()).device
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model(torch.zeros(tuple(shape), device=device))
    return sum(storage.nbytes() for storage in kept.values())


def describe(
    model: str = "agi-net",
    dim: int = 3,
    widths: Sequence[int] = (64, 128, 256, 512),
    groups: int = 8,
    in_channels: int = 2,
    out_channels: int = 1,
    *,
    side: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Describe one generator by numbers.

    Args:
        model: A name in ``GENERATORS``.
        dim: 2 or 3.
        widths: Channels from full resolution to the body.
        groups: Groups of channels that AGI-Net rolls separately.
        in_channels: Input channels.
        out_channels: Output channels.
        side: Voxels along each axis of the input that is counted; 256 in 2-D, 64 in 3-D.
        options: Further keywords of the model: ``blocks``, ``stages``, ``module``, ``routing`` ...

    Returns:
        The arguments, and ``parameters``, ``flops`` (of one sample of ``flops_input``, by the
        rules of this module) and ``saved_bytes_per_voxel`` (float32 activations kept for the
        backward).

    Raises:
        ValueError: A model, option or size that does not exist or fit.
    """
    if model not in GENERATORS:
        raise ValueError(f"unknown model {model!r}; there are {', '.join(GENERATORS)}")
    known = inspect.signature(GENERATORS[model]).parameters
    if unknown := sorted(options.keys() - known.keys()):
        raise ValueError(f"{model} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    with torch.device("meta"):
        network = GENERATORS[model](
            in_channels, out_channels, dim=dim, widths=tuple(widths), groups=groups, **options
        )
    sides = (side if side is not None else SIDES[dim],) * dim
    shape = (1, in_channels, *sides)
    return {
        "model": model,
        "dim": dim,
        "widths": list(widths),
        "groups": groups,
        "in_channels": in_channels,
        "out_channels": out_channels,
        **options,
        "parameters": count_parameters(network),
        "flops": count_flops(network, shape),
        "flops_input": list(shape),
        "saved_bytes_per_voxel": count_saved_bytes(network, shape) / math.prod(sides),
    }
