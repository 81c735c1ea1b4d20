"""Tumour regions of BraTS from integer labels, whatever the release calls its labels."""

import numpy as np

from synth3d.cohort import REGIONS as TISSUES_OF
from synth3d.cohort import LabelScheme

REGIONS = tuple(TISSUES_OF)
"""Whole tumour, tumour core, enhancing tumour; each holds the next."""


def region_masks(labels: np.ndarray, scheme: LabelScheme) -> dict[str, np.ndarray]:
    """WT, TC and ET of a label volume, as bool masks of its shape.

    A resection cavity belongs to none of them, as BraTS 2024 scores it; a cyst is core.
    """
    return scheme.regions(labels)


def from_brats_2023(labels: np.ndarray, scheme: LabelScheme) -> np.ndarray:
    """Labels coded 1 necrosis, 2 oedema, 3 enhancing, painted with the case's integers, uint8.

    Raises:
        ValueError: A label is not 0, 1, 2 or 3.
    """
    if labels.size and not (labels.min() >= 0 and labels.max() <= 3):
        raise ValueError(f"expected labels 0 to 3, got {np.unique(labels).tolist()}")
    return scheme.decode(labels)
