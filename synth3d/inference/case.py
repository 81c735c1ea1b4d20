"""One prepared case, whole, on its own grid: slices and volumes alike."""

import numpy as np
import torch

from synth3d.data import DataConfig, Prepared, restore, seen
from synth3d.frameworks import Framework
from synth3d.inference.mirrors import Mirror, mirrored
from synth3d.inference.volume import SynthesisOptions, synthesize_volume


def synthesize_case(
    framework: Framework,
    prepared: Prepared,
    data: DataConfig,
    options: SynthesisOptions | None = None,
    mirror: Mirror = (),
) -> np.ndarray:
    """All targets of one case, whole, on its own grid; the same for slices and for volumes.

    In mode ``any`` these are the sequences that the case lacks; other channels are free.

    The framework is ready to synthesise, on its device; autocast and gradients are the caller's.
    ``data`` is what it was trained with; without options its patch and overlap count. With a
    ``mirror`` the network sees the case mirrored, and what it makes is mirrored back.

    Returns (T, D, H, W) float32 in the network's scale, 0 outside the brain.
    """
    task = framework.task
    if mirror:
        made = synthesize_case(framework, mirrored(prepared, mirror), data, options)
        return np.ascontiguousarray(np.flip(made, tuple(1 + axis for axis in mirror)))
    view = seen(prepared, task, data)
    result = synthesize_volume(
        framework,
        torch.from_numpy(view.sources(task)),
        torch.tensor(view.present(task)),
        torch.tensor([task.mode == "fixed" or n not in view.volumes for n in task.targets]),
        options or SynthesisOptions(data.patch, data.overlap),
        torch.from_numpy(np.ascontiguousarray(view.brain)),
    )
    return restore(result.numpy(), prepared, task, data)


def memory_format(dim: int) -> torch.memory_format:
    """How the activations of a ``dim``-dimensional network lie in memory."""
    return torch.channels_last if dim == 2 else torch.channels_last_3d
