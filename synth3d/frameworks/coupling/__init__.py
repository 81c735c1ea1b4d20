"""Coupled to a segmenter: terms beside a framework's own."""

from synth3d.frameworks.coupling.options import LOOKING, TERMS, CouplingOptions
from synth3d.frameworks.coupling.terms import Coupling

__all__ = ["LOOKING", "TERMS", "Coupling", "CouplingOptions"]
