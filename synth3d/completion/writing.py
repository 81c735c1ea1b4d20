"""One completed case on the disk: its files, what explains them, and the receipt."""

import datetime
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synth3d import __version__
from synth3d.cohort import Modality, recode, stem_of
from synth3d.completion.calibration import MEANING, WRITTEN
from synth3d.completion.derivative import bids_sources
from synth3d.completion.explained import (
    ABOUT_MAPS,
    forget_explanations,
    map_facts,
    maps_of_made,
    write_routing,
)
from synth3d.completion.gallery import draw_done, forget_preview
from synth3d.completion.made import Made
from synth3d.completion.plan import Job
from synth3d.completion.receipts import FORMAT, NOTICE, Layout, is_calibrated
from synth3d.completion.request import CompleteRequest
from synth3d.errors import InputError
from synth3d.files import (
    copy,
    link_or_copy,
    protect,
    read_object,
    sha256,
    sweep,
    write_json,
)
from synth3d.images import read_label, write_like
from synth3d.machine import device_facts, peak_memory_mb, versions
from synth3d.settings import to_plain

if TYPE_CHECKING:
    from synth3d.completion.makers import Maker


def write_case(
    job: Job,
    made: Mapping[Modality, Made],
    maker: "Maker",
    request: CompleteRequest,
    seconds: float,
) -> None:
    """Marker, images, receipt; then the marker goes, and a preview may come.

    ``seconds`` were spent on the case before.
    """
    started, case, layout = time.monotonic(), job.case, request.layout
    marker, receipt = layout.marker(case), layout.receipt(case)
    _forget_former(job, layout)
    write_json(marker, job.identity)
    receipt.unlink(missing_ok=True)
    kept, targets = job.outputs(layout)
    files = list(kept)
    for target, source in kept.items():
        (link_or_copy if request.link else copy)(source, target)
        if request.read_only:
            protect(target)
    label = job.written_label(layout)
    if job.recoded is not None and case.label is not None and label is not None:
        write_like(case.label, recode(read_label(case.label).data, job.recoded), label)
        files.append(label)
    for modality, path in targets.items():
        files += _write_made(job, modality, made[modality], path, maker, request)
    files += write_routing(job, made, layout)
    there = [*files, receipt, layout.preview(case.name)]
    written = {path.name for path in (*there, marker)}
    for folder in {path.parent for path in there}:
        sweep(folder, written)  # of a process that was killed at this case
    proof = {
        "format": FORMAT,
        "case": case.name,
        "synthetic": any(one.synthetic for one in made.values()),
        "plumbing": any(not one.synthetic for one in made.values()),
        "maker": maker.title if made else None,
        **({"taught_by": [*map(to_plain, maker.teachers)]} if made and maker.teachers else {}),
        **({"seed": request.seed} if made and maker.random else {}),
        **_average_facts(request),
        **_uncertainty_facts(job),
        "targets": {
            m: {"file": targets[m].name, **_scale_facts(one), **map_facts(job, m, one, layout)}
            for m, one in made.items()
        },
        "sources": [m for m in maker.sources if m in job.readable.images] if made else [],
        "absent_sources": list(job.readable.missing(maker.sources)) if made else [],
        "hidden": list(job.hidden),
        **({"restored": list(job.restored)} if job.restored else {}),
        "suspicions": list(job.suspicions),
        **({"unnoticed": maker.unnoticed} if made and maker.unnoticed else {}),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds + time.monotonic() - started, 2),
        "peak_memory_mb": peak_memory_mb(request.device),
        "notice": NOTICE,
        "versions": versions(),
        **({"device": device_facts(request.device)} if made else {}),
        "identity": job.identity,
        "files": {str(file.relative_to(layout.out)): sha256(file) for file in files},
    }
    write_json(receipt, proof)
    marker.unlink(missing_ok=True)
    if request.previews:
        draw_done(job, layout, request.plumbing)


def _forget_former(job: Job, layout: Layout) -> None:
    """Remove what explains and shows what was made of the case before, and what is made no more.

    Else a side-car would call an acquired image synthetic, or a synthetic one lie unproven beside.
    Only what we wrote goes, by the receipt.
    """
    forget_explanations(layout, job.case)
    forget_preview(job, layout)
    try:
        said = read_object(layout.receipt(job.case), "identity", "files")
        before = {m: layout.image(job.case, m) for m in said["identity"]["made"]}
        files = dict(said["files"])
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return  # there is none, or it is damaged and proves nothing
    kept, targets = job.outputs(layout)
    for path in before.values():
        if path in targets.values():
            continue  # written anew
        if (side := layout.sidecar(path)) is not None:
            side.unlink(missing_ok=True)
        proven = files.get(path.relative_to(layout.out).as_posix())
        if path not in kept and path.is_file() and sha256(path) == proven:
            path.unlink()


def _average_facts(request: CompleteRequest) -> dict[str, Any]:
    """Of which pictures the mean was taken, for the receipt; nothing of a single one."""
    facts: dict[str, Any] = {"draws": request.draws} if request.draws > 1 else {}
    facts |= {"mirror": request.mirror} if request.mirror else {}
    names = [path.resolve().name for path in request.runs]
    return facts | ({"runs": names} if len(names) > 1 else {})


def _uncertainty_facts(job: Job) -> dict[str, Any]:
    """What the maps of uncertainty are, for the receipt; nothing where none were asked for."""
    how = job.identity["how"]
    if "uncertainty" not in how:
        return {}
    if not is_calibrated(how):
        return {"uncertainty": {"calibrated": False, "note": "the spread is no interval"}}
    level = {"calibrated": True, "level": WRITTEN, "calibration_sha256": how["uncertainty"]}
    return {"uncertainty": level | {"meaning": MEANING}}


def _scale_facts(made: Made) -> dict[str, Any]:
    """The scale, whence it is, and what it loses if it loses anything."""
    facts: dict[str, Any] = {"scale_from": made.scale_from, "scale": made.scale.to_dict()}
    facts |= {"restored": dict(made.restored)} if made.restored else {}
    if made.scale.clips:
        facts["clipped"] = (
            f"the run was trained on intensities clipped at p99.5 of each volume, here "
            f"{made.scale.high:.6g}: tissue brighter than that is not brighter in this picture"
        )
    return facts


def describe(modality: Modality, made: Made, maker: "Maker") -> str:
    """What stands in the header of a picture that was not acquired."""
    kind = "synthetic" if made.synthetic else "re-exported real"
    kind = "restored synthetic" if made.restored else kind
    return f"{kind} {modality} by synth3d {__version__} {maker.name}"


def _write_made(
    job: Job, modality: Modality, made: Made, path: Path, maker: "Maker", request: CompleteRequest
) -> list[Path]:
    """The picture, its maps and, where the layout has them, their side-cars."""
    layout = request.layout
    mark = describe(modality, made, maker)
    # The units of a poor file are its own, which the integers of a sibling need not hold.
    write_like(made.like, made.data, path, mark, dtype=np.float32 if made.restored else None)
    files = [path]
    for name, volume in maps_of_made(made).items():
        place = layout.map(job.case, modality, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        # In units of its own, which the integers of a sibling would round away.
        write_like(made.like, volume, place, f"{name} of {mark}", dtype=np.float32)
        files.append(place)
    if layout.sidecar(path) is None:
        return files
    images = job.readable.images
    sources: list[Any] = [name for name in maker.sources if name in images]
    if layout.format == "bids":
        sources = bids_sources((images[name] for name in sources), request.data)
    for place, name in zip(list(files), ("", *maps_of_made(made)), strict=True):
        about = {
            "Synthetic": made.synthetic,
            "Modality": modality,
            "Sources": sources,
            "GeneratedBy": [
                {"Name": "synth3d", "Version": __version__, "Description": maker.title}
            ],
            "Receipt": os.path.relpath(layout.receipt(job.case), place.parent),
        }
        if name:
            meaning, units = ABOUT_MAPS[name]
            about |= {"Explains": path.name, "Description": meaning, "Units": units}
        files.append(place.with_name(stem_of(place.name) + ".json"))
        write_json(files[-1], about)
    return files
