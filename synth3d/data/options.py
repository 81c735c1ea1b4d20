"""What is drawn from a case, and which sequence is put out of place or made poor."""

import math
from dataclasses import dataclass

from synth3d.cohort import parse_modality, parse_scheme
from synth3d.data.task import Task
from synth3d.images import PLANES, PROFILES
from synth3d.settings import require

INTENSITIES = ("median", "paper")

RATIOS = (1, 2, 4, 8, 16, 32)
"""How much larger a degraded sequence's voxels can be along an axis."""


@dataclass(frozen=True)
class DataConfig:
    """What is drawn from a case: patches, or slices of a plane, and their augmentation.

    ``patch`` and ``overlap`` are voxels, (z, y, x) for ``dim`` 3 and (row, column) for ``dim`` 2.
    ``intensity`` is ``median`` or ``paper`` (0 to p99.5 of the volume, clipped;
    ``synth3d.images.intensity``). ``common_grid`` names the source on whose grid the others are
    brought by their headers; empty, as in mode ``any``, all must share one. ``labels`` is the label
    scheme of all cases; empty, each case tells. ``misregistration`` moves all sources
    together against the target, up to so many voxels, in training only: an augmentation for
    cohorts whose target is a little off. Moving one sequence to see what it costs is
    ``MisalignConfig``. ``workers`` draw in the background; two and more see other patches than
    none or one.

    For ``dim`` 2 alone: ``plane``; ``slices_per_case``, so many around the middle of the brain's
    extent are learnt from (0: all that hold brain); ``slice_size``, the (row, column) size to which
    whole slices are resampled first (empty: their own).
    """

    patch: tuple[int, ...] = (48, 48, 48)
    overlap: tuple[int, ...] = (12, 12, 12)
    batch: int = 2
    patches_per_case: int = 4
    queue: int = 24
    tumour_chance: float = 0.3
    source_dropout: float = 0.1
    flip: bool = True
    misregistration: float = 0.0
    validation_cases: int = 4
    workers: int = 0
    intensity: str = "median"
    common_grid: str = ""
    labels: str = ""
    plane: str = "axial"
    slices_per_case: int = 0
    slice_size: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.common_grid:
            object.__setattr__(self, "common_grid", parse_modality(self.common_grid))
        if self.labels:
            object.__setattr__(self, "labels", parse_scheme(self.labels).name)
        for key, claim, rule in (
            ("batch", self.batch >= 1, "at least 1"),
            ("batch", self.batch <= 2**16, "at most 65536"),
            ("queue", self.queue <= 2**20, "at most 1048576"),
            ("workers", self.workers >= 0, "≥ 0"),
            ("workers", self.workers <= 1024, "at most 1024"),
            ("intensity", self.intensity in INTENSITIES, " or ".join(INTENSITIES)),
            ("plane", self.plane in PLANES, " or ".join(PLANES)),
            ("slices_per_case", self.slices_per_case >= 0, "≥ 0"),
            ("source_dropout", 0 <= self.source_dropout < 1, "in [0, 1)"),
            ("tumour_chance", 0 <= self.tumour_chance <= 1, "in [0, 1]"),
            ("misregistration", self.misregistration >= 0, "≥ 0 voxels"),
            ("patches_per_case", 1 <= self.patches_per_case <= 2**20, "1 to 1048576"),
            ("patch", max(self.patch, default=0) <= 4096, "at most 4096 a side"),
        ):
            require(claim, f"data.{key}", rule, getattr(self, key))
        whole = len(self.slice_size) in (0, 2) and all(0 < n <= 4096 for n in self.slice_size)
        require(whole, "data.slice_size", "two positive numbers or none", self.slice_size)
        rule = f"as many numbers as data.patch ({len(self.patch)})"
        require(len(self.overlap) == len(self.patch), "data.overlap", rule, self.overlap)
        axes = "zyx"[-len(self.patch) :]
        for axis, size, overlap in zip(axes, self.patch, self.overlap, strict=True):
            fits = 0 <= overlap < size and overlap % 2 == 0
            require(fits, f"data.overlap[{axis}]", f"even and in [0, {size})", overlap)

    def check_fits(self, task: Task) -> None:
        """Refuse a patch of other axes, options of slices for volumes, or an unknown source.

        And a common grid in mode ``any``: which grid that is depends on what else a case has.
        """
        rule = "left out where mode is any: the sequence whose grid it is may be the one that lacks"
        free = not self.common_grid or task.mode == "fixed"
        require(free, "data.common_grid", rule, self.common_grid)
        rule = "another sequence than the one that is restored, whose own grid is coarse"
        require(self.common_grid not in task.poor, "data.common_grid", rule, self.common_grid)
        rule = "0 where a sequence is restored, which would be moved against itself"
        still = not (task.poor and self.misregistration)
        require(still, "data.misregistration", rule, self.misregistration)
        for at, (size, by) in enumerate(zip(self.patch, task.ratio, strict=False)):
            rule = f"a multiple of {by}, as degrade.ratio has it"
            require(size % by == 0, f"data.patch[{'zyx'[-task.dim :][at]}]", rule, size)
        _require_source("data.common_grid", self.common_grid, task)
        for key in ("slices_per_case", "slice_size") if task.dim == 3 else ():
            value = getattr(self, key)
            require(not value, f"data.{key}", "left out where dim is 3", value)
        sides = len(self.patch) == task.dim
        require(sides, "data.patch", f"{task.dim} numbers, as dim is {task.dim}", self.patch)


@dataclass(frozen=True)
class MisalignConfig:
    """One sequence that lies elsewhere than all else, as an experiment (``synth3d.data.misalign``).

    Only ``source`` moves, which may be a target; the others, the brain mask and the label stay.
    Lengths are voxels of what the network sees. ``draw`` is ``uniform_box`` (each component up to
    ``shift``, ``rotate`` or ``elastic``, evenly) or ``fixed_magnitude`` (exactly that far, some
    way). ``when`` is ``train_and_test`` or ``test_only`` for a source, drawn anew whenever a case
    is read. A target moves in ``train`` alone: once and for all in each case, as a pair out of
    register stays so, and what is made is judged against the target where it lies. Completing a
    cohort never moves anything.
    """

    source: str = ""
    shift: float = 0.0
    rotate: float = 0.0
    elastic: float = 0.0
    draw: str = "uniform_box"
    when: str = "train_and_test"

    def __post_init__(self) -> None:
        if self.source:
            object.__setattr__(self, "source", parse_modality(self.source))
        for key in ("shift", "rotate", "elastic"):
            value = getattr(self, key)
            require(0 <= value < math.inf, f"misalign.{key}", "finite and ≥ 0", value)
        known = self.draw in ("uniform_box", "fixed_magnitude")
        require(known, "misalign.draw", "uniform_box or fixed_magnitude", self.draw)
        known = self.when in ("train_and_test", "test_only", "train")
        require(known, "misalign.when", "train_and_test, test_only or train", self.when)
        named = bool(self.source) or not (self.shift or self.rotate or self.elastic)
        rule = "one of the sources or targets, to say what moves"
        require(named, "misalign.source", rule, self.source)

    @property
    def active(self) -> bool:
        """Whether anything moves at all."""
        return bool(self.source) and bool(self.shift or self.rotate or self.elastic)

    @property
    def trained(self) -> bool:
        """Whether anything moves in training."""
        return self.active and self.when != "test_only"

    @property
    def tested(self) -> bool:
        """Whether anything moves in validation and test."""
        return self.active and self.when != "train"

    def check_fits(self, task: Task) -> None:
        """Refuse a sequence that ``task`` has not, and a target that would move in a test."""
        if not self.source:
            return
        rule = "left out where mode is any: what moved would be made as well"
        require(task.mode == "fixed", "misalign.source", rule, self.source)
        names = [*task.sources, *task.targets]
        rule = f"one of the sources or targets {names}, or empty"
        require(self.source in names, "misalign.source", rule, self.source)
        target = self.source in task.targets
        rule = "train where a target moves: what is made is judged against the target as it lies"
        require(not target or self.when == "train", "misalign.when", rule, self.when)
        rule = "train_and_test or test_only where a source moves"
        require(target or self.when != "train", "misalign.when", rule, self.when)
        rule = "another sequence than the one that is restored, which would be moved against itself"
        require(self.source not in task.poor, "misalign.source", rule, self.source)


@dataclass(frozen=True)
class DegradeConfig:
    """One source of thick slices (``synth3d.data.degrade``).

    Only ``source`` gets poorer; the other sources, the target and the brain mask stay. Where it is
    the last of the sources and a target as well, the run learns to restore it
    (:attr:`synth3d.data.Task.poor`); else this is an experiment. ``ratio`` is
    how much larger the voxels of the scan are, (z, y, x), each 1, 2, 4, 8, 16 or 32; ``profile`` is
    ``kspace`` or ``slices``; ``noise`` is that of the coarse image's two channels, in the network's
    scale, in which healthy tissue is about 1/2. ``when`` is ``train_and_test`` or ``test_only``;
    completing a cohort never degrades anything. Cases whose own sequence is half as thick already
    as is to be restored are left out, unless ``keep_thick``: they would be taken for the truth.
    """

    source: str = ""
    ratio: tuple[int, ...] = (1, 1, 1)
    profile: str = "kspace"
    noise: float = 0.0
    when: str = "train_and_test"
    keep_thick: bool = False

    def __post_init__(self) -> None:
        if self.source:
            object.__setattr__(self, "source", parse_modality(self.source))
        known = len(self.ratio) == 3 and set(self.ratio) <= set(RATIOS)
        rule = f"three of {', '.join(map(str, RATIOS))}, for (z, y, x)"
        require(known, "degrade.ratio", rule, self.ratio)
        known = self.profile in PROFILES
        require(known, "degrade.profile", " or ".join(PROFILES), self.profile)
        require(0 <= self.noise < math.inf, "degrade.noise", "finite and ≥ 0", self.noise)
        known = self.when in ("train_and_test", "test_only")
        require(known, "degrade.when", "train_and_test or test_only", self.when)
        named = bool(self.source) or not (max(self.ratio) > 1 or self.noise)
        require(named, "degrade.source", "one of the sources, to say what is poor", self.source)

    @property
    def active(self) -> bool:
        """Whether anything gets poorer at all."""
        return bool(self.source) and (max(self.ratio) > 1 or self.noise > 0)

    def check_fits(self, task: Task, data: DataConfig) -> None:
        """Refuse a source that ``task`` has not, and what slices cannot show."""
        rule = "left out where mode is any: what is poor would be made as well"
        require(not self.source or task.mode == "fixed", "degrade.source", rule, self.source)
        _require_source("degrade.source", self.source, task)
        rule = "train_and_test where the sequence is restored, or training would show the answer"
        taught = not task.poor or self.when == "train_and_test"
        require(taught, "degrade.when", rule, self.when)
        if task.dim == 2 and self.active:
            rule = "1 along z where dim is 2: slices get coarser by row and column, (1, y, x)"
            require(self.ratio[0] == 1, "degrade.ratio", rule, self.ratio)
            rule = "left out where a source is degraded: ratios are of the case's own voxels"
            require(not data.slice_size, "data.slice_size", rule, data.slice_size)


def _require_source(key: str, name: str, task: Task) -> None:
    rule = f"one of the sources {list(task.sources)}, or empty"
    require(not name or name in task.sources, key, rule, name)
