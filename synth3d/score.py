"""The command ``synth3d score``: any folder of synthetic images against the real ones."""

import argparse
from pathlib import Path

from synth3d.cases import parse_modality
from synth3d.files import InputError

NAMES = ("ours", "paper-agi", "paper-tsf", "brasyn")
"""The conventions, told here so that ``--help`` need not import them."""

EXAMPLES = """examples:
  synth3d score BraTS completed --modality flair
  synth3d score BraTS completed --modality flair --convention all --out work/scores/flair.csv
  synth3d score BraTS container_output --splits splits.json --part test
  synth3d score BraTS other_tool --modality t1ce --rescale match --label-folder segmentations

A score's name is SCORE_REGION@CONVENTION; scores of different conventions are never comparable.
SYNTHETIC may hold case folders, <case>-t2f.nii.gz, <case>_0003.nii.gz or <case>.nii.gz; files are
paired by case name and never by position.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``synth3d score``."""
    parser.description = "Image scores of synthetic volumes under named conventions."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("real", type=Path, metavar="REAL", help="folder of the acquired images")
    add("synthetic", type=Path, metavar="SYNTHETIC", help="folder of the images to be scored")
    add("--modality", "--target", help="t1|t1ce|t2|flair; default: the one that each case has")
    add("--convention", default="ours", metavar="NAME,NAME",
        help=f"of {', '.join(NAMES)}, or all; default: ours")  # fmt: skip
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


def main(args: argparse.Namespace) -> int:
    """``synth3d score``; 0 when every case was scored.

    Raises:
        InputError: A folder, a case or a flag cannot be used.
    """
    from synth3d.score_cohort import Settings, pair_up, score_folders
    from synth3d.score_report import dry_run, present

    settings = Settings(
        real=args.real,
        synthetic=args.synthetic,
        modality=None if args.modality is None else parse_modality(args.modality),
        conventions=_conventions(args.convention),
        rescale=args.rescale,
        splits=args.splits,
        part=args.part,
        cases=None if args.cases is None else tuple(args.cases),
        labels=args.label_folder,
        lpips_weights=args.lpips_weights,
    )
    if args.out is not None and args.out.suffix != ".csv":
        raise InputError(f"--out must end in .csv, got {args.out}")
    pairing = pair_up(settings)
    if args.dry_run:
        print(dry_run(settings, pairing))
        return 0
    print(present(score_folders(settings, pairing), args.out, args.json))
    return 0


def _conventions(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if names == ("all",):
        return NAMES
    if unknown := [name for name in names if name not in NAMES]:
        raise InputError(
            f"no convention is called {', '.join(unknown)}; there are {', '.join(NAMES)}, all"
        )
    return names
