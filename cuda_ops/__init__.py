"""Rolled convolution kernels: the operator of AGI-Net, and nothing about images.

Imports with torch alone. What is named here is all that other packages need.
"""

from cuda_ops.conv import RollingConv, Sides, conv_dtype, conv_per_sample, rolling_conv
from cuda_ops.errors import KernelError
from cuda_ops.op import full_precision, roll_kernel, watched
from cuda_ops.reference import roll_kernel_reference

__all__ = [
    "KernelError",
    "RollingConv",
    "Sides",
    "conv_dtype",
    "conv_per_sample",
    "full_precision",
    "roll_kernel",
    "roll_kernel_reference",
    "rolling_conv",
    "watched",
]
