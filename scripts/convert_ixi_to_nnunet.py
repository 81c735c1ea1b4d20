"""IXI (T1, T2, PD) as an nnU-Net v2 raw dataset, each case registered to one grid.

IXI's T2 and PD come from one scan and share a grid; T1 is another scan. What is not on the chosen
grid (--grid, T2 by default) is brought there by a rigid motion that maximises mutual information
(SimpleITK), resampled once, and the motion is written to transforms/<case>_<channel>.tfm (ITK
text, LPS mm, places of the grid to places of the moved image). What is on the grid is linked.
Images that share a grid are moved together, by the motion of the first of them.

IXI has no segmentations. Without --labels the images go to imagesTs: a trained nnU-Net can
predict on them and synth3d can read them, but nnU-Net cannot plan or train on them. With --labels
FOLDER (<case>.nii.gz on the chosen grid, integers 0, 1, 2, ...) they go to imagesTr.
A killed run goes on where it stopped; dataset.json is written last.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seg_eval.segmenter import dataset_folder, make_room, write_description
from synth3d.cohort import Case, Modality, ending_of, find_cases, given_cohort, parse_modality
from synth3d.errors import InputError, run_guarded
from synth3d.files import copy, link_or_copy, lock, place, progress, read_json, sha256, write_json
from synth3d.images import (
    check_same_grid,
    grid,
    read,
    read_rounded_label,
    register_rigid,
    resample_rigid,
    value_limits,
    write_new,
    write_transform,
)

EXAMPLES = """examples:
  convert_ixi_to_nnunet.py IXI nnUNet_raw --id 600 --dry-run
  convert_ixi_to_nnunet.py IXI nnUNet_raw --id 600 --threads 8
  convert_ixi_to_nnunet.py IXI nnUNet_raw --id 601 --grid t1
  convert_ixi_to_nnunet.py IXI nnUNet_raw --id 602 --labels tissue --label-names csf grey white
"""


@dataclass(frozen=True)
class Job:
    """One case to convert: a file per channel, all of which get the grid of ``fixed``.

    Channels to be ``moved`` are grouped by grid; the first of each group is registered.
    """

    case: str
    images: tuple[Path, ...]
    fixed: Path
    moved: tuple[tuple[int, ...], ...]
    label: Path | None


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, nargs="?", help="folder with IXI002-Guys-0828-T1.nii.gz, ...")
    add("out", type=Path, help="nnU-Net's nnUNet_raw folder")
    add("--cases", type=Path, metavar="TABLE.csv", help="the cohort as a table instead of DATA")
    add("--id", type=int, default=600, help="dataset number, 1 to 999")
    add("--name", default="IXI", help="dataset name")
    add("--channels", nargs="+", default=["t1", "t2", "pd"], help="in this order")
    add("--grid", default="t2", help="the channel whose grid all get")
    add("--labels", type=Path, help="folder with <case>.nii.gz")
    add("--label-names", nargs="+", help="of the integers 1, 2, ...")
    add("--link", action="store_true", help="hard links instead of copies: less disk, but one file")
    add("--threads", type=int, default=1, help="for the registration")
    add("--overwrite", action="store_true", help="replace the dataset if it exists")
    add("--dry-run", action="store_true", help="check and tell, write nothing")
    return parser


def plan_jobs(
    cases: Sequence[Case],
    channels: Sequence[Modality],
    grid_of: Modality,
    labels: Path | None,
) -> list[Job]:
    """What is to be done for each complete case, all others being named; reads headers only."""
    jobs, lacking = [], []
    for case in cases:
        absent: list[str] = list(case.missing(channels))
        label = None if labels is None else labels / f"{case.name}.nii.gz"
        if label is not None and not label.is_file():
            absent.append(f"the label {label}")
        if absent:
            lacking.append(f"{case.name} lacks {', '.join(absent)}")
        else:
            jobs.append(_job(case, channels, grid_of, label))
    if not jobs:
        raise InputError(f"no case is complete: {'; '.join(lacking)}")
    if lacking:
        print(
            f"note: {len(jobs)} of {len(cases)} cases are complete; left out: {'; '.join(lacking)}",
            file=sys.stderr,
        )
    return jobs


def _job(case: Case, channels: Sequence[Modality], grid_of: Modality, label: Path | None) -> Job:
    images = tuple(case.images[channel] for channel in channels)
    fixed = case.images[grid_of]
    if label is not None:
        check_same_grid([fixed, label], whole=False)
    groups: dict[Path, list[int]] = {fixed: []}
    for index, path in enumerate(images):
        first = next((p for p in groups if grid(p).difference(grid(path)) is None), path)
        groups.setdefault(first, []).append(index)
    del groups[fixed]
    return Job(case.name, images, fixed, tuple(map(tuple, groups.values())), label)


def label_names(jobs: Sequence[Job], given: Sequence[str] | None) -> dict[str, int]:
    """nnU-Net's ``labels``: as many names as there are integers, which have no gap."""
    paths = [job.label for job in jobs if job.label is not None]
    if not paths:
        return {"background": 0}
    found = {path: read_rounded_label(path) for path in paths}
    if inexact := [str(path) for path, (_, off) in found.items() if off]:
        raise InputError(
            f"nnU-Net would cut off what is not quite a whole number in {', '.join(inexact)}; "
            "save the integers themselves"
        )
    values = {int(v) for label, _ in found.values() for v in np.unique(label.data)}
    highest = max(values)
    if min(values) < 0 or highest == 0 or not set(range(1, highest + 1)) <= values:
        raise InputError(f"labels must be 0, 1, 2, ... without a gap, got {sorted(values)}")
    names = list(given or [f"label_{value}" for value in range(1, highest + 1)])
    if len(set(names) | {"background"}) != highest + 1:
        raise InputError(f"the labels 1 to {highest} want {highest} different names, got {names}")
    return {"background": 0} | {name: value for value, name in enumerate(names, 1)}


def convert_case(job: Job, folder: Path, side: str, link: bool, threads: int) -> None:
    """Write all files of one case; what an earlier run finished from the same files stays."""
    moved = {index for group in job.moved for index in group}
    kept = {
        place(folder, side, f"{job.case}_{index:04d}.nii.gz"): path
        for index, path in enumerate(job.images)
        if index not in moved
    }
    if job.label is not None:
        kept[place(folder, "labelsTr", f"{job.case}.nii.gz")] = job.label
    for target, source in kept.items():
        (link_or_copy if link else copy)(source, target)
    for group in job.moved:
        _move(job, group, folder, side, threads)


def _move(job: Job, group: tuple[int, ...], folder: Path, side: str, threads: int) -> None:
    """Register the first of ``group``, resample all, and note what was done."""
    stem = place(folder, "transforms", f"{job.case}_{group[0]:04d}")
    record, transform = (stem.with_name(f"{stem.name}.{end}") for end in ("json", "tfm"))
    outputs = [place(folder, side, f"{job.case}_{index:04d}.nii.gz") for index in group]
    inputs = {str(p): sha256(p) for p in (job.fixed, *(job.images[index] for index in group))}
    done = record.is_file() and all(path.is_file() for path in (*outputs, transform))
    if done and read_json(record).get("inputs") == inputs:
        return
    fixed, first = read(job.fixed), read(job.images[group[0]])
    rigid = register_rigid(fixed, first, threads)
    write_transform(rigid, transform)
    for index, path in zip(group, outputs, strict=True):
        source = job.images[index]
        data = resample_rigid(read(source), fixed.grid, rigid)
        write_new(path, data, grid(job.fixed).affine, _stored_type(source))
    before = rigid.information_before
    found = {
        "inputs": inputs,
        "shift_mm_ras": [round(float(mm), 4) for mm in rigid.shift_mm(fixed.grid)],
        "angle_degrees": round(rigid.angle_degrees, 4),
        "mutual_information_before": None if math.isnan(before) else round(before, 6),
        "mutual_information_after": round(rigid.information, 6),
    }
    write_json(record, found)


def _stored_type(path: Path) -> Any:
    """The integer type of ``path``, or float32 where it has another or is scaled."""
    limits = value_limits(path)
    kinds = (np.uint8, np.int16, np.uint16, np.int32)
    found = [k for k in kinds if (float(np.iinfo(k).min), float(np.iinfo(k).max)) == limits]
    return found[0] if found else np.float32


def convert(args: argparse.Namespace) -> int:
    """Write the dataset and say where it is."""
    channels: list[Modality] = [parse_modality(name) for name in args.channels]
    grid_of = parse_modality(args.grid)
    if grid_of not in channels or len(set(channels)) < len(channels):
        raise InputError(f"--channels {channels} must differ and hold --grid {grid_of}")
    if args.label_names and args.labels is None:
        raise InputError("--label-names needs --labels, the folder with the labels")
    if args.threads < 1:
        raise InputError(f"--threads must be 1 or more, got {args.threads}")
    folder = dataset_folder(args.out, args.id, args.name)
    cases = find_cases(given_cohort(args.data, args.cases))
    jobs = plan_jobs(cases, channels, grid_of, args.labels)
    plain = [str(p) for job in jobs for p in job.images if ending_of(p.name) != ".nii.gz"]
    if plain:
        raise InputError(f"the images must end with .nii.gz, gzip {', '.join(plain)}")
    description = {
        "channel_names": {str(index): channel for index, channel in enumerate(channels)},
        "labels": label_names(jobs, args.label_names),
        "numTraining": len(jobs) if args.labels else 0,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    if args.dry_run:
        tell(jobs, folder, description, len(cases))
        return 0
    sources = [p for job in jobs for p in (*job.images, job.label) if p is not None]
    side = "imagesTr" if args.labels else "imagesTs"
    make_room(folder, sources, args.overwrite)
    with lock(folder):
        for job in progress(jobs, "cases"):
            convert_case(job, folder, side, args.link, args.threads)
        cases_of = {job.case for job in jobs}
        there = [p for side in ("imagesTr", "imagesTs") for p in (folder / side).glob("[!.]*")]
        if strange := sorted(p.name for p in there if p.name.rpartition("_")[0] not in cases_of):
            # left by an earlier, unfinished run with other cases
            raise InputError(f"{folder} has files of another conversion: {', '.join(strange)}")
        write_description(folder, description)
    print(f"{len(jobs)} of {len(cases)} cases in {folder / side}, channels {', '.join(channels)}")
    if not args.labels:
        print("no labels: nnU-Net can predict on these images but neither plan nor train")
    return 0


def tell(jobs: Sequence[Job], folder: Path, description: Mapping[str, Any], cases: int) -> None:
    """Print what a run would do."""
    channels = list(description["channel_names"].values())
    print(f"would write {folder}: channels {', '.join(channels)}, labels {description['labels']}")
    for job in jobs:
        moved = [" and ".join(channels[index] for index in group) for group in job.moved]
        print(f"  {job.case}: " + (f"{', '.join(moved)} registered" if moved else "on one grid"))
    print(f"{len(jobs)} of {cases} cases; nothing was written (--dry-run)")


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; 0 done, 2 the input cannot be used."""
    return run_guarded(convert, build_parser().parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
