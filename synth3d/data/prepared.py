"""One case in the network's scale: read, masked, scaled; ``data.patches`` draws from it."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from synth3d.cohort import Case, Modality, Reading, parse_modality, read_classes
from synth3d.data.options import DataConfig
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.images import (
    Grid,
    Scale,
    Volume,
    background_of,
    check_same_grids,
    differs,
    foreground,
    grid,
    read,
    resample,
    resample_within,
    share_beyond,
)

LEAST = np.float32(2.0**-20)
"""What a voxel is where its scale says 0 and the file does not say background."""

MOST_BEYOND = 0.01
"""Of the brain, outside the slices of a sequence that is to be restored."""

MOST_CLIPPED = 0.05
"""Of the brain; the paper's convention has no place for images that are centred on 0."""


@dataclass(frozen=True)
class Prepared:
    """One case in the network's scale; all arrays share one grid (D, H, W) = (z, y, x).

    Attributes:
        case: Where it came from.
        volumes: Per modality, float32, 0 outside the brain and where the file has its background,
            and nowhere else; only what the case has.
        scales: How each volume came from scanner units.
        brain: Bool, the union of the sources' foregrounds: what is known when the target is not. In
            mode ``any`` each volume is 0 where its own foreground is not, and nowhere else, so that
            the brain of any subset can be told (:func:`shown`).
        tumour: Bool, where the label has a class, which a cavity has not; None without one.
        affine: Voxel (x, y, z) → mm.
        label: Int8, the label's classes as in :class:`synth3d.data.Batch`; None without one.
        reading: How the label was read; None without one.
        poor: What the network sees of a sequence that is to be restored: its scan of thick slices,
            brought to the grid, float32, 0 outside the brain. Its scale is that of this scan, in
            which the fine one is too, if ``volumes`` has it.
    """

    case: Case
    volumes: Mapping[Modality, np.ndarray]
    scales: Mapping[Modality, Scale]
    brain: np.ndarray
    tumour: np.ndarray | None
    affine: np.ndarray
    label: np.ndarray | None = None
    reading: Reading | None = None
    poor: Mapping[Modality, np.ndarray] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.brain.shape, self.affine)  # type: ignore[arg-type]

    def stack(self, names: Sequence[Modality]) -> np.ndarray:
        """(S, D, H, W) float32 in the order of ``names``; zeros for what the case lacks."""
        return self._stacked(self.volumes, names)

    def sources(self, task: Task) -> np.ndarray:
        """(S, D, H, W) float32, what the network sees; zeros for what the case lacks.

        Raises:
            ValueError: The answer would be shown: of a poor sequence there is the fine one alone.
        """
        return self._stacked(self._shown(task), task.sources)

    def present(self, task: Task) -> tuple[bool, ...]:
        """Which of the sources the case has."""
        there = self._shown(task)
        return tuple(name in there for name in task.sources)

    def _shown(self, task: Task) -> Mapping[Modality, np.ndarray]:
        if fine := {*task.poor} & {*self.volumes} - {*self.poor}:
            raise ValueError(f"case {self.case.name}: {sorted(fine)} was not made poor")
        return {**self.volumes, **self.poor}

    def _stacked(
        self, volumes: Mapping[Modality, np.ndarray], names: Sequence[Modality]
    ) -> np.ndarray:
        zeros = np.zeros(self.brain.shape, np.float32)
        return np.stack([volumes.get(name, zeros) for name in names])


def prepare(
    case: Case,
    sources: Sequence[Modality],
    targets: Sequence[Modality],
    data: DataConfig | None = None,
    mode: str = "fixed",
) -> Prepared:
    """Read one case and bring it into the network's scale.

    The brain is where any source is not background, so that training sees the mask that a
    case with a missing target has. Of ``data`` the ``intensity``, ``common_grid`` and
    ``labels`` count. In ``mode`` ``any`` (:class:`synth3d.data.Task`) nothing of a sequence depends
    on what others the case has.

    Raises:
        InputError: No source is there, a file is bad, the grids differ, or it cannot be told what
            the label holds.
    """
    data = data or DataConfig()
    have: list[Modality] = [n for n in dict.fromkeys((*sources, *targets)) if n in case.images]
    if not any(name in case.images for name in sources):
        raise InputError(f"case {case.name} has none of the sources {list(sources)}")
    raw = read_on_one_grid(case, have, data.common_grid)
    return prepare_read(case, raw, sources, data, mode)


def prepare_read(
    case: Case,
    raw: Mapping[Modality, Volume],
    sources: Sequence[Modality],
    data: DataConfig,
    mode: str = "fixed",
    poor: Sequence[Modality] = (),
) -> Prepared:
    """As :func:`prepare`, of the volumes that :func:`read_on_one_grid` has read already.

    Those that are ``poor`` do not say themselves where there is brain, but for their background.
    """
    have = list(raw)
    heads = {name: foreground(raw[name].data) for name in have if name in sources}
    brain = np.logical_or.reduce(list(heads.values()))

    def of(name: Modality) -> tuple[Scale, np.ndarray]:
        volume = raw[name].data
        if mode != "any":
            return scaled(volume, brain, data.intensity, name in poor)
        scale, head = fit_scale(volume, heads[name], data.intensity), heads[name]
        return scale, without_zeros(scale.apply(volume, head), head)

    found = side_by_side(of, have)
    scales, volumes = (dict(zip(have, each, strict=True)) for each in zip(*found, strict=True))
    tumour, label, reading = None, None, None
    if case.label:
        label, reading = read_classes(case, data.labels or None)
        tumour = label > 0
    return Prepared(case, volumes, scales, brain, tumour, raw[have[0]].affine, label, reading)


def read_sources(case: Case, task: Task, data: DataConfig) -> dict[Modality, Volume]:
    """The sources of ``task`` that ``case`` has, on one grid.

    A poor one may have a grid of its own: it is brought to that of the others.

    Raises:
        InputError: As :func:`read_on_one_grid`; or of a poor one's slices, more than
            ``MOST_BEYOND`` of the others' brain lies outside.
    """
    names: list[Modality] = [name for name in task.sources if name in case.images]
    guides: list[Modality] = [name for name in names if name in task.guides]
    raw = read_on_one_grid(case, guides or names, data.common_grid)
    for name in names:
        if name in raw:
            continue
        volume, target = read(case.images[name]), raw[guides[0]].grid
        brain = np.logical_or.reduce([foreground(raw[guide].data) for guide in guides])
        if (beyond := share_beyond(volume.grid, target, brain)) > MOST_BEYOND:
            raise InputError(
                f"{volume.path} does not cover the brain of {', '.join(guides)}: {beyond:.0%} of "
                "it lies outside its slices, where nothing could be restored; give a file that "
                "covers it, or crop the others"
            )
        raw[name] = resample_within(volume, target)
    return raw


def prepare_sources(
    case: Case, raw: Mapping[Modality, Volume], task: Task, data: DataConfig
) -> Prepared:
    """The case to be completed, of what :func:`read_sources` gave; a poor one is ``poor``."""
    prepared = prepare_read(case, raw, task.outlined_by(raw), data, task.mode, task.poor)
    fine = {name: image for name, image in prepared.volumes.items() if name not in task.poor}
    poor = {name: image for name, image in prepared.volumes.items() if name in task.poor}
    return replace(prepared, volumes=fine, poor=poor)


def without_zeros(volume: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """``volume`` (D, H, W) float32 with ``LEAST`` where it is 0 ``inside``, and 0 elsewhere."""
    return np.where(inside, np.where(volume == 0, LEAST, volume), np.float32(0))


def shown(prepared: Prepared, names: Sequence[Modality]) -> Prepared:
    """A case of mode ``any`` as :func:`prepare` gives it where it has none but ``names``."""
    kept: list[Modality] = [name for name in prepared.volumes if name in names]
    volumes = {name: prepared.volumes[name] for name in kept}
    scales = {name: prepared.scales[name] for name in kept}
    brain = np.logical_or.reduce([volume != 0 for volume in volumes.values()])
    return replace(prepared, volumes=volumes, scales=scales, brain=brain)


def scaled(
    volume: np.ndarray, brain: np.ndarray, intensity: str, outlined: bool = False
) -> tuple[Scale, np.ndarray]:
    """The scale of ``volume`` (D, H, W), scanner units, and itself in it, as ``Prepared`` has it.

    The arguments are :func:`fit_scale`'s.
    """
    scale = fit_scale(volume, brain, intensity, outlined)
    inside = brain & differs(volume, scale.background)
    return scale, without_zeros(scale.apply(volume, inside), inside)


def fit_scale(
    volume: np.ndarray, brain: np.ndarray, intensity: str, outlined: bool = False
) -> Scale:
    """The scale of one volume (D, H, W) under the convention ``intensity`` of ``DataConfig``.

    Where the brain is ``outlined`` by other sequences, all of it counts that is not background:
    around what was sampled thinly there are waves, and whether a file has them decides nothing.
    """
    if intensity == "paper":
        scale = Scale.papers(volume)
        inside = volume[brain]
        if inside.size and (inside < scale.background).mean() > MOST_CLIPPED:
            raise InputError(
                f"a sequence has brain darker than its background of {scale.background:.6g}, as "
                "after z-scoring in the brain, and data.intensity = paper would clip it: give the "
                "images in scanner units, or train with data.intensity = median"
            )
        return scale
    head = differs(volume, background_of(volume)) if outlined else foreground(volume)
    return Scale.fit(volume, brain & head)


def read_on_one_grid(
    case: Case, names: Sequence[Modality], common_grid: str
) -> dict[Modality, Volume]:
    """The sequences ``names`` of ``case``, all of which are there, on one grid.

    Without ``common_grid`` they and the label must share one. With it they are brought to that
    sequence's, or to that of the first of ``names`` where the case lacks it.
    """
    refuse_headers([case], names, common_grid)
    if not common_grid:
        volumes = side_by_side(read, [case.images[name] for name in names])
        return dict(zip(names, volumes, strict=True))
    target = grid(_reference(case, names, common_grid))
    return {name: resample(read(case.images[name]), target) for name in names}


def refuse_headers(cases: Iterable[Case], names: Sequence[Modality], common_grid: str) -> None:
    """Stop where files cannot be brought to one grid; only headers are read.

    Raises:
        InputError: The sentence names all such files of all cases and what to do.
    """
    groups: list[list[Path]] = []
    for case in cases:
        there: list[Modality] = [name for name in names if name in case.images]
        labels = [case.label] if case.label else []
        if common_grid and there:
            groups.append([_reference(case, there, common_grid), *labels])
            groups += [[case.images[name]] for name in there]
        else:
            groups.append([*(case.images[name] for name in there), *labels])
    try:
        check_same_grids(groups)
    except InputError as error:
        hint = " (or bring them to the grid of one, with data.common_grid; not in mode any)"
        hint = "" if common_grid else hint
        raise InputError(f"{error}{hint if ' differs from ' in str(error) else ''}") from error


def _reference(case: Case, names: Sequence[Modality], common_grid: str) -> Path:
    """The file on whose grid the others are wanted."""
    common = parse_modality(common_grid)
    return case.images[common if common in names else names[0]]


def side_by_side(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """``work`` on every item in threads, in order; unzipping and numpy leave the lock alone."""
    with ThreadPoolExecutor(max(1, min(len(items), os.cpu_count() or 1))) as pool:
        return list(pool.map(work, items))
