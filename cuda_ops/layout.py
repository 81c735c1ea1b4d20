"""Where the taps of convolution kernels lie in memory: contiguous, or channels-last.

Rolled kernels take the layout of the weight, sample by sample: a network that was moved to
``torch.channels_last(_3d)`` gets kernels that its convolutions need not reorder.
"""

import torch
from torch import Tensor

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(weight: Tensor) -> bool:
    """Whether a weight (C_out, C_in, \\*k) lies in memory as (C_out, \\*k, C_in).

    Where both layouts are the same memory (one tap, one channel), it counts as contiguous.
    """
    if weight.is_contiguous() or weight.ndim not in FORMATS:
        return False
    return weight.is_contiguous(memory_format=FORMATS[weight.ndim])


def format_of(x: Tensor) -> torch.memory_format:
    """Channels-last or contiguous, as :func:`is_channels_last` says."""
    return FORMATS[x.ndim] if is_channels_last(x) else torch.contiguous_format


def empty_kernels(batch: int, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Uninitialised (B, C_out, C_in, \\*k), each sample in the layout of ``weight``."""
    if not is_channels_last(weight):
        return weight.new_empty((batch, *weight.shape), dtype=dtype)
    outputs, inputs, *sides = weight.shape
    return weight.new_empty((batch, outputs, *sides, inputs), dtype=dtype).movedim(-1, 2)


def laid_as(weight: Tensor, kernels: Tensor) -> Tensor:
    """``kernels`` (B, C_out, C_in, \\*k) in the layout of ``weight``; copied only if it differs."""
    if not is_channels_last(weight):
        return kernels.contiguous()
    return kernels.movedim(2, -1).contiguous().movedim(-1, 2)
