"""Ways of training and sampling a generator."""

from synth3d.frameworks.base import Framework, Options, Player, Stage, TrainingPlan
from synth3d.frameworks.build import FRAMEWORKS, build
from synth3d.frameworks.coupling import CouplingOptions
from synth3d.frameworks.diffusion import Diffusion
from synth3d.frameworks.reconstruction import DEVIATION
from synth3d.frameworks.tsf import TSF

__all__ = [
    "DEVIATION",
    "FRAMEWORKS",
    "TSF",
    "CouplingOptions",
    "Diffusion",
    "Framework",
    "Options",
    "Player",
    "Stage",
    "TrainingPlan",
    "build",
]
