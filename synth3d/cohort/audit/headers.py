"""Copies of a cohort with headers that every program reads alike: ``synth3d audit --fix-headers``.

Voxels stay as they are stored, to the last bit: only where they lie is written anew, in both forms
of the header. A case whose files say nothing on which they could agree is named and left out.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synth3d.cohort.survey import find_cases
from synth3d.errors import InputError
from synth3d.files import atomic_path, progress
from synth3d.images import EDGES_MM, Grid, Place, nearest_upright, place, shape_of, write_moved

Reading = Callable[[Place], np.ndarray | None]

READINGS: tuple[tuple[str, Reading], ...] = (
    ("as nnU-Net reads it", lambda p: p.affine),
    ("from its sform", lambda p: p.sform),
    ("from its qform", lambda p: p.qform),
    ("from its sform, its axes made orthonormal", lambda p: _upright(p.sform)),
)
"""What can be made of a header, best first; the first that puts a case on one grid is taken."""


@dataclass(frozen=True)
class Fixed:
    """What was done: a line for each file, and the cases for which nothing could be."""

    lines: tuple[str, ...]
    failed: tuple[str, ...]


def fix_headers(folder: Path, out: Path) -> Fixed:
    """Write the cohort in ``folder`` to ``out``, each case on one grid, headers free of doubt.

    Files that need nothing are copied; ``folder`` is only read.

    Raises:
        InputError: No cohort, or ``out`` lies in it or holds something.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder: --fix-headers copies a cohort's folder, not a table"
        )
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{out} lies in {folder}, which is only read; choose another folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is already there; choose a new folder for the corrected copies")
    cases, lines, failed = find_cases(folder), [], []
    for case in progress(cases, "headers", unit="case"):
        files = [*case.images.values(), *([case.label] if case.label else [])]
        try:
            planned = _plan(files)
        except InputError as error:
            failed.append(f"{case.name}: {error}")
            continue
        lines += [_write(path, folder, out, *what) for path, what in planned.items()]
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in {".json", ".csv", ".tsv"}:
            _copy(path, out / path.name)
    return Fixed(tuple(lines), tuple(failed))


def _plan(files: Sequence[Path]) -> dict[Path, tuple[np.ndarray | None, str]]:
    """Per file the affine to be written and what that does; None where nothing is to be done."""
    places = {path: place(path) for path in files}
    shapes = {path: shape_of(path) for path in files}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{path.name} {shape}" for path, shape in shapes.items())
        raise InputError(f"the files differ in shape (z, y, x), so resample them: {told}")
    goal, how = _common(places, next(iter(shapes.values())))
    return {path: _change(one, goal, how, path) for path, one in places.items()}


def _common(
    places: Mapping[Path, Place], shape: tuple[int, ...]
) -> tuple[np.ndarray, Mapping[Path, str]]:
    """The affine on which the files agree, and for each file whence it is."""
    lost = [path for path, one in places.items() if one.lost]
    told = [path for path in places if path not in lost] or lost
    for words, reading in READINGS:
        found = [reading(places[path]) for path in told]
        if (goal := _one_grid(found, shape)) is not None:
            return goal, {path: _whence(path, places[path], told, words) for path in places}
    raise InputError(
        f"no reading of their headers puts {', '.join(path.name for path in told)} on one grid, so "
        "resample them, or write the true affine into each"
    )


def _whence(path: Path, one: Place, told: Sequence[Path], words: str) -> str:
    if path not in told:
        return f"from {told[0].name}, as its own place was lost"
    if one.codes == (0, 0):
        return "as nnU-Net assumes, LPS from the corner: nobody can tell left from right"
    return words


def _one_grid(affines: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> np.ndarray | None:
    """The first of ``affines`` if all of them are the same grid, else None."""
    known = [affine for affine in affines if affine is not None]
    if not known or len(known) < len(affines):
        return None
    if not np.allclose(known[0], nearest_upright(known[0]), atol=1e-4 * np.abs(known[0]).max()):
        return None
    edges = np.linalg.norm(known[0][:3, :3], axis=0)
    if edges.min() < EDGES_MM[0] or edges.max() > EDGES_MM[1]:
        return None
    first, *others = (Grid(shape, affine) for affine in known)  # type: ignore[arg-type]
    tolerance = first.tolerance_mm
    apart = (first.apart_mm(first.affine, other.affine) for other in others)
    return known[0] if all(mm <= tolerance for mm in apart) else None


def _upright(affine: np.ndarray | None) -> np.ndarray | None:
    return None if affine is None else nearest_upright(affine)


def _change(
    one: Place, goal: np.ndarray, how: Mapping[Path, str], path: Path
) -> tuple[np.ndarray | None, str]:
    forms = [form for form in (one.affine, one.sform, one.qform) if form is not None]
    sound = one.fault is None and one.codes != (0, 0) and not _renamed(path)
    if sound and all(np.allclose(form, goal, rtol=1e-6, atol=1e-5) for form in forms):
        return None, "copied, nothing to correct"
    moved = "" if one.sform is None else _moved(one.sform, goal, shape_of(path))
    return goal, f"corrected, place {how[path]}{moved}"


def _moved(old: np.ndarray, new: np.ndarray, shape: tuple[int, ...]) -> str:
    apart = Grid(shape, new).apart_mm(old, new)  # type: ignore[arg-type]
    return f"; corners are up to {apart:.2g} mm from its sform" if apart >= 0.005 else ""


def _renamed(path: Path) -> bool:
    """Whether the name says of compression what the bytes do not."""
    with path.open("rb") as file:
        return path.name.lower().endswith(".gz") != (file.read(2) == b"\x1f\x8b")


def _write(path: Path, folder: Path, out: Path, affine: np.ndarray | None, what: str) -> str:
    target = out / path.relative_to(folder)
    if affine is None:
        _copy(path, target)
    else:
        write_moved(path, affine, target)
    return f"{target}: {what}"


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        shutil.copyfile(path, temporary)
