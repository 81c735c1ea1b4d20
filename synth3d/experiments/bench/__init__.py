"""What networks, whole cases and growing cohorts cost: ``python -m synth3d.experiments.bench``."""
