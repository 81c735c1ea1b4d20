"""The paper's tables rerun, and what networks cost."""

from synth3d.experiments.describe_command import describe_command
from synth3d.experiments.run import ablate_command

__all__ = ["ablate_command", "describe_command"]
