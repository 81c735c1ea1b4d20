"""Rolled kernels compiled for the CPU: ``cpu_roll.cpp``; see :mod:`cuda_ops.eager`."""

import ctypes
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ops import cpu_calls, cpu_library
from cuda_ops.layout import empty_kernels, is_channels_last
from cuda_ops.mixing import mixing_forward

MOST_TAPS = 125
"""Of a kernel; the source has room for so many."""


def is_for(weight: Tensor, offsets: Tensor, scale: Tensor, dtype: torch.dtype) -> bool:
    """Whether the library rolls these plain tensors into kernels of ``dtype``: all is float32 and
    the weight channels-last.

    Raises:
        cuda_ops.cpu_library.NoLibraryError: ``CUDA_OPS_CPU=compiled`` and there is none.
    """
    if not dtype == weight.dtype == offsets.dtype == scale.dtype == torch.float32:
        return False
    if not (weight.numel() and len(offsets) and is_channels_last(weight)):
        return False
    if math.prod(weight.shape[2:]) > MOST_TAPS:
        return False
    return cpu_calls.is_proved(_gives_torchs_numbers, "it rolls wrongly")


def rolled(weight: Tensor, offsets: Tensor, scale: Tensor) -> Tensor:
    """What :func:`cuda_ops.mixing.mixing_forward` gives, not differentiable.

    Args:
        weight: (C_out, C_in, \\*k), see :func:`is_for`.
        offsets: (B, n, d) in taps, axis order (z, y, x).
        scale: (B, n).

    Returns:
        (B, C_out, C_in, \\*k), each sample channels-last.
    """
    kernels = empty_kernels(len(offsets), weight, weight.dtype)
    outputs, inputs, *sides = weight.shape
    if len(sides) == 2:  # one tap along z, which nothing rolls
        sides, offsets = [1, *sides], F.pad(offsets, (1, 0))
    batch, groups = offsets.shape[:2]
    numbers = batch, outputs, inputs, groups, torch.get_num_threads()
    pointers = weight, offsets.contiguous(), scale.contiguous(), kernels
    called = cpu_library.opened().roll_kernels
    called((ctypes.c_int64 * 3)(*sides), *numbers, *(t.data_ptr() for t in pointers))
    return kernels


def _gives_torchs_numbers() -> bool:
    draw = torch.Generator().manual_seed(0)
    place: Any = {"generator": draw, "device": "cpu", "dtype": torch.float32}
    whole = (3, 3, 3)
    for width, sides in ((2, whole), (4, whole), (6, (1, 3, 3)), (8, (3, 2)), (32, whole)):
        weight = torch.randn(3, *sides, 2 * width, **place).movedim(-1, 1)
        offsets, scale = 4 * torch.randn(2, 2, len(sides), **place), torch.randn(2, 2, **place)
        offsets[0, 0].round_()
        truth = mixing_forward(*(leaf.double() for leaf in (weight, offsets, scale)))
        if not cpu_calls.agree([rolled(weight, offsets, scale)], [truth]):
            return False
    return True
