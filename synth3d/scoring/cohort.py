"""Score the images of a cohort against the real ones, case by case: ``synth3d score``.

The folders may come from any tool (:mod:`synth3d.scoring.pairs` finds the pairs). All names and
grids are checked before anything is scored, and everything wrong with them is told at once. A
table is written when every case could be scored, never of a part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from synth3d.cohort import (
    Reading,
    contradictions,
    notes_of,
    parse_modality,
    parse_scheme,
    parse_splits,
    read_classes,
    refuse_twins,
    shared_patients,
    survey_cohort,
)
from synth3d.errors import InputError
from synth3d.files import progress
from synth3d.images import (
    FOREIGN,
    Scale,
    check_same_grid,
    foreground,
    read,
    read_unchecked,
)
from synth3d.scoring.case import score_case
from synth3d.scoring.conventions import CONVENTIONS, Convention
from synth3d.scoring.pairs import Pair, Pairing, find_pairs

if TYPE_CHECKING:
    from synth3d.scoring.lpips import PerceptualDistance

MATCHED = "-matched"


@dataclass(frozen=True)
class ScoreRequest:
    """What is scored and how; the fields are the flags of ``synth3d score``, see its ``--help``.

    Attributes:
        modality: The sequence; None is the one each case has.
        conventions: Names in ``CONVENTIONS``; ``("all",)`` is every one, and a text has commas.
        rescale: ``none`` for files on the scanner's scale, errors of brightness included; ``match``
            brings each synthetic volume linearly to its real one's scale first, which the names of
            scores then say: ``psnr_brain@real-scale-matched``.
        label_folder: Folder of segmentations; None takes those beside the real images.
        labels: Their scheme, a key of ``synth3d.cohort.SCHEMES``; None lets each case tell.
        out: A ``.csv`` file to write, with ``.md``, ``.json`` and ``.png`` beside it; or None.

    Raises:
        InputError: An unknown name, or values that exclude each other.
    """

    real: Path
    synthetic: Path
    modality: str | None = None
    conventions: tuple[str, ...] | str = ("real-scale",)
    rescale: Literal["none", "match"] = "none"
    splits: Path | None = None
    part: str = "test"
    cases: tuple[str, ...] | None = None
    label_folder: Path | None = None
    labels: str | None = None
    lpips_weights: Path | None = None
    out: Path | None = None
    json: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        names = self.conventions
        names = tuple(dict.fromkeys(names.split(",") if isinstance(names, str) else names))
        names = tuple(CONVENTIONS) if names == ("all",) else names
        if unknown := [name for name in names if name not in CONVENTIONS]:
            raise InputError(
                f"no convention is called {', '.join(unknown)}; there are "
                f"{', '.join(CONVENTIONS)}, all"
            )
        if self.out is not None and self.out.suffix != ".csv":
            raise InputError(f"--out must end in .csv, got {self.out}")
        if self.splits is not None and self.cases is not None:
            raise InputError("give --splits or --cases, not both")
        object.__setattr__(self, "conventions", names)
        if self.labels:
            parse_scheme(self.labels)
        if self.modality is not None:
            object.__setattr__(self, "modality", parse_modality(self.modality))

    @property
    def suffix(self) -> str:
        """What ends the names of scores of volumes that were matched, which are other scores."""
        return MATCHED if self.rescale == "match" else ""


@dataclass(frozen=True)
class Scored:
    """What came out: ``case``, ``patient``, ``modality`` and the scores of each case, and warnings.

    Without LPIPS there is no file of its weights.
    """

    request: ScoreRequest
    rows: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]
    lpips_weights: Path | None = None


def pair_up(request: ScoreRequest) -> Pairing:
    """The pairs that ``request`` means; all their files lie on one grid per case.

    Raises:
        InputError: Files are missing, strange or on different grids; all are named.
    """
    cases, splits = request.cases, None
    if request.splits is not None:
        splits = parse_splits(request.splits)
        cases = getattr(splits, request.part)
        if not cases:
            raise InputError(f"{request.splits} lists no case under {request.part}")
    modality = None if request.modality is None else parse_modality(request.modality)
    pairing = find_pairs(request.real, request.synthetic, modality, cases, request.label_folder)
    if splits is not None:
        known = survey_cohort(request.real).cases if pairing.naming else ()
        if shared := shared_patients(splits, {case.name: case.patient for case in known}):
            raise InputError(f"{request.splits}: {'; '.join(shared)}")
        refuse_twins(known, splits)
    problems = []
    for pair in pairing.pairs:
        try:
            check_same_grid(
                [pair.real, pair.synthetic, *([pair.label] if pair.label else [])], whole=False
            )
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))
    return pairing


def score_cohort(request: ScoreRequest) -> Scored:
    """Score every pair.

    Raises:
        InputError: As :func:`pair_up`; or voxels are NaN or files damaged: all such cases are
            named, and nothing is returned.
    """
    pairing = pair_up(request)
    conventions = [CONVENTIONS[name] for name in request.conventions]
    warnings = list(pairing.notes)
    perceptual = _perceptual(request, conventions, warnings)
    rows, faults, remarks = [], [], {kind: [] for kind in FOUND}
    readings: dict[str, Reading] = {}
    for pair in progress(pairing.pairs, "scoring", unit="case"):
        try:
            volumes = _load(pair, readings, remarks, request)
        except InputError as error:
            faults.append(f"case {pair.case}: {error}")
            continue
        if faults:  # the table is lost; only look for more that is wrong
            continue
        row = {"case": pair.case, "patient": pair.patient, "modality": pair.modality or ""}
        for convention in conventions:
            scores = score_case(*volumes, convention=convention, perceptual=perceptual)
            row |= {name + request.suffix: value for name, value in scores.items()}
        rows.append(row)
    if faults := [*faults, *contradictions(readings)]:
        raise InputError("; ".join(faults))
    warnings += notes_of(readings)
    if request.rescale == "match":
        del remarks["foreign"]
    warnings += [f"{FOUND[kind]}: {', '.join(cases)}" for kind, cases in remarks.items() if cases]
    weights = None if perceptual is None else perceptual.weights
    return Scored(request, tuple(rows), tuple(warnings), weights)


def on_scale_of(synthetic: np.ndarray, real: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """``synthetic`` moved linearly so that its p0.5 and median in the brain are the real one's.

    All are (D, H, W). What is background in ``synthetic``, the median outside the brain, becomes 0.
    """
    own, target = Scale.fit(synthetic, brain), Scale.fit(real, brain)
    moved = target.low + (synthetic.astype(np.float64) - own.low) / own.width * target.width
    if not brain.all():
        moved[~brain & (synthetic == np.median(synthetic[~brain]))] = 0
    return moved.astype(np.float32)


FOUND = {
    "empty": "the synthetic volume is zero everywhere",
    "same": "the synthetic volume equals the real one",
    "foreign": "the synthetic volume's median in the brain is more than four times off, as in "
    "other units (see --rescale match)",
}
"""What is said of a cohort after scoring, with the names of the cases."""


def _remark(real: np.ndarray, synthetic: np.ndarray, brain: np.ndarray) -> dict[str, str]:
    """Which of ``FOUND`` are true of a pair, and by how much."""
    if not synthetic.any():
        return {"empty": ""}
    found = {"same": ""} if np.array_equal(real, synthetic) else {}
    ours, theirs = (float(np.median(volume[brain])) for volume in (real, synthetic))
    if ours > 0 and not np.exp(-FOREIGN) < theirs / ours < np.exp(FOREIGN):
        found["foreign"] = f" ({theirs:.3g} against {ours:.3g})"
    return found


def _load(
    pair: Pair,
    readings: dict[str, Reading],
    remarks: dict[str, list[str]],
    request: ScoreRequest,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Real, synthetic, brain and tumour of a pair, axial slices first."""
    real, synthetic = read(pair.real), read_unchecked(pair.synthetic)
    if bad := int(np.count_nonzero(~np.isfinite(synthetic.data))):
        raise InputError(f"{pair.synthetic} has {bad} NaN or infinite voxels")
    brain = foreground(real.data)
    copy = synthetic.data
    for kind, more in _remark(real.data, copy, brain).items():
        remarks[kind].append(pair.case + more)
    if request.rescale == "match" and copy.any():
        copy = on_scale_of(copy, real.data, brain)
    tumour = None
    if pair.labelled is not None:
        classes, readings[pair.case] = read_classes(pair.labelled, request.labels)
        tumour = (classes > 0) & brain
    axial = 2 - next(i for i, letter in enumerate(real.grid.orientation) if letter in "IS")
    x, y, z = (np.moveaxis(volume, axial, 0) for volume in (real.data, copy, brain))
    return x, y, z, None if tumour is None else np.moveaxis(tumour, axial, 0)


def load_lpips(weights: Path | None, remedy: str) -> "PerceptualDistance":
    """LPIPS by a file of AlexNet's weights, or by torchvision's own; as a network to learn by.

    Raises:
        InputError: The package or the file is missing, which ends with ``remedy``.
    """
    from synth3d.scoring.lpips import PerceptualDistance

    return PerceptualDistance(weights, remedy=remedy)


def find_lpips() -> "PerceptualDistance | None":
    """LPIPS by torchvision's own weights, if they and the package are there; else None."""
    from synth3d.scoring.lpips import PerceptualDistance

    try:
        distance = PerceptualDistance()
    except InputError:
        return None
    return distance if distance.published else None


def _perceptual(
    request: ScoreRequest, conventions: Sequence[Convention], warnings: list[str]
) -> "PerceptualDistance | None":
    """LPIPS if a convention has it and all that it needs is there, or was named; else None."""
    if all(convention.lpips is None for convention in conventions):
        return None
    from synth3d.scoring.lpips import PerceptualDistance

    try:
        distance = PerceptualDistance(request.lpips_weights)
    except InputError as error:
        if request.lpips_weights is not None:
            raise
        warnings.append(f"no LPIPS: {error}")
        return None
    if not distance.published:
        warnings.append(f"LPIPS with weights that are not torchvision's: {distance.weights}")
    return distance
