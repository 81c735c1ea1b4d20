"""A cohort of simulated brains with gliomas, written like BraTS 2023."""

from synth3d.phantom.cohort import PhantomRequest, make_cohort, write_phantoms
from synth3d.phantom.slices import Slices, draw_slices

__all__ = ["PhantomRequest", "Slices", "draw_slices", "make_cohort", "write_phantoms"]
