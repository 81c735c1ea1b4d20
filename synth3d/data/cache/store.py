"""Prepared cases on disk, so that memory does not grow with the cohort.

An entry is named after all that it follows from: hashes of the case's files, what is asked of them,
and the code that answers. So runs and processes share entries, nothing goes stale, and the folder
may be deleted while nobody runs. An entry is made by one process at a time and appears whole; one
that is gone or damaged is made anew. Over the limit those go first that were used longest ago, and
those never that a running training says it uses.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from synth3d.cohort import Case, dataset_of, looks, skull_left
from synth3d.data.cache.packed import DamagedError, Packed, load, pack, save
from synth3d.data.options import DataConfig
from synth3d.data.prepared import prepare, side_by_side
from synth3d.data.slices import seen
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.files import claim, make_folder, progress, sha256, sweep, write_text

ENDING = ".case"
ABANDONED = 3600.0
"""Seconds after which a half-written entry is of a killed process."""
LIMIT_GB = 100.0
"""Of the folder, in 10^9 bytes, unless told otherwise."""

Hashes = Mapping[str, Mapping[str, str]]
"""Per case SHA-256 of its files by role."""


def hashes_of(cases: Sequence[Case]) -> dict[str, dict[str, str]]:
    """SHA-256 of all files of ``cases`` that say anything of them."""
    files = [(case.name, role, path) for case in cases for role, path in _files_of(case).items()]
    found: dict[str, dict[str, str]] = {case.name: {} for case in cases}
    steps = progress(range(0, len(files), 64), "hashing the training files", unit="64 files")
    for start in steps:
        some = files[start : start + 64]
        for (name, role, _), digest in zip(
            some, side_by_side(sha256, [path for *_, path in some]), strict=True
        ):
            found[name][role] = digest
    return found


def _files_of(case: Case) -> dict[str, Path]:
    files: dict[str, Path] = {str(role): path for role, path in case.images.items()}
    if case.label is not None:
        files["label"] = case.label
        if (dataset := dataset_of(case)) is not None:
            files["dataset"] = dataset
    return files


def key_of(case: Case, hashes: Mapping[str, str], task: Task, data: DataConfig, whole: bool) -> str:
    """The name of an entry: what prepared ``case`` follows from.

    Of a case on its own grid (``whole``), or as the network sees it.
    """
    what = {
        "files": dict(sorted(hashes.items())),
        "case": [case.name, case.naming, case.channels, case.scheme],
        "roles": [task.sources, task.targets, task.poor],
        "data": [data.intensity, data.common_grid, data.labels],
        "view": None if whole or task.dim == 3 else [data.plane, data.slice_size],
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:40]


@functools.cache
def code_digest() -> str:
    """Of what prepares a case: the sources of three rooms, and the libraries' versions."""
    found = hashlib.sha256()
    for library in ("numpy", "scipy", "scikit-image", "nibabel", "SimpleITK", "torch"):
        found.update(f"{library} {version(library)}\n".encode())
    for room in ("images", "cohort", "data"):
        for path in sorted(Path(__file__).parents[2].joinpath(room).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()


class Store:
    """The folder of entries."""

    def __init__(self, folder: Path, limit_gb: float = LIMIT_GB) -> None:
        self.folder, self.limit = folder, int(limit_gb * 1e9)
        self._sound: dict[str, tuple[int, int]] = {}

    def path(self, key: str) -> Path:
        """Where the entry ``key`` is, or would be."""
        return self.folder / f"{key}{ENDING}"

    def find(self, key: str) -> Packed | None:
        """The entry ``key``, mapped into memory; None where it is not there, or damaged.

        The first time a process asks, all of it is read and its hash compared.
        """
        path = self.path(key)
        try:
            about = path.stat()
            state = about.st_ino, about.st_size
            found = load(path, verify=self._sound.get(key) != state)
        except FileNotFoundError:
            return None
        except DamagedError:
            print(f"note: {path} is damaged and made anew")
            return None
        if self._sound.get(key) != state:
            with contextlib.suppress(OSError):
                os.utime(path)  # used now: it goes last
            self._sound[key] = state
        return found

    def get(self, key: str, make: Callable[[], Packed]) -> Packed:
        """The entry ``key``, made by ``make`` unless it is there; others wait for who makes it.

        Raises:
            InputError: The case cannot be prepared, or the disk or the limit has no room for it.
        """
        if (found := self.find(key)) is not None:
            return found
        with claim(self.folder / f"{key}.lock", wait=True):
            if (found := self.find(key)) is None:
                sweep(self.folder, {self.path(key).name})
                packed = make()
                self._make_room(packed.nbytes)
                save(packed, self.path(key))
                found = self.find(key)
        return packed if found is None else found

    @contextlib.contextmanager
    def used(self, keys: Sequence[str]) -> Iterator[None]:
        """While the block runs nobody removes the entries ``keys``; also sweeps the folder."""
        make_folder(self.folder)
        for path in self.folder.glob(".partial-*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()
        mine = self.folder / f"{uuid.uuid4().hex}.used"
        with claim(self.folder / f"{mine.name}.lock"):
            try:
                write_text(mine, "\n".join(keys))
                yield
            finally:
                mine.unlink(missing_ok=True)

    def check_room(self, keys: Sequence[str], each: int) -> None:
        """Refuse ``keys`` that the limit or the disk cannot hold, ``each`` being so many bytes.

        Raises:
            InputError: With what they take and what there is.
        """
        whole, lacking = each * len(keys), sum(not self.path(key).exists() for key in keys)
        what = f"{len(keys)} prepared cases of this training take about {whole / 1e9:.3g} GB"
        remedy = "or give a folder on a larger disk with --cache"
        if whole > self.limit:
            told = f"{self.limit / 1e9:.3g}"
            raise InputError(f"{what} and --cache-limit is {told}; raise it, {remedy}")
        free = shutil.disk_usage(make_folder(self.folder)).free
        if each * lacking > free:
            told = f"{free / 1e9:.3g} GB are free in {self.folder}"
            raise InputError(f"{what} and {told}; make room there, {remedy}")

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago until ``size`` more bytes are within the limit."""
        with claim(self.folder / "room.lock", wait=True):
            used = self._in_use()
            entries = []
            for path in self.folder.glob(f"*{ENDING}"):
                with contextlib.suppress(OSError):
                    about = path.stat()
                    entries.append((about.st_mtime_ns, about.st_size, path))
            whole = sum(length for _, length, _ in entries) + size
            for _, length, path in sorted(entries):
                if whole <= self.limit:
                    return
                if path.stem not in used:
                    path.unlink(missing_ok=True)
                    whole -= length
            if whole > self.limit:
                raise InputError(
                    f"the prepared cases of running trainings fill {self.folder}: they need more "
                    f"than {whole / 1e9:.3g} GB and --cache-limit is {self.limit / 1e9:.3g}; raise "
                    "it, or give a folder on a larger disk with --cache"
                )

    def _in_use(self) -> set[str]:
        """Entries that running trainings use; what killed ones said is removed."""
        found: set[str] = set()
        for path in self.folder.glob("*.used"):
            with claim(path.with_name(f"{path.name}.lock")) as dead, contextlib.suppress(OSError):
                if dead:
                    path.unlink()
                else:
                    found |= set(path.read_text("utf-8").split())
        return found


def make(case: Case, task: Task, data: DataConfig, whole: bool) -> Packed:
    """An entry: ``case`` prepared, on its own grid (``whole``) or as the network sees it.

    Raises:
        InputError: As :func:`synth3d.data.prepare`.
    """
    prepared = prepare(case, task.outlined_by(case.images), task.targets, data, task.mode)
    found = looks({**prepared.volumes}, prepared.brain, task.guides)
    skull = bool(skull_left(prepared.brain, prepared.grid.spacing_mm))
    return pack(prepared if whole else seen(prepared, task, data), found, prepared.grid, skull)
