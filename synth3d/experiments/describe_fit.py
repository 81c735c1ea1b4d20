"""Which patch and batch a memory budget allows for training a generator."""

import math
import re
from typing import Any

import torch

from synth3d.errors import InputError
from synth3d.experiments.describe import count_parameters, make_ghost, memory_line
from synth3d.models import saved_bytes

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
LARGEST = {2: 256, 3: 128}
SMALLEST = 32
MOST = 16
STATE = 20
"""Bytes per parameter: weight, gradient, two moments of Adam, averaged weight, in float32."""
WORKING = 4
"""Full-resolution tensors that a backward has in hand beside what was kept."""
PROCESS = 2**30
"""Bytes of the process itself: libraries, the queue of patches, the C library's rests."""
ASSUMPTIONS = (
    f"{STATE} bytes per parameter (weights, gradients, Adam, averaged weights), the activations "
    f"kept for the backward, {WORKING} full-resolution tensors in hand and {PROCESS >> 30} GiB for "
    "the process; no critic"
)


def parse_size(text: str) -> int:
    """``"8GB"`` to bytes; GB is 10^9, GiB is 2^30, and a bare number is bytes.

    Raises:
        InputError: It is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", text.lower())
    if not match:
        raise InputError(f"expected a size as in 8GB or 512MiB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2] or ""])


def fit(
    budget: int,
    model: str,
    in_channels: int,
    out_channels: int,
    options: dict[str, Any],
    precision: str = "fp32",
) -> dict[str, Any]:
    """The largest training patch that a memory budget allows, and the batch.

    The largest cube (square in 2-D) of sides the network can halve, at most 128 (256), that fits
    twice; where not even 32 does, once. Where the largest fits twice, as many samples as fit, at
    most 16. AGI-Net's routing is computed again in the backward only if the patch needs it.
    A step is reckoned by a line in the voxels; the choice is then checked by an exact count.

    Args:
        budget: Bytes.
        model: A name in ``GENERATORS``.
        in_channels: Input channels.
        out_channels: Output channels.
        options: Keywords of the model, ``dim`` and ``widths`` among them.
        precision: ``"fp32"``, or ``"bf16"`` for training under autocast.

    Returns:
        ``patch``, ``batch``, ``bytes`` of a step, ``recompute_routing``, and the ``assumptions``.

    Raises:
        InputError: Not even one smallest patch fits.
        ValueError: A model, option or size that does not exist or fit.
    """
    step = _Step(model, in_channels, out_channels, options, precision)
    choices = [(2, step.largest(budget, 2)), (1, step.largest(budget, 1))]
    batch, side = next(((b, s) for b, s in choices if s), (0, 0))
    if not side:
        least = step.exact(step.smallest, 1, step.lean)
        raise InputError(
            f"a batch of one {step.smallest}-voxel patch needs {least / 1e9:.2f} GB and the budget "
            f"is {budget / 1e9:.2f} GB; give more, or take smaller widths"
        )
    if side == step.most:
        while batch < MOST and step.exact(side, batch + 1, step.lean) <= budget:
            batch += 1
    recompute = step.lean and step.exact(side, batch, False) > budget
    return {
        "patch": [side] * step.dim,
        "batch": batch,
        "bytes": step.exact(side, batch, recompute),
        "budget": budget,
        "precision": precision,
        "recompute_routing": recompute,
        "assumptions": ASSUMPTIONS,
    }


class _Step:
    """The memory of a training step as a function of patch and batch."""

    def __init__(
        self, model: str, inputs: int, outputs: int, options: dict[str, Any], precision: str
    ) -> None:
        self.network: Any = make_ghost(model, inputs, outputs, options)
        self.inputs, self.dim, self.precision = inputs, self.network.dim, precision
        self.factor = 2**self.network.levels
        self.most = max(self.factor, LARGEST[self.dim] // self.factor * self.factor)
        self.smallest = min(self.most, math.ceil(SMALLEST / self.factor) * self.factor)
        wish = options.get("checkpoint_routing", "auto")
        self.lean = hasattr(self.network, "recompute_routing") and wish in (True, "auto")
        self._fixed = wish if wish in (True, False) else None
        self._line = self._memory_line()
        self._known: dict[tuple[int, int, bool], int] = {}

    def largest(self, budget: int, batch: int) -> int:
        """The largest side that fits, recomputing where that may be; 0 if none."""
        sides = range(self.most, self.smallest - 1, -self.factor)
        for side in (s for s in sides if 0.95 * self.line(s, batch) <= budget):
            if self.exact(side, batch, self.lean) <= budget:
                return side
        return 0

    def line(self, side: int, batch: int) -> int:
        """By the line, recomputing where that may be."""
        slope, constant = self._line
        return self._beside(side, batch) + int(batch * (slope * side**self.dim + constant))

    def exact(self, side: int, batch: int, recompute: bool) -> int:
        """By counting; every sample after the second keeps as much as the second."""
        if batch > 2:
            one, two = (self.exact(side, b, recompute) for b in (1, 2))
            return two + (batch - 2) * (two - one)
        key = (side, batch, recompute)
        if key not in self._known:
            self._known[key] = self._beside(side, batch) + self._count(side, batch, recompute)
        return self._known[key]

    def _beside(self, side: int, batch: int) -> int:
        size = 2 if self.precision == "bf16" else 4
        working = WORKING * batch * self.network.widths[0] * side**self.dim * size
        return PROCESS + STATE * count_parameters(self.network) + working

    def _count(self, side: int, batch: int, recompute: bool) -> int:
        self._recompute(recompute)
        shape = (batch, self.inputs, *[side] * self.dim)
        with self._autocast():
            return saved_bytes(self.network, shape, timed=self.network.time is not None)

    def _memory_line(self) -> tuple[float, float]:
        self._recompute(self.lean)
        side = max(self.most, 2 * self.factor)
        with self._autocast():
            return memory_line(self.network, (1, self.inputs, *[side] * self.dim))

    def _recompute(self, recompute: bool) -> None:
        if hasattr(self.network, "recompute_routing"):
            self.network.recompute_routing(recompute if self._fixed is None else self._fixed)

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")
