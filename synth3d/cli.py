"""The command ``synth3d``: phantom · audit · train · complete · status · verify · export · score ·
ablate · describe.

Exit codes: 0 done, 1 the command ran and something failed or is wrong (ablate, audit, status,
verify), 2 the input cannot be used, 130 interrupted. Everything heavy is imported inside the
commands, so ``--help`` is instant.
"""

import argparse
import dataclasses
import functools
import os
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from synth3d import __version__
from synth3d.errors import InputError, run_guarded, run_one_of_several

T = TypeVar("T")

TABLE: dict[str, Any] = {
    "type": Path,
    "dest": "cohort_table",
    "metavar": "TABLE.csv",
    "help": "the cohort as a table (case, patient, t1n, t1c, t2w, t2f, seg), see docs/names.md",
}
"""The flag ``--cases``."""

EXAMPLES = tomllib.loads(Path(__file__).with_name("cli_examples.toml").read_text("utf-8"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if not getattr(args, "run_command", None):
        parser.print_help()
        return 2
    guarded = run_guarded if os.environ.get("WORLD_SIZE", "1") == "1" else run_one_of_several
    return guarded(args.run_command, args)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="synth3d",
        description="Synthesise the MRI sequence that a BraTS-like case lacks.",
        epilog=EXAMPLES["train"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"synth3d {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add_command in (
        _add_phantom, _add_audit, _add_train, _add_complete, _add_state, _add_export, _add_score,
        _add_ablate, _add_describe
    ):  # fmt: skip
        add_command(commands)
    return parser


MODELS = "agi-net, resunet, deform-resunet, arc-resunet, restormer or tsf"
LABELS = (
    "what all labels mean, brats2018|brats2023|brats2024|ped|msd; default: each case tells, by its "
    "dataset.json, its name or its values"
)
CACHE: dict[str, dict[str, Any]] = {
    "--cache": {"type": Path, "metavar": "DIR", "help": "folder of prepared cases, shared by runs "
        "and safe to delete while none runs; default: WORK/cache"},
    "--cache-limit": {"type": float, "default": 100.0, "metavar": "GB",
        "help": "of that folder; what was used longest ago goes first; default: 100"},
}  # fmt: skip
Flags = Callable[..., argparse.Action]


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, **words: str
) -> Flags:
    """Add the command ``name``; what adds its flags."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=help, formatter_class=raw, **words)
    parser.set_defaults(run_command=run)
    return parser.add_argument


def _request(schema: type[T], args: argparse.Namespace) -> T:
    """``schema``, the dataclass of a command, from the flags that its fields are named by."""
    fields = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    values = {name: getattr(args, name) for name in fields if hasattr(args, name)}
    return schema(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _with_table(args: argparse.Namespace) -> argparse.Namespace:
    """``args`` with the table of ``--cases``, if one is given, as the data."""
    from synth3d.cohort import TABLE_ENDINGS, cohort_of

    table, names = getattr(args, "cohort_table", None), getattr(args, "cases", None)
    if table is None and names and names[0].lower().endswith(TABLE_ENDINGS):
        if len(names) > 1:
            raise InputError(
                "--cases wants names or one table; for some cases of a table give it to --data"
            )
        table, args.cases = Path(names[0]), None
    args.data = cohort_of(args.data, table)
    return args


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers as in 16,32,64, got {text!r}") from None


def _stages(text: str) -> int | tuple[str, ...]:
    return int(text) if text.isdigit() else tuple(text.split(","))


# fmt: off
def _add_phantom(commands: Any) -> None:
    def run(args: argparse.Namespace) -> int:
        from synth3d.phantom import PhantomRequest, write_phantoms

        return write_phantoms(_request(PhantomRequest, args))

    add = _command(commands, "phantom", run, "write a cohort of synthetic brains with gliomas")
    add("out", type=Path, help="folder to write, named like BraTS 2023")
    add("--cases", type=int, default=24)
    add("--size", type=int, default=64, help="voxels along each side")
    add("--seed", type=int, default=0)
    add("--overwrite", action="store_true", help="replace another cohort there")


def _add_audit(commands: Any) -> None:
    def run(args: argparse.Namespace) -> int:
        from synth3d.cohort import AuditRequest, run_audit

        return run_audit(_request(AuditRequest, args))

    add = _command(commands, "audit", run, "what a cohort holds, and what would break a run")
    add("folder", type=Path, nargs="?")
    add("--cases", **TABLE)
    add("--splits", type=Path, help="JSON with train, val and test case names")
    add("--labels", metavar="SCHEME", help=LABELS)
    add("--json", action="store_true", help="print JSON instead of text")
    add("--fix-headers", type=Path, metavar="OUT",
        help="write the cohort to OUT with headers that all programs read alike, and say what "
        "was done to each file; voxels are kept to the last bit")
    add("--write-table", type=Path, metavar="TABLE.csv",
        help="draft a table of whatever lies there, for you to correct, and stop")


def _add_train(commands: Any) -> None:
    def run(args: argparse.Namespace) -> int:
        from synth3d.training import TrainRequest, train_run

        train_run(_request(TrainRequest, _with_table(args)))
        return 0

    add = _command(
        commands, "train", run, "train a generator; a killed run goes on with the same command",
        description="Train a generator. Settings come from the defaults, then the recipe, then "
        "the flags; the resolved ones are saved with the run and rerun it.",
        epilog=EXAMPLES["train"])
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
    add("--recipe", help="a shipped name or a .toml/.json file; default: phantom without --data, "
        "else cpu, gpu, or gpu-8gb where the GPU has less than 20 GB; -2d of it for slices")
    add("--model", help=MODELS)
    add("--framework", metavar="NAME", help="l1, pix2pix, pgan, mmgan, medsynth, ddpm, iddpm, tsf "
        "or fgdl, each with its paper's losses and weights (--set train.NAME.KEY=VALUE)")
    add("--widths", type=_integers, metavar="16,32,64,128")
    add("--groups", type=int)
    add("--patch", type=_integers, metavar="48,48,48", help="(z,y,x); (row,column) for 2d")
    add("--batch", type=int)
    add("--steps", type=int)
    add("--seed", type=int)
    add("--threads", type=int,
        help="CPU threads; default: all cores; the processes of a machine share them")
    add("--precision", choices=["fp32", "bf16"])
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assign")
    add("--device", default="auto",
        help="auto, cpu, cuda, cuda:1; a killed run ends bit for bit as an undisturbed one on a "
        "CPU, near by on CUDA")
    add("--work", type=Path, default=Path("work"), help="where runs are kept")
    add("--name", help="run folder name; default: says what it is")
    add("--from", type=Path, dest="start", metavar="RUN", help="learn the fusion of this tsf run")
    for flag, how in CACHE.items():
        add(flag, **how)
    add("--dry-run", action="store_true", help="print the settings and stop")


def _add_complete(commands: Any) -> None:
    def run(args: argparse.Namespace) -> int:
        from synth3d.cohort import given_cohort
        from synth3d.completion import CompleteRequest, complete_cohort
        from synth3d.machine import keep_memory

        keep_memory()
        args.data = given_cohort(_with_table(args).data, None)
        complete_cohort(_request(CompleteRequest, args))
        return 0

    add = _command(commands, "complete", run, "write the sequences that cases lack")
    add("--run", type=Path, help="a finished run folder (of synth3d train), or an exported one")
    add("--data", type=Path, help="folder with cases, or a table of them; only read")
    add("--out", type=Path, required=True, help="folder for the completed cases")
    add("--format", choices=["brats", "nnunet", "bids"], default="brats",
        help="case folders named as the input, nnU-Net's imagesTs, or a BIDS derivative dataset")
    add("--missing", action="extend", nargs="+", metavar="MODALITY",
        help="treat t1|t1ce|t2|flair as missing even where it is there; one or several")
    add("--cases", nargs="+", metavar="NAME|TABLE.csv",
        help="only these cases; or a table of all cases instead of --data")
    add("--labels", metavar="SCHEME", help=LABELS + "; those copied get what their names say")
    add("--overwrite", action="store_true", help="replace files that are already in OUT")
    add("--explain", action="store_true", help="and what explains it, of a run of tsf or agi-net")
    add("--draws", type=int, default=1, metavar="N", help="a diffusion's mean of N, and its spread")
    add("--link", action="store_true",
        help="hard links to the input's files instead of copies: less disk, but one file")
    add("--dry-run", action="store_true", help="print the plan and stop")
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
    _add_workers(add, "cases")
    add("--part", metavar="K/N",
        help="of the cases in the order of their names every N-th from the K-th, for job arrays")
    add("--retry-failed", action="store_true",
        help="try again what failed before with the same files and the same run")
    add("--threads", type=int,
        help="CPU threads; default: all cores, shared among the workers; a Dask worker's own")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")


def _add_workers(add: Flags, what: str) -> None:
    add("--workers", type=int, default=1, metavar="N",
        help=f"processes that do {what} side by side; default: 1")
    add("--dask", metavar="ADDRESS",
        help="the workers of a Dask cluster do them, as in tcp://scheduler:8786")


def _add_state(commands: Any) -> None:
    def look(args: argparse.Namespace, again: bool = False) -> int:
        from synth3d.completion import StateRequest, tell_status

        return tell_status(_request(StateRequest, args), again)

    verify = functools.partial(look, again=True)

    status = _command(commands, "status", look, "what of a completed cohort is done, and what not")
    hashes = _command(commands, "verify", verify, "hold a completed cohort against its receipts")
    for add in (status, hashes):
        add("out", type=Path, metavar="OUT", help="folder of synth3d complete")
        add("--json", action="store_true", help="print JSON instead of text")


def _add_export(commands: Any) -> None:
    def run(args: argparse.Namespace) -> int:
        from synth3d.export import ExportRequest, export_run

        export_run(_request(ExportRequest, args))
        return 0

    add = _command(commands, "export", run, "a finished run for other people's machines",
        description="Write a finished run, without anything of this machine or its cases, as "
        "others want it.", epilog=EXAMPLES["export"])
    add("run", type=Path, metavar="RUN", help="a finished run folder (of synth3d train)")
    add("out", type=Path, metavar="OUT", help="folder to make")
    add("--to", choices=["folder", "monai", "brasyn"], required=True,
        help="folder: weights, configuration and model card, as on Hugging Face; monai: a bundle; "
        "brasyn: the context of a challenge container")
    add("--also", action="append", type=Path, metavar="RUN", default=[],
        help="for brasyn, another run in the same container; repeatable")
    add("--license", metavar="ID", help="of the weights, as in cc-by-nc-4.0; default: not stated")
    add("--dataset", metavar="TEXT", help="what it was trained on; default: not stated")
    add("--author", metavar="TEXT", help="default: not stated")


def _add_score(commands: Any) -> None:
    def run(args: argparse.Namespace) -> int:
        from synth3d.completion import tell_errors
        from synth3d.scoring import ScoreRequest, score

        if args.explanation:
            return tell_errors(args.real, args.synthetic, args.out)
        return score(_request(ScoreRequest, args))

    add = _command(commands, "score", run, "image scores of one folder against another",
        description="Image scores of volumes by named conventions.", epilog=EXAMPLES["score"])
    add("real", type=Path, metavar="REAL", help="folder of the acquired images")
    add("synthetic", type=Path, metavar="SYNTHETIC", help="folder of the images to be scored")
    add("--modality", "--target", help="t1|t1ce|t2|flair; default: the one that each case has")
    add("--convention", default="ours", metavar="NAME,NAME", dest="conventions",
        help="of ours, paper-agi, paper-tsf, brasyn, or all; default: ours")
    add("--rescale", choices=["none", "match"], default="none",
        help="none: files are in scanner units, wrong brightness counts; match: bring each to its "
        "real one's p0.5 and median in the brain first")
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


def _add_ablate(commands: Any) -> None:
    def run(args: argparse.Namespace) -> int:
        from synth3d.experiments import AblateRequest, ablate

        return ablate(_request(AblateRequest, _with_table(args)))

    about = "Rerun an experiment of the paper: cells × seeds, one table at the end."
    add = _command(commands, "ablate", run, "rerun a table of the paper: cells x seeds",
        description=about, epilog=EXAMPLES["ablate"])
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
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assign")
    add("--dim", choices=["2d", "3d"], help="default: the recipe's, else 3d")
    add("--plane", choices=["axial", "coronal", "sagittal"], help="for 2d")
    add("--target", "--missing", help="t1|t1ce|t2|flair|pd, or any for the tables tsf-*")
    add("--sources", help="comma-separated; default: the others")
    add("--move", metavar="SOURCE", help="the source that is put out of place; default: t2 or last")
    add("--draw", choices=["fixed", "box"], default="fixed",
        help="exactly that far some way, or each component up to it; default: fixed")
    add("--mode", choices=["test-only", "train-and-test"], default="test-only",
        help="of a curve: test an aligned training at every level, or train each level")
    add("--convention", metavar="NAME,NAME",
        help="of the scores, the first leads; default: ours and that of the table's paper, or the "
        "reverse for a recipe with the AGI-Net paper's intensities")
    _add_workers(add, "runs")
    add("--threads", type=int, help="of each run; default: all cores / workers")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--work", type=Path, default=Path("work"), help="results are kept in WORK/ablate")
    add("--name", help="folder of the table; default: the table's name")
    for flag, how in CACHE.items():
        add(flag, **how)
    add("--report", action="store_true", help="only write the report of what is there")
    add("--dry-run", action="store_true", help="print cells, runs and estimated cost, and stop")


def _add_describe(commands: Any) -> None:
    def run(args: argparse.Namespace) -> int:
        from synth3d.experiments import DescribeRequest, describe_model

        return describe_model(_request(DescribeRequest, args))

    add = _command(commands, "describe", run,
        "parameters, FLOPs and memory of a generator; patch and batch for a budget",
        epilog=EXAMPLES["describe"])
    add("--model", default="agi-net", help=MODELS)
    add("--dim", choices=["2d", "3d"], default="3d")
    add("--widths", type=_integers, default=(64, 128, 256, 512), metavar="16,32,64,128")
    add("--groups", type=int, help="agi-net's; default: 8")
    add("--stages", type=_stages, metavar="N|NAMES",
        help="leading stages with the special convolution, or names: down1,body; default: 5")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assign",
        help="any further option of the model, as in module=gr; repeatable")
    add("--in-channels", type=int, default=3)
    add("--out-channels", type=int, default=1)
    add("--side", type=int, help="of the input that is counted; default: 256 in 2-D, 64 in 3-D")
    add("--fit", metavar="8GB", help="propose patch and batch for training in so much memory")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="of --fit")
    add("--json", action="store_true", help="print JSON instead of text")
# fmt: on


if __name__ == "__main__":
    raise SystemExit(main())
