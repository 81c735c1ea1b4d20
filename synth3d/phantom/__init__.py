"""A cohort of simulated brains with gliomas, written like BraTS 2023."""

from synth3d.phantom.cohort import PhantomRequest, make_cohort, write_phantoms

__all__ = ["PhantomRequest", "make_cohort", "write_phantoms"]
