"""Rolled convolution kernels: the operator of AGI-Net, and nothing about images.

Imports with torch alone.
"""

from cuda_ops.conv import RollingConv, rolling_conv
from cuda_ops.op import full_precision, roll_kernel
from cuda_ops.reference import roll_kernel_reference

__all__ = ["RollingConv", "full_precision", "roll_kernel", "roll_kernel_reference", "rolling_conv"]
