"""How good a segmentation is."""

from seg_eval.scoring.image_scores import IMAGE_SCORES, channel_scores
from seg_eval.scoring.lesions import BRATS_GLIOMA, OFFICIAL
from seg_eval.scoring.regions import REGIONS, from_brats_2023, region_masks
from seg_eval.scoring.scores import (
    EMPTY_RULES,
    METRICS,
    Conditions,
    Metric,
    Score,
    conditions,
    counted,
    dice,
    score_case,
    voxel_volumes,
)
from seg_eval.scoring.surface import EMPTY_HD95_MM, TOLERANCE_MM, bounding_box

__all__ = [
    "BRATS_GLIOMA",
    "Conditions",
    "EMPTY_HD95_MM",
    "EMPTY_RULES",
    "IMAGE_SCORES",
    "METRICS",
    "Metric",
    "OFFICIAL",
    "REGIONS",
    "Score",
    "TOLERANCE_MM",
    "bounding_box",
    "channel_scores",
    "conditions",
    "counted",
    "dice",
    "from_brats_2023",
    "region_masks",
    "score_case",
    "voxel_volumes",
]
