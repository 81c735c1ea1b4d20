"""Reading a tensor at displaced positions, in voxels and in our axis order."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ops import full_precision


def voxel_positions(sides: tuple[int, ...], like: Tensor) -> Tensor:
    """Each position's own coordinates (z, y, x): (d, \\*S), of the device and dtype of ``like``."""
    axes = [torch.arange(side, device=like.device, dtype=like.dtype) for side in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample_at(x: Tensor, where: Tensor) -> Tensor:
    """Read ``x`` between its voxels, linearly along each axis; outside it is zero.

    Args:
        x: (B, C, D, H, W) or (B, C, H, W).
        where: (B, d, \\*S') coordinates (z, y, x) or (y, x) in voxels; (0, 0, 0) is the centre
            of the first one. Any real value.

    Returns:
        (B, C, \\*S'), in float32 (float64 for a float64 ``x``), also under autocast: a bfloat16
        coordinate near 100 has steps of half a voxel.
    """
    with full_precision(x.device.type):
        exact = torch.promote_types(x.dtype, torch.float32)
        sides = torch.tensor(x.shape[2:], device=where.device, dtype=exact)
        # Unaligned corners: also right along an axis of a single voxel, where aligned ones
        # would divide by 0. grid_sample wants (x, y, z), the last axis first.
        grid = (2 * where.to(exact).movedim(1, -1) + 1) / sides - 1
        return F.grid_sample(
            x.to(exact), grid.flip(-1), mode="bilinear", padding_mode="zeros", align_corners=False
        )


def displace(x: Tensor, displacement: Tensor) -> Tensor:
    """``x`` (B, C, \\*S) read at every position plus that position's displacement.

    With displacements of zero, (B, d, \\*S) in voxels (z, y, x), ``x`` itself, to rounding.
    """
    where = voxel_positions(tuple(x.shape[2:]), displacement) + displacement
    return sample_at(x, where).to(x.dtype)
