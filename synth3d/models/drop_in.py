"""Rolling convolutions in a network that somebody else built."""

import fnmatch
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from synth3d.models.agi_net.cagr import CagrConv, GatedRollingConv
from synth3d.models.agi_net.routing import CagrOptions

DIMS: dict[type[nn.Module], int] = {nn.Conv2d: 2, nn.Conv3d: 3}


@dataclass
class Replaced:
    """What :func:`replace_convolutions` did: names, and why others that fitted the pattern stay."""

    done: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"replaced {len(self.done)}: {', '.join(self.done)}"]
        return "\n".join(lines + [f"kept {name}: {why}" for name, why in self.skipped.items()])


def replace_convolutions(
    network: nn.Module,
    pattern: str | Sequence[str],
    groups: int = 8,
    module: str = "cagr",
    keep_function: bool = True,
    **options: Any,
) -> Replaced:
    """Put AGI-Net's convolution in the place of a network's own stride-1 ones, by name.

    Kernels and biases are taken over, on their device and of their type. With ``keep_function``
    the network computes, to rounding, what it did before: gates start open at sigmoid(2) in every
    channel, offsets at 0 and scales at sigmoid(``scale_init``), and each kernel is divided by the
    product of gate and scale. Without, kernels are taken over as they are and gates start as
    published, which makes every replaced convolution about 0.37 of what it was.

    Load a trained network's weights first, replace then; and make the optimiser after that, for
    the parameters are new ones. ``checkpoint_routing="auto"`` is False here.

    >>> network = nn.Sequential(nn.Conv3d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 8, 1))
    >>> print(replace_convolutions(network, "*", groups=4))
    replaced 1: 0
    kept 2: a kernel of one tap cannot be rolled

    Args:
        network: Changed in place. A convolution that is registered under several names is
            replaced under all of them.
        pattern: Shell pattern of names as ``named_modules`` gives them (``"encoder.*.conv"``),
            or several.
        groups: n; where it does not divide a convolution's input channels, their greatest
            common divisor is taken, with a warning.
        module: ``"cagr"``, ``"gr"`` or ``"ca"``.
        keep_function: See above.
        options: Further keywords of :class:`synth3d.models.agi_net.routing.CagrOptions`.

    Raises:
        ValueError: The pattern fits no convolution, or none that can be replaced; groups are not
            positive; an option does not exist, or ``attn_init="default"`` with
            ``keep_function``.
    """
    if groups < 1:
        raise ValueError(f"groups must be positive, got {groups}")
    if keep_function and options.setdefault("attn_init", "open") != "open":
        raise ValueError("gates that start at random change the function; set keep_function=False")
    chosen = CagrOptions(module=module, **{"checkpoint_routing": False, **options})
    if module == "conv":
        raise ValueError("module 'conv' is what is there already; choose cagr, gr or ca")
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    report, made = Replaced(), dict[nn.Module, nn.Module]()
    for name, layer in _matching(network, patterns):
        reason = _why_not(layer) if layer is not network else "it is the network itself"
        if reason:
            report.skipped[name] = reason
            continue
        new = _rolling(layer, name, groups, chosen, keep_function)
        report.done.append(name)
        made[layer] = new
    if not report.done:
        names = [name for name, m in network.named_modules() if isinstance(m, _ANY)]
        seen = f"; {report}" if report.skipped else f"; its convolutions are {names}"
        raise ValueError(f"no convolution of the network fits {patterns} and can be rolled{seen}")
    for parent in list(network.modules()):
        for key, child in list(parent._modules.items()):
            if child in made:
                parent._modules[key] = made[child]
    return report


_ANY = nn.modules.conv._ConvNd


def _matching(network: nn.Module, patterns: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """Every convolution with a name that fits, once, under the first such name."""
    found: dict[nn.Module, str] = {}
    for name, layer in network.named_modules(remove_duplicate=False):
        if isinstance(layer, _ANY) and any(fnmatch.fnmatchcase(name, p) for p in patterns):
            found.setdefault(layer, name)
    return [(name, layer) for layer, name in found.items()]


def _why_not(layer: nn.Module) -> str:
    """Why a convolution cannot be rolled, or nothing."""
    if not isinstance(layer, _ANY) or type(layer) not in DIMS:
        return f"a {type(layer).__name__} is no plain Conv2d or Conv3d"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        return "it has hooks (weight_norm is one), which would be lost"
    if any(step != 1 for step in layer.stride):
        return f"its stride is {layer.stride}, not 1"
    if layer.groups != 1:
        return f"it has {layer.groups} groups already"
    if max(layer.kernel_size) == 1:
        return "a kernel of one tap cannot be rolled"
    if layer.padding_mode != "zeros":
        return f"it pads with {layer.padding_mode!r}, not zeros"
    if isinstance(layer.padding, str) and _same_padding(layer) is None and layer.padding == "same":
        return "an even kernel cannot be padded alike on both sides"
    return ""


def _same_padding(layer: Any) -> tuple[int, ...] | None:
    """Zeros on each side that keep the size, or None for a kernel that has no middle."""
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(r % 2 for r in reach) else tuple(r // 2 for r in reach)


def _padding(layer: Any) -> tuple[int, ...]:
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    return (_same_padding(layer) or ()) if layer.padding == "same" else tuple(layer.padding)


def _rolling(
    layer: Any, name: str, groups: int, options: CagrOptions, keep_function: bool
) -> CagrConv:
    """A rolling convolution with the kernel and bias of ``layer``."""
    fitting = math.gcd(layer.in_channels, groups)
    if fitting != groups:
        warnings.warn(
            f"{name} has {layer.in_channels} input channels, which {groups} groups do not divide; "
            f"it gets {fitting}",
            stacklevel=3,
        )
    dim, bias = DIMS[type(layer)], layer.bias is not None
    conv = GatedRollingConv(
        layer.in_channels, layer.out_channels, layer.kernel_size, dim=dim, groups=fitting,
        padding=_padding(layer), dilation=layer.dilation,
    )  # fmt: skip
    new = CagrConv(layer.in_channels, fitting, dim, replace(options), conv=conv, bias=bias)
    new = new.to(layer.weight.device, layer.weight.dtype)
    with torch.no_grad():
        new.conv.weight.copy_(layer.weight / (start_factor(options) if keep_function else 1.0))
        if new.bias is not None:
            new.bias.copy_(layer.bias)
            new.bias.requires_grad_(layer.bias.requires_grad)
    new.conv.weight.requires_grad_(layer.weight.requires_grad)
    return new.train(layer.training)


def start_factor(options: CagrOptions) -> float:
    """What gates and scales multiply an untrained convolution with, gates open."""
    gate = 1 / (1 + math.exp(-2.0)) if options.module in ("ca", "cagr") else 1.0
    rolls = options.module in ("gr", "cagr") and options.scale == "learned"
    return gate * (1 / (1 + math.exp(-options.scale_init)) if rolls else 1.0)
