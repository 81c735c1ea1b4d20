"""A sequence with thick slices: how it is asked for, its scans, and ways to interpolate them.

The ratio is applied to each case's own file, in scanner units and on its own grid; the file itself
is never changed. What a scan is, :mod:`synth3d.images.coarse` says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seg_eval.arms.synthesisers import SynthesisRun, completed_file
from synth3d.cohort import (
    MODALITIES,
    Case,
    Modality,
    parse_modality,
    thickness_in_words,
    too_thick,
)
from synth3d.errors import InputError
from synth3d.files import link_or_copy
from synth3d.images import (
    PROFILES,
    Grid,
    coarse,
    coarse_grid,
    foreground,
    grid,
    read,
    resample_within,
    write_new,
)

Resample = Callable[[np.ndarray, Sequence[float], Sequence[int]], np.ndarray]
"""A volume (D, H, W), its voxel sides in mm and another shape to the same field of view in it."""


@dataclass(frozen=True)
class Degradation:
    """Thick slices of one sequence.

    Attributes:
        modality: Which.
        ratio: How much longer its voxels get, (z, y, x).
        profile: ``kspace`` or ``slices``, as ``[degrade]`` of a recipe has it.
    """

    modality: Modality
    ratio: tuple[int, ...]
    profile: str = "kspace"

    @property
    def text(self) -> str:
        """As ``--degraded`` takes it, ``t2f=1,1,4``."""
        return f"{self.modality}={','.join(map(str, self.ratio))}"

    @property
    def stem(self) -> str:
        """As part of a file name, ``t2f-1x1x4``."""
        ratio = "x".join(map(str, self.ratio))
        return f"{self.modality}-{ratio}" + ("" if self.profile == "kspace" else f"-{self.profile}")

    def is_learnt_by(self, run: SynthesisRun, case: Case) -> bool:
        """Whether ``run`` has learned to restore these very slices, in voxels as of ``case``."""
        there = run.ratio_on(grid(next(iter(case.images.values()))))
        return run.can_restore(self.modality) and (there, run.profile) == (self.ratio, self.profile)

    def describe(self) -> dict[str, Any]:
        """Plain values for ``config.json``."""
        return {"ratio": list(self.ratio), "profile": self.profile}

    def thick_already(self, cases: Sequence[Case]) -> dict[str, str]:
        """Those of ``cases`` whose own file is no truth for these slices, and how thick it is."""
        found = {}
        for case in cases:
            volume = read(case.images[self.modality])
            if thick := too_thick(volume.data, foreground(volume.data), self.ratio):
                found[case.name] = thickness_in_words(thick)
        return found

    def check_fits(self, cases: Sequence[Case]) -> None:
        """Refuse voxels that are longer than a side of one of ``cases``; headers are read alone.

        Raises:
            InputError: The first case and axis for which it is so.
        """
        for case in cases:
            sides = grid(case.images[self.modality]).shape_zyx
            for axis, by, side in zip("zyx", self.ratio, sides, strict=True):
                if by > side:
                    raise InputError(
                        f"--degraded {self.text} asks for voxels of {by} along {axis}, where case "
                        f"{case.name} has {side}; take a smaller ratio"
                    )


def parse_degraded(text: str, profile: str = "kspace") -> Degradation:
    """``flair=1,1,4`` as given to ``--degraded``, and ``--profile``."""
    name, equals, numbers = text.partition("=")
    words = numbers.split(",")
    whole = [int(word) for word in words if word.strip().isdecimal() and len(word) < 6]
    if not equals or len(words) != 3 or len(whole) != 3 or min(whole) < 1 or max(whole) == 1:
        raise InputError(
            f"--degraded {text} says no ratio; expected SEQUENCE=z,y,x with three whole numbers "
            "from 1, one of them larger, as in flair=1,1,4"
        )
    modality = parse_modality(name)
    if modality not in MODALITIES:
        raise InputError(f"the segmenter sees {', '.join(MODALITIES)}; {modality} cannot be poor")
    if profile not in PROFILES:
        raise InputError(f"--profile is {' or '.join(PROFILES)}, got {profile!r}")
    return Degradation(modality, tuple(whole), profile)


class PoorScans:
    """Scans of cases as a degradation has them, each made once, in a ``folder`` of their own."""

    def __init__(self, folder: Path, degradation: Degradation, resample: Resample) -> None:
        """Nothing is written yet; ``resample`` is nnU-Net's."""
        self.folder, self.degradation, self.resample = folder, degradation, resample

    def scan(self, case: Case) -> Path:
        """The file of a case's scan, on a coarse grid of its own, made now if it is not there."""
        how, modality = self.degradation, self.degradation.modality
        path = completed_file(self.folder, case, (modality,), modality)
        if not path.is_file():
            fine = read(case.images[modality])
            found = coarse(fine.data, how.ratio, how.profile)
            write_new(path, found, coarse_grid(fine.grid, how.ratio).affine, np.float32)
        return path

    def trilinear(self, case: Case) -> np.ndarray:
        """A case's scan on the case's own grid, (D, H, W) float32 in scanner units."""
        return self.on_grid(case, "trilinear")

    def on_grid(self, case: Case, kind: str) -> np.ndarray:
        """The same by one of :data:`INTERPOLATIONS`."""
        target = grid(case.images[self.degradation.modality])
        return INTERPOLATIONS[kind](self, self.scan(case), target)

    def cohort(self, cases: Sequence[Case]) -> Path:
        """A cohort folder in which ``cases`` have their scans instead of the real sequence."""
        modality = self.degradation.modality
        for case in cases:
            self.scan(case)
            for name, path in case.images.items():
                target = completed_file(self.folder, case, (), name)
                if name != modality and not target.is_file():
                    link_or_copy(path, target)
        return self.folder


Interpolation = Callable[[PoorScans, Path, Grid], np.ndarray]

INTERPOLATIONS: dict[str, Interpolation] = {
    "degraded": lambda scans, path, target: scans.resample(
        (volume := read(path)).data, volume.spacing_mm, target.shape_zyx
    ),
    "trilinear": lambda scans, path, target: resample_within(read(path), target).data,
    "spline": lambda scans, path, target: resample_within(read(path), target, order=3).data,
}
"""Kind of arm to what brings a scan to a grid, (D, H, W), for kinds that only interpolate."""
