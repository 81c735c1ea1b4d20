"""A cohort as nnU-Net's raw dataset: which files, which channels, which regions.

Labels follow BraTS 2023 (1 necrosis, 2 oedema, 3 enhancing tumour), because nnU-Net wants
consecutive integers; cohorts with other integers get rewritten label files, everything else is
used where it lies.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from synth3d.cases import MODALITIES, Case, Modality, ending_of, require
from synth3d.files import InputError, atomic_path, link_or_copy, make_folder, write_text
from synth3d.labels import LabelScheme, label_scheme
from synth3d.volumes import read_label, write_like

Layout = Literal["reference", "link", "copy"]
LABELS = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
"""Regions of BraTS 2023 labels, the largest first."""
REGIONS_CLASS_ORDER = [2, 1, 3]
"""What nnU-Net paints where WT, TC and ET are found, later ones over earlier ones: what is WT
alone is oedema (2), what is TC alone is necrosis (1), ET is enhancing tumour (3)."""


@dataclass(frozen=True)
class RawDataset:
    """An nnU-Net raw dataset on disk.

    Attributes:
        folder: ``.../DatasetXXX_Name``.
        dataset_id: The XXX.
        channels: Modality of channel 0, 1, ...
        cases: Names of the cases, with files and label.
        files: Per case its image files in channel order and then its label file.
    """

    folder: Path
    dataset_id: int
    channels: tuple[Modality, ...]
    cases: tuple[str, ...]
    files: Mapping[str, tuple[Path, ...]]


def write_raw_dataset(
    folder: Path,
    cases: Sequence[Case],
    dataset_id: int,
    name: str,
    channels: Sequence[Modality] = MODALITIES,
    replace: Mapping[str, Mapping[Modality, Path]] | None = None,
    layout: Layout = "reference",
    labels: bool = True,
    scheme: LabelScheme | None = None,
) -> RawDataset:
    """Write ``DatasetXXX_Name`` in ``folder`` (nnU-Net's ``nnUNet_raw``) and describe it.

    Running it again changes no byte of a file that is already right.

    Args:
        folder: Created if need be.
        cases: The cases, each with all ``channels``.
        dataset_id: 1 to 999, unique in ``folder``.
        name: Letters, digits, ``_`` and ``-``.
        channels: Order of the channels; files are matched to them by modality.
        replace: Files to use instead of a case's own, by case name and modality; a case need
            not have what is replaced.
        layout: ``reference`` lists the files where they are in dataset.json; ``link`` and
            ``copy`` fill imagesTr and labelsTr under nnU-Net's names.
        labels: False for a cohort without labels: images go to imagesTs, nothing can be trained.
        scheme: What the label integers mean; by default found out from all labels together.

    Raises:
        InputError: Missing files, labels of no scheme or no tumour at all, a name or id that
            nnU-Net refuses, files with different endings, a folder that cannot be written.
    """
    dataset = _dataset_folder(folder, dataset_id, name)
    images = _images(cases, channels, replace or {})
    if labels:
        require(cases, (), label=True)
        targets = _labels(dataset, cases, scheme)
    else:
        targets = {}
    description = {
        "channel_names": {str(index): channel for index, channel in enumerate(channels)},
        "labels": LABELS,
        "regions_class_order": REGIONS_CLASS_ORDER,
        "numTraining": len(targets),
        "file_ending": _ending([path for files in images.values() for path in files], layout),
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    if layout == "reference":
        if not labels:
            raise InputError("a dataset without labels cannot be written by reference; link it")
        description["dataset"] = {
            case: {"images": [str(path) for path in files], "label": str(targets[case])}
            for case, files in images.items()
        }
    else:
        images, targets = _place(dataset, images, targets, description["file_ending"], layout)
    _write_once(dataset / "dataset.json", description)
    files = {case: (*paths, targets[case]) for case, paths in images.items() if case in targets}
    return RawDataset(dataset, dataset_id, tuple(channels), tuple(files), files)


def _dataset_folder(folder: Path, dataset_id: int, name: str) -> Path:
    if not 1 <= dataset_id <= 999:
        raise InputError(f"the dataset id must be 1 to 999, got {dataset_id}")
    if not name or not all(character.isalnum() or character in "_-" for character in name):
        raise InputError(f"the dataset name {name!r} may hold letters, digits, _ and - only")
    full = f"Dataset{dataset_id:03d}_{name}"
    others = {path.name for path in folder.glob(f"Dataset{dataset_id:03d}_*")} - {full}
    if others:
        raise InputError(f"{folder} has the id {dataset_id} already: {', '.join(sorted(others))}")
    return make_folder(folder / full)


def _images(
    cases: Sequence[Case],
    channels: Sequence[Modality],
    replace: Mapping[str, Mapping[Modality, Path]],
) -> dict[str, tuple[Path, ...]]:
    """Absolute image files of each case in channel order; every missing one is named at once."""
    if not cases:
        raise InputError("no cases for the nnU-Net dataset")
    available = {case.name: {**case.images, **replace.get(case.name, {})} for case in cases}
    missing = [
        f"{case} lacks {channel}"
        for case, files in available.items()
        for channel in channels
        if channel not in files or not files[channel].exists()
    ]
    if missing:
        raise InputError(f"the nnU-Net dataset needs {', '.join(channels)}: {'; '.join(missing)}")
    return {
        case: tuple(files[channel].absolute() for channel in channels)
        for case, files in available.items()
    }


def _labels(dataset: Path, cases: Sequence[Case], scheme: LabelScheme | None) -> dict[str, Path]:
    """A label file in BraTS 2023 integers for each case: its own one, or a rewritten one."""
    paths = {case.name: Path(str(case.label)).absolute() for case in cases}
    scheme = scheme or _scheme_of(paths, cases[0].naming)
    codes = _codes(scheme)
    if all(old == new for old, new in codes.items()):
        return paths
    return {
        name: _rewritten(path, codes, dataset / "recoded" / f"{name}.nii.gz")
        for name, path in paths.items()
    }


def _scheme_of(paths: Mapping[str, Path], naming: str) -> LabelScheme:
    values: set[int] = set()
    for path in paths.values():
        values |= {int(value) for value in np.unique(read_label(path).data)}
    if values <= {0}:
        raise InputError("no case has a labelled voxel; there is nothing to learn")
    return label_scheme(values, naming)


def _codes(scheme: LabelScheme) -> dict[int, int]:
    """Integer of the cohort → integer of BraTS 2023; a resection cavity is background."""
    codes = {0: 0, scheme.necrosis: 1, scheme.oedema: 2, scheme.enhancing: 3}
    return codes if scheme.cavity is None else codes | {scheme.cavity: 0}


def _rewritten(source: Path, codes: Mapping[int, int], target: Path) -> Path:
    """``target``, holding the labels of ``source`` in new integers on the same grid."""
    old = read_label(source).data
    new = np.zeros(old.shape, dtype=np.uint8)
    for before, after in codes.items():
        new[old == before] = after
    unknown = sorted({int(value) for value in np.unique(old)} - codes.keys())
    if unknown:
        raise InputError(f"{source} has the label {unknown[0]}, which its cohort does not know")
    write_like(source, new, target)
    return target


def _ending(paths: Sequence[Path], layout: Layout) -> str:
    """The one ending of all files; nnU-Net wants no second one in its own folders."""
    endings = sorted({ending_of(path.name) for path in paths})
    if len(endings) > 1 and layout != "reference":
        raise InputError(f"nnU-Net wants one file ending, the cases have {' and '.join(endings)}")
    return ".nii.gz" if ".nii.gz" in endings else endings[0]


def _place(
    dataset: Path,
    images: Mapping[str, Sequence[Path]],
    labels: Mapping[str, Path],
    ending: str,
    layout: Layout,
) -> tuple[dict[str, tuple[Path, ...]], dict[str, Path]]:
    """Put the files under nnU-Net's names."""
    put = link_or_copy if layout == "link" else _copy
    placed_images, placed_labels = {}, {}
    for case, paths in images.items():
        side = "imagesTr" if case in labels else "imagesTs"
        placed_images[case] = tuple(
            _put(put, path, dataset / side / f"{case}_{channel:04d}{ending}")
            for channel, path in enumerate(paths)
        )
    for case, path in labels.items():
        if ending_of(path.name) != ending:
            raise InputError(f"label {path} should end with {ending} like the images")
        placed_labels[case] = _put(put, path, dataset / "labelsTr" / f"{case}{ending}")
    return placed_images, placed_labels


def _put(put: Any, source: Path, target: Path) -> Path:
    put(source, target)
    return target


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _write_once(path: Path, value: Any) -> None:
    """Write JSON in the given key order (nnU-Net reads meaning from it), unless it is there."""
    text = json.dumps(value, indent=2) + "\n"
    if not (path.is_file() and path.read_text(encoding="utf-8") == text):
        write_text(path, text)
