"""The command ``synth3d``."""

from synth3d.cli.parser import build_parser, main

__all__ = ["build_parser", "main"]
