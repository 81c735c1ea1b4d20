"""``calibration.json``: how far the intervals of a run's pictures reach, and for which pictures.

It lies in the run's folder, of whose seal it is no part, or where the user wants it. What it was
measured of stands in it: which runs, mirror images and draws, from which sequences. Pictures that
come about in another way have other errors, and are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synth3d.cohort import Modality
from synth3d.completion.made import Made, Members
from synth3d.completion.request import CompleteRequest
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.scoring import Calibration
from synth3d.settings import read_as

if TYPE_CHECKING:
    from synth3d.completion.makers import Maker

FORMAT = 1
LEVELS = (0.8, 0.9)
WRITTEN = 0.9
"""The level whose half-width is written as a map."""

MEANING = (
    "a voxel drawn at random in the brain of a new patient, from where the patients of the "
    "calibration come from, lies within picture ± half-width with at least this probability; the "
    "real scan is taken as bright as the picture, since scanner units are arbitrary: both have the "
    "same black (p0.5) and median in the brain; voxels of one patient hit or miss together"
)
ROUNDING = ("precision", "tf32")
"""What only rounds: no other picture for that."""


@dataclass(frozen=True)
class TargetRecord:
    """Of one sequence: a :class:`Calibration` in widths of its scale, and what it covered.

    ``coverage`` is, by level and region, the mean over patients of the share of voxels that are
    covered, each patient by a calibration without it; None where that is not known.
    """

    floor: float
    powers: tuple[float, ...]
    quantiles: tuple[float, ...]
    coverage: dict[str, dict[str, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class CalibrationRecord:
    """What ``calibration.json`` says.

    Attributes:
        format: ``FORMAT``.
        made_by: Names of the runs.
        how: What decides the pictures, see :func:`how_made`.
        shown: The sequences that they were made from.
        levels: Of the intervals.
        cases: Whose errors were measured.
        patients: How many patients these are of.
        targets: By sequence.
        meaning: ``MEANING``.
    """

    format: int
    made_by: str
    how: dict[str, Any]
    shown: tuple[str, ...]
    levels: tuple[float, ...]
    cases: tuple[str, ...]
    patients: int
    targets: dict[str, TargetRecord]
    meaning: str = MEANING

    def calibration(self, target: Modality) -> Calibration:
        """Of ``target``, which is one of ``targets``."""
        one = self.targets[target]
        return Calibration(self.levels, one.floor, one.powers, one.quantiles)

    def refuse_others(self, maker: "Maker", members: Members) -> None:
        """Raise an InputError unless it was measured of pictures that are made in this way."""
        asked = how_made(maker, members)
        if self.how != asked:
            keys = sorted(k for k in asked | self.how if asked.get(k) != self.how.get(k))
            raise InputError(
                f"the calibration of {self.made_by} was measured of other pictures than these, "
                f"which differ in {', '.join(keys)}; run synth3d calibrate with the flags of this "
                "command, or complete with those that it had"
            )

    def trouble(self, shown: Sequence[Modality], make: Sequence[Modality]) -> list[str]:
        """Why it says nothing of a case that shows and wants these, a clause; empty if it does."""
        if lacking := [name for name in make if name not in self.targets]:
            return [f"wants {'+'.join(lacking)}, which was not calibrated: calibrate it as well"]
        if make and {*shown} != {*self.shown}:
            return [
                f"shows the run {'+'.join(shown)}, and it was calibrated on cases that show "
                f"{'+'.join(self.shown)}; calibrate it for such cases, or leave --uncertainty out"
            ]
        return []

    def half_width(self, made: Made, target: Modality, level: float = WRITTEN) -> np.ndarray:
        """(D, H, W) float32 in scanner units: how far the interval reaches; 0 outside the brain.

        ``made`` has a brain and a spread.
        """
        assert made.spread is not None
        assert made.brain is not None
        wide = self.calibration(target).half_width(made.spread / made.scale.width, level)
        return np.where(made.brain, wide * made.scale.width, 0).astype(np.float32)


def how_made(maker: "Maker", members: Members) -> dict[str, Any]:
    """What decides a maker's pictures of these members, but for rounding; plain JSON values."""
    mine = _without_rounding(maker.identity)
    mine |= {"mirror": members.mirror, "draws": members.draws}
    return mine | ({"seed": members.seed} if maker.random else {})


def _without_rounding(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_rounding(v) for k, v in value.items() if k not in ROUNDING}
    return [_without_rounding(v) for v in value] if isinstance(value, (list, tuple)) else value


def read_record(path: Path) -> CalibrationRecord:
    """What the file ``path`` says.

    Raises:
        InputError: It is not there, of another version, or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} is no calibration; make one with synth3d calibrate")
    record = read_as(CalibrationRecord, path, "calibrate the run again")
    try:
        if record.format != FORMAT:
            raise ValueError(f"it has format {record.format}, this version reads {FORMAT}")
        for target in record.targets:
            record.calibration(target)  # type: ignore[arg-type]
        if WRITTEN not in record.levels:
            raise ValueError(f"it has no level {WRITTEN}")
    except ValueError as error:
        raise InputError(f"{path} cannot be used: {error}; calibrate the run again") from error
    return record


def calibration_of(request: CompleteRequest) -> tuple[CalibrationRecord, str] | None:
    """What ``request`` tells intervals by, and the hash of its file; None without one.

    Raises:
        InputError: As :func:`read_record`.
    """
    path = request.calibration
    return None if path is None else (read_record(path), sha256(path))
