"""Stride, padding and dilation of a convolution."""

from collections.abc import Sequence
from typing import NamedTuple

Sides = int | Sequence[int]


class Geometry(NamedTuple):
    """Stride, padding and dilation, one number per axis (z, y, x), as torch takes them."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, stride: Sides, padding: Sides, dilation: Sides, dim: int) -> "Geometry":
        """From one number or one per axis each."""
        return cls(per_axis(stride, dim), per_axis(padding, dim), per_axis(dilation, dim))

    def outputs(self, sizes: Sequence[int], kernel: Sequence[int]) -> list[int]:
        """The result's sizes for an input's ``sizes``; a ValueError where the kernel is larger."""
        axes = zip(sizes, kernel, *self, strict=True)
        outputs = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in axes]
        if min(outputs) < 1:
            raise ValueError(
                f"a kernel {tuple(kernel)} with dilation {self.dilation} is larger than x "
                f"{tuple(sizes)} with padding {self.padding}"
            )
        return outputs


def per_axis(value: Sides, dim: int) -> tuple[int, ...]:
    """``value`` as one number per axis; a ValueError where it has another length."""
    values = (value,) * dim if isinstance(value, int) else tuple(value)
    if len(values) != dim:
        raise ValueError(f"expected one number or {dim} (one per axis), got {value}")
    return values
