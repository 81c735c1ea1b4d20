"""The phantom cohort: a BraTS-2023-named folder of brains with gliomas, made from physics.

Real anatomy (MNI152) is bent per patient, a glioma grows in it, and a scanner model takes the
four contrasts. It stands in for patients wherever there are none: tests, the demo, a first run.
Case ``i`` of seed ``s`` is the same head on every grid and in every cohort.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synth3d.cohort import MODALITIES
from synth3d.errors import InputError
from synth3d.files import lock, progress, read_json, write_json
from synth3d.images import write_new
from synth3d.phantom.anatomy import (
    FIELD_OF_VIEW_MM,
    Anatomy,
    make_anatomy,
    make_subject,
    resample,
    smooth_field,
    vessels,
    white_matter_lesions,
)
from synth3d.phantom.scanner import Head, make_patient, make_protocol, scan
from synth3d.phantom.tumour import Tumour, grow_tumour, plan_tumour, push_aside

VERSION = 1
"""Raised whenever the same seed gives other images."""

MANIFEST = "phantom.json"

SMALLEST, LARGEST = 24, 192
"""Voxels along each side."""


@dataclass(frozen=True)
class PhantomRequest:
    """What ``synth3d phantom`` is asked for, as :func:`make_cohort` takes it."""

    out: Path
    cases: int = 24
    size: int = 64
    seed: int = 0
    overwrite: bool = False


def write_phantoms(request: PhantomRequest) -> int:
    """``synth3d phantom``: make the cohort and say so; 0."""
    folders = make_cohort(**vars(request))
    print(f"{len(folders)} phantom cases in {request.out}")
    return 0


def make_cohort(
    out: str | Path, cases: int, size: int = 64, seed: int = 0, overwrite: bool = False
) -> list[Path]:
    """The case folders of a phantom cohort in ``out``, made unless they are there already.

    ``out/Phantom-00000-000/Phantom-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz``, one patient per
    case, int16 with background 0, labels uint8 {0, 1 NCR, 2 ED, 3 ET}, oriented LPS. One seed
    gives the same bytes each time; a larger cohort begins with the smaller one's cases. A killed
    call is continued by the next.

    Args:
        out: A new or empty folder, or one that this function made.
        cases: How many, 1 to 100000; every fourth is a low-grade glioma.
        size: Voxels along each side of the 192 mm cube, 24 to 192.
        seed: Any whole number from 0.
        overwrite: Replace a phantom cohort of other parameters that lies in ``out``.

    Raises:
        InputError: A parameter is out of range, ``out`` cannot be written, or holds something
            else.
    """
    out = Path(out)
    if not 1 <= cases <= 100_000:
        raise InputError(f"a phantom cohort has 1 to 100000 cases, not {cases}")
    if not SMALLEST <= size <= LARGEST:
        raise InputError(f"the phantom's size must be {SMALLEST} to {LARGEST} voxels, not {size}")
    if seed < 0:
        raise InputError(f"the phantom's seed must not be negative, got {seed}")
    wanted = {"version": VERSION, "seed": seed, "size": size, "cases": cases}
    folders = [out / f"Phantom-{index:05d}-000" for index in range(cases)]
    there = _manifest(out)
    if there == wanted and all(path.is_file() for folder in folders for path in _files(folder)):
        return folders
    with lock(out):
        if there != wanted:
            _make_room(out, there, overwrite)
            write_json(out / MANIFEST, wanted)
        for index, folder in enumerate(progress(folders, "phantom", unit="case")):
            _write_case(folder, index, size, seed)
    return folders


def make_case(index: int, size: int, seed: int) -> dict[str, np.ndarray]:
    """Case ``index`` of a cohort: the modalities as int16 and ``seg`` as uint8, (z, y, x)."""
    fine = size if size >= 96 else min(96, 2 * size)
    body, disease, room = (np.random.default_rng([seed, index, stream]) for stream in range(3))
    low_grade = index % 4 == 3
    plan = plan_tumour(disease, low_grade)
    mni_mm = push_aside(make_subject(body, fine), plan)
    anatomy = make_anatomy(body, mni_mm)
    tumour = grow_tumour(disease, anatomy, plan)
    fractions = mix_tissues(body, anatomy, tumour, low_grade)
    texture = smooth_field(body, fine, 5.0)
    brain = resample(anatomy.brain, size) > 0.5
    tissues = make_patient(room)
    protocol = make_protocol(room, tissues["csf"].t1_ms)
    head = Head(fractions, tissues, texture, brain)
    moved = room.choice(len(MODALITIES), size=room.integers(0, 3), replace=False)
    found = {}
    for place, modality in enumerate(MODALITIES):
        rng = np.random.default_rng([seed, index, 3 + place])
        found[modality] = scan(rng, modality, head, protocol, moved=place in moved)
    return {**found, "seg": _labels(tumour, size) * brain}


def mix_tissues(
    rng: np.random.Generator, anatomy: Anatomy, tumour: Tumour, low_grade: bool
) -> dict[str, np.ndarray]:
    """Names of ``TISSUES`` to their shares (z, y, x) in a diseased head, which add up to 1.

    In a ``low_grade`` glioma the core is non-enhancing tumour, not necrosis.
    """
    n = anatomy.white.shape[0]
    healthy = 1 - tumour.necrosis - tumour.enhancing
    tissue = anatomy.white + anatomy.grey
    patchy = 0.15 * smooth_field(rng, n, 10.0)
    share = anatomy.white / np.maximum(tissue, np.float32(1e-6))
    wet = np.clip(0.45 + 0.3 * share + patchy, 0.1, 0.95) * tumour.oedema
    dry = np.clip(healthy - wet / np.maximum(tissue, np.float32(1e-6)), 0, 1)
    spots = white_matter_lesions(rng, anatomy)
    blood = vessels(rng, anatomy)
    fluid = (0.0 if low_grade else 0.35) + 0.45 * smooth_field(rng, n, 12.0)
    fluid = np.clip(fluid, 0, 1)
    viable = np.clip(0.75 + 0.3 * smooth_field(rng, n, 7.0), 0.15, 1)
    return {
        "white": dry * anatomy.white * (1 - spots),
        "grey": dry * anatomy.grey,
        "csf": healthy * anatomy.csf * (1 - blood),
        "oedema": wet,
        "low_grade" if low_grade else "necrosis": tumour.necrosis * (1 - fluid),
        "cyst": tumour.necrosis * fluid,
        "enhancing": tumour.enhancing * viable,
        "solid": tumour.enhancing * (1 - viable),
        "lesion": dry * anatomy.white * spots,
        "blood": healthy * anatomy.csf * blood,
    }


def _labels(tumour: Tumour, size: int) -> np.ndarray:
    """The tissue that rules each voxel, numbered as in BraTS 2023; a thin rim wins a draw."""
    shares = tumour.necrosis, tumour.oedema, np.float32(1.25) * tumour.enhancing
    sampled = [resample(share, size) for share in shares]
    return np.stack([1 - sum(sampled), *sampled]).argmax(axis=0).astype(np.uint8)


def _affine(size: int) -> np.ndarray:
    """Voxel (x, y, z) to mm: LPS order and the origin as in BraTS files."""
    edge = FIELD_OF_VIEW_MM / size
    affine = np.diag([-edge, -edge, edge, 1.0])
    affine[1, 3] = edge * (size - 1)
    return affine


def _files(folder: Path) -> list[Path]:
    """The five files of a case folder."""
    return [folder / f"{folder.name}-{part}.nii.gz" for part in (*MODALITIES, "seg")]


def _write_case(folder: Path, index: int, size: int, seed: int) -> None:
    """Make the case unless all its files are there."""
    files = _files(folder)
    if all(path.is_file() for path in files):
        return
    for path, data in zip(files, make_case(index, size, seed).values(), strict=True):
        if not path.is_file():
            write_new(path, data, _affine(size), data.dtype)


def _manifest(out: Path) -> Any:
    """What lies in ``out``: a manifest, or None for nothing at all; something else is refused."""
    if (out / MANIFEST).is_file():
        return read_json(out / MANIFEST)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder")
    if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise InputError(f"{out} holds other files and no {MANIFEST}; choose an empty folder")
    return None


def _make_room(out: Path, there: Any, overwrite: bool) -> None:
    """Take away a phantom cohort of other parameters, if that is allowed."""
    if there is not None and not overwrite:
        raise InputError(
            f"{out} holds a phantom cohort of other parameters ({there}); "
            "choose another folder or overwrite it"
        )
    for folder in sorted(out.glob("Phantom-*-000")):
        shutil.rmtree(folder)
