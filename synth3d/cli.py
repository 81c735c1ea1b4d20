"""The command ``synth3d``: phantom · audit · train · complete · score · ablate · describe.

Exit codes: 0 done, 1 the command ran and something failed or is wrong (ablate, audit), 2 the input
cannot be used, 130 interrupted. Everything heavy is imported inside the commands, so ``--help`` is
instant.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from synth3d import __version__
from synth3d.files import run_guarded

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
    from synth3d.audit_report import run_audit

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
    from synth3d.start import train_command

    return train_command(args)


def _add_complete(commands: argparse._SubParsersAction) -> None:
    from synth3d.complete import add_arguments

    parser = commands.add_parser("complete", help="write the sequences that cases lack")
    add_arguments(parser)
    parser.set_defaults(run_command=_complete)


def _complete(args: argparse.Namespace) -> int:
    from synth3d.complete import main as complete

    return complete(args)


def _add_score(commands: argparse._SubParsersAction) -> None:
    from synth3d.score import add_arguments

    parser = commands.add_parser("score", help="image scores of one folder against another")
    add_arguments(parser)
    parser.set_defaults(run_command=_score)


def _score(args: argparse.Namespace) -> int:
    from synth3d.score import main as score

    return score(args)


def _add_ablate(commands: argparse._SubParsersAction) -> None:
    from synth3d.ablate import add_arguments

    parser = commands.add_parser("ablate", help="rerun a table of the paper: cells x seeds")
    add_arguments(parser)
    parser.set_defaults(run_command=_ablate)


def _ablate(args: argparse.Namespace) -> int:
    from synth3d.ablate import main as ablate

    return ablate(args)


def _add_describe(commands: argparse._SubParsersAction) -> None:
    from synth3d.describe_command import add_arguments

    about = "parameters, FLOPs and memory of a generator; patch and batch for a budget"
    parser = commands.add_parser("describe", help=about)
    add_arguments(parser)
    parser.set_defaults(run_command=_describe)


def _describe(args: argparse.Namespace) -> int:
    from synth3d.describe_command import main as describe

    return describe(args)


if __name__ == "__main__":
    raise SystemExit(main())
