"""Write the sequences that cases lack, and a receipt for each: ``synth3d complete``.

All cases are looked at before anything is written, and everything wrong with them is told at
once. A case is one unit of work: what was finished is recognised by its receipt and skipped,
what was interrupted is done again. The input folder is only read.
"""

import argparse
import datetime
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth3d import __version__
from synth3d.cohort import ALL_MODALITIES, Case, Modality, find_cases, parse_modality
from synth3d.errors import InputError
from synth3d.files import link_or_copy, lock, progress, read_json, write_json

if TYPE_CHECKING:
    from synth3d.completion.makers import Made, Maker
    from synth3d.completion.plan import Job
    from synth3d.completion.receipts import Layout
    from synth3d.inference import OnTile


def complete_cohort(
    run: Path | None,
    data: Path,
    out: Path,
    *,
    format: str = "brats",  # noqa: A002
    overwrite: bool = False,
    cases: Sequence[str] | None = None,
    missing: Sequence[str] | None = None,
    dry_run: bool = False,
    threads: int | None = None,
    plumbing: bool = False,
    overlap: float | None = None,
    precision: str | None = None,
    batch: int = 2,
    device: str = "cpu",
) -> list["Job"]:
    """Complete the cases under ``data`` into ``out``.

    Args:
        run: A finished run folder; may be None for plumbing.
        data: Cohort in any naming that :mod:`synth3d.cohort.cases` reads; never written to.
        out: Folder of the completed cohort, outside ``data``.
        format: ``brats`` (case folders) or ``nnunet`` (``imagesTs``, ``dataset.json``).
        overwrite: Replace files in ``out`` that no matching receipt vouches for.
        cases: Names of the cases to complete; None is all.
        missing: Sequences to treat as missing even where they are there; these are hidden
            from the network, and the real files are not linked.
        dry_run: Print the plan, write nothing.
        threads: CPU threads; None leaves them as they are.
        plumbing: Send the real ``missing`` sequences through the way out instead.
        overlap: Share of a tile that neighbours share; None is as in training.
        precision: ``fp32`` or ``bf16``; None is as in training.
        batch: Tiles per call of the network.
        device: ``cpu``, ``cuda`` or ``cuda:1``.

    Returns:
        What was planned, a job per case, sorted by name.

    Raises:
        InputError: A flag, the run, the cases or ``out`` cannot be used. Trouble that shows
            only in the voxels of a case (NaN, truncation) is told at the end, when the other
            cases are done.
    """
    from synth3d.completion.plan import plan, refuse_to_write_input
    from synth3d.completion.receipts import Layout

    named: list[Modality] = [parse_modality(name) for name in missing or ()]
    hidden: tuple[Modality, ...] = tuple(m for m in ALL_MODALITIES if m in named)
    _check_flags(run, data, out, format, hidden, plumbing, overlap)
    maker = _maker(run, hidden, plumbing, overlap, precision, batch, device, threads)
    print(maker.title)
    found = _chosen(find_cases(data), cases)
    layout = Layout(out, format)
    refuse_to_write_input(layout, found, data)
    jobs = plan(found, maker, layout, hidden, overwrite)
    if dry_run:
        print("\n".join(job.text for job in jobs))
        return jobs
    with lock(out):
        _write_dataset_json(layout, found, overwrite)
        _work(jobs, maker, layout, device)
    counts = Counter("done" if job.done else "made" if job.make else "linked" for job in jobs)
    print(
        f"{len(jobs)} cases in {out}: {counts['made']} completed now, {counts['done']} done "
        f"before, {counts['linked']} lacked nothing and were linked"
    )
    return jobs


def _work(jobs: Sequence["Job"], maker: "Maker", layout: "Layout", device: str) -> None:
    """Do all jobs that are not done; bad cases are told when the others are finished."""
    todo = [job for job in jobs if not job.done]
    for job in jobs:
        if job.done:
            layout.marker(job.case).unlink(missing_ok=True)
    failed = []
    steps = progress(todo, "completing", unit="case") if len(todo) > 1 else todo
    for job in steps:
        started = time.monotonic()
        try:
            on_tile = _tile_progress() if len(todo) == 1 else None
            made = maker.make(job.case, job.real, job.make, on_tile) if job.make else {}
        except InputError as error:
            failed.append(f"case {job.case.name}: {error}")
            continue
        _write_case(job, made, maker, layout, device, started)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(jobs)} cases could not be completed: {'; '.join(failed)}"
        )


def _write_case(
    job: "Job",
    made: dict[Modality, "Made"],
    maker: "Maker",
    layout: "Layout",
    device: str,
    started: float,
) -> None:
    """Marker, pictures, receipt; then the marker goes."""
    from synth3d.completion.plan import outputs
    from synth3d.completion.receipts import write_receipt
    from synth3d.machine import peak_memory_mb

    marker = layout.marker(job.case)
    write_json(marker, job.identity)
    layout.receipt(job.case).unlink(missing_ok=True)
    _remove_leftovers(layout, job.case)
    links, targets = outputs(job, layout)
    files = list(links)
    for target, source in links.items():
        link_or_copy(source, target)
    for modality, path in targets.items():
        files += _write_made(job.case, modality, made[modality], path, maker, layout)
    facts = {
        "synthetic": bool(made) and maker.synthetic,
        "plumbing": bool(made) and not maker.synthetic,
        "maker": maker.title if made else None,
        "targets": {
            m: {"file": targets[m].name, "scale_from": one.scale_from, **_scale_facts(one)}
            for m, one in made.items()
        },
        "absent_sources": list(job.case.missing(maker.sources)) if made else [],
        "hidden": [m for m in job.real.images if m not in job.case.images],
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 2),
        "peak_memory_mb": peak_memory_mb(device),
    }
    write_receipt(layout, job.case, job.identity, files, facts)
    marker.unlink()


def _scale_facts(made: "Made") -> dict[str, Any]:
    """The scale, and what it loses if it loses anything."""
    facts: dict[str, Any] = {"scale": made.scale.to_dict()}
    if made.scale.clips:
        facts["clipped"] = (
            f"the run was trained on intensities clipped at p99.5 of each volume, here "
            f"{made.scale.high:.6g}: tissue brighter than that is not brighter in this picture"
        )
    return facts


def _write_made(
    case: Case, modality: Modality, made: "Made", path: Path, maker: "Maker", layout: "Layout"
) -> list[Path]:
    """The picture and, where the layout has one, its side-car."""
    from synth3d.completion.makers import sibling
    from synth3d.images import write_like

    kind = "synthetic" if maker.synthetic else "re-exported real"
    description = f"{kind} {modality} by synth3d {__version__} {maker.name}"
    lender = sibling(case, modality, maker.sources, maker.common_grid)
    write_like(case.images[lender], made.data, path, description)
    sidecar = layout.sidecar(path)
    if sidecar is None:
        return [path]
    about = {
        "Synthetic": maker.synthetic,
        "Modality": modality,
        "Sources": [name for name in maker.sources if name in case.images],
        "GeneratedBy": [{"Name": "synth3d", "Version": __version__, "Description": maker.title}],
        "Receipt": layout.receipt(case).name,
    }
    write_json(sidecar, about)
    return [path, sidecar]


def _remove_leftovers(layout: "Layout", case: Case) -> None:
    """Temporary files that a killed process left; nobody else writes here, we hold the lock."""
    for folder in {layout.receipt(case).parent, layout.out / "imagesTs"}:
        for path in folder.glob(f".partial-*{case.name}*"):
            path.unlink(missing_ok=True)


def _tile_progress() -> "OnTile":
    """Shows the tiles of a single case."""
    bar, shown = None, 0

    def on_tile(done: int, total: int) -> None:
        nonlocal bar, shown
        bar = progress(range(total), "synthesising", unit="tile") if bar is None else bar
        for _ in range(shown, done + (done == total)):  # one step more ends the bar
            next(bar, None)
        shown = done

    return on_tile


def _write_dataset_json(layout: "Layout", cases: Sequence[Case], overwrite: bool) -> None:
    """nnU-Net's description of the output folder, the first time."""
    from synth3d.cohort import ending_of
    from synth3d.completion.receipts import dataset_json

    if layout.format != "nnunet":
        return
    endings = {ending_of(path.name) for case in cases for path in case.images.values()}
    if len(endings) > 1:
        raise InputError("nnU-Net wants one file ending, the cohort has both .nii and .nii.gz")
    wanted, path = dataset_json(endings.pop()), layout.out / "dataset.json"
    if path.exists() and read_json(path) != wanted and not overwrite:
        raise InputError(f"{path} describes another dataset; --overwrite replaces it")
    write_json(path, wanted)


def _check_flags(
    run: Path | None,
    data: Path,
    out: Path,
    format: str,  # noqa: A002
    hidden: Sequence[Modality],
    plumbing: bool,
    overlap: float | None,
) -> None:
    if format not in ("brats", "nnunet"):
        raise InputError(f"unknown format {format!r}; known are brats and nnunet")
    if overlap is not None and not 0 <= overlap < 1:
        raise InputError(f"overlap is a share of the tile in [0, 1), got {overlap}")
    if plumbing and not hidden:
        raise InputError("--plumbing needs --missing: which real sequence is to be sent through")
    if run is None and not plumbing:
        raise InputError("completing needs a run folder (--run)")
    if out.resolve().is_relative_to(data.resolve()):
        raise InputError(
            f"the output folder {out} lies in the input folder {data}, which is only read; "
            "choose another"
        )


def _maker(
    run: Path | None,
    hidden: tuple[Modality, ...],
    plumbing: bool,
    overlap: float | None,
    precision: str | None,
    batch: int,
    device: str,
    threads: int | None,
) -> "Maker":
    """The run or the plumbing, ready to work."""
    import torch

    from synth3d.completion.makers import RunMaker
    from synth3d.completion.plumbing import PlumbingMaker
    from synth3d.training import RunConfig, load_run, read_config

    if threads is not None:
        torch.set_num_threads(threads)
    if plumbing:
        return PlumbingMaker(hidden, read_config(run) if run is not None else RunConfig())
    assert run is not None  # _check_flags has seen to it
    maker = RunMaker(load_run(run), overlap, precision, batch, device)
    if unable := [m for m in hidden if m not in maker.targets]:
        raise InputError(
            f"the run {run} makes {'+'.join(maker.targets)} and cannot make {'+'.join(unable)}"
        )
    return maker


def _chosen(cases: Sequence[Case], names: Sequence[str] | None) -> list[Case]:
    if names is None:
        return list(cases)
    if unknown := sorted(set(names) - {case.name for case in cases}):
        raise InputError(f"no case is called {', '.join(unknown)}")
    return [case for case in cases if case.name in set(names)]


def complete_command(args: argparse.Namespace) -> int:
    """``synth3d complete``; 0 when every case is complete.

    Raises:
        InputError: As :func:`complete_cohort`.
    """
    from synth3d.machine import keep_memory, pick_device

    keep_memory()
    for name in ("batch", "threads"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, got {value}")
    complete_cohort(
        args.run,
        args.data,
        args.out,
        format=args.format,
        overwrite=args.overwrite,
        cases=args.cases,
        missing=args.missing,
        dry_run=args.dry_run,
        threads=args.threads,
        plumbing=args.plumbing,
        overlap=args.overlap,
        precision=args.precision,
        batch=args.batch,
        device=pick_device(args.device),
    )
    return 0
