"""Terms that several frameworks use."""

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
from synth3d.losses.structure import multiscale_similarity

__all__ = [
    "OBJECTIVES",
    "Objective",
    "cross_entropy",
    "feature_distance",
    "feature_matching",
    "least_squares",
    "load_vgg16",
    "load_vgg19",
    "masked_mean",
    "multiscale_similarity",
    "orthogonal_slices",
    "relativistic",
    "spread",
    "squared_at_scales",
    "squared_distance",
]
