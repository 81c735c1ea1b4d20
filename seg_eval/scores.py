"""Dice of one region in one case, with one rule for empty masks, and its table rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

EMPTY_RULES = {
    "brats": "both masks empty: Dice 1; one empty: Dice 0 (as BraTS ranks it)",
    "skip": "cases whose reference has no such region are left out, for every arm alike",
}
"""What is done with a region that a case does not have."""


@dataclass(frozen=True)
class Score:
    """One row of ``results.csv``: the Dice of one region of one case in one arm.

    Attributes:
        case: Case name.
        patient: Who it is; several cases may share one.
        arm: What stood in the missing channel.
        region: WT, TC or ET.
        dice: In [0, 1].
        reference_voxels: Size of the region in the expert's labels.
        predicted_voxels: Size of the region in the prediction.
    """

    case: str
    patient: str
    arm: str
    region: str
    dice: float
    reference_voxels: int
    predicted_voxels: int


def dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    """2 |A & B| / (|A| + |B|) of two bool masks of any, equal, shape.

    Two empty masks score 1 and a false alarm on an empty reference 0, as BraTS ranks it
    (Isensee et al. 2020), so every arm is averaged over the same cases. nnU-Net's own summary
    gives NaN and drops the pair instead.

    Raises:
        ValueError: The shapes differ.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"reference is {reference.shape}, prediction {prediction.shape}")
    total = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / total if total else 1.0


def score_case(
    case: str,
    patient: str,
    arm: str,
    reference: Mapping[str, np.ndarray],
    prediction: Mapping[str, np.ndarray],
) -> list[Score]:
    """One row per region of ``reference``; both hold bool masks (D, H, W) by region name."""
    return [
        Score(
            case,
            patient,
            arm,
            region,
            dice(mask, prediction[region]),
            int(mask.sum()),
            int(prediction[region].sum()),
        )
        for region, mask in reference.items()
    ]


def counted(scores: list[Score], empty: str) -> list[Score]:
    """The rows that enter the means under a rule of :data:`EMPTY_RULES`.

    Raises:
        ValueError: Unknown rule.
    """
    if empty not in EMPTY_RULES:
        raise ValueError(f"expected one of {sorted(EMPTY_RULES)}, got {empty!r}")
    return [row for row in scores if empty == "brats" or row.reference_voxels]
