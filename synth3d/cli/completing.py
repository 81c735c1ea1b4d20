"""The commands that complete a cohort and look after it: complete, calibrate, status, verify."""

import argparse
import functools
from pathlib import Path
from typing import Any

from synth3d.cli.flags import (
    LABELS,
    WORK,
    Flags,
    add_workers,
    command,
    request,
    with_table,
)


# fmt: off
def add_complete(commands: Any) -> None:
    """Add the command ``complete``."""
    def run(args: argparse.Namespace) -> int:
        from synth3d.cohort import given_cohort
        from synth3d.completion import CompleteRequest, complete_cohort
        from synth3d.machine import keep_memory

        keep_memory()
        args.data = given_cohort(with_table(args).data, None)
        complete_cohort(request(CompleteRequest, args))
        return 0

    add = command(commands, "complete", run, "write the sequences that cases lack", manner=True)
    add("--run", type=Path, action="append", metavar="RUN",
        help="a finished run: its name (synth3d runs), latest, or its folder, also of an exported "
        "one; given again: the mean "
        "of what these runs make, and its spread")
    add("--data", type=Path, help="folder with cases, or a table of them; only read")
    add("--out", type=Path, required=True, help="folder for the completed cases")
    add("--format", choices=["brats", "nnunet", "bids"], default="brats",
        help="case folders named as the input, nnU-Net's imagesTs, or a BIDS derivative dataset")
    add("--missing", action="extend", nargs="+", metavar="MODALITY",
        help="treat t1|t1ce|t2|flair as missing even where it is there; one or several")
    add("--restore", action="extend", nargs="+", metavar="MODALITY",
        help="replace a sequence that is there with thick slices, by a run of train --degraded")
    add("--cases", nargs="+", metavar="NAME|TABLE.csv",
        help="only these cases; or a table of all cases instead of --data")
    add("--labels", metavar="SCHEME", help=LABELS + "; those copied get what their names say")
    add("--overwrite", action="store_true", help="replace files that are already in OUT")
    add("--explain", nargs="?", const="all", choices=["all", "maps"],
        help="and what explains it, of a run of tsf or agi-net; maps: without the slow table of "
        "what each source is worth")
    add("--draws", type=int, default=1, metavar="N", help="a diffusion's mean of N, and its spread")
    add("--mirror", choices=["x", "xyz"], help="the mean over mirror images of the case, and its "
        "spread; x: left and right swapped, as in training; xyz: all eight")
    add("--uncertainty", nargs="?", const="run", metavar="FILE",
        help="and maps of how wrong it may be: the spread over all that was averaged, or that an "
        "uncertain run expects, and the half-width of the 90 %% interval where synth3d calibrate "
        "has written one; default: into the run's folder")
    add("--link", action="store_true",
        help="hard links to the input's files instead of copies: less disk, but one file")
    add("--read-only", action="store_true",
        help="make the acquired files in OUT read-only, so that no program changes them in place; "
        "with --link the input's, too")
    add("--dry-run", action="store_true",
        help="say what would be done, and what it takes in time, memory and disk, and stop")
    add("--plumbing", action="store_true",
        help="no synthesis: send the real --missing sequence through the same way out")
    add("--unchecked", action="store_true",
        help="complete even cases whose voxels contradict themselves: copies, masks, flips")
    add("--overlap", type=float,
        help="share of a tile's sides that neighbours share; default: the run's, 0.25 in recipes")
    add("--precision", choices=["fp32", "bf16"], help="default: training's, if this machine can")
    add("--batch", type=int,
        help="tiles per call of the network; default: 2 on a CPU or a GPU of 8 GB, else 4")
    add("--seed", type=int, default=0, help="of a framework that draws its pictures at random")
    _add_machines(add)


def _add_machines(add: Flags) -> None:
    """Add the flags that say who completes which cases, and with what."""
    add_workers(add, "cases")
    add("--part", metavar="K/N",
        help="of the cases in the order of their names every N-th from the K-th, for job arrays")
    add("--retry-failed", action="store_true",
        help="try again what failed before with the same files and the same run")
    add("--no-previews", action="store_false", dest="previews",
        help="draw neither a picture of each case nor index.html, which shows them all")
    add("--threads", type=int,
        help="CPU threads; default: all cores, shared among the workers; a Dask worker's own")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--work", **WORK)


def add_calibrate(commands: Any) -> None:
    """Add the command ``calibrate``."""
    def run(args: argparse.Namespace) -> int:
        from synth3d.cohort import given_cohort
        from synth3d.completion import CalibrateRequest, calibrate_run

        args.data = given_cohort(with_table(args).data, None)
        calibrate_run(request(CalibrateRequest, args))
        return 0

    add = command(commands, "calibrate", run, "how far off a run's pictures are in new patients",
        description="Measure the errors of a run's pictures in patients that it has not learnt "
        "from, and write how far complete --uncertainty has to reach for 80 and 90 % of the voxels "
        "(split conformal prediction over patients).")
    add("--run", type=Path, action="append", metavar="RUN", required=True,
        help="a finished run, as in complete; given again: of the mean")
    add("--data", type=Path, help="folder with cases that have what is made, or a table of them")
    add("--splits", type=Path, help="JSON with train, val and test case names")
    add("--part", choices=["val", "test"], default="val", help="whose cases count; default: val")
    add("--cases", nargs="+", metavar="NAME|TABLE.csv",
        help="only these cases; or a table of all cases instead of --data")
    add("--labels", metavar="SCHEME", help=LABELS)
    add("--missing", action="extend", nargs="+", metavar="MODALITY",
        help="what is made; default: all that the run makes; of one for any gap say which")
    add("--mirror", choices=["x", "xyz"], help="as in complete")
    add("--draws", type=int, default=1, metavar="N", help="as in complete")
    add("--out", type=Path, metavar="FILE", help="default: RUN/calibration.json")
    add("--overlap", type=float, help="as in complete")
    add("--precision", choices=["fp32", "bf16"], help="default: training's, if this machine can")
    add("--batch", type=int, help="tiles per call of the network")
    add("--seed", type=int, default=0, help="of a framework that draws its pictures at random")
    add("--threads", type=int, help="CPU threads; default: all cores")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--work", **WORK)


def add_state(commands: Any) -> None:
    """Add the commands ``status`` and ``verify``."""
    def look(args: argparse.Namespace, again: bool = False) -> int:
        from synth3d.completion import StateRequest, tell_status

        return tell_status(request(StateRequest, args), again)

    verify = functools.partial(look, again=True)

    status = command(commands, "status", look, "what of a completed cohort is done, and what not")
    hashes = command(commands, "verify", verify, "hold a completed cohort against its receipts")
    for add in (status, hashes):
        add("out", type=Path, metavar="OUT", help="folder of synth3d complete")
        add("--json", action="store_true", help="print JSON instead of text")
# fmt: on
