"""A cohort as nnU-Net's raw dataset: which files, which channels, which regions.

Labels follow BraTS 2023 (1 necrosis, 2 oedema, 3 enhancing tumour), because nnU-Net wants
consecutive integers; a cavity and cysts come after them, if they are kept at all. Cases with other
integers get rewritten label files, everything else is used where it lies.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from synth3d.cohort import (
    CLASSES,
    MODALITIES,
    TISSUES,
    Case,
    Modality,
    Reading,
    Tissue,
    ending_of,
    lacks_tissues,
    nnunet_integers,
    nnunet_regions,
    readings_of,
    recode,
)
from synth3d.errors import InputError
from synth3d.files import copy, link_or_copy, make_folder, place, write_text
from synth3d.images import read_label, write_like

Layout = Literal["reference", "link", "copy"]


@dataclass(frozen=True)
class RawRequest:
    """What nnU-Net's raw dataset ``DatasetXXX_Name`` is to hold.

    Attributes:
        folder: nnU-Net's ``nnUNet_raw``, created if need be.
        cases: The cases, each with all ``channels``.
        dataset_id: The XXX, 1 to 999, unique in ``folder``.
        name: Letters, digits, ``_`` and ``-``.
        channels: Order of the channels; files are matched to them by modality.
        replace: Files to use instead of a case's own, by case name and modality; a case need
            not have what is replaced.
        layout: ``reference`` lists the files where they are in dataset.json; ``link`` and
            ``copy`` fill imagesTr and labelsTr under nnU-Net's names.
        labels: False for a cohort without labels: images go to imagesTs, nothing can be trained.
        readings: How the label of each case is read; None finds out.
        keep_tissues: A cavity and cysts keep integers and regions of their own, from which a
            cohort's own integers can be had back; else they are background and core.
    """

    folder: Path
    cases: Sequence[Case]
    dataset_id: int
    name: str
    channels: Sequence[Modality] = MODALITIES
    replace: Mapping[str, Mapping[Modality, Path]] = field(default_factory=dict)
    layout: Layout = "reference"
    labels: bool = True
    readings: Mapping[str, Reading] | None = field(default=None, hash=False)
    keep_tissues: bool = False


@dataclass(frozen=True)
class RawPlan:
    """A raw dataset that is checked, and where its files are when it is written.

    Attributes:
        folder: ``.../DatasetXXX_Name``.
        images: Per case the image files that it is made from in channel order, absolute.
        labels: Per case the label file that it is made from, absolute; empty without labels.
        codes: Per case, integer in its label file → integer in the dataset.
        further: The tissues beyond the first three that have regions of their own.
        rounded: Cases whose label files do not hold quite whole numbers.
        ending: Of all files of the dataset.
    """

    folder: Path
    channels: tuple[Modality, ...]
    images: Mapping[str, tuple[Path, ...]]
    labels: Mapping[str, Path]
    codes: Mapping[str, Mapping[int, int]]
    layout: Layout
    ending: str
    further: tuple[Tissue, ...] = ()
    rounded: frozenset[str] = frozenset()

    def recoded(self, case: str) -> bool:
        """Whether the case's label file is rewritten: for its integers, or for its ending."""
        other = any(old != new for old, new in self.codes[case].items())
        return other or case in self.rounded or ending_of(self.labels[case].name) != self.ending

    @cached_property
    def files(self) -> Mapping[str, tuple[Path, ...]]:
        """Per case its image files in the dataset in channel order, and its label file if any."""
        return {
            case: (*self._placed_images(case), *self._placed_label(case)) for case in self.images
        }

    def _placed_images(self, case: str) -> Iterable[Path]:
        if self.layout == "reference":
            return self.images[case]
        side = "imagesTr" if self.labels else "imagesTs"
        names = [f"{case}_{n:04d}{self.ending}" for n in range(len(self.channels))]
        return [place(self.folder, side, name) for name in names]

    def _placed_label(self, case: str) -> Iterable[Path]:
        if case not in self.labels:
            return []
        if self.layout == "reference" and not self.recoded(case):
            return [self.labels[case]]
        side = "recoded" if self.layout == "reference" else "labelsTr"
        return [place(self.folder, side, f"{case}{self.ending}")]


def write_raw_dataset(request: RawRequest) -> RawPlan:
    """Write and describe it; once more changes no byte of a file that is already right."""
    plan = plan_raw_dataset(request)
    write_planned(plan)
    return plan


def plan_raw_dataset(request: RawRequest) -> RawPlan:
    """Check what is wanted; writes nothing.

    Raises:
        InputError: Missing files, labels that cannot be read or no tumour at all, a name or id
            that nnU-Net refuses, files with different endings.
    """
    cases, layout = request.cases, request.layout
    # nnU-Net reads the paths of a dataset.json as they stand, and relative ones from its folder.
    dataset = dataset_folder(request.folder.absolute(), request.dataset_id, request.name)
    images = _images(request)
    readings: Mapping[str, Reading] = {}
    targets = {}
    if request.labels:
        targets = {case.name: Path(str(case.label)).absolute() for case in cases}
        readings = request.readings or readings_of(cases)
        if problem := lacks_tissues(readings):
            raise InputError(problem)
    elif layout == "reference":
        raise InputError("a dataset without labels cannot be written by reference; link it")
    listed = [path for files in images.values() for path in files]
    ending = _ending(listed, layout)
    if layout == "reference":
        for path in (*listed, *targets.values()):
            if os.path.expandvars(path) != str(path):
                raise InputError(f"nnU-Net would read the $ in {path} as a variable; link or copy")
    further = _further([*readings.values()]) if request.keep_tissues else ()
    codes = {name: consecutive_codes(readings[name], further) for name in targets}
    rounded = frozenset(name for name in targets if readings[name].rounded)
    channels = tuple(request.channels)
    return RawPlan(dataset, channels, images, targets, codes, layout, ending, further, rounded)


def write_planned(plan: RawPlan) -> None:
    """Write what was planned; ``dataset.json`` comes last, so without it nothing is finished."""
    make_folder(plan.folder)
    put = link_or_copy if plan.layout == "link" else copy
    for case, targets in plan.files.items():
        images, label = plan.images[case], plan.labels.get(case)
        for source, target in zip(images, targets, strict=False):
            if target != source:
                put(source, target)
        if label and plan.recoded(case):
            _rewrite(label, plan.codes[case], targets[-1])
        elif label and label != targets[-1]:
            put(label, targets[-1])
    description = {
        "channel_names": {str(index): channel for index, channel in enumerate(plan.channels)},
        **nnunet_regions(plan.further),
        "numTraining": len(plan.labels),
        "file_ending": plan.ending,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    if plan.layout == "reference":
        description["dataset"] = {
            case: {"images": [str(path) for path in files[:-1]], "label": str(files[-1])}
            for case, files in plan.files.items()
        }
    else:
        _refuse_strangers(plan)
    write_description(plan.folder, description)


def make_room(folder: Path, sources: Iterable[Path], overwrite: bool) -> bool:
    """Refuse to touch a finished dataset in ``folder`` or, if told, take its files away.

    An unfinished one, without ``dataset.json``, stays as it is, to be gone on with. None may
    hold one of ``sources``.

    Returns:
        Whether a dataset was taken away.
    """
    for path in sources:
        if path.absolute().is_relative_to(folder.absolute()):
            raise InputError(f"{path} lies in {folder}, which would be written; choose another")
    if not (folder / "dataset.json").exists():
        return False
    if not overwrite:
        raise InputError(f"{folder} is there already; --overwrite replaces it")
    (folder / "dataset.json").unlink()  # first, so that no half of a dataset looks whole
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "recoded", "transforms"):
        if (folder / part).is_dir():
            shutil.rmtree(folder / part)
    return True


def dataset_folder(folder: Path, dataset_id: int, name: str) -> Path:
    """``DatasetXXX_Name`` in ``folder``, if nnU-Net takes the id and the name; not created."""
    if not 1 <= dataset_id <= 999:
        raise InputError(f"the dataset id must be 1 to 999, got {dataset_id}")
    if not name or not all(character.isalnum() or character in "_-" for character in name):
        raise InputError(f"the dataset name {name!r} may hold letters, digits, _ and - only")
    full = f"Dataset{dataset_id:03d}_{name}"
    others = {path.name for path in folder.glob(f"Dataset{dataset_id:03d}_*")} - {full}
    if others:
        raise InputError(f"{folder} has the id {dataset_id} already: {', '.join(sorted(others))}")
    return folder / full


def _images(request: RawRequest) -> dict[str, tuple[Path, ...]]:
    """Absolute image files of each case in channel order; every missing one is named at once."""
    cases, channels = request.cases, request.channels
    if not cases:
        raise InputError("no cases for the nnU-Net dataset")
    available = {case.name: {**case.images, **request.replace.get(case.name, {})} for case in cases}
    missing = [
        f"{case} lacks {channel}"
        for case, files in available.items()
        for channel in channels
        if channel not in files or not files[channel].exists()
    ]
    if request.labels:
        missing += [f"{case.name} lacks the label" for case in cases if case.label is None]
    if missing:
        raise InputError(f"the nnU-Net dataset needs {', '.join(channels)}: {'; '.join(missing)}")
    return {case: tuple(files[c].absolute() for c in channels) for case, files in available.items()}


def _refuse_strangers(plan: RawPlan) -> None:
    """Stop at files that nnU-Net would take for cases of this dataset."""
    ours = {path for paths in plan.files.values() for path in paths}
    folders = {*(path.parent for path in ours), plan.folder / "labelsTr"}
    there = {path for folder in folders for path in folder.glob("[!.]*")}
    if strangers := sorted(path.name for path in there - ours):
        raise InputError(f"{plan.folder} has files of another dataset: {', '.join(strangers)}")


def _further(readings: Iterable[Reading]) -> tuple[Tissue, ...]:
    """The tissues beyond the first three that occur."""
    there = {
        reading.scheme.tissues[value] for reading in readings for value in reading.values if value
    }
    return tuple(tissue for tissue in TISSUES[3:] if tissue in there)


def consecutive_codes(reading: Reading, further: Iterable[Tissue] = ()) -> dict[int, int]:
    """Integer that occurs in a label → integer in a dataset with these further tissues.

    Without a place of its own a resection cavity is background, a cyst core.
    """
    places = {**CLASSES, **nnunet_integers(further)}
    return {0: 0} | {n: places[reading.scheme.tissues[n]] for n in reading.values if n}


def _rewrite(source: Path, codes: Mapping[int, int], target: Path) -> None:
    """The labels of ``source`` in new integers, on the same grid."""
    try:
        new = recode(read_label(source).data, codes)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    write_like(source, new, target)


def _ending(paths: Sequence[Path], layout: Layout) -> str:
    """The one ending of all files; nnU-Net wants no second one in its own folders."""
    endings = sorted({ending_of(path.name) for path in paths})
    if len(endings) > 1 and layout != "reference":
        raise InputError(f"nnU-Net wants one file ending, the cases have {' and '.join(endings)}")
    return ".nii.gz" if ".nii.gz" in endings else endings[0]


def write_description(folder: Path, value: Any) -> None:
    """Write ``dataset.json`` in the given key order, from which nnU-Net reads meaning.

    One that is already right is left alone.
    """
    path = folder / "dataset.json"
    text = json.dumps(value, indent=2) + "\n"
    if not (path.is_file() and path.read_text(encoding="utf-8") == text):
        write_text(path, text)
