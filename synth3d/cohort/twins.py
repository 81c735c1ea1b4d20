"""One scan under two names: copies that cross from one side of a split to another.

Two images are the same where their bytes are, or where their fingerprints are. A fingerprint is
the mean of the image in 12 x 12 x 12 cells laid over the head by its own centre and extent, as
ranks; so neither compression, number type, intensity scale, header, flips nor an added or cropped
background change it. Resampled copies come close to it: nearer than to any other case by far.
"""

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np

from synth3d.cohort.cases import Case
from synth3d.cohort.naming import ALL_MODALITIES
from synth3d.cohort.splits import Splits, sides_of_cases
from synth3d.errors import InputError
from synth3d.files import atomic_path, progress
from synth3d.images import MOST_HEAD, read_unchecked

CELLS = 12
REACH = 1.8
"""The cells reach so many standard deviations of the head to each side of its centre."""

SAME = 0.9999
"""Fingerprints that correlate as much are one image, unresampled."""

ALIKE, NEARER, ENOUGH = 0.97, 0.25, 6
"""Resampled: they correlate as much, the distance is this share of that to the next case, and
there are so many cases to compare with."""

CHUNK = 2**16
WORTH_KEEPING = 2**18
"""Fingerprints of smaller files are made anew each time."""

STORED = 1
"""Raised when stored fingerprints no longer count."""


def refuse_twins(cases: Iterable[Case], splits: Splits) -> None:
    """Stop where one scan is on two sides of ``splits`` under two names.

    Files of equal size are compared, and of each case one sequence, which most cases have, is
    read; its fingerprint is kept in the user's cache until the file changes.

    Raises:
        InputError: The sentence names all such pairs and their sides.
    """
    sides = {name: found[0] for name, found in sides_of_cases(splits).items()}
    used = [case for case in cases if sides.get(case.name, "excluded") != "excluded"]
    found = [
        f"{one} ({sides[one]}) and {other} ({sides[other]}) {how}"
        for one, other, how in find_twins(used)
        if sides[one] != sides[other]
    ]
    if found:
        raise InputError(
            f"one scan is on two sides of the split: {'; '.join(found)}; put each pair on one "
            "side, or remove one of the two"
        )


def find_twins(cases: Sequence[Case]) -> list[tuple[str, str, str]]:
    """(case, case, how) of each two cases that hold one scan; unreadable files are passed over."""
    if len(cases) < 2:
        return []
    pairs = {pair: f"have the same file for {what}" for pair, what in _same_files(cases).items()}
    for pair, how in _same_pictures(cases).items():
        pairs.setdefault(pair, how)
    return [(one, other, how) for (one, other), how in sorted(pairs.items())]


def _same_files(cases: Iterable[Case]) -> dict[tuple[str, str], str]:
    """Pairs of cases with an image of the same bytes."""
    alike: dict[object, list[tuple[Case, str, Path]]] = defaultdict(list)
    for case in cases:
        for modality, path in case.images.items():
            with contextlib.suppress(OSError):
                alike[path.stat().st_size].append((case, modality, path))
    for test in (_glance, _digest):
        finer: dict[object, list[tuple[Case, str, Path]]] = defaultdict(list)
        for key, some in alike.items():
            for entry in some if len({case.name for case, _, _ in some}) > 1 else ():
                with contextlib.suppress(OSError):
                    finer[key, test(entry[2])].append(entry)
        alike = finer
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for some in alike.values():
        for case, modality, _ in some[1:]:
            if case.name != some[0][0].name:
                found[min(case.name, some[0][0].name), max(case.name, some[0][0].name)].append(
                    modality
                )
    return {pair: ", ".join(dict.fromkeys(names)) for pair, names in found.items()}


def _glance(path: Path) -> bytes:
    """A hash of a file's beginning, middle and end."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.blake2b(digest_size=16)
        for start in (0, max(0, size // 2), max(0, size - CHUNK)):
            file.seek(start)
            digest.update(file.read(CHUNK))
    return digest.digest()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _same_pictures(cases: Sequence[Case]) -> dict[tuple[str, str], str]:
    """Pairs of cases whose images have the same fingerprint, or nearly."""
    held = {m: sum(m in case.images for case in cases) for m in ALL_MODALITIES}
    modality = max(ALL_MODALITIES, key=lambda name: held[name])
    having = [case for case in cases if modality in case.images]
    marks = fingerprints([case.images[modality] for case in having])
    known = [(case.name, mark) for case in having if (mark := marks[case.images[modality]]).any()]
    if len(known) < 2:
        return {}
    likeness = _likeness(np.stack([mark for _, mark in known]))
    found = {}
    for i, (one, _) in enumerate(known):
        for j in np.flatnonzero(likeness[i] >= ALIKE).tolist():
            if j <= i:
                continue
            pair = min(one, known[j][0]), max(one, known[j][0])
            if likeness[i, j] >= SAME:
                found[pair] = f"show the same {modality}"
            elif len(known) >= ENOUGH and _stands_out(likeness, i, j):
                found[pair] = f"show the same {modality}, resampled"
    return found


def _likeness(marks: np.ndarray) -> np.ndarray:
    """(n, n) correlations of ``marks`` (n, cells, cells, cells), the best over all flips.

    A case with itself counts as -1.
    """
    flat = marks.reshape(len(marks), -1)
    best = np.full((len(marks), len(marks)), -1, np.float32)
    for flips in product((1, -1), repeat=3):
        turned = marks[:, :: flips[0], :: flips[1], :: flips[2]].reshape(len(marks), -1)
        np.maximum(best, flat @ turned.T, out=best)
    np.fill_diagonal(best, -1)
    return best


def _stands_out(likeness: np.ndarray, i: int, j: int) -> bool:
    """Whether two are far nearer to each other than either is to any third."""
    others = np.delete(likeness[[i, j]], [i, j], axis=1)
    return bool(1 - likeness[i, j] < NEARER * (1 - others.max()))


def fingerprints(paths: Sequence[Path]) -> Mapping[Path, np.ndarray]:
    """The fingerprint of each file, from the user's cache where the file is as it was."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        steps = progress(pool.map(_remembered, paths), "looking for copies", len(paths), "case")
        return dict(zip(paths, steps, strict=True))


def _remembered(path: Path) -> np.ndarray:
    try:
        facts = path.stat()
        if facts.st_size < WORTH_KEEPING:
            return fingerprint(path)
        key = f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns} {facts.st_ino}"
    except OSError:
        return fingerprint(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    kept = cache / "synth3d" / f"fingerprints-{STORED}" / f"{name}.npy"
    with contextlib.suppress(OSError, ValueError):
        stored = np.load(kept, allow_pickle=False)
        if stored.shape == (CELLS,) * 3:
            return _unit(stored)
    found = fingerprint(path)
    half = found.astype(np.float16)
    with (
        contextlib.suppress(OSError, InputError),
        atomic_path(kept) as temporary,
        temporary.open("wb") as file,
    ):
        np.save(file, half)
    return _unit(half)


def fingerprint(path: Path) -> np.ndarray:
    """The fingerprint of an image: (cells, cells, cells) float32, a unit vector of mean 0.

    It is all 0 where the file cannot be read or shows nothing.
    """
    nothing = np.zeros((CELLS,) * 3, np.float32)
    try:
        volume = read_unchecked(path)
    except InputError:
        return nothing
    data = volume.data
    if not np.isfinite(data).all():
        data = np.nan_to_num(data, posinf=0, neginf=0)
    ground = float(data[0, 0, 0])
    head = data != ground
    if np.count_nonzero(head) > MOST_HEAD * head.size:  # no plain background: what is bright
        head = data > data.mean(dtype=np.float64)
    if not head.any():
        return nothing
    box = tuple(
        slice(int(found[0]), int(found[-1]) + 1)
        for axes in ((1, 2), (0, 2), (0, 1))
        if len(found := np.flatnonzero(head.any(axis=axes)))
    )
    data, head = data[box], head[box]
    # A background below 0, such as -1000, is nothing that the head itself has.
    cells = (data - (ground if ground >= 0 else min(0.0, float(data[head].min())))) * head
    plane = np.count_nonzero(head, axis=0)
    # The first axis goes to the end, three times: in order again.
    for count in (np.count_nonzero(head, axis=(1, 2)), plane.sum(1), plane.sum(0)):
        cells = np.tensordot(cells, _cells(count), axes=(0, 1))
    axes = [2 - int(np.abs(volume.affine[:3, 2 - axis]).argmax()) for axis in range(3)]
    if sorted(axes) == [0, 1, 2]:
        cells = np.moveaxis(cells, (0, 1, 2), axes)
    top = float(np.abs(cells).max()) or 1.0
    _, places, sizes = np.unique(np.round(cells / top, 4), return_inverse=True, return_counts=True)
    ranks = np.cumsum(sizes) - sizes / 2
    return _unit(ranks[places].reshape(cells.shape))


def _cells(count: np.ndarray) -> np.ndarray:
    """(cells, n) weights along one axis, of which ``count`` voxels a place are head.

    The mean over each cell; beyond the image there is nothing.
    """
    places = np.arange(len(count))
    share = count / count.sum()
    centre = float((share * places).sum())
    spread = float(np.sqrt((share * (places - centre) ** 2).sum())) or 1.0
    edges = centre + spread * np.linspace(-REACH, REACH, CELLS + 1)
    low, high = edges[:-1, None], edges[1:, None]
    overlap = np.minimum(high, places + 0.5) - np.maximum(low, places - 0.5)
    return (overlap.clip(0) / (high - low)).astype(np.float32)


def _unit(marks: np.ndarray) -> np.ndarray:
    marks = marks.astype(np.float32) - marks.mean(dtype=np.float32)
    length = float(np.linalg.norm(marks))
    return marks / length if length else marks
