"""What makes a case's sequences: trained runs, or the real ones sent through the way out."""

from synth3d.completion.makers.base import Maker
from synth3d.completion.makers.ensemble import EnsembleMaker
from synth3d.completion.makers.plumbing import PlumbingMaker
from synth3d.completion.makers.trained import RunMaker

__all__ = ["EnsembleMaker", "Maker", "PlumbingMaker", "RunMaker"]
