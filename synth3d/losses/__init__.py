"""Terms that several frameworks use."""

from synth3d.losses.masked import masked_mean, spread
from synth3d.losses.objectives import OBJECTIVES, Objective, cross_entropy, least_squares
from synth3d.losses.perceptual import (
    feature_distance,
    load_vgg16,
    load_vgg19,
    orthogonal_slices,
    squared_distance,
)

__all__ = [
    "OBJECTIVES",
    "Objective",
    "cross_entropy",
    "feature_distance",
    "least_squares",
    "load_vgg16",
    "load_vgg19",
    "masked_mean",
    "orthogonal_slices",
    "spread",
    "squared_distance",
]
