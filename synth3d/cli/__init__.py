"""The command ``synth3d``, and what other programs of this project take of its flags."""

from synth3d.cli.flags import Parser, add_manner, in_brief
from synth3d.cli.parser import build_parser, main

__all__ = ["Parser", "add_manner", "build_parser", "in_brief", "main"]
