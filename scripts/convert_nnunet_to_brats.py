"""Predictions of nnU-Net back to BraTS: the case's own file names, label integers and grid.

What the predicted integers mean stands in the dataset.json that nnUNetv2_predict leaves beside
its predictions (regions or plain labels; nnU-Net's own BraTS converters swap 1 and 2, which is
recognised). What the case's release calls them follows from the cohort's labels where they
decide, else from its file names: 4 is enhancing tumour in 2018-2021, 3 since 2023.

All predictions are checked before the first file is written.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from seg_eval.segmenter import label_codes
from synth3d.cohort import MODALITIES, Case, ending_of, find_cases, given_cohort, stem_of
from synth3d.errors import InputError, run_guarded
from synth3d.files import progress, read_json
from synth3d.images import check_same_grids, grid, read_label, value_limits, write_like, write_new

EXAMPLES = """examples:
  convert_nnunet_to_brats.py predictions BraTS out
      out/<case>/<case>_seg.nii.gz or <case>-seg.nii.gz, as the release has it
  convert_nnunet_to_brats.py predictions BraTS out --flat
      out/<case>.nii.gz, as the challenges want them uploaded
  convert_nnunet_to_brats.py predictions BraTS out --codes 2,1,3
      without a dataset.json: 2 is necrosis, 1 oedema, 3 enhancing tumour
"""
ENHANCING = {"brats2018": 4, "brats2023": 3}
SEPARATOR = {"brats2018": "_", "brats2023": "-"}
RELEASE_OF_NAME = (
    (r"BraTS-[A-Z]+-\d+-\d+", "brats2023"),
    (r"BraTS(1[5-9]|2[01]|2021)_.+", "brats2018"),
)
TISSUES = ("necrosis", "oedema", "enhancing")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("predictions", type=Path, help="folder with <case>.nii.gz; only read")
    add("data", type=Path, nargs="?", help="cohort that the cases come from; only read")
    add("out", type=Path, help="folder to write to")
    add("--cases", type=Path, metavar="TABLE.csv", help="the cohort as a table instead of DATA")
    meaning = parser.add_mutually_exclusive_group()
    meaning.add_argument("--dataset-json", type=Path, help="another one than predictions' own")
    meaning.add_argument("--codes", metavar="N,O,E", help="predicted necrosis, oedema, enhancing")
    add("--labels", choices=sorted(ENHANCING), help="write the integers of this release")
    add("--flat", action="store_true", help="OUT/<case>.nii.gz, for uploads")
    add("--overwrite", action="store_true", help="replace files that are there")
    add("--dry-run", action="store_true", help="check and tell, write nothing")
    return parser


def meaning_of(codes: str | None, path: Path) -> dict[str, int]:
    """The integers of ``TISSUES`` that ``--codes`` or the dataset.json in ``path`` gives."""
    if codes:
        numbers = [int(part) if part.strip().isdecimal() else 0 for part in codes.split(",")]
        if min(numbers) < 1 or len(numbers) != len(TISSUES) or len({*numbers}) != len(TISSUES):
            raise InputError(f"--codes wants three different integers above 0, got {codes}")
        return dict(zip(TISSUES, numbers, strict=True))
    if not path.is_file():
        raise InputError(f"no {path} to tell what the predicted integers mean; give --codes")
    try:
        return label_codes(read_json(path), path).tissues
    except InputError as error:
        raise InputError(f"{error}; say it with --codes") from error


def release_of(cases: Sequence[Case]) -> str:
    """The release whose integers the cohort uses: by its labels, else by its names."""
    naming, name = cases[0].naming, cases[0].name
    known = (release for pattern, release in RELEASE_OF_NAME if re.fullmatch(pattern, name, re.I))
    by_name = naming if naming in ENHANCING else next(known, None)
    four = False
    for case in cases:
        values = set(np.unique(read_label(case.label).data).tolist()) if case.label else set()
        if 3 in values:
            return "brats2023"
        four = four or 4 in values
        if four and by_name == "brats2018":  # no 3 can follow; spares reading the rest
            return "brats2018"
    if four and by_name == "brats2023":
        raise InputError(
            "label 4 without 3 in files named as in BraTS 2023 and later may be enhancing tumour "
            "or a resection cavity; give --labels"
        )
    if not four and by_name is None:
        raise InputError(f"neither labels nor names such as {name} tell the release; give --labels")
    return by_name or "brats2018"


def matched(folder: Path, cases: Sequence[Case], data: Path) -> list[tuple[Case, Path]]:
    """Each prediction in ``folder`` with its case of ``data``, in the order of names."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    by_name = {case.name: case for case in cases}
    files = {stem_of(p.name): p for p in sorted(folder.iterdir())
             if ending_of(p.name) and not p.name.startswith(".")}  # fmt: skip
    if not files:
        raise InputError(f"no predictions (.nii.gz or .nii) in {folder}")
    if strange := [path.name for name, path in files.items() if name not in by_name]:
        raise InputError(f"{data} has no case for {', '.join(strange)}")
    check_same_grids([*by_name[name].images.values(), path] for name, path in files.items())
    return [(by_name[name], path) for name, path in files.items()]


def target(case: Case, release: str, out: Path, flat: bool) -> Path:
    """Where the case's segmentation goes."""
    endings = (ending_of(case.images[m].name) for m in MODALITIES if m in case.images)
    ending = next(endings, "") or ".nii.gz"
    if flat:
        return out / f"{case.name}{ending}"
    own = SEPARATOR.get(case.naming)
    if case.label and own:
        return out / case.name / case.label_name()
    return out / case.name / f"{case.name}{own or SEPARATOR[release]}seg{ending}"


def recoded(path: Path, codes: Mapping[int, int]) -> np.ndarray:
    """The labels of ``path`` (D, H, W) in new integers, all of which ``codes`` must know."""
    old = read_label(path).data
    if unknown := sorted(set(np.unique(old).tolist()) - codes.keys()):
        raise InputError(f"{path} has the labels {unknown}, of which dataset.json says nothing")
    new = np.zeros(old.shape, dtype=np.uint8)
    for before, after in codes.items():
        new[old == before] = after
    return new


def write_segmentation(case: Case, labels: np.ndarray, path: Path) -> None:
    """Write ``labels`` with the header of the case's own label or an image of plain integers.

    Where the case has floating or scaled images only, a fresh header with their affine serves.
    """
    own = [file for file in (case.label, *case.images.values()) if file is not None]
    plain = [file for file in own if np.isfinite(value_limits(file)).all()]
    if plain:
        write_like(plain[0], labels, path)
    else:
        write_new(path, labels, grid(own[0]).affine, np.uint8)


def convert(args: argparse.Namespace) -> int:
    """Write the segmentations and say where they are."""
    path = args.dataset_json or args.predictions / "dataset.json"
    tissues = meaning_of(args.codes, path)
    data = given_cohort(args.data, args.cases)
    cases = find_cases(data)
    pairs = matched(args.predictions, cases, data)
    release = args.labels or release_of(cases)
    targets = {case.name: target(case, release, args.out, args.flat) for case, _ in pairs}
    inputs = {file.resolve() for case in cases for file in (case.label, *case.images.values())
              if file} | {path.resolve() for _, path in pairs}  # fmt: skip
    there = [path for path in targets.values() if path.exists()]
    if own := [str(path) for path in there if path.resolve() in inputs]:
        raise InputError(f"this would write over the input: {', '.join(own)}; choose another OUT")
    if there and not args.overwrite:
        names = ", ".join(map(str, there))
        raise InputError(f"{names} exist already; --overwrite replaces them")
    own_codes = {"necrosis": 1, "oedema": 2, "enhancing": ENHANCING[release]}
    codes = {0: 0} | {tissues[name]: own_codes[name] for name in tissues}
    for _, path in progress(pairs, "checking"):
        recoded(path, codes)
    if not args.dry_run:
        for case, path in progress(pairs, "writing"):
            write_segmentation(case, recoded(path, codes), targets[case.name])
    for path in targets.values() if args.dry_run else ():
        print(f"  would write {path}")
    changes = ", ".join(f"{old} → {new}" for old, new in sorted(codes.items()))
    print(f"{len(pairs)} of {len(cases)} cases have predictions; labels {changes} ({release})")
    print("nothing was written (--dry-run)" if args.dry_run else f"written to {args.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; 0 done, 2 the input cannot be used."""
    return run_guarded(convert, build_parser().parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
