"""All scores of one region in one case, with one rule for empty masks, and its table rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from seg_eval.scoring.lesions import OFFICIAL, OURS, lesion_scores, rule_of
from seg_eval.scoring.surface import (
    HEADER_ROUNDING,
    TOLERANCE_MM,
    hausdorff_95,
    normalised_surface_distance,
    surface_distances,
)

EMPTY_RULES = {
    "brats": (
        "both masks empty: Dice 1, surface distance 1; one empty: Dice 0, surface distance 0 "
        "(as BraTS ranks it); HD95 has no mean with either; lesion-wise as BraTS 2023"
    ),
    "skip": "cases whose reference has no such region are left out, for every arm alike",
}
"""What is done with a region that a case does not have."""


@dataclass(frozen=True)
class Metric:
    """How a column of :class:`Score` is shown, which way is better, and one sentence on it.

    ``{tolerance}`` in heading and definition is that of NSD in mm.
    """

    heading: str
    unit: str
    format: str
    better: Literal["higher", "lower", "zero"]
    definition: str


METRICS = {
    "dice": Metric(
        "Dice", "", ".3f", "higher", "Twice the shared voxels over the voxels of both masks."
    ),
    "hd95_mm": Metric(
        "HD95", "mm", ".2f", "lower",
        "The larger of the two directed 95th percentiles of the distance between the surfaces, "
        "taken at the centres of surface voxels; means are of pairs without an empty mask.",
    ),
    "nsd": Metric(
        "NSD at {tolerance} mm", "", ".3f", "higher",
        "Share of the surface voxels of both masks within {tolerance} mm of the other surface.",
    ),
    "lesion_dice": Metric(
        "Lesion-wise Dice", "", ".3f", "higher",
        "Mean Dice over lesions by the rule of BraTS 2023 for glioma; a missed or false lesion "
        "counts 0.",
    ),
    "lesion_hd95_mm": Metric(
        "Lesion-wise HD95", "mm", ".2f", "lower",
        "Mean HD95 over lesions by the rule of BraTS 2023 for glioma; a missed or false lesion "
        "counts 374 mm.",
    ),
    "false_lesions": Metric(
        "False lesions", "", ".2f", "lower",
        "Connected parts of the prediction that touch no lesion of the reference grown by 3 mm.",
    ),
    "sensitivity": Metric(
        "Sensitivity", "", ".3f", "higher",
        "Share of the reference's voxels that were found; not defined where the reference has "
        "none.",
    ),
    "precision": Metric(
        "Precision", "", ".3f", "higher",
        "Share of the predicted voxels that are in the reference; not defined where nothing was "
        "predicted, so arms may be averaged over different cases.",
    ),
    "volume_error_ml": Metric(
        "Volume error", "mL", "+.1f", "zero", "Predicted volume minus the reference's."
    ),
}  # fmt: skip
"""Columns of :class:`Score` that are judged, in the order of the report."""


@dataclass(frozen=True)
class Score:
    """One row of ``results.csv``: one region of one case in one arm with one segmenter.

    ``docs/summary-schema.md`` explains each column. Empty masks follow the rule "brats" of
    :data:`EMPTY_RULES`; a share of nothing is None. ``replicate`` names the run where several
    trainings of one recipe are one arm.
    """

    case: str
    patient: str
    arm: str
    seed: int
    region: str
    dice: float
    hd95_mm: float | None
    nsd: float | None
    lesion_dice: float | None
    lesion_hd95_mm: float | None
    lesions: int
    found_lesions: int
    false_lesions: int
    sensitivity: float | None
    precision: float | None
    reference_ml: float
    predicted_ml: float
    volume_error_ml: float
    reference_voxels: int
    predicted_voxels: int
    nsd_tolerance_mm: float
    lesion_rule: str
    longest_side_mm: float
    replicate: str = ""


def dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    """2 |A & B| / (|A| + |B|) of two bool masks of one shape.

    Two empty masks score 1 and a false alarm on an empty reference 0, as BraTS ranks it
    (Isensee et al. 2020), so every arm is averaged over the same cases. nnU-Net's own summary
    gives NaN and drops the pair instead.
    """
    total = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / total if total else 1.0


def score_case(
    about: tuple[str, str, str, int],
    reference: Mapping[str, np.ndarray],
    prediction: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
) -> list[Score]:
    """One row per region of ``reference``, which has bool masks (D, H, W) by region name.

    Args:
        about: Case, patient, arm and segmenter seed.
        reference: The expert's masks.
        prediction: Masks of the same regions and shape.
        spacing_mm: Of the axes (z, y, x).
        tolerance_mm: Of NSD.

    Raises:
        ValueError: A region is missing from the prediction, shapes differ, a mask is not bool
            (D, H, W), or the spacing is not three positive numbers.
    """
    case = about[0]
    if lacking := sorted(reference.keys() - prediction.keys()):
        raise ValueError(f"the prediction of {case} has no region {', '.join(lacking)}")
    if len(spacing_mm) != 3 or not all(np.isfinite(side) and side > 0 for side in spacing_mm):
        raise ValueError(f"expected a spacing of three positive mm (z, y, x), got {spacing_mm}")
    how = {
        "nsd_tolerance_mm": float(tolerance_mm),
        "lesion_rule": rule_of(spacing_mm),
        "longest_side_mm": float(max(spacing_mm)),
    }
    return [
        Score(*about, region, **_measure(mask, prediction[region], spacing_mm, tolerance_mm), **how)
        for region, mask in reference.items()
    ]


def _measure(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> dict[str, Any]:
    """The scores of one pair of masks by name of column."""
    if reference.shape != prediction.shape:
        raise ValueError(f"reference is {reference.shape}, prediction {prediction.shape}")
    for mask in (reference, prediction):
        if mask.ndim != 3 or mask.dtype != bool:
            raise ValueError(f"expected a bool mask (D, H, W), got {mask.dtype} {mask.shape}")
    distances = surface_distances(reference, prediction, spacing_mm)
    lesions = lesion_scores(reference, prediction, spacing_mm, whole=distances)
    real, found = int(reference.sum()), int(prediction.sum())
    shared = int((reference & prediction).sum())
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    return {
        "dice": dice(reference, prediction),
        "hd95_mm": hausdorff_95(distances),
        "nsd": normalised_surface_distance(distances, tolerance_mm),
        "lesion_dice": lesions.dice,
        "lesion_hd95_mm": lesions.hd95_mm,
        "lesions": lesions.lesions,
        "found_lesions": lesions.found,
        "false_lesions": lesions.false,
        "sensitivity": shared / real if real else None,
        "precision": shared / found if found else None,
        "reference_ml": real * voxel_ml,
        "predicted_ml": found * voxel_ml,
        "volume_error_ml": (found - real) * voxel_ml,
        "reference_voxels": real,
        "predicted_voxels": found,
    }


def counted(scores: Sequence[Score], empty: str) -> list[Score]:
    """The rows that enter the means under a rule of :data:`EMPTY_RULES`."""
    return [row for row in scores if empty == "brats" or row.reference_voxels]


def voxel_volumes(scores: Sequence[Score]) -> list[float]:
    """The smallest and the largest voxel that masks were compared at, in mm^3.

    Empty where no row has a voxel in either mask, which is where a size can be read from.
    """
    found = [
        1000 * (row.reference_ml + row.predicted_ml) / (row.reference_voxels + row.predicted_voxels)
        for row in scores
        if row.reference_voxels + row.predicted_voxels
    ]
    return [round(end(found), 4) for end in (min, max)] if found else []


@dataclass(frozen=True)
class Conditions:
    """Under which rows were scored.

    Attributes:
        nsd_tolerance_mm: Of NSD.
        lesion_rule: ``brats-2023`` where that is the rule of all rows, else ``ours``.
        longest_side_mm: The longest side of any voxel.
    """

    nsd_tolerance_mm: float
    lesion_rule: str
    longest_side_mm: float

    @property
    def exceeds_tolerance(self) -> bool:
        """Whether some voxel is longer than NSD tolerates."""
        return self.longest_side_mm > self.nsd_tolerance_mm * (1 + HEADER_ROUNDING)


def conditions(scores: Sequence[Score]) -> Conditions:
    """What all of ``scores``, at least one, share.

    Raises:
        ValueError: Rows have different tolerances.
    """
    tolerances = sorted({row.nsd_tolerance_mm for row in scores})
    if len(tolerances) != 1:
        raise ValueError(f"expected rows of one NSD tolerance, got {tolerances}")
    official = all(row.lesion_rule == OFFICIAL for row in scores)
    longest = max(row.longest_side_mm for row in scores)
    return Conditions(tolerances[0], OFFICIAL if official else OURS, longest)
