"""Volumes on a grid: files, orientations, intensities, rigid registration."""

from synth3d.images.grids import Grid, grid_misfits
from synth3d.images.intensity import FOREIGN, MOST_HEAD, Scale, ScalePrior, foreground
from synth3d.images.planes import PLANES, Turn, turn_to
from synth3d.images.registration import register_rigid, resample_rigid, write_transform
from synth3d.images.volumes import (
    LABEL_TOLERANCE,
    NiftiImage,
    Volume,
    check_content,
    check_same_grid,
    check_same_grids,
    grid,
    image_like,
    read,
    read_label,
    read_rounded_label,
    read_unchecked,
    resample,
    value_limits,
    write_like,
    write_new,
    xyz_to_zyx,
)

__all__ = [
    "FOREIGN", "Grid", "LABEL_TOLERANCE", "MOST_HEAD", "NiftiImage", "PLANES", "Scale",
    "ScalePrior", "Turn", "Volume", "check_content", "check_same_grid", "check_same_grids",
    "foreground", "grid", "grid_misfits", "image_like", "read", "read_label",
    "read_rounded_label", "read_unchecked", "register_rigid", "resample", "resample_rigid",
    "turn_to", "value_limits", "write_like", "write_new", "write_transform", "xyz_to_zyx",
]  # fmt: skip
