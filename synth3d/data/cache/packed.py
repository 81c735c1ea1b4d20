"""A prepared case as it is kept: cropped to the brain, two bytes a voxel, in one file.

Voxels are numbers into a table of the values that a sequence takes in the brain. What comes from
integers has few of them, so it is kept to the last bit; what has more than two bytes can count is
rounded to steps of a 65 534th of its range. Brain, tumour and class share a byte. The
file is safetensors, mapped into memory: only what is cut from it is read.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synth3d.cohort import Case, Modality, Reading
from synth3d.data.prepared import LEAST, Prepared
from synth3d.data.slices import brain_box
from synth3d.files import atomic_file
from synth3d.images import Grid, Scale, xyz_to_zyx
from synth3d.settings import parse, to_plain

MOST_VALUES = 2**16 - 1
"""Of a sequence inside the brain; number 0 is outside."""
BRAIN, TUMOUR, CLASS = 1, 2, 4
"""Of the bits of a voxel's mark; the class stands from the third on."""


class DamagedError(Exception):
    """A file is not what was written."""


@dataclass(frozen=True, eq=False)
class Packed:
    """One prepared case, cropped; its arrays may be mapped from a file.

    Attributes:
        shape: (D, H, W) of the whole grid.
        corner: (z, y, x), where the smallest box (d, h, w) around the brain begins in it.
        affine: Voxel (x, y, z) of the whole grid → mm.
        codes: Per modality (d, h, w) uint16, numbers into ``values``.
        values: Per modality (N,) float32 in the network's scale; the first is 0, outside.
        marks: (w, h, d) = (x, y, z) uint8, ``BRAIN``, ``TUMOUR`` and ``CLASS`` times the class: in
            the order of the axes in which TorchIO counts the places of patches.
        scales: How each volume came from scanner units.
        labelled: Whether it has a tumour mask, and whether it has classes.
        own: The case's own grid, also where ``shape`` and ``affine`` are of what the network sees.
        reading: How the label was read; None without one.
        looks: What :func:`synth3d.cohort.looks` found; None where it found nothing.
        skull: Whether more than a brain is shown (:func:`synth3d.cohort.skull_left`).
    """

    shape: tuple[int, ...]
    corner: tuple[int, ...]
    affine: np.ndarray
    codes: Mapping[Modality, np.ndarray]
    values: Mapping[Modality, np.ndarray]
    marks: np.ndarray
    scales: Mapping[Modality, Scale]
    labelled: tuple[bool, bool]
    own: Grid
    reading: Reading | None = None
    looks: np.ndarray | None = None
    skull: bool = False

    @property
    def box(self) -> tuple[slice, ...]:
        """Of the whole grid, (z, y, x), what is kept."""
        sides = self.marks.shape[::-1]
        return tuple(slice(c, c + n) for c, n in zip(self.corner, sides, strict=True))

    @property
    def nbytes(self) -> int:
        """Of all arrays; a file has a few thousand more."""
        arrays = [*self.codes.values(), *self.values.values(), self.marks]
        return sum(array.nbytes for array in arrays)

    def cut(self, names: Sequence[Modality], part: tuple[slice, ...]) -> np.ndarray:
        """(S, ...) float32 in the order of ``names``, of a part of the box; zeros where lacking."""
        found = np.zeros((len(names), *xyz_to_zyx(self.marks)[part].shape), np.float32)
        for channel, name in enumerate(names):
            if name in self.codes:
                found[channel] = np.take(self.values[name], self.codes[name][part], mode="clip")
        return found

    def placed(self, part: np.ndarray) -> np.ndarray:
        """``part``, an array on the box, on the whole grid; zeros around it."""
        array = np.zeros(self.shape, part.dtype)
        array[self.box] = part
        return array

    def prepared(self, case: Case) -> Prepared:
        """All of it, on the whole grid, as :func:`pack` was given it."""
        inside, placed = xyz_to_zyx(self.marks), self.placed
        whole = tuple(slice(None) for _ in self.box)
        tumour, classes = self.labelled
        return Prepared(
            case,
            {name: placed(self.cut([name], whole)[0]) for name in self.codes},
            self.scales,
            placed(inside & BRAIN > 0),
            placed(inside & TUMOUR > 0) if tumour else None,
            self.affine,
            placed((inside // CLASS).astype(np.int8)) if classes else None,
            self.reading,
        )


def pack(
    prepared: Prepared,
    looks: np.ndarray | None = None,
    own: Grid | None = None,
    skull: bool = False,
) -> Packed:
    """``prepared`` as it is kept; of a case without brain nothing is.

    ``looks``, ``own`` and ``skull`` are kept with it; without ``own`` its grid is its own.

    Raises:
        ValueError: A class of the label does not fit into six bits.
    """
    box = brain_box(prepared.brain)
    brain = prepared.brain[box]
    marks = brain.astype(np.uint8) * BRAIN
    if prepared.tumour is not None:
        marks += prepared.tumour[box].astype(np.uint8) * TUMOUR
    if prepared.label is not None:
        label = prepared.label[box]
        if label.size and not 0 <= label.min() <= label.max() < 256 // CLASS:
            raise ValueError(f"classes must be 0 to {256 // CLASS - 1}, got {np.unique(label)}")
        marks += label.astype(np.uint8) * CLASS
    codes, values = {}, {}
    for name, volume in prepared.volumes.items():
        codes[name], values[name] = _encoded(volume[box], brain)
    return Packed(
        prepared.brain.shape,
        tuple(int(part.start) for part in box),
        prepared.affine,
        codes,
        values,
        np.ascontiguousarray(xyz_to_zyx(marks)),
        prepared.scales,
        (prepared.tumour is not None, prepared.label is not None),
        own or prepared.grid,
        prepared.reading,
        looks,
        skull,
    )


def _encoded(volume: np.ndarray, brain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (d, h, w) uint16 and what they stand for, (N,) float32, beginning with 0.

    0 stays 0 and nothing else becomes it: it may say where a sequence's own head is not.
    """
    brain = brain & (volume != 0)
    inside = volume[brain]
    values, numbers = np.unique(inside, return_inverse=True)
    if len(values) > MOST_VALUES:
        low, high = float(values[0]), float(values[-1])
        step = (high - low) / (MOST_VALUES - 1)
        values = low + step * np.arange(MOST_VALUES)
        values[values.astype(np.float32) == 0] = LEAST
        numbers = np.rint((inside.astype(np.float64) - low) / step)
    codes = np.zeros(volume.shape, np.uint16)
    codes[brain] = numbers.astype(np.uint16) + np.uint16(1)
    return codes, np.concatenate([[0.0], values]).astype(np.float32)


def save(packed: Packed, path: Path) -> None:
    """Write ``packed`` to ``path`` in one piece.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    arrays = {f"codes/{name}": array for name, array in packed.codes.items()}
    arrays |= {f"values/{name}": array for name, array in packed.values.items()}
    arrays["marks"] = packed.marks
    words = {
        "shape": packed.shape,
        "corner": packed.corner,
        "affine": np.asarray(packed.affine, np.float64).tolist(),
        "scales": {name: scale.to_dict() for name, scale in packed.scales.items()},
        "labelled": packed.labelled,
        "own": [packed.own.shape_zyx, np.asarray(packed.own.affine, np.float64).tolist()],
        "reading": None if packed.reading is None else to_plain(packed.reading),
        "looks": None if packed.looks is None else packed.looks.tolist(),
        "skull": packed.skull,
    }
    text = json.dumps(words, allow_nan=False)
    about = {"case": text, "sha256": _seal(text, arrays.items())}
    with atomic_file(path) as file:
        file.write(to_bytes(arrays, about))


def load(path: Path, verify: bool = True) -> Packed:
    """What :func:`save` wrote, mapped into memory; ``verify`` reads all of it once.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedError: It is not what was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # As torch's tensors, since only those are mapped and not copied.
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            arrays = {name: _as_array(file.get_tensor(name)) for name in sorted(file.keys())}
        if verify and about.get("sha256") != _seal(about["case"], arrays.items()):
            raise DamagedError(f"{path}: its SHA-256 differs")
        return _packed(json.loads(about["case"]), arrays)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path}: {error}") from error


def _as_array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy()


def _packed(words: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Packed:
    def of(kind: str) -> dict[str, Any]:
        parts = ((name.split("/", 1), array) for name, array in arrays.items() if "/" in name)
        return {name: array for (head, name), array in parts if head == kind}

    scales = {name: Scale.from_dict(scale) for name, scale in words["scales"].items()}
    codes, values = of("codes"), of("values")
    tumour, classes = words["labelled"]
    shape, affine = words["own"]
    return Packed(
        tuple(words["shape"]),
        tuple(words["corner"]),
        np.array(words["affine"]),
        {name: codes[name] for name in scales},  # type: ignore[arg-type]  # in the case's order
        {name: values[name] for name in scales},  # type: ignore[arg-type]
        arrays["marks"],
        scales,  # type: ignore[arg-type]
        (bool(tumour), bool(classes)),
        Grid(tuple(shape), np.array(affine)),  # type: ignore[arg-type]
        parse(Reading | None, words["reading"], "reading"),
        None if words["looks"] is None else np.array(words["looks"]),
        bool(words["skull"]),
    )


def _seal(text: str, arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 over the words and all arrays by name."""
    found = hashlib.sha256(text.encode())
    for name, array in sorted(arrays):
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data.cast("B"))
    return found.hexdigest()
