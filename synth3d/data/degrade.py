"""One sequence that is there but poor: thick slices, as hospitals have them.

A coarse image of a fine one, along each axis by a matrix: ``kspace`` keeps the middle of k-space,
as a scanner that samples less of it, ``slices`` the mean over each slice's thickness. Coarse voxels
share the field of view, so the ratio is exact where it divides a side and a little less elsewhere.
Levels are kept: the mean of the coarse image is that of the fine one (Feng et al. 2024, whose
reference code rescales each coarse image by itself instead).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from synth3d.cohort import parse_modality
from synth3d.data.options import DataConfig, DegradeConfig
from synth3d.data.prepared import Prepared, fit_scale
from synth3d.data.task import Task, seed_of
from synth3d.errors import InputError
from synth3d.images import turn_to

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def coarse(volume: Tensor, ratio: Sequence[int], profile: str = "kspace") -> Tensor:
    """``volume`` (..., \\*S) on a grid of ``ratio`` times larger voxels: (..., \\*s).

    Sides become ceil(side / ratio). A constant stays, the mean stays, energy per voxel never
    grows; where all of ``ratio`` is 1 it is ``volume`` itself.

    Args:
        volume: Floating point; its last axes are those of ``ratio``.
        ratio: ([z,] y, x), whole numbers from 1.
        profile: ``kspace`` or ``slices``.

    Raises:
        InputError: A ratio is larger than its side.
    """
    for axis, (by, side) in enumerate(zip(ratio, volume.shape[-len(ratio) :], strict=True)):
        if by > side:
            raise InputError(
                f"degrade.ratio {tuple(ratio)} asks for voxels of {by} along axis {axis}, which "
                f"has {side}; take a smaller ratio"
            )
        if by > 1:
            way, at = WAYS[profile](side, math.ceil(side / by)), axis - len(ratio)
            moved = volume.movedim(at, -1) @ way.T.to(volume)
            volume = moved.movedim(-1, at)
    return volume


def _by_kspace(side: int, kept: int) -> Tensor:
    """(kept, side): the signal's lowest frequencies, read at the middles of ``kept`` voxels."""
    where = (torch.arange(kept, dtype=torch.float64) + 0.5) * side / kept - 0.5
    turns = torch.arange(1, kept // 2 + 1, dtype=torch.float64) * 2 * math.pi / side
    there = where[:, None] * turns
    here = torch.arange(side, dtype=torch.float64)[:, None] * turns
    weight = torch.full((kept // 2,), 2.0, dtype=torch.float64)
    if kept % 2 == 0:
        weight[-1:] = 1.0  # the outermost frequency is there once, not with both signs
    waves = (there.cos() * weight) @ here.cos().T + (there.sin() * weight) @ here.sin().T
    return (1 + waves) / side


def _by_slices(side: int, kept: int) -> Tensor:
    """(kept, side): means over intervals of side / kept voxels."""
    edges = torch.arange(kept + 1, dtype=torch.float64) * side / kept
    voxel = torch.arange(side, dtype=torch.float64)
    low, high = torch.maximum(edges[:-1, None], voxel), torch.minimum(edges[1:, None], voxel + 1)
    return (high - low).clamp(min=0) * kept / side


WAYS = {"kspace": _by_kspace, "slices": _by_slices}


def rician(volume: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """The magnitude of ``volume`` with noise of ``sigma`` on both of its channels."""
    real, imaginary = (
        torch.randn(volume.shape, generator=generator, dtype=volume.dtype) * sigma for _ in range(2)
    )
    return torch.hypot(volume + real, imaginary)


def degraded(
    volume: Tensor, settings: DegradeConfig, generator: torch.Generator, dim: int = 3
) -> Tensor:
    """``volume`` (D, H, W) after a scan of thick slices: coarse, noisy, and interpolated back.

    The way back is linear, on the same field of view; ratios are of the last ``dim`` axes.
    """
    ratio = settings.ratio[-dim:]
    found = coarse(volume, ratio, settings.profile)
    if settings.noise > 0:
        found = rician(found, settings.noise, generator)
    if found.shape == volume.shape:
        return found
    size, flat = volume.shape[-dim:], found.reshape(-1, 1, *found.shape[-dim:])
    return F.interpolate(flat, size=size, mode=LINEAR[dim]).reshape(volume.shape)


def degrade(
    prepared: Prepared,
    task: Task,
    data: DataConfig,
    settings: DegradeConfig,
    generator: torch.Generator | None = None,
) -> Prepared:
    """``prepared`` with its one source degraded as ``settings`` say, in the network's scale.

    Noise follows from ``generator`` or, for testing, from the case's name. The other sources, the
    target, the brain and the scales stay. In 2-D rows and columns of ``data.plane`` get coarser.
    A source that ``task`` restores becomes ``poor``: it is scanned in scanner units, and it and the
    target then have the scale of the scan, all that is known of one that a hospital has.
    """
    if not settings.active or settings.source not in prepared.volumes:
        return prepared
    turn = turn_to(data.plane, prepared.affine) if task.dim == 2 else None
    source = parse_modality(settings.source)
    volume, scale, zero = prepared.volumes[source], prepared.scales[source], np.float32(0)
    restored = source in task.poor
    if restored:
        zero = np.float32(scale.background)
        volume = scale.invert(volume, prepared.brain) - zero
        settings = replace(settings, noise=settings.noise * scale.width)
    seen = volume if turn is None else turn.apply(volume)
    draws = generator or torch.Generator().manual_seed(seed_of(f"degrade/{prepared.case.name}"))
    poor = degraded(torch.from_numpy(np.ascontiguousarray(seen)), settings, draws, task.dim).numpy()
    poor = poor if turn is None else turn.undo(poor)
    inside = np.where(prepared.brain, poor, np.float32(0))
    if not restored:
        return replace(prepared, volumes={**prepared.volumes, source: inside})
    scan, brain = inside + zero, prepared.brain
    own = fit_scale(scan, brain, data.intensity)
    fine = own.apply(volume + zero, brain & (prepared.volumes[source] != 0))
    return replace(
        prepared,
        volumes={**prepared.volumes, source: fine},
        scales={**prepared.scales, source: own},
        poor={source: own.apply(scan, brain)},
    )
