"""Mirror images of a case: what is made of each is mirrored back, and the mean of all is taken.

Mirrors are the body's, told by the affine: ``x`` swaps left and right, as patches are swapped in
training; ``xyz`` are all eight reflections, of which training shows two.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from synth3d.data import DataConfig, Prepared, Task
from synth3d.images import body_axis, turn_to

Mirror = tuple[int, ...]
"""Axes of the volume (z, y, x) that are reversed; none for the case as it is."""


def mirrors_of(axes: str, affine: np.ndarray, task: Task, data: DataConfig) -> list[Mirror]:
    """All mirror images along the body ``axes``; the case as it is comes first.

    ``axes`` is one of :data:`synth3d.images.MIRRORS`, or empty for the case alone.

    Slices are made one by one, so that their order changes nothing: a 2-D run is not mirrored
    along it. Then ``x`` of sagittal slices leaves the case alone.
    """
    across = None if task.dim == 3 else turn_to(data.plane, affine).axes[0]
    able = [axis for name in axes if (axis := body_axis(name, affine)) != across]
    return [some for size in range(len(able) + 1) for some in combinations(able, size)]


def mirrored(prepared: Prepared, mirror: Mirror) -> Prepared:
    """The case with its voxels in reversed order along the axes of ``mirror``; views.

    The affine is that of before: a patient mirrored where they lie.
    """

    def flip(array: np.ndarray) -> np.ndarray:
        return np.flip(array, mirror)

    def each(volumes: Mapping) -> dict:
        return {name: flip(volume) for name, volume in volumes.items()}

    return replace(
        prepared,
        volumes=each(prepared.volumes),
        poor=each(prepared.poor),
        brain=flip(prepared.brain),
        tumour=None if prepared.tumour is None else flip(prepared.tumour),
        label=None if prepared.label is None else flip(prepared.label),
    )
