"""The size of a generator: parameters, operations and memory, and what a memory budget allows.

Counted on PyTorch's meta device, without computing anything. The rules for operations (they
reproduce the tables of the AGI-Net paper):

- convolution, transposed convolution, linear: 2 per multiply-accumulate, 1 per output for a bias;
- ReLU, leaky ReLU, GELU, pooling: 1 per input element; normalisation: 5 per element;
- attention among channels (restormer): 2 per multiply-accumulate of its two products;
- reading between voxels (deformable convolution): 2 per corner, 2^d corners;
- elementwise sums and products, sigmoids of pooled vectors and the making of rolled, rotated or
  mixed kernels: not counted; of tsf convolutions alone are.
"""

import bisect
import contextlib
import functools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cuda_ops import RollingConv
from synth3d.errors import InputError
from synth3d.models import (
    GENERATORS,
    ChannelAttention,
    ChannelNorm,
    DeformableConv,
    DisplacementMap,
    GlobalMean,
    HyperConv,
    ModalityHead,
    OffsetHead,
    Restorer,
    RotatingConv,
    ScaleHead,
    TimeModulation,
    TSFSeq2Seq,
    options_of,
    saved_bytes,
)
from synth3d.settings import parse_assignment

SIDES = {2: 256, 3: 64}
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
LARGEST, SMALLEST = {2: 256, 3: 128}, 32
"""Voxels along a side of the patches that are tried for a budget."""
MOST = 16
"""Samples of a batch at most."""
STATE = 20
"""Bytes per parameter: weight, gradient, two moments of Adam, averaged weight, in float32."""
WORKING = 4
"""Full-resolution tensors that a backward has in hand beside what was kept."""
PROCESS = 2**30
"""Bytes of the process itself: libraries, the queue of patches, the C library's rests."""
NATIVE_VOXELS = 3_270_552
"""Of the box around the brain at 1 mm: the mean of eight BraTS cases."""
COHORT = 1251
"""Training cases of BraTS 2023."""
KEPT_ON_DISK = "per case of BraTS' size: 2 bytes a voxel of each sequence and 1 for the masks"
ASSUMPTIONS = (
    f"{STATE} bytes per parameter (weights, gradients, Adam, averaged weights), the activations "
    f"kept for the backward, {WORKING} full-resolution tensors in hand and {PROCESS >> 30} GiB for "
    "the process; no critic"
)


@dataclass(frozen=True)
class DescribeRequest:
    """A generator to be described; the fields are the flags of ``synth3d describe``.

    ``widths`` are channels from full resolution to the body, ``assign`` further options of the
    model as in ``module=gr``, ``side`` voxels along each axis of the input that is counted (None:
    256 in 2-D, 64 in 3-D), ``fit`` a memory budget (``8GB``) to propose patch and batch for. With
    ``degraded``, how much larger the voxels of its last input are, it is what framework fgdl
    restores that with, and a step is one of the branch.
    """

    model: str = "agi-net"
    dim: str = "3d"
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int | None = None
    stages: int | tuple[str, ...] | None = None
    assign: Sequence[str] = ()
    in_channels: int = 3
    out_channels: int = 1
    side: int | None = None
    degraded: tuple[int, ...] = ()
    fit: str | None = None
    precision: str = "fp32"
    json: bool = False


def describe_model(request: DescribeRequest) -> int:
    """``synth3d describe``: print the figures of :func:`describe`; 0."""
    found = describe(request)
    print(json.dumps(found) if request.json else as_text(found))
    return 0


def describe(request: DescribeRequest) -> dict[str, Any]:
    """One generator by numbers.

    Returns:
        The arguments, and ``parameters``; ``flops`` of one sample of ``flops_input``; and what a
        training step keeps for the backward in float32, per sample: ``saved_bytes_per_voxel``
        voxels + ``saved_bytes_constant``, from ``flops_input`` and half its side. For AGI-Net also
        the two with the routing recomputed; of tsf a step of Seq2Seq, which keeps the most. With
        ``fit``, the proposed ``patch`` and ``batch``.

    Raises:
        InputError: A model, option or size that does not exist or fit.
    """
    try:
        memory = Memory(request)
        network, options = memory.network, memory.options
        side = request.side if request.side is not None else SIDES[network.dim]
        shape = (1, request.in_channels, *[side] * network.dim)
        found = {
            "model": request.model,
            "in_channels": request.in_channels,
            "out_channels": request.out_channels,
            **{key: list(v) if isinstance(v, tuple) else v for key, v in options.items()},
            **({"degraded": list(request.degraded)} if request.degraded else {}),
            "parameters": count_parameters(network),
            "flops": count_flops(network, shape),
            "flops_input": list(shape),
        }
        for word, recompute in (("saved", False), ("recomputed", True)):
            if not recompute or (memory.lean and memory.wish == "auto"):
                slope, constant = memory.line(shape, recompute)
                found |= {f"{word}_bytes_per_voxel": slope, f"{word}_bytes_constant": constant}
        if request.fit is not None:
            found["fit"] = memory.fit(parse_size(request.fit))
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(str(error)) from error
    return found


def _ghost(request: DescribeRequest) -> tuple[Any, dict[str, Any]]:
    """The generator without memory, on the meta device, and the keywords that made it."""
    model = request.model
    if model not in GENERATORS:
        raise InputError(f"unknown model {model!r}; there are {', '.join(GENERATORS)}")
    known = options_of(model)
    given = dict(parse_assignment(text) for text in request.assign)
    if flags := sorted(given.keys() & {"dim", "widths", "groups", "stages"}):
        raise InputError(f"--set {flags[0]}: give it as --{flags[0]}")
    options = {"dim": int(request.dim[0]), "widths": tuple(request.widths), **given}
    usual = {"stages": min(5, 2 * len(request.widths) - 1), "groups": 8}
    for key, value in usual.items():
        asked = getattr(request, key)
        if asked is not None or key in known:
            options[key] = value if asked is None else asked
    if unknown := ", ".join(sorted(options.keys() - known)):
        raise InputError(f"{model} has no option {unknown}; it has {', '.join(sorted(known))}")
    poor, ratio = bool(request.degraded), tuple(request.degraded)
    if len(ratio) == 3 and ratio[0] == 1 and options["dim"] == 2:
        ratio = ratio[1:]  # as a training of slices has it
    if poor and (len(ratio) != options["dim"] or request.out_channels != 1):
        raise InputError(
            f"--degraded wants {options['dim']} numbers, as many as --dim, and one output, got "
            f"{request.degraded} and {request.out_channels}"
        )
    if poor and "pyramid" not in GENERATORS[model].offers:
        able = ", ".join(name for name, each in GENERATORS.items() if "pyramid" in each.offers)
        raise InputError(f"{model} has no features for a branch that restores; take one of {able}")
    if poor and request.in_channels < 2:
        raise InputError(
            f"--degraded wants --in-channels 2 or more, the last of them the poor one, got "
            f"{request.in_channels}"
        )
    with torch.device("meta"):
        inputs = request.in_channels - poor  # the branch alone sees the last one
        network = GENERATORS[model](inputs, request.out_channels, **options)
        return Restorer(network, ratio) if poor else network, options


def as_text(found: dict[str, Any]) -> str:
    """What :func:`describe` found, one figure a line, and a sentence about the proposal."""

    def figure(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return str(value)
        return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1e5 else f"{value:,.1f}"

    lines = [f"{name:>26}  {figure(value)}" for name, value in found.items() if name != "fit"]
    if fit := found.get("fit"):
        recomputed = fit["recompute_routing"]
        again = ", with the routing computed again in the backward" if recomputed else ""
        lines += [
            "",
            f"{fit['budget'] / 1e9:.2f} GB allow --patch {','.join(map(str, fit['patch']))} "
            f"--batch {fit['batch']} in {fit['precision']}: about {fit['bytes'] / 1e9:.2f} "
            f"GB{again}.",
            f"Reckoned with: {fit['assumptions']}.",
            f"It does not grow with the cohort; on disk {COHORT} cases take "
            f"{fit['disk_per_case'] * COHORT / 1e9:.0f} GB, {fit['disk_per_case'] / 1e6:.0f} MB "
            f"{KEPT_ON_DISK}.",
        ]
    return "\n".join(lines)


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_flops(model: nn.Module, shape: Sequence[int]) -> int:
    """Floating-point operations of one forward pass of (B, C, \\*S), by this module's rules.

    Raises:
        ValueError: A layer with parameters for which there is no rule.
    """
    counts: list[int] = []
    device = next(model.parameters()).device
    told = {"time": torch.zeros(shape[0], device=device)} if getattr(model, "time", None) else {}
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for layer in model.modules():
            rule = next((RULES[kind] for kind in type(layer).__mro__ if kind in RULES), None)
            if rule:
                hook = layer.register_forward_hook(
                    lambda layer, x, y, rule=rule: counts.append(rule(layer, x[0], y))
                )
                hooks.enter_context(hook)
            elif any(True for _ in layer.parameters(recurse=False)):
                raise ValueError(f"no counting rule for {type(layer).__name__}; add one to RULES")
        model(torch.zeros(tuple(shape), device=device), **told)
    return sum(counts)


Rule = Callable[[Any, Tensor, Any], int]
"""(layer, its input, its output) → operations."""


def _dense(layer: Any, x: Tensor, y: Any) -> int:
    """Every output is a sum over its row of the weights: convolutions and linear layers."""
    outputs = sum(part.numel() for part in y) if isinstance(y, tuple) else y.numel()
    bias = getattr(layer, "bias", None) is not None
    return outputs * (2 * math.prod(layer.weight.shape[1:]) + bias)


def _transposed(layer: Any, x: Tensor, y: Tensor) -> int:
    bias = layer.bias is not None
    return 2 * x.numel() * math.prod(layer.weight.shape[1:]) + bias * y.numel()


def _deformable(layer: Any, x: Tensor, y: Tensor) -> int:
    reads = x.numel() * (1 if layer.mode == "warp" else layer.displacements.taps)
    # A warped input goes through the convolution as a layer, which counts itself.
    return reads * 2 * 2**layer.dim + (0 if layer.mode == "warp" else _dense(layer.conv, x, y))


def _mixed(layer: Any, x: Tensor, y: Tensor) -> int:
    return y.numel() * (2 * math.prod(layer.shape[1:]) + (layer.bias_bank is not None))


def _per_element(count: int) -> Rule:
    return lambda layer, x, y: count * x.numel()


RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.Conv2d, nn.Conv3d, nn.Linear, RollingConv, RotatingConv), _dense),
    **dict.fromkeys((OffsetHead, ScaleHead, DisplacementMap), _dense),
    **dict.fromkeys((nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    **dict.fromkeys((nn.ReLU, nn.LeakyReLU, nn.GELU, GlobalMean), _per_element(1)),
    **dict.fromkeys((ChannelNorm, nn.InstanceNorm2d, nn.InstanceNorm3d), _per_element(5)),
    DeformableConv: _deformable,
    HyperConv: _mixed,
    ChannelAttention: lambda layer, x, y: 4 * x.numel() * (x.shape[1] // layer.heads),
    ModalityHead: lambda layer, x, y: 2 * y.numel() * math.prod(layer.weight.shape[2:]),
    TimeModulation: lambda layer, x, y: (
        len(x) * len(layer.weight) * (2 * layer.weight.shape[1] + 1)
    ),
}
"""Kind of layer → its rule, which holds for derived kinds too."""


def parse_size(text: str) -> int:
    """``"8GB"`` to bytes; GB is 10^9, GiB is 2^30, and a bare number is bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", text.lower())
    if not match:
        raise InputError(f"expected a size as in 8GB or 512MiB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2] or ""])


class _Seq2SeqStep(nn.Module):
    """What a step of Seq2Seq computes: target and source from a source, and the way back.

    The step of the fusion keeps less: its encoder is frozen, and it decodes twice.
    """

    def __init__(self, network: TSFSeq2Seq) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Sources (B, S, \\*S) → three images of each (3 B, \\*S)."""
        image, slots = x[:, 0], torch.zeros(len(x), dtype=torch.long, device=x.device)
        shape, features = image.shape[1:], self.network.encode(image)
        twice = self.network.decode(torch.cat([features, features]), slots.repeat(2), shape)
        back = self.network.decode(self.network.encode(twice[: len(x)]), slots, shape)
        return torch.cat([twice, back])


class Memory:
    """What training steps of a network keep and need, with its routing recomputed or not.

    ``wish`` is AGI-Net's option ``checkpoint_routing``: true, false or ``auto``; a ``lean`` network
    may recompute.
    """

    def __init__(self, request: DescribeRequest) -> None:
        self.network, self.options = _ghost(request)
        self.wish = self.options.get("checkpoint_routing", "auto")
        self.sequences = request.in_channels + request.out_channels
        self.inputs, self.precision = request.in_channels, request.precision
        self.lean = hasattr(self.network, "recompute_routing") and self.wish in (True, "auto")
        factor = 2**self.network.levels
        most = max(factor, LARGEST[self.network.dim] // factor * factor)
        least = min(most, math.ceil(SMALLEST / factor) * factor)
        self.sides = range(least, most + 1, factor)
        self.kept = functools.cache(self._kept)

    def fit(self, budget: int) -> dict[str, Any]:
        """The largest training patch that ``budget`` bytes allow, and the batch.

        The largest cube (square in 2-D) of sides the network can halve, at most 128 (256), that
        fits twice; where not even 32 does, once. Where the largest fits twice, as many samples as
        fit, at most 16. AGI-Net's routing is computed again in the backward only if need be.
        """
        for batch in (2, 1):
            fitting = bisect.bisect_right(
                self.sides, budget, key=lambda side: self.step(side, batch, self.lean)
            )
            if fitting:
                break
        else:
            least = self.step(self.sides[0], 1, self.lean)
            raise InputError(
                f"a batch of one {self.sides[0]}-voxel patch needs {least / 1e9:.2f} GB and the "
                f"budget is {budget / 1e9:.2f} GB; give more, or take smaller widths"
            )
        side, fits = self.sides[fitting - 1], [batch]
        if side == self.sides[-1]:
            fits += [b for b in range(3, MOST + 1) if self.step(side, b, self.lean) <= budget]
        batch = fits[-1]
        recompute = self.lean and self.step(side, batch, False) > budget
        return {
            "patch": [side] * self.network.dim,
            "batch": batch,
            "bytes": self.step(side, batch, recompute),
            "budget": budget,
            "precision": self.precision,
            "recompute_routing": recompute,
            "assumptions": ASSUMPTIONS,
            "disk_per_case": (2 * self.sequences + 1) * NATIVE_VOXELS,
        }

    def step(self, side: int, batch: int, recompute: bool) -> int:
        """Bytes of a step; every sample after the second keeps as much as the second."""
        if batch > 2:
            one, two = (self.step(side, b, recompute) for b in (1, 2))
            return two + (batch - 2) * (two - one)
        half, shape = self.precision == "bf16", (batch, self.inputs, *[side] * self.network.dim)
        working = WORKING * batch * self.network.widths[0] * math.prod(shape[2:]) * (4 - 2 * half)
        parameters = STATE * count_parameters(self.network)
        return PROCESS + parameters + working + self.kept(shape, recompute, half)

    def line(self, shape: Sequence[int], recompute: bool) -> tuple[float, float]:
        """Bytes per voxel, and bytes besides, of what a step in float32 keeps for each sample.

        The line through the counts at ``shape`` (1, C, \\*S) and at half its sides (rounded to
        what the network takes), which must differ.
        """
        factor = 2**self.network.levels
        half = [max(factor, s // 2 // factor * factor) for s in shape[2:]]
        large, small = math.prod(shape[2:]), math.prod(half)
        if small == large:
            raise ValueError(
                f"expected sides of at least {2 * factor} to count memory, got {shape[2:]}"
            )
        high = self.kept(tuple(shape), recompute, False)
        low = self.kept((*shape[:2], *half), recompute, False)
        slope = (high - low) / (large - small)
        return slope, high - slope * large

    def _kept(self, shape: tuple[int, ...], recompute: bool, half: bool) -> int:
        if hasattr(self.network, "recompute_routing"):
            self.network.recompute_routing(recompute if self.wish == "auto" else self.wish)
        timed = self.network.time is not None
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if isinstance(self.network, TSFSeq2Seq):
                return saved_bytes(_Seq2SeqStep(self.network), shape)
            return saved_bytes(self.network, shape, timed=timed)
