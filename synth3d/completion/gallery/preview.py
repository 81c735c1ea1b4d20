"""The picture of a completed case: what was made beside its siblings, in three planes.

It follows from files alone and proves nothing: the receipt does not list it, and one that was
removed is drawn again from what is there, without the network.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from synth3d.cohort import ALL_MODALITIES, Modality
from synth3d.completion.plan import Job
from synth3d.completion.receipts import NOTICE, Layout
from synth3d.errors import InputError, visible
from synth3d.files import claim, sweep
from synth3d.images import (
    PLANES,
    Volume,
    foreground,
    read_label,
    read_unchecked,
    resample_within,
    turn_to,
)
from synth3d.pictures import Panel, box_of, draw_preview

NAMES: dict[str, str] = {
    "t1n": "T1", "t1c": "T1 with contrast", "t2w": "T2", "t2f": "FLAIR", "pd": "PD",
}  # fmt: skip
SHOWN = (0.5, 99.8)
"""Percentiles of a sequence inside the head that are black and white."""
BRIGHTEST = 99.5
"""Percentile of a map inside the head that has the brightest colour."""
LARGEST_TUMOUR = 0.5
"""Share of the head above which a label is no tumour that one would cut through."""


def write_preview(job: Job, layout: Layout, plumbing: bool = False) -> Path | None:
    """Draw what was made of a case that is on the disk; where, or None where nothing was.

    Slices go through the most of the tumour where the case has a label, else of the head.

    Args:
        job: Of this case, whose pictures are made.
        layout: Where they are.
        plumbing: Whether they are real ones that were sent through.

    Raises:
        InputError: A file cannot be read, or the picture cannot be written.
    """
    if not job.make:
        return None
    made: dict[Modality, Volume] = {m: read_unchecked(layout.image(job.case, m)) for m in job.make}
    first = made[job.make[0]]
    cuts = _Cuts(job, first)
    panels = [
        Panel(title, "acquired", cuts(volume), _limits(volume, cuts.head))
        for title, volume in _siblings(job, first)
    ]
    for modality, volume in made.items():
        shown = cuts(volume.data), _limits(volume.data, cuts.head)
        kind = "re-exported real" if plumbing else "synthetic"
        panels.append(Panel(NAMES[modality], kind, *shown, made=not plumbing))
        for title, path in _uncertainty(job, layout, modality):
            over = read_unchecked(path).data
            inside = over[cuts.head] if cuts.head.any() else over
            most = float(np.percentile(inside, BRIGHTEST)) or 1.0
            told = f"brightest: {most:.3g}"
            panels.append(Panel(title, told, *shown, made=True, overlay=cuts(over / most)))
    path = layout.preview(job.case.name)
    draw_preview(panels, cuts.edges_mm, job.case.name, NOTICE, path)
    return path


def draw_done(job: Job, layout: Layout, plumbing: bool = False) -> None:
    """As :func:`write_preview`, of a case that is done, as its receipt says.

    Whatever stands in the way of a picture is told, and takes nothing from what was made.
    """
    try:
        write_preview(job, layout, plumbing)
    except Exception as error:  # whatever drawing has against a volume that is written already
        reason = visible(str(error) or type(error).__name__)[:300]
        print(f"note: no picture of case {job.case.name}: {reason}", file=sys.stderr)


def draw_missing_preview(job: Job, layout: Layout, plumbing: bool = False) -> None:
    """Draw the picture of a case that was done before, where it is not there and nobody has it."""
    path = layout.preview(job.case.name)
    if not job.make or path.exists():
        return
    with claim(layout.lock(job.case.name)) as ours:
        if ours:
            sweep(path.parent, {path.name})  # of a process that was killed while it drew
            draw_done(job, layout, plumbing)


def forget_preview(job: Job, layout: Layout) -> None:
    """Remove the picture of what was made of the case before."""
    layout.preview(job.case.name).unlink(missing_ok=True)


class _Cuts:
    """Cuts a volume of the case (D, H, W), once in each plane, as radiologists hang them.

    Attributes:
        head: (D, H, W) bool.
        edges_mm: Of each plane the edges of a pixel, row and column.
    """

    def __init__(self, job: Job, first: Volume) -> None:
        self.head = foreground(first.data)
        self._box, self._at = box_of(self.head), _most_of(_tumour(job, self.head))
        self._turns = {plane: turn_to(plane, first.affine) for plane in PLANES}
        self.edges_mm = {
            plane: (first.spacing_mm[turn.axes[1]], first.spacing_mm[turn.axes[2]])
            for plane, turn in self._turns.items()
        }

    def __call__(self, volume: np.ndarray) -> list[np.ndarray]:
        found = []
        for turn in self._turns.values():
            axis = turn.axes[0]
            at = self._at[axis]
            thin = tuple(
                slice(at, at + 1) if each == axis else side for each, side in enumerate(self._box)
            )
            found.append(turn.apply(volume[thin])[0])
        return found


def _tumour(job: Job, head: np.ndarray) -> np.ndarray:
    """Where one would look: the label of the case, as far as it is a tumour's; else the head."""
    if job.case.label is not None:
        with contextlib.suppress(InputError):
            label = read_label(job.case.label).data > 0
            if label.shape == head.shape and 0 < label.sum() < LARGEST_TUMOUR * head.sum():
                return label
    return head


def _most_of(mask: np.ndarray) -> list[int]:
    """For each axis the slice that shows most of ``mask``; the middle one of an empty mask."""
    if not mask.any():
        return [length // 2 for length in mask.shape]
    return [int(mask.sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3)]


def _siblings(job: Job, first: Volume) -> Iterator[tuple[str, np.ndarray]]:
    """Name and volume, on the grid of ``first``, of each sequence that could be read."""
    images = job.readable.images
    for modality in ALL_MODALITIES:
        if modality in images:
            title = NAMES[modality]
            title = f"{title}, thick slices" if modality in job.restored else title
            yield title, resample_within(read_unchecked(images[modality]), first.grid).data


def _uncertainty(job: Job, layout: Layout, modality: Modality) -> Iterator[tuple[str, Path]]:
    """Title and file of the map that says how wrong the sequence may be, if there is one."""
    written = {*job.explanations(layout)}
    maps = {"interval": "± 90 % interval", "spread": "spread"}
    for name, told in maps.items():
        if (path := layout.map(job.case, modality, name)) in written:
            yield f"{NAMES[modality]}: {told}", path
            return


def _limits(volume: np.ndarray, head: np.ndarray) -> tuple[float, float]:
    """What is black and what is white."""
    inside = volume[head & (volume != 0)]
    low, high = np.percentile(inside if inside.size else volume, SHOWN)
    return float(low), float(high) if high > low else float(low) + 1
