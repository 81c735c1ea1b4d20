"""Grouped 3x3(x3) convolutions of gated features: torch's, with thin groups merged."""

import torch
from torch import Tensor, nn

from cuda_ops import conv_per_sample

# On CUDA groups are merged to at least so many input channels. Never measured on a device:
# `make gpu-check` measures 8 groups, 32 channels each and one group, and fails if this choice is
# not the fastest within 10 %.
CUDA_CHANNELS = 32


class GroupedConv2d(nn.Conv2d):
    """``nn.Conv2d`` of ``x`` times one gate per sample and channel."""

    def forward(self, x: Tensor, gates: Tensor | None = None) -> Tensor:
        """(B, C_in, H, W), gates (B, C_in, 1, 1) or None -> (B, C_out, H', W')."""
        return _convolved(self, x, gates)


class GroupedConv3d(nn.Conv3d):
    """``nn.Conv3d`` of ``x`` times one gate per sample and channel."""

    def forward(self, x: Tensor, gates: Tensor | None = None) -> Tensor:
        """(B, C_in, D, H, W), gates (B, C_in, 1, 1, 1) or None -> (B, C_out, D', H', W')."""
        return _convolved(self, x, gates)


GROUPED: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: GroupedConv2d, 3: GroupedConv3d}


def _convolved(layer: nn.Conv2d | nn.Conv3d, x: Tensor, gates: Tensor | None) -> Tensor:
    merged = merged_groups(x, layer.groups)
    weight = merge_groups(layer.weight, layer.groups, merged)
    if gates is not None and x.device.type == "cpu":  # a small product instead of a large one
        gates = gates.unflatten(1, (merged, 1, -1))
        kernels = (weight.unflatten(0, (merged, -1)) * gates).flatten(1, 2)
        sides = layer.stride, tuple(map(int, layer.padding)), layer.dilation
        y = conv_per_sample(x, kernels, *sides, groups=merged)
        return y if layer.bias is None else y + layer.bias.to(y.dtype).view(-1, *[1] * (x.ndim - 2))
    if gates is not None:
        x = x * gates.to(x.dtype)
    convolve = nn.functional.conv3d if x.ndim == 5 else nn.functional.conv2d
    return convolve(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, merged)


def merged_groups(x: Tensor, groups: int) -> int:
    """Into how many groups a grouped 3x3(x3) convolution of ``x`` (B, C, \\*S) is best merged.

    oneDNN works on 8 or 16 channels at a time: on the CPU, groups of 2 channels took 1.6 (fp32)
    to 3.9 (bfloat16) times as long, forward and backward, as groups of 8 that are mostly zeros.
    cuDNN's fast kernels want ``CUDA_CHANNELS``. In float64, and on other devices, none are merged.
    """
    kind = x.device.type
    if kind not in ("cpu", "cuda") or x.dtype == torch.float64:
        return groups
    enough = CUDA_CHANNELS if kind == "cuda" else 16 if x.is_contiguous() else 8
    while groups % 2 == 0 and x.shape[1] // groups < enough:
        groups //= 2
    return groups


def merge_groups(weight: Tensor, groups: int, merged: int) -> Tensor:
    """A grouped kernel (C_out, C_in / groups, \\*k) as one of fewer groups, zeros between them."""
    if merged == groups:
        return weight
    eye = torch.eye(groups // merged, dtype=weight.dtype, device=weight.device)
    blocks = weight.unflatten(0, (merged, groups // merged, -1))
    return torch.einsum("gh,ngoi...->ngohi...", eye, blocks).flatten(3, 4).flatten(0, 2)
