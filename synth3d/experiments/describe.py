"""The size of a model: parameters, operations and memory, counted without computing anything.

The rules for operations (they reproduce the tables of the AGI-Net paper):

- convolution, transposed convolution, linear: 2 per multiply-accumulate, 1 per output for a bias;
- ReLU, leaky ReLU, GELU, pooling: 1 per input element; normalisation: 5 per element;
- reading between voxels (deformable convolution): 2 per corner, 2^d corners;
- elementwise sums and products, sigmoids of pooled vectors and the making of rolled or rotated
  kernels: not counted.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cuda_ops import RollingConv
from synth3d.models import (
    GENERATORS,
    ChannelNorm,
    DeformableConv,
    DisplacementMap,
    GatedRollingConv,
    GlobalMean,
    GroupedConv2d,
    GroupedConv3d,
    ModalityHead,
    OffsetHead,
    RotatingConv,
    ScaleHead,
    TimeModulation,
    options_of,
    saved_bytes,
)

SIDES = {2: 256, 3: 64}

Rule = Callable[[Any, Tensor, Tensor], int]


def _conv(layer: Any, x: Tensor, y: Tensor) -> int:
    macs = y.numel() * math.prod(layer.weight.shape[1:])
    return 2 * macs + (y.numel() if getattr(layer, "bias", None) is not None else 0)


def _transposed(layer: Any, x: Tensor, y: Tensor) -> int:
    macs = x.numel() * math.prod(layer.weight.shape[1:])
    return 2 * macs + (y.numel() if layer.bias is not None else 0)


def _displacements(layer: Any, x: Tensor, y: Any) -> int:
    outputs = sum(part.numel() for part in y)
    return outputs * (2 * math.prod(layer.weight.shape[1:]) + 1)


def _deformable(layer: Any, x: Tensor, y: Tensor) -> int:
    reads = x.numel() * layer.displacements.taps
    # A warped input goes through the convolution as a layer, which counts itself.
    convolution = 0 if layer.mode == "warp" else _conv(layer.conv, x, y)
    return reads * 2 * 2**layer.dim + convolution


def _rotating(layer: Any, x: Tensor, y: Tensor) -> int:
    return 2 * y.numel() * math.prod(layer.weight.shape[1:])


def _head(layer: Any, x: Tensor, y: Tensor) -> int:
    return 2 * y.numel() * math.prod(layer.weight.shape[2:])


def _modulation(layer: Any, x: Tensor, y: Tensor) -> int:
    return len(x) * len(layer.weight) * (2 * layer.weight.shape[1] + 1)


def _per_element(count: int) -> Rule:
    return lambda layer, x, y: count * x.numel()


RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: _conv,
    nn.Conv3d: _conv,
    GroupedConv2d: _conv,
    GroupedConv3d: _conv,
    RollingConv: _conv,
    GatedRollingConv: _conv,
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
    DisplacementMap: _displacements,
    DeformableConv: _deformable,
    RotatingConv: _rotating,
    ModalityHead: _head,
    TimeModulation: _modulation,
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
    told = {"time": torch.zeros(shape[0], device=device)} if getattr(model, "time", None) else {}
    try:
        with torch.no_grad():
            model(torch.zeros(tuple(shape), device=device), **told)
    finally:
        for handle in handles:
            handle.remove()
    return total


def make_ghost(
    model: str, in_channels: int, out_channels: int, options: dict[str, Any]
) -> nn.Module:
    """The generator ``model`` without memory, on the meta device.

    Raises:
        ValueError: A model, option or size that does not exist or fit.
    """
    if model not in GENERATORS:
        raise ValueError(f"unknown model {model!r}; there are {', '.join(GENERATORS)}")
    known = options_of(model)
    if unknown := sorted(options.keys() - known):
        has = ", ".join(sorted(known))
        raise ValueError(f"{model} has no option {', '.join(unknown)}; it has {has}")
    with torch.device("meta"):
        return GENERATORS[model](in_channels, out_channels, **options)


def describe(
    model: str = "agi-net",
    dim: int = 3,
    widths: Sequence[int] = (64, 128, 256, 512),
    groups: int | None = None,
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
        groups: Groups of channels that AGI-Net rolls separately; None for its own default.
        in_channels: Input channels.
        out_channels: Output channels.
        side: Voxels along each axis of the input that is counted; 256 in 2-D, 64 in 3-D.
        options: Further keywords of the model: ``blocks``, ``stages``, ``module``, ``routing`` ...

    Returns:
        The arguments, and ``parameters``; ``flops`` of one sample of ``flops_input``, by the
        rules of this module; and what a training step keeps for the backward in float32, per
        sample: ``saved_bytes_per_voxel`` voxels + ``saved_bytes_constant``, from
        ``flops_input`` and half its side. For AGI-Net also the two with the routing recomputed.

    Raises:
        ValueError: A model, option or size that does not exist or fit.
    """
    given = {"dim": dim, "widths": tuple(widths), **options}
    if groups is not None or "groups" in options_of(model if model in GENERATORS else "agi-net"):
        given["groups"] = groups if groups is not None else 8
    network = make_ghost(model, in_channels, out_channels, given)
    side = side if side is not None else SIDES[dim]
    shape = (1, in_channels, *[side] * dim)
    found = {
        "model": model,
        "in_channels": in_channels,
        "out_channels": out_channels,
        **{key: list(v) if isinstance(v, tuple) else v for key, v in given.items()},
        "parameters": count_parameters(network),
        "flops": count_flops(network, shape),
        "flops_input": list(shape),
    }
    per_voxel, constant = memory_line(network, shape)
    found |= {"saved_bytes_per_voxel": per_voxel, "saved_bytes_constant": constant}
    recompute = getattr(network, "recompute_routing", None)
    if recompute is not None and options.get("checkpoint_routing", "auto") == "auto":
        recompute(True)
        per_voxel, constant = memory_line(network, shape)
        found |= {"recomputed_bytes_per_voxel": per_voxel, "recomputed_bytes_constant": constant}
    return found


def memory_line(network: Any, shape: Sequence[int]) -> tuple[float, float]:
    """Bytes per voxel, and bytes besides, of what a step keeps for each sample, on any machine.

    The line through the counts at ``shape`` (1, C, \\*S) and at half its sides (rounded to what
    the network takes).

    Raises:
        ValueError: The sides are so small that both are the same.
    """
    factor = 2**network.levels
    half = [max(factor, s // 2 // factor * factor) for s in shape[2:]]
    large, small = math.prod(shape[2:]), math.prod(half)
    if small == large:
        raise ValueError(
            f"expected sides of at least {2 * factor} to count memory, got {shape[2:]}"
        )
    timed = network.time is not None
    high = saved_bytes(network, shape, timed=timed)
    low = saved_bytes(network, (*shape[:2], *half), timed=timed)
    slope = (high - low) / (large - small)
    return slope, high - slope * large
