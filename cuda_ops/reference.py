"""What rolling a convolution kernel means, in plain torch.

Every faster form is tested against this file. Nothing here is tuned, and nothing here checks its
arguments: :func:`cuda_ops.op.roll_kernel` is the public entry.
"""

from itertools import product

import torch
from torch import Tensor


def roll_kernel_reference(
    weight: Tensor, offsets: Tensor, scale: Tensor, gates: Tensor | None = None
) -> Tensor:
    """Roll each group of input channels of ``weight`` cyclically, by a fractional offset.

    An offset of +1 along an axis moves the taps one place towards larger indices, as
    ``torch.roll`` does; a fraction blends the two neighbouring whole rolls linearly, along all
    axes at once (bilinear in 2-D, trilinear in 3-D). An axis of size 1 has nothing to roll.

    The upper corner is floor + 1 and not ceil: at a whole offset, where training starts, ceil
    equals floor and the offsets would never receive a gradient (AGI-Net, eq. 4, prints ceil).

    Args:
        weight: (C_out, C_in, \\*k) with d = 2 or 3 spatial axes (z, y, x); C_in = n groups of
            contiguous channels.
        offsets: (B, n, d) in taps, axis order (z, y, x), any real value.
        scale: (B, n), factor of each group.
        gates: (B, C_in), factor of each input channel besides; None for ones.

    Returns:
        (B, C_out, C_in, \\*k), one kernel per sample; (0, C_out, C_in, \\*k) for B = 0.
        Non-finite offsets give NaN in their own group of their own sample.
    """
    batch, groups, axes = offsets.shape
    slices = weight.chunk(groups, dim=1)
    samples = []
    for b in range(batch):
        rolled = [scale[b, g] * _roll(slices[g], offsets[b, g]) for g in range(groups)]
        kernel = torch.cat(rolled, dim=1)
        if gates is not None:
            kernel = kernel * gates[b].reshape(-1, *[1] * axes)
        samples.append(kernel)
    if not samples:
        return weight.new_empty((0, *weight.shape))
    return torch.stack(samples)


def _roll(weight: Tensor, offset: Tensor) -> Tensor:
    """``weight`` (C_out, C, *k) rolled by ``offset`` (d,)."""
    lower = offset.detach().floor()
    fraction = offset - lower
    dims = tuple(range(2, weight.ndim))
    result = torch.zeros_like(weight)
    for corner in product((0, 1), repeat=len(dims)):
        share, shifts = torch.ones_like(fraction[0]), []
        for axis, upper in enumerate(corner):
            size = weight.shape[2 + axis]
            if size == 1:  # rolling one tap changes nothing: the lower corner has it all
                share = share * ((0.0 if upper else 1.0) + 0 * fraction[axis])
                shifts.append(0)
                continue
            share = share * (fraction[axis] if upper else 1 - fraction[axis])
            whole = torch.remainder(lower[axis], size).nan_to_num(0.0)
            shifts.append(int(whole) + upper)
        result = result + share * weight.roll(shifts, dims)
    return result
