"""Ways of training and sampling a generator."""

from synth3d.frameworks.base import Framework
from synth3d.frameworks.build import FRAMEWORKS, build
from synth3d.frameworks.iterative import Iterative

__all__ = ["FRAMEWORKS", "Framework", "Iterative", "build"]
