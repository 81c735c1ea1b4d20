"""What explains one case, beside what was made of it: maps, and a table with its plot."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synth3d.cohort import Case, Modality, stem_of
from synth3d.completion.made import Made
from synth3d.completion.plan import Job
from synth3d.completion.receipts import Layout, explanations
from synth3d.errors import InputError
from synth3d.files import read_object, write_csv, write_text
from synth3d.pictures import draw_routing

if TYPE_CHECKING:
    from synth3d.inference import RoutedGroup

ABOUT_MAPS = {
    "tsem": (
        "|x_A - x|, what attention changed in the picture (TSF-Seq2Seq, eq. 6): where the network "
        "worked hardest, no measured error",
        "the network's scale: 0 is the darkest tissue of the brain, 0.5 its median",
    ),
    "spread": (
        "standard deviation over the pictures that were averaged and, with --uncertainty, of the "
        "errors that runs themselves expect; no interval",
        "scanner units",
    ),
    "interval": (
        "half-width of the interval of 90 %, calibrated on other patients: the acquired scan, as "
        "bright as this picture, is expected within picture ± this",
        "scanner units",
    ),
}
"""What each of ``MAPS`` is, and its units."""


def maps_of_made(made: Made) -> dict[str, np.ndarray]:
    """Name of ``ABOUT_MAPS`` → (D, H, W) float32."""
    own = {"spread": made.spread, "interval": made.interval}
    return {**made.maps} | {name: volume for name, volume in own.items() if volume is not None}


def map_facts(job: Job, modality: Modality, made: Made, layout: Layout) -> dict[str, Any]:
    """Where the maps are, from the output folder, and their units; nothing without any."""
    names = list(maps_of_made(made))
    if not names:
        return {}
    files = {name: layout.map(job.case, modality, name) for name in names}
    places = {name: file.relative_to(layout.out).as_posix() for name, file in files.items()}
    return {"maps": places, "units": {name: ABOUT_MAPS[name][1] for name in names}}


def write_routing(job: Job, made: Mapping[Modality, Made], layout: Layout) -> list[Path]:
    """What steered the network in the case, as a table and a plot; no files where nothing did."""
    if not (groups := next((one.routing for one in made.values() if one.routing), ())):
        return []
    table, plot = (layout.table(job.case, "routing", ending) for ending in (".csv", ".png"))
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = routing_rows(groups)
    stream = io.StringIO()
    write_csv(stream, rows, list(rows[0]))
    write_text(table, stream.getvalue())
    draw_routing(rows, f"{job.case.name}: what steered the kernels, by stage and group", plot)
    return [table, plot]


def routing_rows(groups: "Sequence[RoutedGroup]") -> list[dict[str, Any]]:
    """A row a group: place, group, ``offset_z`` …, ``scale``, ``gate``, each with its ``_sd``.

    What the network has not is empty; an offset is in taps.
    """
    axes = "zyx"[-max(len(one.offset) for one in groups) :]
    rows = []
    for one in groups:
        row: dict[str, Any] = {"place": one.place, "group": one.group, "tiles": one.tiles}
        for number, axis in enumerate(axes if one.offset else ""):
            row[f"offset_{axis}"] = one.offset[number]
            row[f"offset_{axis}_sd"] = one.offset_sd[number]
        row |= {"scale": one.scale, "scale_sd": one.scale_sd}
        rows.append(row | {"gate": one.gate, "gate_sd": one.gate_sd})
    return rows


def forget_explanations(layout: Layout, case: Case) -> None:
    """Remove what explains what was made of the case before: it would lie beside another picture.

    Only what we wrote, by the receipt, or by the marker of a process that was killed.
    """
    marker, receipt = layout.marker(case), layout.receipt(case)
    for path in (marker, receipt):
        try:
            said = read_object(path) if path.is_file() else {}
            found = explanations(layout, case, said if path == marker else said["identity"])
        except (InputError, KeyError, TypeError, AttributeError, ValueError):
            continue
        for each in found:
            each.unlink(missing_ok=True)
            each.with_name(stem_of(each.name) + ".json").unlink(missing_ok=True)
