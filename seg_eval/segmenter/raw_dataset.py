"""A cohort as nnU-Net's raw dataset: which files, which channels, which regions.

Labels follow BraTS 2023 (1 necrosis, 2 oedema, 3 enhancing tumour), because nnU-Net wants
consecutive integers; cohorts with other integers get rewritten label files, everything else is
used where it lies.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from synth3d.cohort import MODALITIES, Case, LabelScheme, Modality, ending_of, label_scheme
from synth3d.errors import InputError
from synth3d.files import copy, link_or_copy, make_folder, place, write_text
from synth3d.images import read_label, write_like

Layout = Literal["reference", "link", "copy"]
LABELS = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
"""Regions of BraTS 2023 labels, the largest first."""
REGIONS_CLASS_ORDER = [2, 1, 3]
"""What nnU-Net paints where WT, TC and ET are found, later ones over earlier ones: what is WT
alone is oedema (2), what is TC alone is necrosis (1), ET is enhancing tumour (3)."""


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
        scheme: What the label integers mean; None finds out from all labels together.
    """

    folder: Path
    cases: Sequence[Case]
    dataset_id: int
    name: str
    channels: Sequence[Modality] = MODALITIES
    replace: Mapping[str, Mapping[Modality, Path]] = field(default_factory=dict)
    layout: Layout = "reference"
    labels: bool = True
    scheme: LabelScheme | None = None


@dataclass(frozen=True)
class RawPlan:
    """A raw dataset that is checked, and where its files are when it is written.

    Attributes:
        folder: ``.../DatasetXXX_Name``.
        images: Per case the image files that it is made from in channel order, absolute.
        labels: Per case the label file that it is made from, absolute; empty without labels.
        codes: Integer in those files → integer in the dataset.
        ending: Of all files of the dataset.
    """

    folder: Path
    channels: tuple[Modality, ...]
    images: Mapping[str, tuple[Path, ...]]
    labels: Mapping[str, Path]
    codes: Mapping[int, int]
    layout: Layout
    ending: str

    def recoded(self, case: str) -> bool:
        """Whether the case's label file is rewritten: for its integers, or for its ending."""
        other = any(old != new for old, new in self.codes.items())
        return other or ending_of(self.labels[case].name) != self.ending

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
        InputError: Missing files, labels of no scheme or no tumour at all, a name or id that
            nnU-Net refuses, files with different endings; the integers of single label files
            wait for the writing when there is a ``scheme``.
    """
    cases, layout = request.cases, request.layout
    dataset = dataset_folder(request.folder, request.dataset_id, request.name)
    images = _images(request)
    targets, codes = {}, {}
    if request.labels:
        targets = {case.name: Path(str(case.label)).absolute() for case in cases}
        codes = consecutive_codes(request.scheme or _scheme_of(targets, cases[0].naming))
    elif layout == "reference":
        raise InputError("a dataset without labels cannot be written by reference; link it")
    listed = [path for files in images.values() for path in files]
    ending = _ending(listed, layout)
    if layout == "reference":
        for path in (*listed, *targets.values()):
            if os.path.expandvars(path) != str(path):
                raise InputError(f"nnU-Net would read the $ in {path} as a variable; link or copy")
    return RawPlan(dataset, tuple(request.channels), images, targets, codes, layout, ending)


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
            _rewrite(label, plan.codes, targets[-1])
        elif label and label != targets[-1]:
            put(label, targets[-1])
    description = {
        "channel_names": {str(index): channel for index, channel in enumerate(plan.channels)},
        "labels": LABELS,
        "regions_class_order": REGIONS_CLASS_ORDER,
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


def _scheme_of(paths: Mapping[str, Path], naming: str) -> LabelScheme:
    values: set[int] = set()
    for path in paths.values():
        values |= {*np.unique(read_label(path).data).tolist()}
    if values <= {0}:
        raise InputError("no case has a labelled voxel; there is nothing to learn")
    return label_scheme(values, naming)


def consecutive_codes(scheme: LabelScheme) -> dict[int, int]:
    """Integer of the cohort → integer of BraTS 2023; a resection cavity is background."""
    codes = {0: 0, scheme.necrosis: 1, scheme.oedema: 2, scheme.enhancing: 3}
    return codes if scheme.cavity is None else codes | {scheme.cavity: 0}


def _rewrite(source: Path, codes: Mapping[int, int], target: Path) -> None:
    """The labels of ``source`` in new integers, on the same grid."""
    old = read_label(source).data
    if unknown := sorted({*np.unique(old).tolist()} - codes.keys()):
        raise InputError(f"{source} has the label {unknown[0]}, which its cohort does not know")
    new = np.zeros(old.shape, dtype=np.uint8)
    for before, after in codes.items():
        new[old == before] = after
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
