"""A BraTS folder (2018 to 2024 names) as an nnU-Net v2 raw dataset.

Labels become 1 necrosis, 2 oedema, 3 enhancing tumour, whatever the release calls them, and
are trained as the regions WT, TC and ET. Channels are t1n, t1c, t2w, t2f, matched by name.
All cases go in: give it a folder without your test cases.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

EXAMPLES = """examples:
  convert_brats_to_nnunet.py BraTS nnUNet_raw --id 137 --name BraTS
  convert_brats_to_nnunet.py BraTS nnUNet_raw --id 501 --copy
  convert_brats_to_nnunet.py IN nnUNet_raw --id 502 --completed OUT
      what the cases of IN lack comes from OUT (of `synth3d complete`)
  convert_brats_to_nnunet.py BraTS nnUNet_raw --id 503 --completed OUT --take flair
      FLAIR comes from OUT even where BraTS has it
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="cohort folder; only read")
    parser.add_argument("out", type=Path, help="nnU-Net's nnUNet_raw folder")
    parser.add_argument("--id", type=int, default=501, help="dataset number, 1 to 999")
    parser.add_argument("--name", default="BraTS", help="dataset name")
    parser.add_argument(
        "--completed", type=Path, help="cohort that lends channels, matched by case"
    )
    parser.add_argument(
        "--take", action="append", default=[], metavar="MODALITY",
        help="with --completed: take this channel from there even where the case has it",
    )  # fmt: skip
    layout = parser.add_mutually_exclusive_group()
    for name, text in (
        ("reference", "dataset.json names the files where they are (default)"),
        ("link", "hard links under nnU-Net's names; copies across disks"),
        ("copy", "copies under nnU-Net's names"),
    ):
        layout.add_argument(f"--{name}", dest="layout", action="store_const", const=name, help=text)
    parser.add_argument("--no-labels", action="store_true", help="images only, to imagesTs")
    parser.set_defaults(layout=None)
    return parser


def lent_channels(
    completed: Path, take: Sequence[str], wanted: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Path]]:
    """Per case the files of ``completed`` for the modalities that it lacks or that are taken.

    Raises:
        InputError: ``completed`` is no cohort, a modality is unknown, or a taken file is absent.
    """
    from synth3d.cases import find_cases, parse_modality
    from synth3d.files import InputError

    taken = [parse_modality(name) for name in take]
    there = {case.name: case.images for case in find_cases(completed)}
    lent = {}
    for case, lacking in wanted.items():
        images = there.get(case, {})
        if absent := [name for name in taken if name not in images]:
            raise InputError(f"case {case} has no {', '.join(absent)} in {completed}")
        names = {*taken, *lacking} & images.keys()
        lent[case] = {name: images[name] for name in sorted(names)}
    return lent


def convert(args: argparse.Namespace) -> int:
    """Write the dataset and say where it is.

    Raises:
        InputError: Something the user gave cannot be used.
    """
    from seg_eval.raw_dataset import write_raw_dataset
    from synth3d.cases import find_cases
    from synth3d.files import InputError

    if args.take and args.completed is None:
        raise InputError("--take needs --completed, the folder to take from")
    cases = find_cases(args.data)
    replace = None
    if args.completed is not None:
        lacking = {case.name: case.missing() for case in cases}
        replace = lent_channels(args.completed, args.take, lacking)
    labels = not args.no_labels
    layout = args.layout or ("reference" if labels else "link")
    dataset = write_raw_dataset(
        args.out, cases, args.id, args.name, replace=replace, layout=layout, labels=labels
    )
    print(f"{len(cases)} cases in {dataset.folder}, channels {', '.join(dataset.channels)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; 0 done, 2 the input cannot be used."""
    from synth3d.files import run_guarded

    return run_guarded(convert, build_parser().parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
