"""Case → TorchIO subject → patch queue → Batch.

The one door of TorchIO. TorchIO is (x, y, z), arrays and batches are (z, y, x): the axes turn in
:func:`to_subject` and back in :func:`collate`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchio as tio
from torch import Tensor

from synth3d.batch import Batch, drop_sources
from synth3d.cases import Case, Modality
from synth3d.config import DataConfig, RunConfig
from synth3d.files import InputError
from synth3d.intensity import Scale, foreground
from synth3d.labels import label_scheme
from synth3d.volumes import check_same_grid, read, read_label, xyz_to_zyx


@dataclass(frozen=True)
class Prepared:
    """One case in the network's scale; all arrays share one grid (D, H, W) = (z, y, x).

    Attributes:
        case: Where it came from.
        volumes: Per modality, float32, 0 outside the brain; only what the case has.
        scales: How each volume came from scanner units.
        brain: Bool, the union of the sources' foregrounds: what is known when the target is not.
        tumour: Bool, or None without a label.
        affine: Voxel (x, y, z) → mm.
    """

    case: Case
    volumes: Mapping[Modality, np.ndarray]
    scales: Mapping[Modality, Scale]
    brain: np.ndarray
    tumour: np.ndarray | None
    affine: np.ndarray

    def sources(self, names: Sequence[Modality]) -> np.ndarray:
        """(S, D, H, W) float32 in the order of ``names``; zeros for what the case lacks."""
        zeros = np.zeros(self.brain.shape, np.float32)
        return np.stack([self.volumes.get(name, zeros) for name in names])


def prepare(case: Case, sources: Sequence[Modality], targets: Sequence[Modality]) -> Prepared:
    """Read one case and bring it into the network's scale.

    The brain is where any source is not background, so that training sees the mask that a
    case with a missing target has.

    Raises:
        InputError: No source is there, a file is bad, the grids differ, or label values are in
            no scheme.
    """
    have = [name for name in (*sources, *targets) if name in case.images]
    if not any(name in case.images for name in sources):
        raise InputError(f"case {case.name} has none of the sources {list(sources)}")
    paths = [case.images[name] for name in have] + ([case.label] if case.label else [])
    check_same_grid(paths)
    raw = {name: read(case.images[name]) for name in have}
    brain = np.logical_or.reduce([foreground(raw[n].data) for n in have if n in sources])
    scales = {n: Scale.fit(v.data, brain & foreground(v.data)) for n, v in raw.items()}
    volumes = {n: scales[n].apply(v.data, brain & (v.data != 0)) for n, v in raw.items()}
    tumour = _tumour(case.label) if case.label else None
    return Prepared(case, volumes, scales, brain, tumour, raw[have[0]].affine)


def _tumour(path: Path) -> np.ndarray:
    """Where the label in ``path`` is not background, (D, H, W) bool."""
    label = read_label(path).data
    try:
        label_scheme(np.unique(label))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return label > 0


def to_subject(prepared: Prepared, config: RunConfig) -> tio.Subject:
    """A TorchIO subject, cropped to the brain and padded so that patches fit.

    It holds ``sources`` (S, x, y, z), ``targets`` (T, x, y, z), ``brain`` and ``centres``, the
    weight with which each voxel becomes the centre of a patch: ``tumour_chance`` of the weight
    is spread over the tumour, the rest over the brain.

    Raises:
        InputError: No patch can be centred in the brain (or in the tumour, for a
            ``tumour_chance`` of 1).
    """
    data = config.data
    centres = patch_centres(prepared.brain, prepared.tumour, data.tumour_chance)
    box = brain_box(prepared.brain)
    margin = [_margins(part, side) for part, side in zip(box, data.patch, strict=True)]

    def image(volume: np.ndarray, kind: str) -> tio.Image:
        padded = np.pad(volume[(slice(None), *box)], [(0, 0), *margin])
        tensor = torch.from_numpy(np.ascontiguousarray(xyz_to_zyx(padded), np.float32))
        return tio.Image(tensor=tensor, affine=prepared.affine, type=kind)

    weights = image(centres[None], tio.SAMPLING_MAP)
    inner = tuple(slice(side // 2, 1 - (side + 1) // 2 or None) for side in data.patch[::-1])
    if not weights.data[(0, *inner)].any():
        raise InputError(
            f"case {prepared.case.name}: no patch of {data.patch} voxels (z, y, x) can be centred "
            "in its brain; choose a smaller data.patch or another data.tumour_chance"
        )
    return tio.Subject(
        sources=image(prepared.sources(config.sources), tio.INTENSITY),
        targets=image(np.stack([prepared.volumes[t] for t in config.targets]), tio.INTENSITY),
        brain=image(prepared.brain[None], tio.LABEL),
        centres=weights,
        present=torch.tensor([name in prepared.volumes for name in config.sources]),
    )


def brain_box(brain: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around ``brain`` (D, H, W), as slices; the whole grid when it is empty."""
    if not brain.any():
        return tuple(slice(0, n) for n in brain.shape)
    slices = []
    for axis in range(brain.ndim):
        others = tuple(a for a in range(brain.ndim) if a != axis)
        where = np.flatnonzero(brain.any(axis=others))
        slices.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(slices)


def _margins(part: slice, side: int) -> tuple[int, int]:
    """Zeros before and after: a quarter patch, and at least enough for one patch."""
    length = part.stop - part.start
    total = max(2 * (side // 4), side - length)
    return total // 2, total - total // 2


def patch_centres(brain: np.ndarray, tumour: np.ndarray | None, chance: float) -> np.ndarray:
    """Sampling weights (D, H, W), float32, summing to 1; zero outside the brain."""
    weights = brain / max(1, brain.sum())
    inside = tumour & brain if tumour is not None else np.zeros_like(brain)
    if chance > 0 and inside.any():
        weights = (1 - chance) * weights + chance * inside / inside.sum()
    return weights.astype(np.float32)


def augmentation(config: DataConfig, spacing_mm: Sequence[float]) -> tio.Transform:
    """Random left-right flips, and a random shift of the sources against the target.

    Args:
        config: ``flip`` and ``misregistration`` (voxels, the largest shift along each axis).
        spacing_mm: Voxel size (x, y, z); TorchIO takes shifts in mm.
    """
    steps: list[tio.Transform] = []
    if config.flip:
        steps.append(tio.RandomFlip(axes=("Left",)))
    if config.misregistration > 0:
        reach = [value for mm in spacing_mm for value in (config.misregistration * mm,) * 2]
        span = tuple(v if i % 2 else -v for i, v in enumerate(reach))
        steps.append(
            tio.RandomAffine(
                scales=0, degrees=0, translation=span, include=["sources"], default_pad_value=0
            )
        )
    return tio.Compose(steps)


def collate(patches: Sequence[tio.Subject]) -> Batch:
    """TorchIO patches (C, x, y, z) to one Batch (B, C, z, y, x)."""

    def stack(name: str) -> Tensor:
        return xyz_to_zyx(torch.stack([patch[name].data for patch in patches])).contiguous()

    targets = stack("targets")
    return Batch(
        sources=stack("sources"),
        targets=targets,
        present=torch.stack([patch["present"] for patch in patches]),
        wanted=torch.ones(targets.shape[:2], dtype=torch.bool),
        brain=stack("brain") > 0,
    )


def batches(subjects: Sequence[tio.Subject], config: RunConfig, seed: int) -> Iterator[Batch]:
    """Patches without end, a fresh queue each time all subjects have been seen.

    Patches and flips are drawn from torch's global generator, seeded here, hidden sources from one
    of their own: the same seed and subjects give the same batches, if nobody else draws between.
    Sources are hidden at random (``data.source_dropout``) and are 0 then.
    """
    torch.manual_seed(seed)
    hiding = torch.Generator().manual_seed(seed)
    data = config.data
    transform = augmentation(data, subjects[0].spacing)
    while True:
        queue = tio.Queue(
            tio.SubjectsDataset(list(subjects), transform=transform),
            max_length=max(data.queue, data.batch),
            samples_per_volume=data.patches_per_case,
            sampler=tio.WeightedSampler(data.patch[::-1], "centres"),
            start_background=False,
        )
        loader = tio.SubjectsLoader(
            queue, collate_fn=collate, batch_size=data.batch, num_workers=0, drop_last=True
        )
        if len(loader) == 0:
            raise InputError(
                f"{len(subjects)} training case(s) × {data.patches_per_case} patches do not fill "
                f"one batch of {data.batch}; raise data.patches_per_case"
            )
        for batch in loader:
            present = drop_sources(batch.present, data.source_dropout, hiding)
            shown = present.view(*present.shape, *[1] * (batch.sources.ndim - 2))
            yield Batch(batch.sources * shown, batch.targets, present, batch.wanted, batch.brain)
