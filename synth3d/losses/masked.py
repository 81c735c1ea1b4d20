"""Means over the voxels that count."""

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``values`` where ``mask`` (bool, broadcast to them) holds; 0 when nowhere."""
    weight = mask.to(values.dtype).expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1)


def spread(mask: Tensor, ndim: int) -> Tensor:
    """``mask`` (B, C) as (B, C, 1, ...) with ``ndim`` axes."""
    return mask.view(*mask.shape, *[1] * (ndim - 2))
