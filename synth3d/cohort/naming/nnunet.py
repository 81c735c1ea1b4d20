"""nnU-Net raw datasets: ``dataset.json`` says what the channels are."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from synth3d.cohort.naming.layouts import Claim, lost_link
from synth3d.cohort.naming.vocabulary import Modality, Role, ending_of, parse_modality, stem_of
from synth3d.errors import InputError
from synth3d.files import is_file, read_json


def nnunet_dataset(root: Path) -> dict[str, Any] | None:
    """The ``dataset.json`` of an nnU-Net raw dataset, or None where ``root`` is not one.

    Raises:
        InputError: It is one of the Medical Segmentation Decathlon, whose images are 4-D.
    """
    path = root / "dataset.json"
    value = read_json(path) if path.is_file() else None
    if not isinstance(value, dict):
        return None
    if "channel_names" not in value and "modality" in value and "training" in value:
        names = value["modality"]
        named = ", ".join(map(str, names.values() if isinstance(names, dict) else [names]))
        raise InputError(
            f"{path} is of version 1, as in the Medical Segmentation Decathlon: each image holds "
            f"all sequences ({named}) in one 4-D file, and a file of its own is needed for each; "
            f"nnUNetv2_convert_MSD_dataset -i {root} writes such a dataset, which is read"
        )
    return value if "channel_names" in value else None


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
        for path in _image_files(root / f"images{part}"):
            case, _, index = stem_of(path.name).rpartition("_")
            if lost := lost_link(path):
                yield Claim(path, doubt=lost)
            elif index.isdecimal() and len(index) == 4 and int(index) < len(channels):
                yield Claim(path, "nnunet", case, channels[int(index)])
            else:
                yield Claim(path, doubt=f"dataset.json has no channel for {path.name}")
        for path in _image_files(root / f"labels{part}"):
            lost = lost_link(path)
            yield (
                Claim(path, doubt=lost)
                if lost
                else Claim(path, "nnunet", stem_of(path.name), "label")
            )


def nnunet_listed(dataset: dict[str, Any]) -> dict[str, dict[Role, str]]:
    """Case → role → name of the file that ``dataset.json`` lists, whether it is there or not."""
    listed, channels = dataset.get("dataset", {}), nnunet_channels(dataset)
    return {
        case: {
            role: PurePosixPath(file).name for role, file in _listed_files(case, entry, channels)
        }
        for case, entry in listed.items()
    }


def _image_files(folder: Path) -> list[Path]:
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in there if not path.name.startswith(".") and ending_of(path.name)]


def _listed_claims(root: Path, listed: Any, channels: tuple[Modality, ...]) -> Iterator[Claim]:
    """Claims of ``dataset.json``'s ``dataset`` key: files in channel order, relative to it.

    A file that is not there is a missing sequence, as long as the case has another.
    """
    if not isinstance(listed, dict):
        raise InputError('dataset.json: "dataset" must map cases to their files')
    gone: list[str] = []
    found: list[Claim] = []
    for case, entry in listed.items():
        before = len(found)
        for role, file in _listed_files(case, entry, channels):
            path = root / os.path.expandvars(file)
            if is_file(path):
                found.append(Claim(path, "nnunet", case, role))
            elif _elsewhere(root, file):
                gone.append(file)
        if len(found) == before:
            gone += [file for _, file in _listed_files(case, entry, channels)]
    if gone:
        gone = list(dict.fromkeys(gone))
        remedy = "correct the paths"
        if "\\" in gone[0]:
            remedy = "write its paths with / instead of \\"
        if all(_elsewhere(root, file) for file in gone):
            remedy += ', or remove the key "dataset": the files lie in imagesTr and labelsTr'
        raise InputError(
            f"{root / 'dataset.json'} lists {len(gone)} files that are not there, such as "
            f"{gone[0]:.300}: {remedy}"
        )
    yield from found


def _listed_files(case: str, entry: Any, channels: tuple[Modality, ...]) -> list[tuple[Role, str]]:
    try:
        images, label = list(entry["images"]), entry.get("label")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"dataset.json: case {case} must list its images") from error
    if not all(isinstance(file, str) and "\0" not in file for file in (*images, label or "")):
        raise InputError(f"dataset.json: case {case} lists files that are no text")
    if len(images) != len(channels):
        raise InputError(
            f"dataset.json: case {case} lists {len(images)} images for {len(channels)} channels"
        )
    roles: list[tuple[Role, str]] = list(zip(channels, images, strict=True))
    return [*roles, *([("label", label)] if label else [])]


def _elsewhere(root: Path, file: str) -> bool:
    """Whether a file that is not where it is listed lies in the dataset's own folders."""
    name = PurePosixPath(file.replace("\\", "/")).name
    return any(is_file(root / part / name) for part in ("imagesTr", "labelsTr"))
