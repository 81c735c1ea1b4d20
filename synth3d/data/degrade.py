"""One sequence that is there but poor: thick slices, as hospitals have them.

What a scan of thick slices is, :mod:`synth3d.images.coarse` says.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from synth3d.cohort import LONGER, Case, Modality, parse_modality, thickness_in_words, too_thick
from synth3d.data.options import DataConfig, DegradeConfig
from synth3d.data.prepared import Prepared, scaled, without_zeros
from synth3d.data.slices import ratio_on
from synth3d.data.task import Task, seed_of
from synth3d.errors import InputError
from synth3d.files import progress
from synth3d.images import coarse, edges_in, foreground, grid, read, turn_to

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


def thick_cases(
    cases: Sequence[Case], task: Task, data: DataConfig, voxels: bool
) -> dict[str, str]:
    """Which ``cases`` are no truth for what ``task`` restores: name and how thick, in words.

    That are those with longer voxels of the sequence than of the others, and, where ``voxels`` are
    looked at, those of which interpolated slices are too thick for that
    (:func:`synth3d.cohort.too_thick`). Files that cannot be read are left to who prepares them.
    """
    if not task.poor:
        return {}
    some, found = [case for case in cases if task.poor[0] in case.images], dict[str, str]()
    what = f"looking at how thick {task.poor[0]} is"
    for case in progress(some, what, unit="case") if voxels else some:
        try:
            thick = _by_header(case, task) or (_by_spectrum(case, task, data) if voxels else {})
        except InputError:
            continue
        if thick:
            found[case.name] = thickness_in_words(thick)
    return found


def _by_header(case: Case, task: Task) -> dict[str, float]:
    """Along which axes voxels are longer than those of another sequence, and how long."""
    guides: list[Modality] = [name for name in task.guides if name in case.images]
    if not guides:
        return {}
    edges = edges_in(grid(case.images[task.poor[0]]), grid(case.images[guides[0]]))
    return {axis: edge for axis, edge in zip("zyx", edges, strict=True) if edge > LONGER}


def _by_spectrum(case: Case, task: Task, data: DataConfig) -> dict[str, float]:
    """Along which axes slices are thick, if they are along one that is restored."""
    volume = read(case.images[task.poor[0]])
    return too_thick(volume.data, foreground(volume.data), ratio_on(volume.grid, task, data))
