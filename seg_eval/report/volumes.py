"""A case as the report's slice viewer takes it, turned to the radiological convention."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from seg_eval.scoring import region_masks
from synth3d.cohort import LabelScheme
from synth3d.errors import InputError
from synth3d.images import Scale, foreground, read, read_label

PLANES = ("axial", "coronal", "sagittal")
"""In this order everywhere."""

LETTERS = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}
"""What of the patient is at the left, right, top and bottom of a picture of the plane."""


@dataclass(frozen=True)
class ArmVolumes:
    """What one arm gave the segmenter in a case, and the regions that came back by name.

    There is no channel where it was blank, or the segmenter has none for the sequence. ``layers``
    are maps that explain the channel, by name, in units of their own and never negative.
    """

    channel: np.ndarray | None
    masks: Mapping[str, np.ndarray]
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseVolumes:
    """A case for the linked slice views; all volumes are of one shape (D, H, W) = (z, y, x).

    Attributes:
        role: Why it is shown: ``worst``, ``median`` or ``best``.
        modality: The missing or degraded sequence, as in ``t2f``.
        real: The real sequence, float32, 0 dark to about 1 bright.
        arms: By name; ``full`` and the floor are shown first where they are among them.
        truth: The expert's regions by name, bool.
        affine: (4, 4) voxel (x, y, z) to mm, RAS+.
        spacing_mm: Of the array's axes (z, y, x).

    Raises:
        ValueError: A volume has another shape than ``real``.
    """

    case: str
    patient: str
    role: str
    modality: str
    real: np.ndarray
    arms: Mapping[str, ArmVolumes]
    truth: Mapping[str, np.ndarray]
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]

    def __post_init__(self) -> None:
        others = {f"expert {region}": mask for region, mask in self.truth.items()}
        for name, arm in self.arms.items():
            others |= {f"{name} {region}": mask for region, mask in arm.masks.items()}
            others |= {f"{name} channel": arm.channel} if arm.channel is not None else {}
            others |= {f"{name} {layer}": volume for layer, volume in arm.layers.items()}
        for name, volume in others.items():
            if volume.shape != self.real.shape:
                raise ValueError(
                    f"{self.case}: {name} is {volume.shape}, the real sequence {self.real.shape}"
                )

    @cached_property
    def orientation(self) -> "Orientation":
        """How its voxel axes run in the patient."""
        return Orientation(self.affine)


@dataclass(frozen=True)
class CaseFiles:
    """Where a case's :class:`CaseVolumes` are: an entry of an experiment's ``volumes.json``.

    Paths are relative to the experiment's folder if they lie in there.

    Attributes:
        scheme: Which integer is which tissue.
        label: The expert's labels.
        brain: The real sequences that are not missing; they tell where the brain is.
        arms: By name the filled-in channel, None for zeros, and the predicted labels.
        maps: By arm and name what explains its channel. A page can do without.
    """

    case: str
    patient: str
    role: str
    modality: str
    scheme: LabelScheme
    real: str
    label: str
    brain: tuple[str, ...]
    arms: dict[str, tuple[str | None, str]]
    maps: dict[str, dict[str, str]] = field(default_factory=dict)

    def load(self, folder: Path) -> CaseVolumes:
        """The volumes, each channel on its own in-brain scale.

        Raises:
            InputError: A file is missing or cannot be read.
            ValueError: A volume has another shape than the others.
        """
        brain = np.any([foreground(read(folder / path).data) for path in self.brain], axis=0)

        def channel(path: str) -> np.ndarray:
            volume = read(folder / path).data
            return Scale.fit(volume, brain).apply(volume, brain)

        def masks(path: str) -> dict[str, np.ndarray]:
            return region_masks(read_label(folder / path).data, self.scheme)

        image = read(folder / self.real)

        def layers(arm: str) -> dict[str, np.ndarray]:
            found = {}
            for name, path in self.maps.get(arm, {}).items():
                with suppress(InputError):  # the other tool's folder is gone, say
                    found[name] = read(folder / path).data
            return {name: v for name, v in found.items() if v.shape == image.data.shape}

        return CaseVolumes(
            self.case,
            self.patient,
            self.role,
            self.modality,
            real=channel(self.real),
            arms={
                name: ArmVolumes(channel(made) if made else None, masks(found), layers(name))
                for name, (made, found) in self.arms.items()
            },
            truth=masks(self.label),
            affine=image.affine,
            spacing_mm=image.spacing_mm,
        )


class Orientation:
    """How voxel axes run in the patient, read from an affine; and the turn to the viewer's axes.

    The viewer's axes run towards the patient's left, back and feet, so that slices of them are
    pictures of the radiological convention without any further flip.
    """

    def __init__(self, affine: np.ndarray) -> None:
        """Read ``affine``, (4, 4) voxel (x, y, z) to mm, RAS+."""
        columns = affine[:3, :3]
        with np.errstate(all="ignore"):
            directions = columns / np.linalg.norm(columns, axis=0)
            self.known = bool(abs(np.linalg.det(directions)) > 1e-3)  # which NaN is not
        if not self.known:
            directions = np.eye(3)
        rows, self.axes = linear_sum_assignment(-np.abs(directions))
        """Per anatomical axis (right, front, head) the voxel axis (x, y, z) that runs along it."""
        along = directions[rows, self.axes]
        self.signs = np.sign(along)
        self.tilt = float(np.degrees(np.arccos(np.clip(np.abs(along).min(), 0, 1))))
        """Degrees at most between a voxel axis and the nearest anatomical one."""

    def letters(self, plane: str) -> tuple[str, str, str, str]:
        """What is at the left, right, top and bottom of ``plane``; "?" where it is unknown."""
        return LETTERS[plane] if self.known else ("?", "?", "?", "?")

    def turn(self, volume: np.ndarray) -> np.ndarray:
        """``volume`` (z, y, x) with axes that run towards left, back and feet; a view."""
        turned = np.transpose(np.transpose(volume), self.axes)
        return np.flip(turned, tuple(i for i, sign in enumerate(self.signs) if sign > 0))

    def turn_spacing(self, spacing_mm: tuple[float, float, float]) -> tuple[float, ...]:
        """Millimetres along the turned axes, from those along (z, y, x)."""
        return tuple(float(spacing_mm[2 - axis]) for axis in self.axes)

    def file_index(self, axis: int, index: int, length: int) -> int:
        """The index in the file of slice ``index`` of ``length`` along a turned axis."""
        return length - 1 - index if self.signs[axis] > 0 else index

    def file_axis(self, axis: int) -> str:
        """The letter of the file's voxel axis that a turned axis is: x, y or z."""
        return "xyz"[self.axes[axis]]
