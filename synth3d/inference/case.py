"""One prepared case, whole, on its own grid: slices and volumes alike."""

from collections.abc import Sequence

import numpy as np
import torch

from synth3d.config import RunConfig
from synth3d.data import Prepared, restore, seen
from synth3d.frameworks import Framework
from synth3d.inference.tiles import OnTile
from synth3d.inference.volume import synthesize_volume


def synthesize_case(
    framework: Framework,
    prepared: Prepared,
    config: RunConfig,
    overlap: Sequence[int] | None = None,
    batch: int = 2,
    on_tile: OnTile | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """All targets of one case, whole, on its own grid; the same for slices and for volumes.

    Args:
        framework: Ready to synthesise, on its device; autocast and gradients are the caller's.
        prepared: On the case's own grid; absent sources are zeros, as in training.
        config: What the framework was trained with.
        overlap: Voxels that tiles share, as in ``config.data``; None is as there.
        batch: Tiles per call.
        on_tile: Told (tiles done, tiles in all).
        steps: Sampling steps of a diffusion; None is what its options say.
        seed: Decides all randomness of a diffusion.

    Returns:
        (T, D, H, W) float32 in the network's scale, 0 outside the brain.
    """
    view, data = seen(prepared, config), config.data
    result = synthesize_volume(
        framework,
        torch.from_numpy(view.sources(config.sources)),
        torch.tensor([name in view.volumes for name in config.sources]),
        torch.ones(len(config.targets), dtype=torch.bool),
        data.patch,
        data.overlap if overlap is None else overlap,
        batch,
        torch.from_numpy(np.ascontiguousarray(view.brain)),
        seed,
        on_tile,
        steps,
    )
    return restore(result.numpy(), prepared, config)


def memory_format(dim: int) -> torch.memory_format:
    """How the activations of a ``dim``-dimensional network lie in memory."""
    return torch.channels_last if dim == 2 else torch.channels_last_3d
