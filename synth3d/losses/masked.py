"""Means over the voxels that count."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``values`` where ``mask`` (bool, broadcast to them) holds; 0 when nowhere."""
    weight = mask.to(values.dtype).expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1)


def spread(mask: Tensor, ndim: int) -> Tensor:
    """``mask`` (B, C) as (B, C, 1, ...) with ``ndim`` axes."""
    return mask.view(*mask.shape, *[1] * (ndim - 2))


def squared_at_scales(maps: Sequence[Tensor], goal: Tensor, inside: Tensor) -> Tensor:
    """(N,): the mean squared distance of each of maps (N, 1, \\*s) to ``goal``, summed over maps.

    ``goal`` (N, 1, \\*S) and ``inside`` (bool), where it counts, are brought to each map's grid by
    the nearest voxel. A sample in which nothing counts gives 0.
    """
    total = goal.new_zeros(len(goal))
    for one in maps:
        there = F.interpolate(goal, one.shape[2:], mode="nearest")
        counts = F.interpolate(inside.to(goal.dtype), one.shape[2:], mode="nearest").flatten(1)
        error = (one.float() - there).square().flatten(1) * counts
        total = total + error.sum(1) / counts.sum(1).clamp(min=1)
    return total
