"""A cohort of simulated brains with gliomas, written like BraTS 2023."""

from synth3d.phantom.cohort import make_cohort

__all__ = [
    "make_cohort",
]
