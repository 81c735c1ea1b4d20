"""The command ``synth3d``: phantom · audit · train · runs · complete · calibrate · status ·
verify · export · score · ablate · describe.

Exit codes: 0 done, 1 the command ran and something failed or is wrong (ablate, audit, status,
verify), 2 the input cannot be used, 130 interrupted. Everything heavy is imported inside the
commands, so ``--help`` is instant.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from synth3d import __version__
from synth3d.cli.cohorts import add_audit, add_phantom
from synth3d.cli.completing import add_calibrate, add_complete, add_state
from synth3d.cli.flags import EXAMPLES, Parser, in_brief
from synth3d.cli.judging import add_ablate, add_describe, add_score
from synth3d.cli.runs import add_export, add_runs, add_train
from synth3d.errors import run_guarded, run_one_of_several

ABOUT = "synthesise the MRI sequence that a BraTS-like case lacks"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    args.words = shlex.join(["synth3d", *(sys.argv[1:] if argv is None else argv)])
    if not getattr(args, "run_command", None):
        print(in_brief(parser, ABOUT, ("audit", "train", "complete", "score")))
        return 2
    guarded = run_guarded if os.environ.get("WORLD_SIZE", "1") == "1" else run_one_of_several
    return guarded(args.run_command, args)


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="synth3d",
        description=f"{ABOUT[0].upper()}{ABOUT[1:]}.",
        epilog=EXAMPLES["synth3d"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"synth3d {__version__}")
    commands = parser.add_commands()
    for add_command in (
        add_phantom, add_audit, add_train, add_runs, add_complete, add_calibrate, add_state,
        add_export, add_score, add_ablate, add_describe
    ):  # fmt: skip
        add_command(commands)
    return parser
