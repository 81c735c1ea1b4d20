"""The commands that say how good a network is, or how large: score, ablate, describe."""

import argparse
from pathlib import Path
from typing import Any

from synth3d.cli.flags import (
    CACHE,
    LABELS,
    MODELS,
    TABLE,
    add_workers,
    command,
    integers,
    request,
    with_table,
)


# fmt: off
def add_score(commands: Any) -> None:
    """Add the command ``score``."""
    def run(args: argparse.Namespace) -> int:
        from synth3d.completion import tell_errors
        from synth3d.scoring import ScoreRequest, score

        if args.explanation:
            return tell_errors(args.real, args.synthetic, args.out)
        return score(request(ScoreRequest, args))

    add = command(commands, "score", run, "image scores of one folder against another",
        description="Image scores of volumes by named conventions.")
    add("real", type=Path, metavar="REAL", help="folder of the acquired images")
    add("synthetic", type=Path, metavar="SYNTHETIC", help="folder of the images to be scored")
    add("--modality", "--target", help="t1|t1ce|t2|flair; default: the one that each case has")
    add("--convention", default="real-scale", metavar="NAME,NAME", dest="conventions",
        help="of real-scale (both volumes on the real one's scale), own-scale (each on its own), "
        "paper-agi, paper-tsf, brasyn, or all; default: real-scale")
    add("--rescale", choices=["none", "match"], default="none",
        help="none: files are in scanner units, wrong brightness counts; match: bring each to its "
        "real one's p0.5 and median in the brain first; the names of scores then end in -matched")
    add("--splits", type=Path, help="JSON with train, val and test case names")
    add("--part", choices=["train", "val", "test"], default="test", help="default: test")
    add("--cases", nargs="+", metavar="NAME", help="only these cases")
    add("--label-folder", type=Path, metavar="LABEL_FOLDER",
        help="segmentations; default: those beside the real images")
    add("--labels", metavar="SCHEME", help=LABELS)
    add("--lpips-weights", type=Path, help="torchvision's AlexNet weights; default: its own folder")
    add("--out", type=Path, metavar="FILE.csv",
        help="write scores per case there; .md, .json and .png lie beside it")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--dry-run", action="store_true", help="print the pairs and settings and stop")
    add("--explanation", action="store_true", help="do its maps (complete --explain) find errors?")


def add_ablate(commands: Any) -> None:
    """Add the command ``ablate``."""
    def run(args: argparse.Namespace) -> int:
        from synth3d.experiments import AblateRequest, ablate

        return ablate(request(AblateRequest, with_table(args)))

    about = "Rerun an experiment of the paper: cells × seeds, one table at the end."
    add = command(commands, "ablate", run, "rerun a table of the paper: cells x seeds",
        description=about)
    add("table", nargs="?", metavar="TABLE", help="its name, see --list, or a .toml file")
    add("--list", action="store_true", help="print the tables and stop")
    add("--data", type=Path, help="cohort folder; without it phantoms are used")
    add("--cases", **TABLE)
    add("--splits", type=Path, help="JSON with train, val and test case names")
    add("--part", choices=["val", "test"], default="test",
        help="cases that are scored: val to choose by, test for the last word; default: test")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of every cell; default: 3")
    add("--budget", metavar="STEPS",
        help="steps of every run, or a duration (10min) that is turned into steps once, by "
        "timing the first baseline; default: the recipe's steps")
    add("--only", metavar="PATTERN,...", help="cells to run, and their baselines; as in 'agi-*'")
    add("--recipe", help="the base: a shipped name or a .toml/.json file")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assign",
        help="any other setting of every run; may be repeated")
    add("--dim", choices=["2d", "3d"], help="default: the recipe's, else 3d")
    add("--plane", choices=["axial", "coronal", "sagittal"], help="for 2d")
    add("--target", "--missing", help="t1|t1ce|t2|flair|pd, or any for the tables tsf-*")
    add("--sources", help="comma-separated; default: the others")
    add("--move", metavar="SEQUENCE",
        help="the source, of fgdl-misalign the target, that is put out of place; default: t2 or "
        "the last")
    add("--draw", choices=["fixed", "box"], default="fixed",
        help="exactly that far some way, or each component up to it; default: fixed")
    add("--mode", choices=["test-only", "train-and-test"], default="test-only",
        help="of a curve: test an aligned training at every level, or train each level")
    add("--convention", metavar="NAME,NAME",
        help="of the scores, the first leads; default: real-scale and that of the table's paper, "
        "or the reverse for a recipe with the AGI-Net paper's intensities")
    add_workers(add, "runs")
    add("--threads", type=int, help="of each run; default: all cores / workers")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--work", type=Path, default=Path("work"), help="results are kept in WORK/ablate")
    add("--name", help="folder of the table; default: the table's name")
    for flag, how in CACHE.items():
        add(flag, **how)
    add("--report", action="store_true", help="only write the report of what is there")
    add("--dry-run", action="store_true", help="print cells, runs and estimated cost, and stop")


def add_describe(commands: Any) -> None:
    """Add the command ``describe``."""
    def run(args: argparse.Namespace) -> int:
        from synth3d.experiments import DescribeRequest, describe_model

        return describe_model(request(DescribeRequest, args))

    add = command(commands, "describe", run,
        "parameters, FLOPs and memory of a generator; patch and batch for a budget")
    add("--model", default="agi-net", help=MODELS)
    add("--dim", choices=["2d", "3d"], default="3d", help="slices or volumes; default: 3d")
    add("--widths", type=integers, default=(64, 128, 256, 512), metavar="16,32,64,128",
        help="channels of its levels, from full resolution down; default: 64,128,256,512")
    add("--groups", type=int, help="agi-net's; default: 8")
    add("--stages", type=_stages, metavar="N|NAMES",
        help="leading stages with the special convolution, or names: down1,body; default: 5")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assign",
        help="any further option of the model, as in module=gr; repeatable")
    add("--in-channels", type=int, default=3, help="sequences it looks at; default: 3")
    add("--out-channels", type=int, default=1, help="sequences it makes; default: 1")
    add("--side", type=int, help="of the input that is counted; default: 256 in 2-D, 64 in 3-D")
    add("--degraded", type=integers, default=(), metavar="1,1,4",
        help="with the branch by which fgdl restores the last input, of so much larger voxels")
    add("--fit", metavar="8GB", help="propose patch and batch for training in so much memory")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="of --fit")
    add("--json", action="store_true", help="print JSON instead of text")


def _stages(text: str) -> int | tuple[str, ...]:
    return int(text) if text.isdigit() else tuple(text.split(","))
# fmt: on
