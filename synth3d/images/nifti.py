"""The bytes of a NIfTI file: its header, judged before memory is taken, and voxels as stored."""

import contextlib
import gzip
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from synth3d.errors import InputError
from synth3d.images.geometry import place_of

MAX_VOXELS, MAX_BYTES = 2**28, 2**30
"""More than this in a header is damage, not a brain: 640 voxels a side, at 4 bytes each."""
MOST_BEHIND = 2**24
"""Bytes behind the image that are read to reach the checksum; more are no file of an image."""
MOST_PACKED = 1100
"""No byte of a compressed file becomes more bytes than this (deflate's bound is 1 032)."""

_UNHEARD = logging.Logger("what nibabel mends")
_UNHEARD.addHandler(logging.NullHandler())


@contextlib.contextmanager
def opened(path: Path, lenient: bool = False) -> Iterator[IO[bytes]]:
    """``path`` unpacked; damage becomes one sentence."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(f"cannot read {path}: it is a pipe or a device, no file")
        with gzip.open(path) if _packed(path, lenient) else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except EOFError as error:
        raise InputError(f"{path} is truncated: the compressed stream ends early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _packed(path: Path, lenient: bool) -> bool:
    """Whether ``path`` is compressed; its name has to say the same, unless lenient."""
    with path.open("rb") as file:
        start = file.read(4)
    named, packed = path.name.lower().endswith(".gz"), start[:2] == b"\x1f\x8b"
    sizes = {int.from_bytes(start, "little"), int.from_bytes(start, "big")}
    if not lenient and named and sizes & {348, 540}:
        raise InputError(f"{path} is not compressed: rename it to {path.name[:-3]}, or compress it")
    if not lenient and packed and not named:
        raise InputError(f"{path} is compressed: rename it to {path.name}.gz, or unpack it")
    return packed if lenient else named


def content_of(path: Path, lenient: bool = False) -> tuple[Any, bytearray]:
    """Header and all bytes it promises; read to the end so that the checksum is verified."""
    with opened(path, lenient) as file:
        head = file.read(540)
        header = _header(path, head, lenient)
        voxels = int(np.prod(shape_xyz(header), dtype=np.int64))
        size = int(header["vox_offset"]) + voxels * header.get_data_dtype().itemsize
        if size > MOST_PACKED * path.stat().st_size:
            raise InputError(f"{path} is truncated: too short for the image in its header")
        content, filled = bytearray(size), min(len(head), size)
        content[:filled] = head[:filled]
        while filled < size and (part := file.read(min(size - filled, 2**22))):
            content[filled : filled + len(part)] = part
            filled += len(part)
        behind = 0
        while part := file.read(2**20):
            if (behind := behind + len(part)) > MOST_BEHIND:
                raise InputError(f"{path} goes on for over {MOST_BEHIND >> 20} MiB after its image")
    if filled < size:
        raise InputError(f"{path} is truncated: {filled} of {size} bytes")
    return header, content


def header_of(path: Path, lenient: bool = False) -> Any:
    """The header of ``path``, checked; what it says of its place only if not lenient."""
    with opened(path, lenient) as file:
        return _header(path, file.read(540), lenient)


def _header(path: Path, head: bytes, lenient: bool = False) -> Any:
    """The NIfTI-1 or -2 header in the first bytes of a file, checked; its place, if not lenient."""
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    kind = nib.Nifti2Header if 540 in sizes else nib.Nifti1Header
    if not sizes & {348, 540} or len(head) < kind.template_dtype.itemsize:
        raise InputError(f"{path} is not a NIfTI file")
    try:
        header: Any = kind(head[: kind.template_dtype.itemsize], check=False)
        raw = header.copy()
        header.check_fix(logger=_UNHEARD)
        header["pixdim"][:4] = raw["pixdim"][:4]  # nibabel mends what ITK takes as it is: edges,
        for name in ("qform_code", "sform_code"):  # handedness and codes
            header[name] = raw[name]
        shape, dtype = shape_xyz(header), header.get_data_dtype()
        offset = int(raw["vox_offset"])
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise InputError(f"{path} has a damaged header: {error}") from error
    if len(shape) != 3:
        raise InputError(
            f"{path} is {len(shape)}-D {shape} and must be 3-D; save one volume of it as a file "
            "of its own"
        )
    voxels = int(np.prod(shape, dtype=object))
    if min(shape) < 1 or voxels > MAX_VOXELS or voxels * dtype.itemsize > MAX_BYTES:
        raise InputError(f"{path} has an absurd size in its header: {shape}")
    if bytes(header["magic"])[:2] != b"n+" or not kind.single_vox_offset <= offset < MAX_VOXELS:
        raise InputError(f"{path} has a damaged header: its voxels do not follow it")
    if dtype.kind not in "iuf":
        raise InputError(f"{path} holds {dtype} voxels and must hold plain numbers")
    if not lenient and (fault := place_of(header).fault):
        raise InputError(f"{path} {fault}")
    return header


def shape_xyz(header: Any) -> tuple[int, ...]:
    """(x, y, z); trailing axes of one are left out."""
    shape = tuple(map(int, header.get_data_shape()))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def scaling(path: Path, header: Any) -> tuple[float, float]:
    """(slope, offset) that turn stored numbers into values; (1, 0) where none is set."""
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError as error:
        raise InputError(f"{path} has a damaged header: {error}") from error
    return (1.0, 0.0) if slope is None else (float(slope), float(inter or 0))
