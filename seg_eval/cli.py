"""The command ``seg_eval``: run · pool · report · power · curve · paths · fetch-viewer ·
export-segmenter.

Exit codes: 0 done, 1 a check or a called program failed, 2 the input cannot be used,
130 interrupted. Everything heavy is imported inside the commands, so ``--help`` is instant; below
this file there are requests and no flags.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg_eval.arms import help_on_arms
from synth3d import __version__
from synth3d.cli import Parser, add_manner, in_brief
from synth3d.console import answer, event
from synth3d.errors import run_guarded

if TYPE_CHECKING:
    from seg_eval.experiment import RunRequest

EXAMPLES = {
    "seg_eval": """examples:
  seg_eval run --missing flair                     on the built-in phantom cohort
  seg_eval run --missing flair --data BraTS --splits splits.json
  seg_eval COMMAND --help                          has examples of its own
""",
    "run": """examples:
  seg_eval run --preset list                       segmenters, and what they take
  seg_eval run --missing flair                     on the built-in phantom cohort
  seg_eval run --missing flair --data BraTS --splits splits.json --dry-run
  seg_eval run --missing flair --data BraTS --splits splits.json
  seg_eval run --missing t1ce --data BraTS --run work/runs/A --run work/runs/B
  seg_eval run --missing flair --data BraTS --run A0 --run A1 --run A2 --as agi-net \\
    --run L0 --run L1 --run L2 --as l1       two arms of three trainings each
  seg_eval run --missing flair --data BraTS --completed cwdm=OTHER_TOOLS_OUTPUT
  seg_eval run --missing flair --data BraTS --seeds 0,1,2 --arms all
  seg_eval run --missing flair --data BraTS --seeds 0,1,2 --coupled
  seg_eval run --missing flair --data BraTS --seeds 0,1 --coupled 7 --set train.steps=4000
  seg_eval run --missing flair --data BraTS --cross-validate 5 --set train.steps=4000
  seg_eval run --missing all --data BraTS                    the four sequences in turn
  seg_eval run --missing flair,t1ce --data BraTS             both at once
  seg_eval run --missing random --seed 7 --data BraTS --completed ours=OURS --completed b=TEAM_B
  seg_eval run --missing flair --data BraTS --segmenter MODEL --trust
  seg_eval run --missing flair --data BraTS --preset cpu-mini --transfer cpu-mini-resenc
  seg_eval run --missing flair --arms copy,ridge,boosted     no synthesiser at all
  seg_eval run --degraded flair=1,1,4 --data BraTS --run work/runs/RESTORING --run work/runs/A
""",
    "pool": """example:
  seg_eval pool part1 part2 part3 --name all-patients
""",
    "report": """example:
  seg_eval report t2f-phantom                      a name in work/eval, or a folder
""",
    "power": """example:
  seg_eval power t2f-phantom                       a name in work/eval, or a folder
""",
    "curve": """example:
  seg_eval curve work/eval/t2f-1x1x[248]-BraTS t2f-BraTS --out work/curve
""",
    "paths": """example:
  eval "$(seg_eval paths --segmenter work/segmenters/NAME/cpu-mini)"
""",
    "fetch-viewer": """examples:
  seg_eval fetch-viewer
  seg_eval fetch-viewer niivue-niivue-0.69.0.tgz
""",
    "export-segmenter": """examples:
  seg_eval export-segmenter work/segmenters/NAME/cpu-small/results/D/T__P__3d_fullres segmenter
  synth3d train --data BraTS --target flair --set train.coupling.segmenter=segmenter \\
    --set train.coupling.label=0.1
""",
}
"""What ``--help`` of a command ends with."""

ABOUT = """How much of the tumour Dice lost with a missing sequence does synthesis recover?

A segmenter is trained once per seed on real cases and frozen; then the missing channel of each
test case is real (full), blanked (zero), copied from the most similar sequence (copy), the mean
of the training cases (template), regressed voxel by voxel (ridge, boosted), synthesised
(synthetic: our runs, or any other tool's files), or the real one sent through the export path
(plumbing, a check). Other rivals train a segmenter of their own: without the sequence
(specialist), with random channels dropped (dropout), or on out-of-fold synthetic channels
(retrained).

With --degraded the sequence is there, but with thick slices, and what is recovered is counted from
these as nnU-Net would resample them (degraded), beside linear and cubic interpolation (trilinear,
spline), regression that sees them too, runs that restore them and runs that fill it in anew."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if not getattr(args, "command", None):
        about = "what is a synthetic MRI sequence worth for segmenting brain tumours?"
        print(in_brief(parser, about, ("run", "report", "power", "pool")))
        return 2
    args.words = shlex.join(["seg_eval", *(sys.argv[1:] if argv is None else argv)])
    return run_guarded(args.command, args)


def build_parser() -> Parser:
    """The whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    about: dict[str, Any] = {"description": ABOUT, "formatter_class": raw}
    parser = Parser(prog="seg_eval", epilog=EXAMPLES["seg_eval"], **about)
    parser.add_argument("--version", action="version", version=f"seg_eval {__version__}")
    commands = parser.add_commands()

    def add(name: str, told: str, command: Callable[..., int], **how: Any) -> Any:
        how = {"description": f"{told[0].upper()}{told[1:]}.", "formatter_class": raw} | how
        added = commands.add_parser(name, help=told, told=told, epilog=EXAMPLES[name], **how)
        added.set_defaults(command=command)
        return added

    told = "the whole experiment; a killed one goes on with the same command"
    # The defaults are those of a request.
    run = add("run", told, _run, argument_default=argparse.SUPPRESS, **about)
    add_manner(run)
    _add_materials(run)
    _add_statistics(run)
    told = "one certificate of finished experiments whose test patients are different"
    pool = add("pool", told, _pool, argument_default=argparse.SUPPRESS)
    told = "names in WORK/eval, or folders: one question, the same arms and segmenters of the same "
    told += "settings"
    pool.add_argument("experiments", type=Path, nargs="+", metavar="EXPERIMENT", help=told)
    told = "where experiments are kept, and the certificate goes; default: work"
    pool.add_argument("--work", type=Path, default=Path("work"), help=told)
    pool.add_argument("--name", help="folder under WORK/eval; default: MISSING-COHORT-pooled")
    told = "how many patients and segmenter seeds a clearer answer would take"
    for asks in (
        add("report", "print a finished experiment again", _report),
        add("power", told, _power),
    ):
        _add_experiment(asks)
    told = "Dice against the thickness of slices, from finished experiments of --degraded, and of "
    curve = add("curve", told + "--missing for slices without end", _curve)
    told = "names in WORK/eval, or folders: the same cases and segmenters, one for each ratio"
    curve.add_argument("experiments", type=Path, nargs="+", metavar="EXPERIMENT", help=told)
    _add_work(curve)
    told = "folder for curve.md, curve.png and curve.csv"
    curve.add_argument("--out", type=Path, required=True, help=told)
    told = "lines for a shell, so that stock nnU-Net commands find our trainers and segmenters"
    paths = add("paths", told, _paths)
    told = "folder of a trained preset: WORK/segmenters/NAME/PRESET"
    paths.add_argument("--segmenter", type=Path, help=told)
    told = "NiiVue, with which reports show cases in 3-D, once for this machine (6.8 MB from "
    told += "registry.npmjs.org); seg_eval report then makes the pages of what is finished"
    fetch = add("fetch-viewer", told, _fetch_viewer)
    told = "the package where it is here already, as npm pack @niivue/niivue@0.69.0 writes it"
    fetch.add_argument("package", type=Path, nargs="?", metavar="PACKAGE", help=told)
    told = "an nnU-Net as JSON and safetensors, so that a synthesiser can learn from it"
    _add_export(add("export-segmenter", told, _export, argument_default=argparse.SUPPRESS))
    return parser


def _add_experiment(asks: argparse.ArgumentParser) -> None:
    told = "a finished experiment, its name in WORK/eval or its folder"
    asks.add_argument("experiment", type=Path, metavar="EXPERIMENT", help=told)
    _add_work(asks)


def _add_work(asks: argparse.ArgumentParser) -> None:
    told = "where experiments are kept; default: work"
    asks.add_argument("--work", type=Path, default=Path("work"), help=told)


def _add_export(export: argparse.ArgumentParser) -> None:
    add = export.add_argument
    told = "nnU-Net v2 model folder, <Trainer>__<Plans>__<configuration>, ours or any other"
    add("segmenter", type=Path, metavar="MODEL", help=told)
    add("out", type=Path, metavar="OUT", help="folder for the export")
    add("--fold", help="which fold, where there are several")
    add("--trust", action="store_true", help="load its checkpoint, a pickle, if not trained here")
    add("--work", type=Path, help="where segmenters trained here are kept")


def _add_materials(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    told = "t1|t1n|t1ce|t1c|t2|t2w|flair|t2f; several are missing at once; all makes one "
    told += "experiment for each of the four, random one in which each test case lacks another "
    told += "sequence, drawn by --seed, as in BraSyn"
    add("--missing", nargs="+", metavar="MODALITY", help=told)
    told = "instead of --missing: the sequence is there with thick slices, voxels so much longer "
    told += "along z, y, x of the file; whole numbers"
    add("--degraded", metavar="MODALITY=z,y,x", help=told)
    told = "of --degraded: the middle of k-space (default), or means over slices"
    add("--profile", choices=("kspace", "slices"), help=told)
    add("--data", type=Path, help="cohort folder; without it phantoms are used")
    told = "the cohort as a table (case, patient, t1n, t1c, t2w, t2f, seg), see docs/names.md"
    add("--cases", type=Path, dest="cohort_table", metavar="TABLE.csv", help=told)
    add("--splits", type=Path, help="JSON with train, val and test; default: the run's own")
    told = "what all labels mean, brats2018|brats2023|brats2024|ped|msd; default: each case tells, "
    told += "by its dataset.json, its name or its values"
    add("--labels", metavar="SCHEME", help=told)
    told = "finished synth3d run, its name, latest or its folder; may be repeated; default: the "
    told += "newest that fits, or a new one; "
    told += "A+B is one arm, the mean of two runs, and A@x or A@xyz over mirror images"
    add("--run", type=Path, action="append", help=told)
    told = (
        "the --run flags before it, since the last --as, are replicates of one arm of this name: "
    )
    told += "trainings of one recipe that differ in their seed alone; may be repeated"
    add("--as", action=_Merge, dest="replicates", metavar="NAME", help=told)
    told = "missing channels made by any other tool, files named as synth3d score reads them: as "
    told += "in the cohort, or CASE.nii.gz; may be repeated"
    add("--completed", action="append", metavar="[NAME=]FOLDER", help=told)
    told = "for a synthesiser that has to be trained first, see synth3d train --recipe list"
    add("--recipe", help=told)
    told = "train a segmenter of this seed (1000), none of --seeds, on the training cases, let it "
    told += "teach a synthesiser, and judge that by the others, beside any --run"
    add("--coupled", nargs="?", const=True, type=int, metavar="SEED", help=told)
    told = "of the synthesiser of --coupled or --cross-validate, as synth3d train --set: "
    told += "train.steps=4000, model.name=resunet, train.framework=l1, "
    told += "train.coupling.features=0.5 (default: label=1, balance=true); "
    told += "may be repeated"
    add("--set", action="append", dest="settings", metavar="KEY=VALUE", help=told)
    add("--work", type=Path, help="where all is kept")
    add("--name", help="folder under WORK/eval; default: MISSING-COHORT")
    add("--arms", action="append", metavar="ARM,ARM", help=help_on_arms())
    told = (
        "how large the segmenter is; default: cpu-mini for phantoms, standard (as nnU-Net has it) "
    )
    told += "on a GPU, else cpu-small; list: print all, with what they take, and stop"
    add("--preset", help=told)
    told = "let segmenters of this preset, as cpu-mini-resenc, judge the same arms once more: is "
    told += "what comes back more than what one architecture likes?"
    add("--transfer", metavar="PRESET", help=told)
    told = "an nnU-Net v2 model folder of yours as the frozen segmenter"
    add("--segmenter", type=Path, metavar="FOLDER", help=told)
    told = "load checkpoints that you did not train here: they are pickles, which can run any code"
    add("--trust", action="store_true", help=told)
    add("--threads", type=int, help="CPU threads; default: all cores")
    add("--device", help="auto, cpu, cuda, cuda:1")
    told = "say what would be done, and what it takes in time, memory and disk, and stop"
    add("--dry-run", action="store_true", help=told)


class _Merge(argparse.Action):
    """Notes which of the runs so far belong to the arm of this name: those that no other has."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        merged = dict(getattr(namespace, self.dest, {}))
        if values in merged:
            raise argparse.ArgumentError(self, f"the name {values!r} is given twice")
        start = getattr(namespace, "runs_merged", 0)
        runs = getattr(namespace, "run", [])
        merged[values] = tuple(runs[start:])
        setattr(namespace, self.dest, merged)
        namespace.runs_merged = len(runs)


def _add_statistics(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    told = "a region that a case does not have: brats scores 1 if the prediction is empty too "
    told += "and 0 if not; skip leaves the case out in every arm"
    add("--empty", choices=("brats", "skip"), help=told)
    told = "of voxel draws, and of the segmenter without --seeds; not of synthesis"
    add("--seed", type=int, help=told)
    told = "segmenters of each kind are trained with these seeds; default: SEED alone"
    add("--seeds", metavar="0,1,2", help=told)
    add("--margin", type=float, help="mean Dice below full that still counts as no worse")
    told = "the regions to be judged, fixed before scoring; all others are called exploratory; "
    told += "default: all"
    add("--regions", metavar="WT,TC,ET", help=told)
    told = "how far surfaces may be apart and still agree in NSD; default: 1"
    add("--nsd-tolerance", type=float, metavar="MM", help=told)
    told = "cut the cohort into N folds by patient, drawn by --seed; train a synthesiser and "
    told += "segmenters for each on the others, judge them on it, and put all into one "
    told += "certificate, in which each patient was judged once"
    add("--cross-validate", type=int, metavar="N", help=told)
    told = "of the out-of-fold synthesis that the arm retrained learns from"
    add("--folds", type=int, help=told)
    add("--workers", type=int, metavar="N", help="folds of that side by side; default: 1")


def request_of(args: argparse.Namespace) -> "RunRequest":
    """What the flags of `seg_eval run` ask for."""
    from seg_eval.experiment import RunRequest
    from synth3d.cohort import cohort_of

    known = {field.name for field in fields(RunRequest)}
    given: dict[str, Any] = {name: value for name, value in vars(args).items() if name in known}
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    given["missing"] = ",".join(args.missing) if "missing" in args else None
    given["data"] = cohort_of(given.get("data"), getattr(args, "cohort_table", None))
    return RunRequest(**given)


def _run(args: argparse.Namespace) -> int:
    from seg_eval import evaluation
    from seg_eval.arms import StageFailedError

    if getattr(args, "preset", None) == "list":
        return _list_presets()
    try:
        return evaluation.evaluate(request_of(args), words=args.words).code
    except StageFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _list_presets() -> int:
    from seg_eval.experiment import preset_facts, presets_in_words

    found = preset_facts()
    event("presets", presets=found)
    answer(presets_in_words(found))
    return 0


def _pool(args: argparse.Namespace) -> int:
    from seg_eval.evaluation import pool_experiments
    from seg_eval.experiment import find_experiment

    folders = [find_experiment(each, args.work) for each in args.experiments]
    given = {name: value for name, value in vars(args).items() if name in ("work", "name", "words")}
    return pool_experiments(folders, **given).code


def _report(args: argparse.Namespace) -> int:
    from seg_eval.evaluation import report
    from seg_eval.experiment import find_experiment

    report(find_experiment(args.experiment, args.work))
    return 0


def _fetch_viewer(args: argparse.Namespace) -> int:
    from seg_eval.report import keep_script

    print(keep_script(args.package))
    return 0


def _power(args: argparse.Namespace) -> int:
    from seg_eval.evaluation import power
    from seg_eval.experiment import find_experiment

    power(find_experiment(args.experiment, args.work))
    return 0


def _curve(args: argparse.Namespace) -> int:
    from seg_eval.evaluation import curve
    from seg_eval.experiment import find_experiment

    curve([find_experiment(each, args.work) for each in args.experiments], args.out)
    return 0


def _paths(args: argparse.Namespace) -> int:
    from seg_eval.segmenter import export_lines, paths

    print(export_lines(paths(args.segmenter)))
    return 0


def _export(args: argparse.Namespace) -> int:
    from seg_eval.segmenter import ExportRequest, export_segmenter

    known = {field.name for field in fields(ExportRequest)}
    given = {name: value for name, value in vars(args).items() if name in known}
    print(export_segmenter(ExportRequest(**given)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
