"""Predictions of nnU-Net back to BraTS: the case's own file names, label integers and grid.

What the predicted integers mean stands in the dataset.json that nnUNetv2_predict leaves beside
its predictions (regions or plain labels; nnU-Net's own BraTS converters swap 1 and 2, which is
recognised). What the case's release calls them is told case by case, as everywhere: by its own
label or else by its name. 4 is enhancing tumour in 2018-2021, 3 since 2023; BraTS-PED has 1
enhancing, 2 non-enhancing, 3 cyst, 4 oedema.

All predictions are checked before the first file is written.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from synth3d.cohort import (
    MODALITIES,
    SCHEMES,
    TISSUES,
    Case,
    LabelScheme,
    Tissue,
    ending_of,
    find_cases,
    given_cohort,
    painted_codes,
    parse_scheme,
    read_segmentation,
    recode,
    scheme_of_name,
    stem_of,
)
from synth3d.errors import InputError, run_guarded
from synth3d.files import place, progress, read_json
from synth3d.images import check_same_grids, grid, read_label, value_limits, write_like, write_new

EXAMPLES = """examples:
  convert_nnunet_to_brats.py predictions BraTS out
      out/<case>/<case>_seg.nii.gz or <case>-seg.nii.gz, as the release has it
  convert_nnunet_to_brats.py predictions BraTS out --flat
      out/<case>.nii.gz, as the challenges want them uploaded
  convert_nnunet_to_brats.py predictions BraTS out --codes 2,1,3
      without a dataset.json: 2 is necrosis, 1 oedema, 3 enhancing tumour
"""
SEPARATOR = {"brats2018": "_", "brats2023": "-"}
CORE: tuple[Tissue, ...] = ("necrosis", "oedema", "enhancing")


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
    add("--labels", choices=sorted(SCHEMES), help="write the integers of this release in all cases")
    add("--flat", action="store_true", help="OUT/<case>.nii.gz, for uploads")
    add("--overwrite", action="store_true", help="replace files that are there")
    add("--dry-run", action="store_true", help="check and tell, write nothing")
    return parser


def meaning_of(codes: str | None, path: Path) -> dict[int, Tissue]:
    """What the predicted integers mean, by ``--codes`` or the dataset.json in ``path``."""
    if codes:
        numbers = [int(part) if part.strip().isdecimal() else 0 for part in codes.split(",")]
        if min(numbers) < 1 or len(numbers) != len(CORE) or len({*numbers}) != len(CORE):
            raise InputError(f"--codes wants three different integers above 0, got {codes}")
        return dict(zip(numbers, CORE, strict=True))
    if not path.is_file():
        raise InputError(f"no {path} to tell what the predicted integers mean; give --codes")
    try:
        return painted_codes(read_json(path), path).scheme.tissues
    except InputError as error:
        raise InputError(f"{error}; say it with --codes") from error


def scheme_of(case: Case, declared: str | None) -> LabelScheme:
    """The integers that ``case`` uses: declared, by its own label, or by its name."""
    told = declared or case.scheme
    if told:
        return parse_scheme(told)
    reading = read_segmentation(case)[1] if case.label else None
    named = scheme_of_name(case.name)
    if reading is not None and (reading.evidence != "values" or {3, 4} & {*reading.values}):
        return reading.scheme
    named = named or SCHEMES.get(case.naming)  # how its files are called says a little, too
    if named is None:
        raise InputError(
            f"neither labels nor names such as {case.name} tell the release; give --labels"
        )
    return named


def schemes_of(cases: Sequence[Case], declared: str | None) -> dict[str, LabelScheme]:
    """As :func:`scheme_of` for all cases, with all that cannot be told in one refusal."""
    found, problems = {}, []
    for case in progress(cases, "labels"):
        try:
            found[case.name] = scheme_of(case, declared)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))
    return found


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
    groups = [[*by_name[name].images.values(), path] for name, path in files.items()]
    check_same_grids(groups, whole=False)
    return [(by_name[name], path) for name, path in files.items()]


def target(case: Case, scheme: LabelScheme, out: Path, flat: bool) -> Path:
    """Where the case's segmentation goes."""
    endings = (ending_of(case.images[m].name) for m in MODALITIES if m in case.images)
    ending = next(endings, "") or ".nii.gz"
    if flat:
        return place(out, f"{case.name}{ending}")
    own = SEPARATOR.get(case.naming)
    if case.label and own:
        return place(out, case.name, case.label_name())
    separator = own or SEPARATOR.get(scheme.name, "-")
    return place(out, case.name, f"{case.name}{separator}seg{ending}")


def repainted(path: Path, tissues: Mapping[int, Tissue], scheme: LabelScheme) -> np.ndarray:
    """The prediction in ``path`` (D, H, W) in the integers of ``scheme``."""
    try:
        return recode(read_label(path).data, changes(tissues, scheme))
    except InputError as error:
        raise InputError(f"{path}: {error}, which dataset.json or --codes explains") from error


def changes(tissues: Mapping[int, Tissue], scheme: LabelScheme) -> dict[int, int]:
    """Predicted integer → that of ``scheme``, which may have none for a cavity: 0."""
    own = scheme.painted
    return {0: 0} | {number: own[TISSUES.index(name) + 1] for number, name in tissues.items()}


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
    schemes = schemes_of([case for case, _ in pairs], args.labels)
    targets = {c.name: target(c, schemes[c.name], args.out, args.flat) for c, _ in pairs}
    inputs = {file.resolve() for case in cases for file in (case.label, *case.images.values())
              if file} | {path.resolve() for _, path in pairs}  # fmt: skip
    there = [path for path in targets.values() if path.exists()]
    if own := [str(path) for path in there if path.resolve() in inputs]:
        raise InputError(f"this would write over the input: {', '.join(own)}; choose another OUT")
    if there and not args.overwrite:
        names = ", ".join(map(str, there))
        raise InputError(f"{names} exist already; --overwrite replaces them")
    for case, path in progress(pairs, "checking"):
        repainted(path, tissues, schemes[case.name])
    if not args.dry_run:
        for case, path in progress(pairs, "writing"):
            labels = repainted(path, tissues, schemes[case.name])
            write_segmentation(case, labels, targets[case.name])
    for path in targets.values() if args.dry_run else ():
        print(f"  would write {path}")
    print(f"{len(pairs)} of {len(cases)} cases have predictions")
    for scheme in {scheme.name: scheme for scheme in schemes.values()}.values():
        pairs_of = ", ".join(f"{old} → {new}" for old, new in changes(tissues, scheme).items())
        print(f"  labels {pairs_of} ({scheme.name})")
    print("nothing was written (--dry-run)" if args.dry_run else f"written to {args.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; 0 done, 2 the input cannot be used."""
    return run_guarded(convert, build_parser().parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
