"""What makes a folder of synthetic images a BIDS derivative dataset: whence it is, and by what.

BIDS has no word for a synthetic image: files are marked by ``desc-synth`` in their names and
``Synthetic`` in their side-cars.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from synth3d import __version__
from synth3d.completion.receipts import Layout
from synth3d.errors import InputError
from synth3d.files import claim, read_json, read_object, sweep, write_json, write_text

BIDS_VERSION = "1.10.0"
"""Of the specification that names, links and this description follow."""

IGNORED = (
    "receipts/", ".locks/", "failed/", "explanations/", "previews/", "contributions.*",
    "cohort.json", "verified.json", "index.html",
)  # fmt: skip
"""What a validator should not look at: ours, not BIDS's."""


def bids_sources(files: Iterable[Path], data: Path) -> list[str]:
    """BIDS URIs of ``files``, which lie under the dataset ``data``."""
    return [f"bids:raw:{path.relative_to(data).as_posix()}" for path in files]


def write_description(layout: Layout, data: Path, made_by: str) -> None:
    """``dataset_description.json`` and ``.bidsignore`` of the dataset ``layout.out``.

    Jobs that share the folder may write at once: each adds what it is (``made_by``, a clause) and
    where it read (``data``) to what the others wrote.

    Raises:
        InputError: The folder holds another dataset, or one made from another.
    """
    path = layout.out / "dataset_description.json"
    with claim(layout.lock(path.name), wait=True):
        sweep(layout.out, {path.name, ".bidsignore"})
        there = read_object(path) if path.exists() else {}
        if there and there.get("DatasetType") != "derivative":
            raise InputError(
                f"{path} describes a dataset that is no derivative; choose another output folder"
            )
        link = _link(layout.out, data)
        if (other := there.get("DatasetLinks", {}).get("raw", link)) != link:
            raise InputError(
                f"{layout.out} was made from the dataset {other}, not from {link}; choose another "
                "output folder"
            )
        us = {"Name": "synth3d", "Version": __version__, "Description": made_by}
        before = there.get("GeneratedBy", [])
        wanted = {
            "Name": "Synthetic MRI sequences by synth3d",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            **there,
            "GeneratedBy": before if us in before else [*before, us],
            "SourceDatasets": [_source(data, link)],
            "DatasetLinks": {**there.get("DatasetLinks", {}), "raw": link},
        }
        if there != wanted:
            write_json(path, wanted)
        ignored = layout.out / ".bidsignore"
        if not ignored.exists():
            write_text(ignored, "".join(f"{line}\n" for line in IGNORED))


def _link(out: Path, data: Path) -> str:
    """Where the raw dataset is: relative if ``out`` lies in it, so that both can be moved."""
    out, data = out.resolve(), data.resolve()
    return os.path.relpath(data, out) if out.is_relative_to(data) else data.as_uri()


def _source(data: Path, link: str) -> dict[str, Any]:
    """The raw dataset, with its DOI where it says one."""
    path = data / "dataset_description.json"
    about = read_json(path) if path.is_file() else {}
    doi = about.get("DatasetDOI") if isinstance(about, dict) else None
    return {"URL": link} | ({"DOI": doi} if doi else {})
