"""The roll on the CPU outside of every transform: the same products, with little around them.

:mod:`cuda_ops.mixing` builds its matrices in some thirty operations that autograd records, half a
millisecond each way. That is nothing beside a convolution of a stage, and more than one of 8^3
voxels. Here numpy makes what is small, and the gradients are written by hand. Channels-last float32
weights are rolled by the compiled library (:mod:`cuda_ops.cpu_roll`), where there is one.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cuda_ops import cpu_roll
from cuda_ops.mixing import mixing_forward, pulled, rolled
from cuda_ops.plain import is_plain, openly

# Of a kernel: the tables are of the square of this size.
MOST_TAPS = cpu_roll.MOST_TAPS


def eager_roll(weight: Tensor, offsets: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What :func:`cuda_ops.mixing.mixing_forward` gives; differentiable to any order.

    The tensors are plain, see :func:`cuda_ops.plain.is_plain`, the kernel of at most
    ``MOST_TAPS`` taps.
    """
    return _EagerRoll.apply(weight, offsets, scale, dtype)


class _Tables(NamedTuple):
    """What follows from the sizes (z, y, x) of a kernel with N taps, K the most along an axis."""

    sides: np.ndarray
    """(d,) the sizes."""
    starts: np.ndarray
    """(d, 2, K): the roll from which tap j of an axis takes tap 0 of the weight, and one less;
    -1 beyond the axis."""
    choice: np.ndarray
    """(d, 1 + d): for each axis the rows of (shares, slopes) that make the shares of all taps, and
    their slopes along each axis."""
    share: np.ndarray
    """(N N,): for M[s, t], row by row, the tap s - t whose share it is."""
    places: np.ndarray
    """(N, N): for each tap where in M, flattened, its share stands."""


@lru_cache(maxsize=64)
def _tables(sizes: tuple[int, ...]) -> _Tables:
    axes, most = len(sizes), max(sizes)
    starts = np.full((axes, 2, most), -1.0, np.float32)
    for axis, size in enumerate(sizes):
        starts[axis, 0, :size] = np.arange(size)
        starts[axis, 1, :size] = (np.arange(size) - 1) % size
    choice = np.arange(axes)[:, None] + axes * np.eye(axes, 1 + axes, 1, dtype=int)
    taps = np.indices(sizes).reshape(axes, -1)
    apart = (taps[:, :, None] - taps[:, None]) % np.array(sizes)[:, None, None]
    share = np.ravel_multi_index(tuple(apart), sizes).ravel()
    places = np.argsort(share, kind="stable").reshape(taps.shape[1], -1)
    return _Tables(np.array(sizes, np.float32), starts, choice, share, places)


def _shares(offsets: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """For offsets (B, n, d) the share of every whole roll, and its slope along each axis.

    Floor first, then modulo, both in floating point: exact for any magnitude, and a non-finite
    offset becomes a NaN share, never an index.

    Returns:
        (B, n, 1 + d, N), a whole roll for each of the N taps, in the order of the taps.
    """
    tables = _tables(sizes)
    lower = np.floor(offsets)
    fraction = (offsets - lower)[..., None]
    first = np.remainder(lower, tables.sides)[..., None, None]
    hits = (tables.starts == first).astype(offsets.dtype)
    near = hits[..., 0, :]
    slopes = hits[..., 1, :] - near
    pairs = np.concatenate([near + fraction * slopes, slopes], axis=2)[:, :, tables.choice]
    rolls, taps = pairs[:, :, 0, :, : sizes[0]], sizes[0]
    for axis, size in enumerate(sizes[1:], start=1):
        taps *= size
        rolls = rolls[..., None] * pairs[:, :, axis, :, None, :size]
        rolls = rolls.reshape(*rolls.shape[:3], taps)
    return rolls


def _factors(weight: Tensor, offsets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """M as of :func:`cuda_ops.mixing.mixing_matrices`, and the ``_shares``."""
    sizes = tuple(weight.shape[2:])
    with np.errstate(all="ignore"):  # what is not finite goes its way, as torch lets it
        shares = _shares(offsets.detach().numpy(), sizes)
        factors = shares[:, :, 0] * scale.detach().numpy()[..., None]
        mixing = torch.from_numpy(factors.take(_tables(sizes).share, axis=2))
    return mixing.unflatten(2, (factors.shape[2], -1)), torch.from_numpy(shares)


class _EagerRoll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, offsets: Tensor, scale: Tensor, dtype: torch.dtype
    ) -> Tensor:
        compiled = cpu_roll.is_for(weight, offsets, scale, dtype)
        factors = () if compiled else _factors(weight, offsets, scale)
        ctx.save_for_backward(weight, offsets, scale, *factors)
        ctx.dtype = dtype
        if compiled:
            return cpu_roll.rolled(weight, offsets, scale)
        return rolled(weight, factors[0], dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, offsets, scale, *factors = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_plain(grad):  # somebody differentiates, or looks on
            formula, leaves = partial(mixing_forward, dtype=ctx.dtype), (weight, offsets, scale)
            return (*openly(formula, leaves, ctx.needs_input_grad[:3], grad), None)
        mixing, shares = factors or _factors(weight, offsets, scale)
        of_weight, of_rest = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
        back, products = pulled(grad, weight, mixing, (of_weight, of_rest))
        back = back if of_weight else None
        if not of_rest:
            return back, None, None, None
        places = _tables(tuple(weight.shape[2:])).places
        with np.errstate(all="ignore"):
            of_shares = products.flatten(2).numpy().take(places, axis=2).sum(-1)
            slopes = (of_shares[:, :, None] * shares.numpy()).sum(-1)
            of_offsets = slopes[..., 1:] * scale.detach().numpy()[..., None]
        of_scale = np.ascontiguousarray(slopes[..., 0])
        return back, torch.from_numpy(of_offsets), torch.from_numpy(of_scale), None
