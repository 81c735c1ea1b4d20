"""Volumes on a grid: files, orientations, intensities, rigid registration."""

from synth3d.images.alignment import (
    Sketch,
    agreements,
    shift_of,
    sketch,
    smoothness,
    turned,
    turned_in_words,
    turned_sketch,
)
from synth3d.images.coarse import PROFILES, coarse, coarse_grid
from synth3d.images.contrast import enhancement
from synth3d.images.geometry import CORRECTED, EDGES_MM, Place, nearest_upright
from synth3d.images.grids import Grid, grid_misfits, remedies
from synth3d.images.intensity import (
    CEILING,
    FOREIGN,
    MOST_HEAD,
    SHOULDER,
    Scale,
    ScalePrior,
    background_of,
    differs,
    foreground,
)
from synth3d.images.planes import MIRRORS, PLANES, Turn, body_axis, turn_to
from synth3d.images.registration import register_rigid, resample_rigid, write_transform
from synth3d.images.resampling import edges_in, resample, resample_within, share_beyond
from synth3d.images.volumes import (
    LABEL_TOLERANCE,
    NiftiImage,
    Volume,
    check_content,
    check_same_grid,
    check_same_grids,
    grid,
    image_like,
    place,
    read,
    read_label,
    read_rounded_label,
    read_unchecked,
    shape_of,
    value_limits,
    write_image,
    write_like,
    write_moved,
    write_new,
    xyz_to_zyx,
)

__all__ = [
    "CEILING", "CORRECTED", "EDGES_MM", "FOREIGN", "Grid", "LABEL_TOLERANCE", "MIRRORS",
    "MOST_HEAD", "NiftiImage", "PLANES", "PROFILES", "Place", "SHOULDER", "Scale", "ScalePrior",
    "Sketch", "Turn", "Volume", "agreements", "background_of", "body_axis", "check_content",
    "check_same_grid", "check_same_grids", "coarse", "coarse_grid", "differs", "edges_in",
    "enhancement", "foreground", "grid", "grid_misfits", "image_like", "nearest_upright", "place",
    "read", "read_label", "read_rounded_label", "read_unchecked", "register_rigid", "remedies",
    "resample", "resample_rigid", "resample_within", "shape_of", "share_beyond", "shift_of",
    "sketch", "smoothness", "turn_to", "turned", "turned_in_words", "turned_sketch", "value_limits",
    "write_image", "write_like", "write_moved", "write_new", "write_transform", "xyz_to_zyx",
]  # fmt: skip
