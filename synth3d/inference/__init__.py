"""From a network to one whole case."""

from synth3d.inference.case import memory_format, synthesize_case
from synth3d.inference.explain import RoutedGroup, RouteRecorder
from synth3d.inference.mirrors import Mirror, mirrored, mirrors_of
from synth3d.inference.tiles import OnTile, Tiling, sliding_window
from synth3d.inference.volume import SynthesisOptions, synthesize_volume

__all__ = [
    "Mirror",
    "OnTile",
    "RouteRecorder",
    "RoutedGroup",
    "SynthesisOptions",
    "Tiling",
    "memory_format",
    "mirrored",
    "mirrors_of",
    "sliding_window",
    "synthesize_case",
    "synthesize_volume",
]
