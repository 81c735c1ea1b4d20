"""``synth3d calibrate``: the errors of a run's pictures in patients that it has not learnt from."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synth3d.cohort import (
    Case,
    Modality,
    find_cases,
    parse_splits,
    patient_of,
    read_classes,
    read_splits,
    refuse_twins,
)
from synth3d.completion.calibration.record import (
    FORMAT,
    LEVELS,
    CalibrationRecord,
    TargetRecord,
    how_made,
)
from synth3d.completion.loading import forget_makers, maker_of
from synth3d.completion.made import Made
from synth3d.completion.request import CALIBRATION, CompleteRequest
from synth3d.errors import InputError
from synth3d.files import progress, write_json
from synth3d.images import check_same_grid, foreground, read
from synth3d.machine import pick_device
from synth3d.runs import find_run, names_in
from synth3d.scoring import Calibration, calibrate, fewest_patients

if TYPE_CHECKING:
    from synth3d.completion.makers import Maker

FOLDS = 10
"""In so many parts patients are left out to see what the calibration by the others covers."""

FLOOR = 0.01
"""Added to each spread, in widths of the scale: a fiftieth of what is between black and healthy."""

VOXELS = 10_000
"""Of each case, drawn at random: more would tell no more of a patient."""


@dataclass(frozen=True)
class CalibrateRequest:
    """What ``synth3d calibrate`` is asked for; the fields are its flags, as ``--help`` has them.

    Those that :class:`synth3d.completion.CompleteRequest` has as well mean the same.

    Attributes:
        run: One finished run or several, as they will complete.
        data: Cohort of cases that have what is to be made.
        splits: Whose ``part`` is measured; None takes ``cases``, or all.
        out: The file to write; None is ``calibration.json`` in the folder of the first run.
    """

    run: tuple[Path, ...]
    data: Path
    splits: Path | None = None
    part: str = "val"
    cases: tuple[str, ...] | None = None
    missing: tuple[str, ...] = ()
    mirror: str = ""
    draws: int = 1
    out: Path | None = None
    labels: str | None = None
    overlap: float | None = None
    precision: str | None = None
    batch: int | None = None
    seed: int = 0
    threads: int | None = None
    device: str = "auto"
    work: Path = Path("work")

    def __post_init__(self) -> None:
        given = (self.run,) if isinstance(self.run, str | Path) else self.run or ()
        object.__setattr__(self, "run", tuple(find_run(run, Path(self.work)) for run in given))
        object.__setattr__(self, "data", Path(self.data))
        if not self.run:
            raise InputError(f"calibrating needs a run (--run): {names_in(Path(self.work))}")
        if self.splits is not None and self.cases is not None:
            raise InputError("give --splits or --cases, not both")
        if self.part not in ("val", "test"):
            raise InputError(f"--part is val or test, got {self.part!r}: the rest was learnt from")

    @property
    def place(self) -> Path:
        """The file to write."""
        return Path(self.out) if self.out is not None else self.run[0] / CALIBRATION

    @property
    def completing(self) -> CompleteRequest:
        """The completing of which this is the rehearsal; it writes nothing."""
        shared = ("data", "run", "missing", "mirror", "draws", "labels", "overlap", "precision",
                  "batch", "seed", "threads")  # fmt: skip
        same = {name: getattr(self, name) for name in shared}
        device = pick_device(self.device)
        return CompleteRequest(**same, out=self.place.parent, device=device, uncertainty=True)


@dataclass(frozen=True, eq=False)
class Measured:
    """Voxels of one patient: |real − made| and spread in widths of the scale, and the tumour.

    All are lists of one length; ``tumour`` is all False where there is no label.
    """

    error: np.ndarray
    spread: np.ndarray
    tumour: np.ndarray


def calibrate_run(request: CalibrateRequest) -> CalibrationRecord:
    """Measure the errors, write the file and say what it covers; what was written.

    Raises:
        InputError: The run, the cases or the place cannot be used; cases that the run has learnt
            from; or too few patients.
    """
    completing = request.completing
    try:
        maker = maker_of(completing)
        print(maker.title)
        made = completing.hidden or maker.targets
        cases = _cases(request, maker, made)
        found: dict[Modality, dict[str, list[Measured]]] = {target: {} for target in made}
        shown = {tuple(m for m in maker.sources if m in _readable(maker, c, made).images)
                 for c in cases}  # fmt: skip
        if len(shown) > 1:
            told = " and ".join("+".join(names) for names in sorted(shown))
            raise InputError(f"the cases show the run different sequences ({told}); take --cases "
                             "that show the same")  # fmt: skip
        for case in progress(cases, "measuring errors", unit="case"):
            for target, one in _measured(case, maker, made, completing).items():
                found[target].setdefault(case.patient, []).append(one)
        targets = {
            target: _calibrated([_joined(some) for some in patients.values()])
            for target, patients in found.items()
        }
        record = CalibrationRecord(
            FORMAT, maker.name, how_made(maker, completing.members), shown.pop(), LEVELS,
            tuple(case.name for case in cases), len({case.patient for case in cases}),
            {**targets},
        )  # fmt: skip
    finally:
        forget_makers()
    write_json(request.place, asdict(record))
    print("\n".join(_told(record, request.place)))
    return record


def _readable(maker: "Maker", case: Case, made: Sequence[Modality]) -> Case:
    return maker.readable(case, made)


def _cases(request: CalibrateRequest, maker: "Maker", made: Sequence[Modality]) -> list[Case]:
    """The cases to measure; refuses those that cannot be, and too few patients."""
    names = request.cases
    if request.splits is not None:
        names = getattr(parse_splits(request.splits), request.part)
        if not names:
            raise InputError(f"{request.splits} lists no case under {request.part}")
        everyone = find_cases(request.data)
        refuse_twins(everyone, read_splits(request.splits, everyone))
    cases = find_cases(request.data, names)
    problems = []
    for case in cases:
        if lacking := case.missing(made):
            problems.append(f"case {case.name} has no {'+'.join(lacking)}, the truth")
        elif trouble := maker.trouble(_readable(maker, case, made), made):
            problems.append(f"case {case.name}: {'; '.join(trouble)}")
    learnt = {name for run in request.run for name in _learnt(run)}
    owners = {patient_of(name) for name in learnt}
    problems += [
        f"case {c.name} was learnt from" if c.name in learnt
        else f"case {c.name} is of a patient who was learnt from, {c.patient}"
        for c in cases if c.name in learnt or c.patient in owners
    ]  # fmt: skip
    patients = len({case.patient for case in cases})
    if patients < (need := fewest_patients(max(LEVELS))):
        problems.append(
            f"intervals of {max(LEVELS):.0%} need {need} patients at the least, and ten times as "
            f"many to be narrow, got {patients}; calibrate on more that the run has not learnt from"
        )
    if problems:
        raise InputError("; ".join(problems))
    return cases


def _learnt(run: Path) -> set[str]:
    """Names of the cases that ``run`` and those that it began from learnt from, as far as it says.

    An exported one says nothing.
    """
    if not (run / "cohort.json").is_file():
        print(f"note: {run} does not say which cases it learnt from; that none of these is among "
              "them is for you to know", file=sys.stderr)  # fmt: skip
        return set()
    from synth3d.training import seen_before

    return {*seen_before(run)["train"]}


def _measured(
    case: Case, maker: "Maker", made: Sequence[Modality], request: CompleteRequest
) -> Mapping[Modality, Measured]:
    """What the pictures of one case are wrong by, as files of it would be."""
    readable = _readable(maker, case, made)
    tumour = None if case.label is None else read_classes(case, request.labels)[0] > 0
    found, intensity = {}, maker.config.data.intensity
    for target, one in maker.make(readable, made, request.members).items():
        check_same_grid([one.like, case.images[target]])
        real = read(case.images[target]).data
        found[target] = errors_of(one, real, tumour, case.name, intensity)
    return found


def errors_of(
    made: Made, real: np.ndarray, tumour: np.ndarray | None, name: str, intensity: str
) -> Measured:
    """The errors of ``made`` against the scan ``real``, where that is not background.

    The scan is brought to the picture's black and median in the brain, by the convention
    ``intensity`` of ``DataConfig``: brightness is arbitrary, by a factor of a hundred within one
    cohort, and an interval that covered it would tell nothing of what was made.

    Args:
        made: With a brain and a spread.
        real: (D, H, W) in units of its own.
        tumour: (D, H, W) bool, or None.
        name: Of the case, by which ``VOXELS`` are drawn.
        intensity: As said.

    Raises:
        InputError: All of the brain is background in ``real``.
    """
    from synth3d.data import fit_scale

    assert made.brain is not None
    assert made.spread is not None
    inside, scale = made.brain & foreground(real), made.scale
    at = np.flatnonzero(inside)
    if not len(at):
        raise InputError(f"case {name}: its brain is background in the acquired image")
    draws = np.random.default_rng([*name.encode()])
    at = draws.choice(at, min(VOXELS, len(at)), replace=False)
    scan = scale.invert(fit_scale(real, inside, intensity).apply(real, inside), inside)
    error = np.abs(made.data.ravel()[at].astype(np.float64) - scan.ravel()[at])
    ill = np.zeros(len(at), bool) if tumour is None else tumour.ravel()[at]
    return Measured(error / scale.width, made.spread.ravel()[at] / scale.width, ill)


def _joined(parts: Sequence[Measured]) -> Measured:
    names = ("error", "spread", "tumour")
    return Measured(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))


def _calibrated(patients: Sequence[Measured]) -> TargetRecord:
    """What all tell, and what a calibration without them covers of each."""

    def by(some: Sequence[Measured]) -> Calibration:
        errors, spreads = [p.error for p in some], [p.spread for p in some]
        return calibrate(errors, spreads, LEVELS, FLOOR, [p.tumour for p in some])

    whole = by(patients)
    shares: dict[str, dict[str, list[float]]] = {
        str(level): {"brain": [], "tumour": []} for level in LEVELS
    }
    parts = min(FOLDS, len(patients))
    for part in range(parts):
        kept = [one for number, one in enumerate(patients) if number % parts != part]
        if len(kept) < fewest_patients(max(LEVELS)):
            break
        others = by(kept)
        for one in patients[part::parts]:
            for level in LEVELS:
                inside = one.error <= others.half_width(one.spread, level)
                shares[str(level)]["brain"].append(float(inside.mean()))
                if one.tumour.any():
                    shares[str(level)]["tumour"].append(float(inside[one.tumour].mean()))
    coverage: dict[str, dict[str, float | None]] = {
        level: {region: round(float(np.mean(v)), 4) if v else None for region, v in found.items()}
        for level, found in shares.items()
    }
    return TargetRecord(whole.floor, whole.powers, whole.quantiles, coverage)


def _told(record: CalibrationRecord, place: Path) -> list[str]:
    """What was found, in lines."""
    lines = [f"{place}: {record.patients} patients, {'+'.join(record.shown)} shown"]
    for target, one in record.targets.items():
        for level, found in one.coverage.items():
            told = ", ".join(
                f"{share:.1%} of the {region}" for region, share in found.items() if share
            )
            told = told or "one patient more is needed to say how much"
            lines.append(f"  {target}: intervals of {float(level):.0%} cover {told}")
    return lines
