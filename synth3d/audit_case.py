"""What one case holds and what is wrong with it by itself; each file is read once."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from synth3d import volumes
from synth3d.cases import Case, Modality, label_scheme
from synth3d.files import InputError
from synth3d.grids import Grid, grid_misfits
from synth3d.intensity import MOST_HEAD

SMALLEST_COVERAGE = 0.8
"""A sequence that shows less of the head (the union over the sequences) than this is named."""

MOST_TUMOUR_OUTSIDE = 0.02
"""A case is named when more of its labelled voxels than this lie outside the head."""

LEAST_BACKGROUND = 1 - MOST_HEAD
"""A volume is named when less of it than this is exactly zero."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: an error would break a run, a warning may spoil one.

    ``case`` is None when the cohort as a whole is meant.
    """

    severity: Severity
    case: str | None
    message: str


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What one case holds.

    Attributes:
        name: Of the case.
        patient: The person.
        sequences: Modalities that have a file.
        has_label: Whether there is a segmentation.
        grid: Of the first readable image; None when there is none.
        label_values: The integers in the label, ascending; None without a readable label.
        top: Per readable modality the 99th percentile of its non-zero voxels, scanner units.
        coverage: The share of the head (union of non-zero voxels) that each modality with a
            zero background shows; empty when the images do not share a grid.
        digests: Per readable modality a hash of its shape and voxels.
        problems: What is wrong with the case by itself.
    """

    name: str
    patient: str
    sequences: tuple[Modality, ...]
    has_label: bool
    grid: Grid | None
    label_values: tuple[int, ...] | None
    top: dict[Modality, float]
    coverage: dict[Modality, float]
    digests: dict[Modality, str]
    problems: tuple[Problem, ...]


def examine(case: Case) -> CaseFacts:
    """The facts of ``case``; what is wrong with it becomes a :class:`Problem`, never an error."""
    return _Examination(case).facts()


@dataclass
class _Examination:
    """One case being looked at; voxels are kept only as masks."""

    case: Case
    problems: list[Problem] = field(default_factory=list)
    grids: dict[Path, Grid] = field(default_factory=dict)
    heads: dict[Modality, np.ndarray] = field(default_factory=dict)
    top: dict[Modality, float] = field(default_factory=dict)
    digests: dict[Modality, str] = field(default_factory=dict)

    def facts(self) -> CaseFacts:
        for modality in self.case.images:
            self._look_at(modality)
        grid = next(iter(self.grids.values()), None)
        label = self._label()
        coverage = self._coverage(label) if self._fits() else {}
        self._copies()
        values = None if label is None else tuple(int(value) for value in np.unique(label))
        return CaseFacts(
            name=self.case.name,
            patient=self.case.patient,
            sequences=tuple(self.case.images),
            has_label=self.case.label is not None,
            grid=grid,
            label_values=values,
            top=self.top,
            coverage=coverage,
            digests=self.digests,
            problems=tuple(self.problems),
        )

    def _report(self, severity: Severity, message: str) -> None:
        self.problems.append(Problem(severity, self.case.name, message))

    def _look_at(self, modality: Modality) -> None:
        path = self.case.images[modality]
        try:
            volume = volumes.read_unchecked(path)
        except InputError as error:
            self._report("error", str(error))
            return
        self.grids[path] = volume.grid
        self.digests[modality] = _digest(volume.data)
        try:
            volumes.check_content(volume)
        except InputError as error:
            self._report("error", str(error))
            return
        head = volume.data != 0
        if 1 - head.mean() < LEAST_BACKGROUND:
            self._report("warning", f"{path.name} has no zero background; is it skull-stripped?")
        else:
            self.heads[modality] = head
        if (lowest := float(volume.data.min())) < 0:
            self._report("warning", f"{path.name} has negative values, down to {lowest:.4g}")
        self.top[modality] = float(np.percentile(volume.data[head], 99))

    def _label(self) -> np.ndarray | None:
        path = self.case.label
        if path is None:
            return None
        try:
            volume = volumes.read_label(path)
            self.grids[path] = volume.grid
            label_scheme(np.unique(volume.data))
        except InputError as error:
            self._report("error", str(error) if str(path) in str(error) else f"{path}: {error}")
            return None
        if not volume.data.any():
            self._report("warning", f"{path.name} is empty: no tumour")
        return volume.data

    def _fits(self) -> bool:
        """Whether all readable files share a grid; the misfits are reported.

        In IXI T1 lies on a grid of its own in every case: a run has to know, none need break.
        """
        if not self.grids:
            return False
        _, misfits = grid_misfits(self.grids)
        if misfits and self.case.naming == "ixi":
            hint = "a run needs data.common_grid, as in the recipe ixi-2d"
            self._report("warning", "; ".join([*misfits, hint]))
        elif misfits:
            self._report("error", "; ".join(misfits))
        return not misfits

    def _coverage(self, label: np.ndarray | None) -> dict[Modality, float]:
        if not self.heads:
            return {}
        union = np.logical_or.reduce(list(self.heads.values()))
        size = int(union.sum())
        coverage: dict[Modality, float] = {
            modality: int(head.sum()) / size for modality, head in self.heads.items()
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
