"""The parts of AGI-Net: cross-group attention, and the convolution that it and the routing steer.

After "Adaptive Group-wise Interactions" (arXiv 2411.14684). Attention gates the channels,
the routing reads the gated features and predicts one offset and one scale per group, and the
convolution runs with the kernels so rolled.
"""

import math

import torch
from torch import Tensor, nn

from cuda_ops import RollingConv, conv_dtype, conv_per_sample, full_precision, roll_kernel
from synth3d.models.agi_net.routing import CagrOptions, Routing
from synth3d.models.blocks import CONV, GlobalMean


class CrossGroupAttention(nn.Module):
    """One gate in (0, 1) per channel, from the pooled channels of its own and shuffled groups.

    Gates start near 0.5 (``init="default"``) or at 0.88 exactly (``"open"``). Without ``shuffle``
    each group sees its own channels twice, and no others.
    """

    def __init__(
        self, channels: int, groups: int, dim: int, init: str = "default", shuffle: bool = True
    ) -> None:
        super().__init__()
        self.groups, self.init, self.shuffle = groups, init, shuffle
        self.pool = GlobalMean()
        self.mix = CONV[dim](2 * channels, channels, 1, groups=groups)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the 1x1 convolution anew, as ``init`` says."""
        self.mix.reset_parameters()
        if self.init == "open" and self.mix.bias is not None:
            nn.init.zeros_(self.mix.weight)
            nn.init.constant_(self.mix.bias, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) -> gates (B, C, 1, ...), float32 or more also under autocast."""
        pooled = self.pool(x)
        own = pooled.unflatten(1, (self.groups, -1))  # (B, n, C/n)
        other = own.transpose(1, 2).reshape(own.shape) if self.shuffle else own
        # Joined within each group: a plain cat would leave groups that see only one of the two.
        joined = torch.cat([own, other], dim=2).flatten(1)
        with full_precision(x.device.type):
            return torch.sigmoid(self.mix(joined.reshape(*joined.shape, *[1] * (x.ndim - 2))))


class GatedRollingConv(RollingConv):
    """A rolling convolution of gated features."""

    def forward(
        self,
        x: Tensor,
        offsets: Tensor | None = None,
        scale: Tensor | None = None,
        gates: Tensor | None = None,
    ) -> Tensor:
        """Convolve ``x * gates``.

        conv(x · A, W) = conv(x, W · A), since a gate A has no spatial extent. So where there is
        a kernel per sample anyway, and more voxels than kernel entries C_out · k^d to a channel,
        the gates (B, C_in, 1, ...) go into the kernels and ``x * gates`` is not made. The rest is
        as in :class:`cuda_ops.RollingConv`.
        """
        if gates is None:
            return super().forward(x, offsets, scale)
        entries = self.weight[:, 0].numel()
        if offsets is None or scale is None or math.prod(x.shape[2:]) < entries:
            return super().forward(x * gates.to(x.dtype), offsets, scale)
        kernels = roll_kernel(self.weight, offsets, scale, gates.flatten(1))
        geometry = (self.stride, self.padding, self.dilation)
        return conv_per_sample(x, kernels.to(conv_dtype(x)), *geometry)


def routed(network: nn.Module) -> dict[str, "CagrConv"]:
    """The modules of ``network`` that attention or routing steers, by their names in it."""
    return {name: each for name, each in network.named_modules() if isinstance(each, CagrConv)}


class CagrConv(nn.Module):
    """Cross-group attention, routing and rolled convolution in place of a stride-1 convolution.

    Args:
        channels: C_in, a multiple of ``groups``; else a ValueError.
        groups: n.
        dim: 2 or 3.
        options: See :class:`CagrOptions`; its ``module`` is not ``"conv"``.
        conv: The convolution whose kernel is rolled, of C inputs in n groups; None for 3 taps along
            each axis, as many outputs and the size kept. What has one tap along an axis is not
            rolled there. The routing's own kernels have three.
        bias: Add one number per output channel, zero at the start; the paper's has none.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        dim: int,
        options: CagrOptions | None = None,
        *,
        conv: GatedRollingConv | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        options = options or CagrOptions()
        self.conv = conv or GatedRollingConv(channels, channels, dim=dim, groups=groups)
        self.bias = nn.Parameter(torch.zeros(self.conv.out_channels)) if bias else None
        self.attention = self.routing = None
        if options.module in ("ca", "cagr"):
            self.attention = CrossGroupAttention(
                channels, groups, dim, options.attn_init, options.shuffle
            )
        if options.module in ("gr", "cagr"):
            axes = [axis for axis, taps in enumerate(self.conv.kernel_size) if taps > 1]
            self.routing = Routing(channels, groups, dim, options, axes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, \\*S) -> (B, C_out, \\*S')."""
        gates = self.attention(x) if self.attention is not None else None
        if self.routing is None:
            y = self.conv(x, gates=gates)
        else:
            offsets, scale = self.routing(x, gates)
            y = self.conv(x, offsets, scale, gates)
        if self.bias is None:
            return y
        return y + self.bias.to(y.dtype).reshape(-1, *[1] * (y.ndim - 2))
