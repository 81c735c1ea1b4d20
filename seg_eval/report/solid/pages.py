"""One page a case to turn it in 3-D: volumes of 8 bits, cropped to the head, with NiiVue inlined.

A page is one file that asks nobody for anything, as the report is; a page for each case, since
one of all cases would be too large for a browser. Without the script there are no such pages.
"""

import base64
import gzip
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from seg_eval.report.context import asked
from seg_eval.report.page import WORDS, digest_of, fill, say
from seg_eval.report.pictures import REGION_COLOURS
from seg_eval.report.slices import BRIGHTEST, ERROR_COLOURS, LARGEST_ERROR, brightest_of
from seg_eval.report.solid.niivue import VERSION, kept_script
from seg_eval.report.viewer import shown_arms
from seg_eval.report.volumes import CaseVolumes
from seg_eval.scoring import bounding_box
from synth3d.files import make_folder, place, write_text

FOLDER = "3d"
"""Of the pages, beside the report."""
MARGIN = 2
"""Voxels around the head."""


def write_solid_pages(
    folder: Path, summary: Mapping[str, Any], cases: Sequence[CaseVolumes]
) -> dict[tuple[str, str], str]:
    """Write a page for each of ``cases``; (case, modality) → its place from ``folder``.

    Pages of an earlier report go. There are none where NiiVue is not kept on this machine.

    Raises:
        InputError: The folder cannot be written.
    """
    script = kept_script()
    links, pages = {}, folder / FOLDER
    for case in cases if script else ():
        path = place(make_folder(pages), f"{case.case}-{case.modality}.html")
        write_text(path, solid_page(case, summary, script or ""))
        links[case.case, case.modality] = f"{FOLDER}/{path.name}"
    written = {Path(link).name for link in links.values()}
    for old in pages.glob("*.html"):
        if old.name not in written:
            old.unlink()
    with suppress(OSError):  # it is not there, or holds what is not ours
        pages.rmdir()
    return links


def solid_page(case: CaseVolumes, summary: Mapping[str, Any], script: str) -> str:
    """The text of a case's page, with ``script``, NiiVue's, in it."""
    volumes = describe_volumes(case, shown_arms(case, summary), summary)
    ours = (WORDS / "solid.js").read_text("utf-8")
    context = {
        "title": say("solid_title", case=case.case, q=asked(summary)),
        "case": case,
        "volumes": volumes,
        "legend": list(zip(volumes["regions"], volumes["colours"], strict=True)),
        "error_colours": ERROR_COLOURS,
        "version": VERSION,
        "licence": (WORDS / "niivue-licence.txt").read_text("utf-8"),
        "niivue": Markup(script),
        "hashes": [digest_of(script), digest_of(ours)],
        "script": Markup(ours),
    }
    return fill("solid.html.j2", context)


def describe_volumes(
    case: CaseVolumes, arms: Sequence[str], summary: Mapping[str, Any]
) -> dict[str, Any]:
    """What the script needs of a case: plain values, each volume as gzipped bytes in base64.

    Voxels run as in a NIfTI file, x fastest; ``shape``, ``spacing`` and ``affine`` are (x, y, z) of
    what is cropped, and slices meet at ``start_mm`` at first. Images are 255 at ``BRIGHTEST``,
    layers at their brightest. Of masks a voxel has the number of the innermost region that it is
    in, from 1; 0 is none.
    """
    used = np.any([np.nan_to_num(case.real) != 0, *case.truth.values()], axis=0)
    box = bounding_box(used) or tuple(slice(0, length) for length in used.shape)
    box = tuple(
        slice(max(0, side.start - MARGIN), min(side.stop + MARGIN, length))
        for side, length in zip(box, used.shape, strict=True)
    )
    regions = list(case.truth)
    filled = [n for n in arms if n != "full" and case.arms[n].channel is not None]
    called = say("channel", q=asked(summary))
    labels = {arm["name"]: arm["label"] for arm in summary["arms"]}
    images = [{"title": "Real", "voxels": _eight_bits(case.real[box] / BRIGHTEST)}]
    layers = []
    for name in filled:
        arm, title = case.arms[name], labels[name]
        channel = np.asarray(arm.channel)[box]
        images.append({"title": f"{called}: {title}", "voxels": _eight_bits(channel / BRIGHTEST)})
        layers.append({"title": f"|Error|: {title}", "error_of": len(images) - 1})
        for layer, volume in arm.layers.items():
            shown = _eight_bits(np.maximum(volume[box], 0) / brightest_of(volume))
            layers.append({"title": say("layer", name=layer, label=title), "voxels": shown})
    masks = [{"title": "Expert", "voxels": _labels(case.truth, regions, box)}]
    masks += [
        {"title": f"Segmented: {labels[name]}",
         "voxels": _labels(case.arms[name].masks, regions, box)}
        for name in arms
    ]  # fmt: skip
    shape = tuple(side.stop - side.start for side in box)[::-1]
    affine, told = _cropped_affine(case, box), filled[0] if filled else None
    return {
        "shape": shape,
        "spacing": case.spacing_mm[::-1],
        "affine": affine.ravel().tolist(),
        "known": case.orientation.known,
        "images": images,
        "layers": layers,
        "masks": masks,
        "regions": regions,
        "colours": [REGION_COLOURS[region] for region in regions],
        "error_gain": BRIGHTEST / LARGEST_ERROR,
        "error_colours": ERROR_COLOURS,
        "start_mm": (affine @ [*_widest_cut(case, box), 1.0])[:3].tolist(),
        "panes": [
            {"image": 0, "layer": -1, "mask": 0},
            {"image": 1 if told else 0, "layer": -1, "mask": 1 + arms.index(told) if told else 0},
        ],
    }  # fmt: skip


def _eight_bits(volume: np.ndarray) -> str:
    """A volume from 0 to 1 as gzipped bytes in base64."""
    shown = np.nan_to_num(volume, posinf=1, neginf=0).clip(0, 1)
    return _packed((255 * shown).round().astype(np.uint8))


def _labels(masks: Mapping[str, np.ndarray], regions: Sequence[str], box: tuple) -> str:
    """Which region, counted from 1, a voxel is in; of several the last."""
    found = np.zeros([side.stop - side.start for side in box], np.uint8)
    for number, region in enumerate(regions, start=1):
        if region in masks:
            found[masks[region][box]] = number
    return _packed(found)


def _packed(bytes_: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(bytes_.tobytes(), 6, mtime=0)).decode("ascii")


def _cropped_affine(case: CaseVolumes, box: Sequence[slice]) -> np.ndarray:
    """(4, 4) of the cropped volume, voxel (x, y, z) to mm; edges alone where it is unusable."""
    if not case.orientation.known:
        return np.diag([*case.spacing_mm[::-1], 1.0])
    shift = np.eye(4)
    shift[:3, 3] = [side.start for side in box[::-1]]
    return case.affine @ shift


def _widest_cut(case: CaseVolumes, box: tuple) -> list[int]:
    """The voxel (x, y, z) in which the slices that show most of the tumour meet, or the middle."""
    tumour = np.any([mask[box] for mask in case.truth.values()], axis=0) if case.truth else None
    if tumour is None or not tumour.any():
        return [(side.stop - side.start) // 2 for side in box[::-1]]
    areas = (tumour.sum(axis=tuple({0, 1, 2} - {axis})) for axis in (2, 1, 0))
    return [int(area.argmax()) for area in areas]
