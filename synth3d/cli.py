"""The command ``synth3d``: phantom · audit · train · complete · score · ablate · describe.

Exit codes: 0 done, 1 the command ran and something failed or is wrong (ablate, audit), 2 the input
cannot be used, 130 interrupted. Everything heavy is imported inside the commands, so ``--help`` is
instant.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from synth3d import __version__
from synth3d.errors import run_guarded

EXAMPLES = """examples:
  synth3d train --dim 3d                       train on the built-in phantom cohort
  synth3d train --dim 3d --data BraTS --target flair --splits splits.json
  synth3d train --dim 2d --data BraTS --target flair --plane coronal
  synth3d train --recipe ixi-2d --data IXI
  synth3d complete --run work/runs/NAME --data IN --out OUT
  synth3d score REAL SYNTHETIC --modality flair --convention all --out scores.csv
  synth3d ablate components --data BraTS --splits splits.json --seeds 3
  synth3d audit BraTS                          what a cohort holds, and what would break a run
  synth3d phantom cohort --cases 24 --size 64 --seed 0
  synth3d describe --model agi-net --widths 16,32,64,128 --fit 8GB
"""


SCORE_EXAMPLES = """examples:
  synth3d score BraTS completed --modality flair
  synth3d score BraTS completed --modality flair --convention all --out work/scores/flair.csv
  synth3d score BraTS container_output --splits splits.json --part test
  synth3d score BraTS other_tool --modality t1ce --rescale match --label-folder segmentations

A score's name is SCORE_REGION@CONVENTION; scores of different conventions are never comparable.
SYNTHETIC may hold case folders, <case>-t2f.nii.gz, <case>_0003.nii.gz or <case>.nii.gz; files are
paired by case name and never by position.
"""


ABLATE_EXAMPLES = """examples:
  synth3d ablate --list
  synth3d ablate components --seeds 3 --budget 400                     on the built-in phantoms
  synth3d ablate components --data BraTS --splits splits.json --dry-run
  synth3d ablate convolutions --data BraTS --splits splits.json --jobs 2 --threads 1 --part val
  synth3d ablate translation --mode train-and-test --only 'agi-net-*'
  synth3d ablate my_table.toml --set train.learning_rate=3e-4
"""


DESCRIBE_EXAMPLES = """examples:
  synth3d describe --model agi-net --dim 2d --in-channels 1
  synth3d describe --widths 16,32,64,128 --groups 4 --fit 8GB
  synth3d describe --stages down1,body --set routing_stride=2 --json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if not getattr(args, "run_command", None):
        parser.print_help()
        return 2
    return run_guarded(args.run_command, args)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="synth3d",
        description="Synthesise the MRI sequence that a BraTS-like case lacks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"synth3d {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_phantom(commands)
    _add_audit(commands)
    _add_train(commands)
    _add_complete(commands)
    _add_score(commands)
    _add_ablate(commands)
    _add_describe(commands)
    return parser


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers as in 16,32,64, got {text!r}") from None


def _stages(text: str) -> int | tuple[str, ...]:
    return int(text) if text.isdigit() else tuple(text.split(","))


def _add_phantom(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("phantom", help="write a cohort of synthetic brains with gliomas")
    parser.add_argument("out", type=Path, help="folder to write, named like BraTS 2023")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--size", type=int, default=64, help="voxels along each side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace another cohort there")
    parser.set_defaults(run_command=_phantom)


def _phantom(args: argparse.Namespace) -> int:
    from synth3d.phantom import make_cohort

    folders = make_cohort(args.out, args.cases, args.size, args.seed, args.overwrite)
    print(f"{len(folders)} phantom cases in {args.out}")
    return 0


def _add_audit(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("audit", help="what a cohort holds, and what would break a run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=Path, help="JSON with train, val and test case names")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run_command=_audit)


def _audit(args: argparse.Namespace) -> int:
    from synth3d.cohort import run_audit

    return run_audit(args.folder, args.splits, args.json)


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train a generator; a killed run goes on with the same command",
        description="Train a generator. Settings come from the defaults, then the recipe, then "
        "the flags; the resolved ones are saved with the run and rerun it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dim", choices=["2d", "3d"], help="slices or volumes; default: the recipe's, else 3d"
    )
    parser.add_argument(
        "--plane", choices=["axial", "coronal", "sagittal"], help="for 2d; default: the recipe's"
    )
    parser.add_argument("--data", type=Path, help="cohort folder; without it phantoms are used")
    parser.add_argument("--splits", type=Path, help="JSON with train, val and test case names")
    parser.add_argument(
        "--target",
        "--missing",
        default=None,
        help="t1|t1ce|t2|flair|pd, or new names; several with commas: one network makes them all",
    )
    parser.add_argument("--sources", default=None, help="comma-separated; default: the others")
    parser.add_argument("--recipe", default=None, help="a shipped name or a .toml/.json file")
    parser.add_argument(
        "--model", default=None, help="agi-net, resunet, deform-resunet or arc-resunet"
    )
    parser.add_argument(
        "--framework",
        metavar="NAME",
        help="l1, pix2pix, pgan, mmgan, medsynth, ddpm or iddpm, each with its own paper's losses "
        "and weights; --set train.NAME.KEY=VALUE changes one of them",
    )
    parser.add_argument("--widths", type=_integers, default=None, metavar="16,32,64,128")
    parser.add_argument("--groups", type=int, default=None)
    parser.add_argument(
        "--patch", type=_integers, metavar="48,48,48", help="(z,y,x); (row,column) for 2d"
    )
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: all cores")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default=None)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assign")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--work", type=Path, default=Path("work"), help="where runs are kept")
    parser.add_argument("--name", default=None, help="run folder name; default: says what it is")
    parser.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    parser.set_defaults(run_command=_train)


def _train(args: argparse.Namespace) -> int:
    from synth3d.training import TrainRequest, train_run

    train_run(TrainRequest(**{k: v for k, v in vars(args).items() if k != "run_command"}))
    return 0


def _add_complete(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("complete", help="write the sequences that cases lack")
    add = parser.add_argument
    add("--run", type=Path, help="a finished run folder (of synth3d train)")
    add("--data", type=Path, required=True, help="folder with cases; only read")
    add("--out", type=Path, required=True, help="folder for the completed cases")
    add("--format", choices=["brats", "nnunet"], default="brats",
        help="case folders named as the input, or nnU-Net's imagesTs")  # fmt: skip
    add("--missing", action="append", metavar="MODALITY",
        help="treat t1|t1ce|t2|flair as missing even where it is there; repeatable")  # fmt: skip
    add("--cases", nargs="+", metavar="NAME", help="only these cases")
    add("--overwrite", action="store_true", help="replace files that are already in OUT")
    add("--dry-run", action="store_true", help="print the plan and stop")
    add("--plumbing", action="store_true",
        help="no synthesis: send the real --missing sequence through the same way out")  # fmt: skip
    add("--overlap", type=float, help="share of a tile that neighbours share; default: training's")
    add("--precision", choices=["fp32", "bf16"], help="default: training's, if this machine can")
    add("--batch", type=int, default=2, help="tiles per call of the network")
    add("--threads", type=int, help="CPU threads; default: all cores")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.set_defaults(run_command=_complete)


def _complete(args: argparse.Namespace) -> int:
    from synth3d.completion import complete_command

    return complete_command(args)


def _add_score(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("score", help="image scores of one folder against another")
    parser.description = "Image scores of synthetic volumes under named conventions."
    parser.epilog = SCORE_EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("real", type=Path, metavar="REAL", help="folder of the acquired images")
    add("synthetic", type=Path, metavar="SYNTHETIC", help="folder of the images to be scored")
    add("--modality", "--target", help="t1|t1ce|t2|flair; default: the one that each case has")
    add("--convention", default="ours", metavar="NAME,NAME",
        help="of ours, paper-agi, paper-tsf, brasyn, or all; default: ours")  # fmt: skip
    add("--rescale", choices=["none", "match"], default="none",
        help="none: files are in scanner units, wrong brightness counts; match: bring each to its "
        "real one's p0.5 and median in the brain first")  # fmt: skip
    add("--splits", type=Path, help="JSON with train, val and test case names")
    add("--part", choices=["train", "val", "test"], default="test", help="default: test")
    add("--cases", nargs="+", metavar="NAME", help="only these cases")
    add("--label-folder", type=Path, help="segmentations; default: those beside the real images")
    add("--lpips-weights", type=Path, help="torchvision's AlexNet weights; default: its own folder")
    add("--out", type=Path, metavar="FILE.csv",
        help="write scores per case there; .md, .json and .png lie beside it")  # fmt: skip
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--dry-run", action="store_true", help="print the pairs and settings and stop")
    parser.set_defaults(run_command=_score)


def _score(args: argparse.Namespace) -> int:
    from synth3d.scoring import score_command

    return score_command(args)


def _add_ablate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("ablate", help="rerun a table of the paper: cells x seeds")
    parser.description = "Rerun an experiment of the paper: cells × seeds, one table at the end."
    parser.epilog = ABLATE_EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    # fmt: off
    add("table", nargs="?", metavar="TABLE", help="its name, see --list, or a .toml file")
    add("--list", action="store_true", help="print the tables and stop")
    add("--data", type=Path, help="cohort folder; without it phantoms are used")
    add("--splits", type=Path, help="JSON with train, val and test case names")
    add("--part", choices=["val", "test"], default="test",
        help="cases that are scored: val to choose by, test for the last word; default: test")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of every cell; default: 3")
    add("--budget", metavar="STEPS",
        help="steps of every run, or a duration (10min) that is turned into steps once, by "
        "timing the first baseline; default: the recipe's steps")
    add("--only", metavar="PATTERN,...", help="cells to run, and their baselines; as in 'agi-*'")
    add("--recipe", default=None, help="the base: a shipped name or a .toml/.json file")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assign")
    add("--dim", choices=["2d", "3d"], help="default: the recipe's, else 3d")
    add("--plane", choices=["axial", "coronal", "sagittal"], help="for 2d")
    add("--target", "--missing", default=None, help="t1|t1ce|t2|flair|pd")
    add("--sources", default=None, help="comma-separated; default: the others")
    add("--move", metavar="SOURCE", help="the source that is put out of place; default: t2 or last")
    add("--draw", choices=["fixed", "box"], default="fixed",
        help="exactly that far some way, or each component up to it; default: fixed")
    add("--mode", choices=["test-only", "train-and-test"], default="test-only",
        help="of a curve: test an aligned training at every level, or train each level")
    add("--convention", default=None, metavar="NAME,NAME",
        help="of the scores, the first leads; default: ours,paper-agi, or the reverse for a "
        "recipe with the paper's intensities")
    add("--jobs", type=int, default=1, metavar="N", help="runs side by side; default: 1")
    add("--threads", type=int, default=None, help="of each run; default: all cores / jobs")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--work", type=Path, default=Path("work"), help="results are kept in WORK/ablate")
    add("--name", default=None, help="folder of the table; default: the table's name")
    add("--report", action="store_true", help="only write the report of what is there")
    add("--dry-run", action="store_true", help="print cells, runs and estimated cost, and stop")
    parser.set_defaults(run_command=_ablate)


def _ablate(args: argparse.Namespace) -> int:
    from synth3d.experiments import ablate_command

    return ablate_command(args)


def _add_describe(commands: argparse._SubParsersAction) -> None:
    about = "parameters, FLOPs and memory of a generator; patch and batch for a budget"
    parser = commands.add_parser("describe", help=about)
    parser.epilog, parser.formatter_class = DESCRIBE_EXAMPLES, argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", default="agi-net", help="agi-net, resunet, deform-resunet or arc-resunet")
    add("--dim", choices=["2d", "3d"], default="3d")
    add("--widths", type=_integers, default=(64, 128, 256, 512), metavar="16,32,64,128")
    add("--groups", type=int, help="agi-net's; default: 8")
    add(
        "--stages",
        type=_stages,
        metavar="N|NAMES",
        help="leading stages with the special convolution, or names: down1,body; default: 5",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assign",
        help="any further option of the model, as in module=gr; repeatable",
    )
    add("--in-channels", type=int, default=3)
    add("--out-channels", type=int, default=1)
    add("--side", type=int, help="of the input that is counted; default: 256 in 2-D, 64 in 3-D")
    add("--fit", metavar="8GB", help="propose patch and batch for training in so much memory")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="of --fit")
    add("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run_command=_describe)


def _describe(args: argparse.Namespace) -> int:
    from synth3d.experiments import describe_command

    return describe_command(args)


if __name__ == "__main__":
    raise SystemExit(main())
