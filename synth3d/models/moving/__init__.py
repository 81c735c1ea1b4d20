"""Convolutions whose taps move: deformed or rotated."""

from synth3d.models.moving.deformable import DeformableConv, DeformResUNet, DisplacementMap
from synth3d.models.moving.rotating import ArcResUNet, RotatingConv

__all__ = ["ArcResUNet", "DeformResUNet", "DeformableConv", "DisplacementMap", "RotatingConv"]
