"""Patches of a packed case, each read by itself, and what becomes of them: a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synth3d.data.batch import Batch
from synth3d.data.cache import BRAIN, CLASS, Packed
from synth3d.data.centres import Centres, Frame3d, centres_of
from synth3d.data.options import DataConfig
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.images import xyz_to_zyx


@dataclass(frozen=True)
class Patch:
    """One patch on its way into a batch; axes (C, z, y, x), a slice's z being 1.

    As in :class:`synth3d.data.Batch`, ``brain`` (1, ...) bool, ``label`` (1, ...) int8 or None,
    ``levels`` (S + T, 3) and ``region`` (1, ...) bool, or None.
    """

    sources: Tensor
    targets: Tensor
    brain: Tensor
    label: Tensor | None
    present: Tensor
    wanted: Tensor
    levels: Tensor | None = None
    region: Tensor | None = None


def collate(patches: Sequence[Patch], dim: int = 3) -> Batch:
    """Patches (C, z, y, x) to one Batch (B, C, z, y, x), or (B, C, y, x) for ``dim`` 2."""

    def stack(name: str) -> Tensor:
        stacked = torch.stack([getattr(patch, name) for patch in patches])
        one_slice = dim == 2 and stacked.ndim == 5
        return (stacked.squeeze(2) if one_slice else stacked).contiguous()

    brain = stack("brain")
    label = torch.full_like(brain, -1, dtype=torch.int8)
    for index, patch in enumerate(patches):
        if patch.label is not None:
            label[index] = patch.label.squeeze(1) if dim == 2 else patch.label
    coupled = patches[0].levels is not None
    return Batch(
        *(stack(name) for name in ("sources", "targets", "present", "wanted")),  # pyright: ignore[reportArgumentType]
        brain=brain,
        label=label,
        levels=stack("levels") if coupled else None,
        region=stack("region") if coupled else None,
    )


def frame_around(packed: Packed, data: DataConfig) -> Frame3d:
    """From where the patches of a volume are cut."""
    return Frame3d(packed.marks.shape, data.patch[::-1])


def check_drawable(packed: Packed, name: str, task: Task, data: DataConfig) -> None:
    """Refuse the case ``name`` where no patch can be centred in it; it is as the network sees it.

    Raises:
        InputError: No patch can be centred in the brain (or in the tumour, for a
            ``tumour_chance`` of 1), or no slice holds brain.
    """
    if task.dim == 2:
        if not packed.marks.size:
            raise InputError(f"case {name} has no {data.plane} slice with brain")
        return
    frame = frame_around(packed, data)
    if not centres_of(packed, frame, (False,) * 3, data.tumour_chance, {}).total > 0:
        raise InputError(
            f"case {name}: no patch of {data.patch} voxels (z, y, x) can be centred "
            "in its brain; choose a smaller data.patch or another data.tumour_chance"
        )


@dataclass(frozen=True)
class Cutter:
    """Draws patches of a volume without end, by torch's global generator.

    Attributes:
        packed: The case.
        task: Which sequences are sources and targets.
        patch: (z, y, x).
        flips: Whether its axes (x, y, z) are flipped.
        centres: Where patches may be centred, flipped.
        levels: (S + T, 3) float32 and ``region``, (d, h, w) bool, of what is coupled, if anything.
    """

    packed: Packed
    task: Task
    patch: tuple[int, ...]
    flips: tuple[bool, ...]
    centres: Centres
    levels: np.ndarray | None = None
    region: np.ndarray | None = None

    def __call__(self) -> Iterator[Patch]:
        """Patches without end, at places and in an order that follow from torch's generator."""
        packed, task = self.packed, self.task
        present, wanted = known_of(packed, task)
        frame = Frame3d(packed.marks.shape, self.patch[::-1])
        levels = None if self.levels is None else torch.from_numpy(self.levels)
        while True:
            # TorchIO's sampler draws two numbers a patch; only the first says where it is.
            centre = self.centres.draw(torch.rand(2)[0].item())
            windows = [frame.window(a, centre[a], flip) for a, flip in enumerate(self.flips)]
            inner, place = zip(*windows[::-1], strict=True)
            marks = self._laid(xyz_to_zyx(packed.marks)[inner][None], place)
            sources = self._laid(packed.cut(task.sources, inner), place)
            same = task.mode == "any"
            yield Patch(
                sources,
                sources if same else self._laid(packed.cut(task.targets, inner), place),
                marks & BRAIN > 0,
                (marks // CLASS).to(torch.int8) if packed.labelled[1] else None,
                present,
                wanted,
                levels,
                None if self.region is None else self._laid(self.region[inner][None], place),
            )

    def _laid(self, cut: np.ndarray, place: tuple[slice, ...]) -> Tensor:
        """What was cut from the box, with zeros around where it ends, flipped."""
        whole = np.zeros((len(cut), *self.patch), cut.dtype)
        whole[(slice(None), *place)] = cut
        turn: Any = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips[::-1])
        return torch.from_numpy(np.ascontiguousarray(whole[(slice(None), *turn)]))


def known_of(packed: Packed, task: Task) -> tuple[Tensor, Tensor]:
    """Which sources (S) and targets (T) a case has, bool."""
    sources, targets = (
        torch.tensor([name in packed.codes for name in names])
        for names in (task.sources, task.targets)
    )
    return sources, targets
