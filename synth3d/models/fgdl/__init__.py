"""The networks of FGDL (Feng et al. 2024) beside its generator."""
