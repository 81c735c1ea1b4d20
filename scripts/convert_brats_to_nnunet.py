"""A BraTS folder (2018 to 2024 names) as an nnU-Net v2 raw dataset.

Labels become 1 necrosis, 2 oedema, 3 enhancing tumour, whatever the release calls them, case by
case (4 of 2018-2021 becomes 3, 1 and 4 of BraTS-PED become 3 and 2), and are trained as the regions
WT, TC and ET. A resection cavity (RC) and the cysts of BraTS-PED (CC) get integers and regions of
their own, if there are any. scripts/convert_nnunet_to_brats.py is the way back. Channels are t1n,
t1c, t2w, t2f, matched by name. All cases that have them go in, the others are named:
give it a folder without your test cases.

Everything is checked before anything is written, and dataset.json is written last. A dataset
that is there already is refused unless you say --overwrite; the cohort is only read.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from seg_eval.segmenter import (
    RawPlan,
    RawRequest,
    dataset_folder,
    make_room,
    plan_raw_dataset,
    write_planned,
)
from synth3d.cohort import (
    MODALITIES,
    SCHEMES,
    Case,
    Modality,
    find_cases,
    given_cohort,
    keep_whole,
    notes_of,
    parse_modality,
    readings_of,
    untold_patients,
)
from synth3d.errors import InputError, run_guarded
from synth3d.images import check_same_grids

EXAMPLES = """examples:
  convert_brats_to_nnunet.py BraTS nnUNet_raw --id 137 --name BraTS --dry-run
  convert_brats_to_nnunet.py BraTS nnUNet_raw --id 137 --name BraTS
  convert_brats_to_nnunet.py BraTS nnUNet_raw --id 501 --copy
  convert_brats_to_nnunet.py IN nnUNet_raw --id 502 --completed OUT
      what the cases of IN lack comes from OUT (of `synth3d complete`)
  convert_brats_to_nnunet.py BraTS nnUNet_raw --id 503 --completed OUT --take flair
      FLAIR comes from OUT even where BraTS has it
  convert_brats_to_nnunet.py Validation nnUNet_raw --id 504 --no-labels
then:
  nnUNetv2_plan_and_preprocess -d 137 --verify_dataset_integrity
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    # fmt: off
    add("data", type=Path, nargs="?", help="cohort folder; only read")
    add("out", type=Path, help="nnU-Net's nnUNet_raw folder")
    add("--cases", type=Path, metavar="TABLE.csv", help="the cohort as a table instead of DATA")
    add("--id", type=int, default=501, help="dataset number, 1 to 999")
    add("--name", default="BraTS", help="dataset name")
    add("--completed", type=Path, help="cohort that lends channels, matched by case")
    add("--take", action="append", default=[], metavar="MODALITY",
        help="with --completed: take this channel from there even where the case has it")
    layout = parser.add_mutually_exclusive_group()
    for name, text in (
        ("reference", "dataset.json names the files where they are (default with labels)"),
        ("link", "hard links: less disk, but a file of both; copies across disks"),
        ("copy", "copies under nnU-Net's names (default without labels)"),
    ):
        layout.add_argument(f"--{name}", dest="layout", action="store_const", const=name, help=text)
    add("--no-labels", action="store_true", help="images only, to imagesTs")
    add("--labels", choices=sorted(SCHEMES),
        help="what all label integers mean; by default each case tells")
    add("--overwrite", action="store_true", help="replace the dataset if it exists")
    add("--dry-run", action="store_true", help="check and tell, write nothing")
    # fmt: on
    parser.set_defaults(layout=None)
    return parser


def lent_channels(
    completed: Path, take: Sequence[str], wanted: Mapping[str, Sequence[Modality]]
) -> dict[str, dict[Modality, Path]]:
    """Per case the files of ``completed`` for the modalities that it lacks or that are taken."""
    taken = [parse_modality(name) for name in take]
    there = {case.name: case.images for case in find_cases(completed)}
    lent, absent = {}, []
    for case, lacking in wanted.items():
        images = there.get(case, {})
        absent += [f"case {case} has no {name}" for name in taken if name not in images]
        names = {*taken, *lacking}
        lent[case] = {name: path for name, path in sorted(images.items()) if name in names}
    if absent:
        raise InputError(f"in {completed} {'; '.join(absent)}")
    return lent


def files_of(case: Case, lent: Mapping[str, Mapping[Modality, Path]], labels: bool) -> list[Path]:
    """All files that are used of a case."""
    images = {**case.images, **lent.get(case.name, {})}
    return [*images.values(), *([case.label] if labels and case.label else [])]


def tell(plan: RawPlan, lent: Mapping[str, Mapping[Modality, Path]]) -> None:
    """Print what a run would do."""
    print(f"would write {plan.folder}, files by {plan.layout}")
    print("channels " + ", ".join(f"{i} {name}" for i, name in enumerate(plan.channels)))
    if plan.labels:
        changes = sorted({pair for codes in plan.codes.values() for pair in codes.items()})
        pairs = ", ".join(f"{old} → {new}" for old, new in changes)
        rewritten = sum(plan.recoded(case) for case in plan.labels)
        print(f"labels {pairs}; {rewritten} of {len(plan.labels)} files rewritten")
    for case in plan.images:
        note = f" with {', '.join(lent[case])} lent" if lent.get(case) else ""
        print(f"  {case}{note}")
    print(f"{len(plan.images)} cases; nothing was written (--dry-run)")


def convert(args: argparse.Namespace) -> int:
    """Write the dataset and say where it is."""
    if args.take and args.completed is None:
        raise InputError("--take needs --completed, the folder to take from")
    if args.labels and args.no_labels:
        raise InputError("--labels says what labels mean and --no-labels leaves them out")
    cases = find_cases(given_cohort(args.data, args.cases))
    lent = {}
    if args.completed is not None:
        lacking = {case.name: case.missing() for case in cases}
        lent = lent_channels(args.completed, args.take, lacking)
    labels = not args.no_labels
    layout = args.layout or ("reference" if labels else "copy")
    dataset_folder(args.out, args.id, args.name)
    cases, left_out = keep_whole(cases, MODALITIES, labels, lent)
    if left_out:
        print(f"note: {left_out}", file=sys.stderr)
    lent = {case.name: lent[case.name] for case in cases if case.name in lent}
    check_same_grids(files_of(case, lent, labels) for case in cases)
    readings = readings_of(cases, args.labels) if labels else None  # the slow part
    untold = untold_patients({case.name: case.patient for case in cases})
    for note in [*notes_of(readings or {}), *([untold] if untold else [])]:
        print(f"note: {note}", file=sys.stderr)
    request = RawRequest(
        args.out, cases, args.id, args.name,
        replace=lent, layout=layout, labels=labels, readings=readings, keep_tissues=True,
    )  # fmt: skip
    plan = plan_raw_dataset(request)
    if args.dry_run:
        tell(plan, lent)
        return 0
    sources = [*plan.labels.values(), *(path for files in plan.images.values() for path in files)]
    if make_room(plan.folder, sources, args.overwrite):
        print("note: give nnUNetv2_plan_and_preprocess --clean, the dataset changed")
    write_planned(plan)
    print(f"{len(cases)} cases in {plan.folder}, channels {', '.join(plan.channels)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; 0 done, 2 the input cannot be used."""
    return run_guarded(convert, build_parser().parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
