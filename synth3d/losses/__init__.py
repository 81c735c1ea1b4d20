"""Terms that several frameworks use."""

from synth3d.losses.exported import (
    BLOCKS,
    DESCRIPTION,
    FORMAT,
    WEIGHTS,
    Architecture,
    Exported,
    read_exported,
)
from synth3d.losses.masked import masked_mean, spread, squared_at_scales
from synth3d.losses.objectives import (
    OBJECTIVES,
    Objective,
    cross_entropy,
    feature_matching,
    least_squares,
    relativistic,
)
from synth3d.losses.perceptual import (
    feature_distance,
    load_vgg16,
    load_vgg19,
    orthogonal_slices,
    squared_distance,
)
from synth3d.losses.segmentation import (
    FrozenSegmenter,
    feature_error,
    load_segmenter,
    network_of,
    save_segmenter,
    standardised,
)
from synth3d.losses.structure import multiscale_similarity

__all__ = [
    "BLOCKS",
    "DESCRIPTION",
    "FORMAT",
    "OBJECTIVES",
    "WEIGHTS",
    "Architecture",
    "Exported",
    "FrozenSegmenter",
    "Objective",
    "cross_entropy",
    "feature_distance",
    "feature_error",
    "feature_matching",
    "least_squares",
    "load_segmenter",
    "load_vgg16",
    "load_vgg19",
    "masked_mean",
    "multiscale_similarity",
    "network_of",
    "orthogonal_slices",
    "read_exported",
    "relativistic",
    "save_segmenter",
    "spread",
    "squared_at_scales",
    "squared_distance",
    "standardised",
]
