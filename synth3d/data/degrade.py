"""One sequence that is there but poor: thick slices, as hospitals have them.

What a scan of thick slices is, :mod:`synth3d.images.coarse` says.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from synth3d.cohort import parse_modality
from synth3d.data.options import DataConfig, DegradeConfig
from synth3d.data.prepared import Prepared, scaled, without_zeros
from synth3d.data.task import Task, seed_of
from synth3d.images import coarse, turn_to

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def rician(volume: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """The magnitude of ``volume`` with noise of ``sigma`` on both of its channels."""
    real, imaginary = (
        torch.randn(volume.shape, generator=generator, dtype=volume.dtype) * sigma for _ in range(2)
    )
    return torch.hypot(volume + real, imaginary)


def degraded(
    volume: np.ndarray, settings: DegradeConfig, generator: torch.Generator, dim: int = 3
) -> np.ndarray:
    """``volume`` (D, H, W) after a scan of thick slices: coarse, noisy, and interpolated back.

    The way back is linear, on the same field of view. Slices, ``dim`` 2, are not mixed.

    Raises:
        InputError: A ratio is larger than its side.
    """
    found = torch.from_numpy(
        coarse(volume, (*(1,) * (3 - dim), *settings.ratio[-dim:]), settings.profile)
    )
    if settings.noise > 0:
        found = rician(found, settings.noise, generator)
    if found.shape != volume.shape:
        size, flat = volume.shape[-dim:], found.reshape(-1, 1, *found.shape[-dim:])
        found = F.interpolate(flat, size=size, mode=LINEAR[dim]).reshape(volume.shape)
    return found.numpy()


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
        volume = scale.invert(volume, volume != 0) - zero  # 0 is the file's background
        settings = replace(settings, noise=settings.noise * scale.width)
    seen = volume if turn is None else turn.apply(volume)
    draws = generator or torch.Generator().manual_seed(seed_of(f"degrade/{prepared.case.name}"))
    poor = degraded(seen, settings, draws, task.dim)
    poor = poor if turn is None else turn.undo(poor)
    inside = np.where(prepared.brain, poor, np.float32(0))
    if not restored:
        return replace(prepared, volumes={**prepared.volumes, source: inside})
    own, scan = scaled(inside + zero, prepared.brain, data.intensity, outlined=True)
    head = prepared.volumes[source] != 0
    fine = without_zeros(own.apply(volume + zero, head), head)
    return replace(
        prepared,
        volumes={**prepared.volumes, source: fine},
        scales={**prepared.scales, source: own},
        poor={source: scan},
    )
