"""The commands that write or look at a cohort: phantom, audit."""

import argparse
from pathlib import Path
from typing import Any

from synth3d.cli.flags import LABELS, TABLE, command, request


# fmt: off
def add_phantom(commands: Any) -> None:
    """Add the command ``phantom``."""
    def run(args: argparse.Namespace) -> int:
        from synth3d.phantom import PhantomRequest, write_phantoms

        return write_phantoms(request(PhantomRequest, args))

    add = command(commands, "phantom", run, "write a cohort of synthetic brains with gliomas")
    add("out", type=Path, help="folder to write, named like BraTS 2023")
    add("--cases", type=int, default=24, help="how many; default: 24")
    add("--size", type=int, default=64, help="voxels along each side, 24 to 192; default: 64")
    add("--seed", type=int, default=0, help="another one gives other brains; default: 0")
    add("--overwrite", action="store_true", help="replace another cohort there")


def add_audit(commands: Any) -> None:
    """Add the command ``audit``."""
    def run(args: argparse.Namespace) -> int:
        from synth3d.cohort import AuditRequest, run_audit

        return run_audit(request(AuditRequest, args))

    add = command(commands, "audit", run, "what a cohort holds, and what would break a run")
    add("folder", type=Path, nargs="?", help="cohort folder; or give a table with --cases")
    add("--cases", **TABLE)
    add("--splits", type=Path, help="JSON with train, val and test case names")
    add("--labels", metavar="SCHEME", help=LABELS)
    add("--json", action="store_true", help="print JSON instead of text")
    add("--fix-headers", type=Path, metavar="OUT",
        help="write the cohort to OUT with headers that all programs read alike, and say what "
        "was done to each file; voxels are kept to the last bit")
    add("--write-table", type=Path, metavar="TABLE.csv",
        help="draft a table of whatever lies there, for you to correct, and stop")
# fmt: on
