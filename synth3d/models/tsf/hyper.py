"""Convolutions whose kernels follow from a code, sample by sample (HyperConv; Han et al. 2023)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops import conv_per_sample
from synth3d.models.blocks import CONV, instance_norm

SLOPE = 0.2
"""Of every leaky ReLU here."""


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU of slope 0.2."""
    return F.leaky_relu(x, SLOPE)


def reflected(x: Tensor, reach: int) -> Tensor:
    """``x`` with its mirror image around it, ``reach`` voxels on every side."""
    return F.pad(x, [reach] * 2 * (x.ndim - 2), mode="reflect") if reach else x


def normed(x: Tensor) -> Tensor:
    """Instance normalisation without affine; every channel needs more than one voxel.

    On a CPU it keeps the memory format, which torch's own does not: channels-last convolutions on
    either side of it would lay their input out anew.
    """
    if x.device.type != "cpu" or x.is_contiguous():
        return instance_norm(x)
    parts = [F.batch_norm(one, None, None, training=True) for one in x.split(1)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class Mix:
    """How a HyperConv's kernel is mixed.

    Args:
        code: Numbers in a code.
        banks: w, how many kernels are mixed.
        energy: The mean of a code's Σ c², for the start; None is ``code``, that of unit variance.
        faithful: Start as the reference code does, which counts w in the fan-in of the bank and
            leaves v small: kernels have about 0.03 of He's deviation. Otherwise the mean of
            kernel² is 2 / (inputs side^d), He's (2015).
    """

    code: int
    banks: int
    energy: float | None = None
    faithful: bool = False


class HyperConv(nn.Module):
    """A size-preserving convolution with the kernel Σ_w v_w P_w, v = linear(code), for each sample.

    The banks P and that of the bias, which has a linear layer of its own and starts at 0, are
    matrices (w, numbers of a kernel).

    Args:
        dim: 2 or 3.
        inputs: Input channels.
        outputs: Output channels.
        side: Of the kernel, odd.
        mix: Of what and how it is mixed, and how that starts.
        mirror: Pad with the mirror image instead of zeros.
        bias: Whether there is one.
    """

    def __init__(
        self,
        dim: int,
        inputs: int,
        outputs: int,
        side: int,
        mix: Mix,
        *,
        mirror: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.shape = (outputs, inputs, *[side] * dim)
        self.reach, self.mirror, self.start = side // 2, mirror, mix
        self.mix = nn.Linear(mix.code, mix.banks)
        self.bank = nn.Parameter(torch.empty(mix.banks, math.prod(self.shape)))
        self.bias_mix = nn.Linear(mix.code, mix.banks) if bias else None
        self.bias_bank = nn.Parameter(torch.empty(mix.banks, outputs)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the start that ``mix`` asks for."""
        fan_in = math.prod(self.shape[1:])
        if self.start.faithful:
            # torch's own uniform start of a convolution, on the bank as if w were one more axis.
            bound = 1 / math.sqrt(fan_in * len(self.bank))
            nn.init.uniform_(self.bank, -bound, bound)
            self.mix.reset_parameters()
        else:
            nn.init.normal_(self.bank, std=math.sqrt(2 / (fan_in * len(self.bank))))
            energy = self.start.code if self.start.energy is None else self.start.energy
            nn.init.normal_(self.mix.weight, std=math.sqrt(0.5 / energy))
            nn.init.normal_(self.mix.bias, std=math.sqrt(0.5))
        if self.bias_mix is not None and self.bias_bank is not None:
            self.bias_mix.reset_parameters()
            nn.init.zeros_(self.bias_bank)

    def kernels(self, code: Tensor) -> Tensor:
        """Codes (B, K) → kernels (B, C_out, C_in, \\*k)."""
        return (self.mix(code) @ self.bank).view(-1, *self.shape)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(B, C_in, \\*S) and codes (B, K) → (B, C_out, \\*S)."""
        padding = 0 if self.mirror else self.reach
        x = reflected(x, self.reach) if self.mirror else x
        y = conv_per_sample(x, self.kernels(code), padding=padding)
        if self.bias_mix is None or self.bias_bank is None:
            return y
        bias = self.bias_mix(code) @ self.bias_bank
        return y + bias.to(y.dtype).view(*bias.shape, *[1] * (x.ndim - 2))


class ConvLSTM(nn.Module):
    """``layers`` convolutional LSTMs (Shi et al. 2015) of one width, kernels of 3, states from 0.

    In a series of one, recurrent kernels and forget gates have no effect and are not computed.
    """

    def __init__(self, dim: int, width: int, layers: int = 3) -> None:
        super().__init__()
        self.width = width
        gates = [CONV[dim](2 * width, 4 * width, 3, padding=1) for _ in range(layers)]
        self.gates = nn.ModuleList(gates)

    def forward(self, series: Tensor) -> Tensor:
        """(B, N, C, \\*S) → the last layer's states (B, N, C, \\*S)."""
        for gates in self.gates:
            state, cell, states = None, None, []
            for x in series.unbind(1):
                state, cell = self._step(gates, x, state, cell)
                states.append(state)
            series = torch.stack(states, 1)
        return series

    def _step(
        self, gates: nn.Module, x: Tensor, state: Tensor | None, cell: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if state is None or cell is None:  # zeros would only be multiplied by
            weight, bias = gates.get_parameter("weight")[:, : self.width], gates.bias
            conv = F.conv2d if x.ndim == 4 else F.conv3d
            chunks = conv(x, weight, bias, padding=1).chunk(4, dim=1)  # type: ignore[arg-type]
        else:
            chunks = gates(torch.cat([x, state], 1)).chunk(4, dim=1)
        enter, forget, leave = (gate.sigmoid() for gate in chunks[:3])
        now = enter * chunks[3].tanh()
        kept = now if cell is None else forget * cell + now
        return leave * kept.tanh(), kept
