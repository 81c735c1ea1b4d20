"""What one case holds and what in it would break a run."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from synth3d.cohort.audit.exchanges import Look, look_of
from synth3d.cohort.cases import Case
from synth3d.cohort.content import findings
from synth3d.cohort.labels import Reading, read_segmentation
from synth3d.cohort.naming import Modality
from synth3d.cohort.thickness import thick_axes
from synth3d.errors import InputError
from synth3d.images import (
    CORRECTED,
    MOST_HEAD,
    Grid,
    background_of,
    check_content,
    differs,
    grid,
    grid_misfits,
    read_label,
    read_unchecked,
    remedies,
)

SMALLEST_COVERAGE = 0.8
"""A sequence that shows less of the head (the union over the sequences) than this is named."""

MOST_TUMOUR_OUTSIDE = 0.02
"""A case is named when more of its labelled voxels than this lie outside the head."""

LEAST_BACKGROUND = 1 - MOST_HEAD
"""A volume is named when less of it than this is exactly zero."""

THICK = 2.0
"""A sequence is of thick slices from so many voxels on.

A spectrum shows less of smooth isotropic images, too: 1.3 of phantoms. Slices of three voxels,
interpolated, showed 2 or more in 48 of 48 phantoms and 16 of 21 sequences of patients, of four and
six voxels in all.
"""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: an error would break a run, a warning may spoil one.

    ``case`` is None when the cohort as a whole is meant.
    """

    severity: Severity
    case: str | None
    message: str


class CaseFacts:
    """One case, looked at; what is wrong with it becomes a :class:`Problem`, never an error.

    Attributes:
        grids: Of every file that can be read.
        reading: What is in the label and what it means; None without a readable label.
        top: Per readable modality the 99th percentile of its non-zero voxels, scanner units.
        coverage: The share of the head (union of non-zero voxels) that each modality with a
            zero background shows; empty when the images do not share a grid.
        thick: Per readable modality of thick slices the axes and how many voxels thick, ``THICK``
            or more (:func:`synth3d.cohort.thickness.thick_axes`).
        digests: Per readable modality a hash of its shape and voxels.
        look: What its sequences look like, to be held against other cases; None where they are too
            few, share no grid or contradict each other.
        problems: What is wrong with the case by itself.
    """

    def __init__(self, case: Case, labels: str | None = None) -> None:
        """Look; no voxels are kept. ``labels`` is a label scheme declared for all cases."""
        self.case, self.name = case, case.name
        self.reading: Reading | None = None
        self.grids: dict[Path, Grid] = {}
        self.top: dict[Modality, float] = {}
        self.digests: dict[Modality, str] = {}
        self.thick: dict[Modality, dict[str, float]] = {}
        self.look: Look | None = None
        self.problems: list[Problem] = []
        heads: dict[Modality, np.ndarray] = {}
        self._volumes: dict[str, np.ndarray] = {}
        for modality in case.images:
            if (head := self._look_at(modality)) is not None:
                heads[modality] = head
        label = self._label(labels)
        fits = self._fits()
        self.coverage = self._coverage(heads, label) if fits and heads else {}
        self._copies()
        self._forms()
        if fits and self._volumes and self.grid:
            stripped = self.case.naming != "ixi"
            found = findings(self._volumes, self.grid.spacing_mm, stripped)
            if not any(one.contradiction for one in found):
                self.look = look_of(self._volumes)
            for one in found:
                refused = "; complete fills no gap from it" if one.contradiction else ""
                self._report("warning", one.text + refused)
        del self._volumes

    @property
    def grid(self) -> Grid | None:
        """Of the first readable image; None when there is none."""
        paths = self.case.images.values()
        return next((self.grids[path] for path in paths if path in self.grids), None)

    def _report(self, severity: Severity, message: str) -> None:
        self.problems.append(Problem(severity, self.name, message))

    def _look_at(self, modality: Modality) -> np.ndarray | None:
        """Where its voxels are not zero; None where that says nothing of the head."""
        path = self.case.images[modality]
        try:
            volume = read_unchecked(path)
            self.grids[path] = grid(path)
            self.digests[modality] = _digest(volume.data)
            check_content(volume)
        except InputError as error:
            self._report("error", str(error))
            return None
        background = background_of(volume.data)
        head = differs(volume.data, background)
        if not head.any():
            self._report("error", f"{path} is {background:.6g} everywhere")
            return None
        self._volumes[modality] = volume.data
        self.top[modality] = float(np.percentile(volume.data[head], 99)) - background
        found = thick_axes(volume.data, head, self.grids[path].spacing_mm)
        if thick := {axis: voxels for axis, voxels in found.items() if voxels >= THICK}:
            self.thick[modality] = thick
        stripped = 1 - head.mean() >= LEAST_BACKGROUND
        if not stripped:
            self._report("warning", f"{path.name} has no zero background; is it skull-stripped?")
        if background:
            text = f"{path.name} has {background:.6g} as its background, not 0"
            self._report("warning", text)
        elif (lowest := float(volume.data.min())) < 0:
            self._report("warning", f"{path.name} has negative values, down to {lowest:.4g}")
        return head if stripped else None

    def _label(self, declared: str | None) -> np.ndarray | None:
        path = self.case.label
        if path is None:
            return None
        try:
            read_label(path)
            self.grids[path] = grid(path)
            volume, self.reading = read_segmentation(self.case, declared)
        except InputError as error:
            self._report("error", str(error))
            return None
        if not self.reading.has_tumour:
            self._report("warning", f"{path.name} is empty: no tumour")
        return volume.data

    def _fits(self) -> bool:
        """Whether all readable files share a grid; the misfits are reported.

        In IXI T1 lies on a grid of its own in every case: a run has to know, none need break.
        """
        if not self.grids:
            return False
        reference, misfits = grid_misfits(self.grids)
        if misfits and self.case.naming == "ixi":
            hint = "a run needs data.common_grid, as in the recipe ixi-2d"
            self._report("warning", "; ".join([*misfits, hint]))
        elif misfits:
            self._report("error", f"{'; '.join(misfits)}: {remedies(self.grids, reference)}")
        return not misfits

    def _forms(self) -> None:
        """Warnings for headers that other programs read otherwise than nnU-Net."""
        torn = {p.name: one.conflict_mm for p, one in self.grids.items() if one.conflict_mm}
        if torn:
            text = (
                f"qform and sform of {', '.join(torn)} disagree by up to {max(torn.values()):.1f} "
                f"mm; nnU-Net's reading is taken, and other programs take the other; {CORRECTED}"
            )
            self._report("warning", text)
        if lost := [path.name for path, one in self.grids.items() if one.uncoded]:
            text = (
                f"the headers of {', '.join(lost)} say nothing of orientation; nnU-Net assumes "
                f"LPS and so do we, but nobody can tell left from right; {CORRECTED}"
            )
            self._report("warning", text)

    def _coverage(
        self, heads: dict[Modality, np.ndarray], label: np.ndarray | None
    ) -> dict[Modality, float]:
        union = np.logical_or.reduce(list(heads.values()))
        coverage: dict[Modality, float] = {
            modality: float(head.sum() / union.sum()) for modality, head in heads.items()
        }
        for modality, share in coverage.items():
            if share < SMALLEST_COVERAGE:
                name = self.case.images[modality].name
                self._report("warning", f"{name} shows only {share:.0%} of the head")
        if label is not None and label.any():
            outside = float((label[~union] != 0).sum() / (label != 0).sum())
            if outside > MOST_TUMOUR_OUTSIDE:
                self._report("warning", f"{outside:.0%} of the label lies outside the head")
        return coverage

    def _copies(self) -> None:
        first: dict[str, Modality] = {}
        for modality, digest in self.digests.items():
            other = first.setdefault(digest, modality)
            if other != modality:
                self._report("warning", f"{other} and {modality} have the same voxels")


def _digest(data: np.ndarray) -> str:
    """A hash of shape and voxels, whatever header and compression the file has."""
    digest = hashlib.blake2b(repr(data.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()
