"""What makes a case's sequences: a trained run, or the real ones sent through the way out."""

from synth3d.completion.makers.base import Maker
from synth3d.completion.makers.plumbing import PlumbingMaker
from synth3d.completion.makers.trained import RunMaker

__all__ = ["Maker", "PlumbingMaker", "RunMaker"]
