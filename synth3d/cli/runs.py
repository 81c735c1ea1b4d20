"""The commands that make runs, list them or hand them on: train, runs, export."""

import argparse
from pathlib import Path
from typing import Any

from synth3d.cli.flags import (
    CACHE,
    LABELS,
    MODELS,
    TABLE,
    WORK,
    command,
    integers,
    request,
    with_table,
)
from synth3d.console import answer, event


def tell_recipes() -> int:
    """What ships, for ``--recipe list``."""
    from synth3d.training import recipe_facts, recipe_table, shipped_recipes

    found = shipped_recipes()
    event("recipes", recipes=recipe_facts(found))
    answer(recipe_table(found))
    return 0


# fmt: off
def add_train(commands: Any) -> None:
    """Add the command ``train``."""
    def run(args: argparse.Namespace) -> int:
        from synth3d.training import TrainRequest, train_run

        if args.recipe == "list":
            return tell_recipes()
        train_run(request(TrainRequest, with_table(args)))
        return 0

    add = command(
        commands, "train", run, "train a generator; a killed run goes on with the same command",
        description="Train a generator. Settings come from the defaults, then the recipe, then "
        "the flags; the resolved ones are saved with the run and rerun it.", manner=True)
    add("--dim", choices=["2d", "3d"], help="slices or volumes; default: the recipe's, else 3d")
    add("--plane", choices=["axial", "coronal", "sagittal"], help="for 2d; default: the recipe's")
    add("--data", type=Path, help="cohort folder; without it phantoms are used")
    add("--cases", **TABLE)
    add("--splits", type=Path, help="JSON with train, val and test case names")
    add("--labels", metavar="SCHEME", help=LABELS)
    add("--target", "--missing",
        help="t1|t1ce|t2|flair|pd, or new names; several with commas: one network makes them all; "
        "any: one network makes whatever a case lacks from whatever it has")
    add("--sources", help="comma-separated; default: the others; for any: those of the cohort")
    add("--degraded", metavar="SEQUENCE=Z,Y,X",
        help="a sequence that is there with thick slices is restored: how much larger its voxels "
        "are, as in flair=4,1,1")
    add("--recipe", help="a shipped name or a .toml/.json file; default: phantom without --data, "
        "else cpu, gpu, or gpu-8gb where the GPU has less than 20 GB; -2d of it for slices; list: "
        "print all, with what they take, and stop")
    add("--model", help=MODELS)
    add("--framework", metavar="NAME", help="l1, pix2pix, pgan, mmgan, medsynth, ddpm, iddpm, tsf "
        "or fgdl, each with its paper's losses and weights (--set train.NAME.KEY=VALUE)")
    add("--widths", type=integers, metavar="16,32,64,128",
        help="channels of the model's levels, from full resolution down; default: the recipe's")
    add("--groups", type=int, help="agi-net: of its channels, each rolled by itself")
    add("--patch", type=integers, metavar="48,48,48",
        help="voxels of a training patch, (z,y,x); (row,column) for 2d; default: the recipe's")
    add("--batch", type=int, help="patches in a step; default: the recipe's")
    add("--steps", type=int, help="of the training; default: the recipe's")
    add("--seed", type=int, help="of all that is random in it; default: 0")
    add("--threads", type=int,
        help="CPU threads; default: all cores; the processes of a machine share them")
    add("--precision", choices=["fp32", "bf16"], help="default: the recipe's, if this machine can")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assign",
        help="any other setting, as train.learning_rate=3e-4; --dry-run --json prints all of them; "
        "may be repeated")
    add("--device", default="auto",
        help="auto, cpu, cuda, cuda:1; a killed run ends bit for bit as an undisturbed one on a "
        "CPU, near by on CUDA")
    add("--work", type=Path, default=Path("work"), help="where runs are kept")
    add("--name", help="run folder name; default: says what it is")
    add("--continue", dest="continued", metavar="RUN",
        help="go on with this run, a name or a folder, as it was begun; --steps beside it may be "
        "more than it had: a constant learning rate stays, a cosine's is that of the longer run")
    add("--from", type=Path, dest="start", metavar="RUN",
        help="learn the second stage alone, beside what this run, a name or a folder, has learnt "
        "(tsf, fgdl)")
    for flag, how in CACHE.items():
        add(flag, **how)
    add("--dry-run", action="store_true",
        help="say what would be done, and what it takes in time, memory and disk, and stop")


def add_runs(commands: Any) -> None:
    """Add the command ``runs``."""
    def run(args: argparse.Namespace) -> int:
        from synth3d.runs import RunsRequest, list_runs

        list_runs(request(RunsRequest, args))
        return 0

    add = command(commands, "runs", run, "which runs there are: what they make, how far, how good",
        description="List the runs, the newest first. Their names stand wherever a run is asked "
        "for, as in synth3d complete --run NAME.")
    add("--remove", nargs="+", metavar="NAME", default=[],
        help="delete these runs with all that is in their folders, and stop")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--work", **WORK)


def add_export(commands: Any) -> None:
    """Add the command ``export``."""
    def run(args: argparse.Namespace) -> int:
        from synth3d.export import ExportRequest, export_run

        export_run(request(ExportRequest, args))
        return 0

    add = command(commands, "export", run, "a finished run for other people's machines",
        description="Write a finished run, without anything of this machine or its cases, as "
        "others want it.")
    add("run", type=Path, metavar="RUN",
        help="a finished run: its name (synth3d runs), latest, or its folder")
    add("out", type=Path, metavar="OUT", help="folder to make")
    add("--to", choices=["folder", "monai", "brasyn"], required=True,
        help="folder: weights, configuration and model card, as on Hugging Face; monai: a bundle; "
        "brasyn: the context of a challenge container")
    add("--also", action="append", type=Path, metavar="RUN", default=[],
        help="for brasyn, another run in the same container; repeatable")
    add("--license", metavar="ID", help="of the weights, as in cc-by-nc-4.0; default: not stated")
    add("--dataset", metavar="TEXT", help="what it was trained on; default: not stated")
    add("--author", metavar="TEXT", help="default: not stated")
    add("--work", **WORK)
# fmt: on
