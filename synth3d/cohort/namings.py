"""How cohorts name their files: modalities, aliases, naming schemes, patients.

Five schemes: BraTS 2018-2021, BraTS 2023 and later, IXI, BIDS and nnU-Net raw. Everything is
matched on names, never on position. Opens no image.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from synth3d.errors import InputError
from synth3d.files import read_json

Modality = Literal["t1n", "t1c", "t2w", "t2f", "pd"]
Role = Modality | Literal["label"]
ALL_MODALITIES: tuple[Modality, ...] = get_args(Modality)
MODALITIES: tuple[Modality, ...] = ALL_MODALITIES[:4]
"""The four of BraTS, in its order."""

_ALIASES: dict[Modality, tuple[str, ...]] = {
    "t1n": ("t1n", "t1", "t1w", "t1pre", "t1native"),
    "t1c": ("t1c", "t1ce", "t1gd", "t1post", "t1cw", "t1wce", "t1wgd"),
    "t2w": ("t2w", "t2"),
    "t2f": ("t2f", "flair", "t2flair"),
    "pd": ("pd", "pdw"),
}
_BY_ALIAS: dict[str, Modality] = {
    alias: modality for modality, names in _ALIASES.items() for alias in names
}


def parse_modality(text: str) -> Modality:
    """The modality ``text`` means: ``t1ce`` and ``T1-Gd`` are ``t1c``, ``FLAIR`` is ``t2f``.

    Upper and lower case and separators do not matter.

    Raises:
        InputError: No modality, or none we know, goes by that name.
    """
    modality = _BY_ALIAS.get(re.sub(r"[\s_-]", "", text.lower()))
    if modality is None:
        known = "; ".join(f"{m} ({', '.join(names[1:])})" for m, names in _ALIASES.items())
        raise InputError(f"{text!r} is not a modality; known are {known}")
    return modality


TOKENS: dict[str, dict[Modality, str]] = {
    "brats2018": {"t1n": "_t1", "t1c": "_t1ce", "t2w": "_t2", "t2f": "_flair", "pd": "_pd"},
    "brats2023": {"t1n": "-t1n", "t1c": "-t1c", "t2w": "-t2w", "t2f": "-t2f", "pd": "-pd"},
    "ixi": {"t1n": "-T1", "t1c": "-T1C", "t2w": "-T2", "t2f": "-FLAIR", "pd": "-PD"},
    "bids": {"t1n": "_T1w", "t1c": "_ce-gadolinium_T1w", "t2w": "_T2w", "t2f": "_FLAIR",
             "pd": "_PDw"},
}  # fmt: skip
"""What follows the case's name in the file of a modality, per naming; IXI itself has only
T1, T2 and PD."""


_PATIENT = (
    (re.compile(r"BraTS-GLI-(\d+)-\d+", re.I), r"\1"),
    (re.compile(r"(Phantom-\d+)-\d+", re.I), r"\1"),
    (re.compile(r"BraTS-([A-Z]+-\d+)-\d+", re.I), r"\1"),
    (re.compile(r"BraTS2021_(\d+)", re.I), r"\1"),
    (re.compile(r"BraTS20_((?:Training|Validation|Testing)_\d+)", re.I), r"\1"),
    (re.compile(r"BraTS\d\d_(.+)_\d+", re.I), r"\1"),
    (re.compile(r"(IXI\d+)-.*"), r"\1"),
    (re.compile(r"(sub-[A-Za-z0-9]+)(?:_.*)?"), r"\1"),
    (re.compile(r"(.+-\d{5})-\d{3}"), r"\1"),
)


def patient_of(case: str) -> str:
    """The patient a case name stands for, without year and time point.

    ``BraTS-GLI-00008-001`` gives ``00008`` (``BraTS2021_00008`` is the same person),
    ``BraTS-MET-00008-000`` gives ``MET-00008``, ``Brats18_CBICA_ALU_1`` gives ``CBICA_ALU``,
    ``IXI002-Guys-0828`` gives ``IXI002``. A name of no known form is its own patient.
    """
    matches = ((pattern.fullmatch(case), patient) for pattern, patient in _PATIENT)
    return next((match.expand(patient) for match, patient in matches if match), case)


@dataclass(frozen=True)
class Claim:
    """A file that says by its name what it is, or, where ``role`` is None, nothing to us."""

    path: Path
    naming: str = ""
    case: str = ""
    role: Role | None = None


_BIDS_ROLES: dict[str, Role] = {
    "T1w": "t1n", "T2w": "t2w", "PDw": "pd", "FLAIR": "t2f", "dseg": "label", "seg": "label",
}  # fmt: skip
_NAMINGS = (
    ("brats2023", re.compile(r"(?P<case>.+)-(?P<role>t1n|t1c|t2w|t2f|pd|seg)")),
    ("brats2018", re.compile(r"(?P<case>.+)_(?P<role>t1|t1ce|t1c|t1gd|t2|flair|pd|seg)")),
    ("ixi", re.compile(r"(?P<case>IXI\d+-[A-Za-z]+-\d+)-(?P<role>T1|T1C|T2|FLAIR|PD)")),
)


def ending_of(name: str) -> str:
    """``.nii.gz`` or ``.nii`` when the file name ends so, else an empty text."""
    return next((ending for ending in (".nii.gz", ".nii") if name.endswith(ending)), "")


def _claim(path: Path) -> Claim:
    """What ``path`` claims to be, by its name alone."""
    stem = path.name.removesuffix(ending_of(path.name))
    if stem.startswith("sub-") and (claim := _bids_claim(path, stem)):
        return claim
    for naming, pattern in _NAMINGS:
        if match := pattern.fullmatch(stem):
            role = match["role"]
            role = "label" if role == "seg" else parse_modality(role)
            return Claim(path, naming, match["case"], role)
    return Claim(path)


def _bids_claim(path: Path, stem: str) -> Claim | None:
    entities, _, suffix = stem.rpartition("_")
    role = _BIDS_ROLES.get(suffix)
    if role is None:
        return None
    parts = dict(part.split("-", 1) for part in entities.split("_") if "-" in part)
    if role == "t1n" and "ce" in parts:
        role = "t1c"
    session = f"_ses-{parts['ses']}" if "ses" in parts else ""
    return Claim(path, "bids", f"sub-{parts['sub']}{session}", role)


def claims(root: Path) -> Iterator[Claim]:
    """The claims of all image files under ``root``, in a fixed order."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_reraise):
        real = os.path.realpath(folder)
        new = real not in seen
        seen.add(real)
        folders[:] = sorted(filter(_looked_at, folders)) if new else []
        for name in sorted(filter(_looked_at, names)) if new else ():
            if ending_of(name):
                yield _claim(Path(folder) / name)


def _reraise(error: OSError) -> None:
    raise error


def _looked_at(name: str) -> bool:
    return not name.startswith(".") and name not in ("derivatives", "sourcedata")


def nnunet_dataset(root: Path) -> dict[str, Any] | None:
    """The ``dataset.json`` of an nnU-Net raw dataset, or None where ``root`` is not one."""
    path = root / "dataset.json"
    value = read_json(path) if path.is_file() else None
    return value if isinstance(value, dict) and "channel_names" in value else None


def nnunet_channels(dataset: dict[str, Any]) -> tuple[Modality, ...]:
    """The modality of channel 0, 1, ..., by the names in ``channel_names``.

    Raises:
        InputError: A name is no modality, or two channels mean the same one.
    """
    names = dataset["channel_names"]
    try:
        ordered = [str(names[str(index)]) for index in range(len(names))]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"dataset.json: channel_names must map 0, 1, ... to names, got {names!r}"
        ) from error
    try:
        channels: tuple[Modality, ...] = tuple([parse_modality(name) for name in ordered])
    except InputError as error:
        raise InputError(f"dataset.json, channel_names: {error}") from error
    if len(set(channels)) < len(channels):
        raise InputError(f"dataset.json: two of the channels {ordered} mean the same modality")
    return channels


def nnunet_claims(root: Path, dataset: dict[str, Any]) -> Iterator[Claim]:
    """The claims of the files of an nnU-Net raw dataset; listed ones replace the Tr folders."""
    channels = nnunet_channels(dataset)
    if "dataset" in dataset:
        yield from _listed_claims(root, dataset["dataset"], channels)
    parts = ("Ts",) if "dataset" in dataset else ("Tr", "Ts")
    for part in parts:
        for path, stem in _image_files(root / f"images{part}"):
            case, _, index = stem.rpartition("_")
            if index.isdecimal() and len(index) == 4 and int(index) < len(channels):
                yield Claim(path, "nnunet", case, channels[int(index)])
            else:
                yield Claim(path)
        for path, stem in _image_files(root / f"labels{part}"):
            yield Claim(path, "nnunet", stem, "label")


def _image_files(folder: Path) -> list[tuple[Path, str]]:
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = (path for path in there if _looked_at(path.name) and ending_of(path.name))
    return [(path, path.name.removesuffix(ending_of(path.name))) for path in paths]


def _listed_claims(root: Path, listed: Any, channels: tuple[Modality, ...]) -> Iterator[Claim]:
    """Claims of ``dataset.json``'s ``dataset`` key: files in channel order, relative to it."""
    if not isinstance(listed, dict):
        raise InputError('dataset.json: "dataset" must map cases to their files')
    for case, entry in listed.items():
        try:
            images, label = list(entry["images"]), entry.get("label")
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"dataset.json: case {case} must list its images") from error
        if not all(isinstance(file, str) and "\0" not in file for file in (*images, label or "")):
            raise InputError(f"dataset.json: case {case} must list its files as text")
        if len(images) != len(channels):
            raise InputError(
                f"dataset.json: case {case} lists {len(images)} images for {len(channels)} channels"
            )
        roles: list[tuple[Role, str]] = list(zip(channels, images, strict=True))
        for role, file in [*roles, *([("label", label)] if label else [])]:
            path = root / os.path.expandvars(file)
            if path.is_file():
                yield Claim(path, "nnunet", case, role)
