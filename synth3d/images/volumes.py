"""NIfTI in and out; the one place where file order (x, y, z) becomes ours (z, y, x).

The only file that opens images. What comes in is checked to the last byte; what goes out lies on
the grid of another file, with the same bytes each time.
"""

import contextlib
import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from synth3d.errors import InputError
from synth3d.files import atomic_path
from synth3d.images.grids import Grid, grid_misfits

ArrayOrTensor = TypeVar("ArrayOrTensor")
NiftiImage: TypeAlias = nib.Nifti1Image

MAX_VOXELS = 2**30
"""More than this in a header is damage, not a brain."""


@dataclass(frozen=True, eq=False)
class Volume:
    """One image and the file it came from.

    Attributes:
        data: (D, H, W) = (z, y, x); float32, or int16 from :func:`read_label`.
        affine: (4, 4), voxel (x, y, z) to mm, RAS+.
    """

    data: np.ndarray
    affine: np.ndarray
    path: Path

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edges (z, y, x) in mm."""
        return self.grid.spacing_mm

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.data.shape, self.affine)  # type: ignore[arg-type]


def xyz_to_zyx(array: ArrayOrTensor) -> ArrayOrTensor:
    """``array``, numpy or torch, with the three trailing axes reversed; its own inverse."""
    return array.swapaxes(-1, -3)  # type: ignore[attr-defined]


def read(path: Path) -> Volume:
    """The image in ``path``, scaled as its header says, as float32 (z, y, x).

    Raises:
        InputError: It cannot be read, is truncated or not 3-D, has NaN or infinite voxels, or
            is zero everywhere.
    """
    volume = read_unchecked(path)
    check_content(volume)
    return volume


def check_content(volume: Volume) -> None:
    """Refuse a volume with voxels that are not finite, or with none that is not zero."""
    if bad := int(np.count_nonzero(~np.isfinite(volume.data))):
        raise InputError(f"{volume.path} has {bad} NaN or infinite voxels")
    if not volume.data.any():
        raise InputError(f"{volume.path} is zero everywhere")


def read_label(path: Path) -> Volume:
    """The segmentation in ``path`` as int16 (z, y, x), of whole numbers; it may be all zero."""
    volume = read_unchecked(path)
    with np.errstate(invalid="ignore"):
        label = volume.data.astype(np.int16)
    if not np.array_equal(label, volume.data):
        raise InputError(f"{path} is not a segmentation: it has values that are no small integers")
    return Volume(label, volume.affine, path)


def read_unchecked(path: Path) -> Volume:
    """Like :func:`read`, but any values will do."""
    header, content = _content(path)
    dtype, offset = header.get_data_dtype(), int(header["vox_offset"])
    shape = header.get_data_shape()[::-1]  # x runs fastest in the file, as W does in our order
    stored = np.frombuffer(content, dtype, count=int(np.prod(shape)), offset=offset).reshape(shape)
    slope, inter = _scaling(path, header)
    if (slope, inter) != (1.0, 0.0):
        stored = stored * np.float64(slope) + inter
    with np.errstate(over="ignore"):  # becomes infinite, which the caller checks
        return Volume(stored.astype(np.float32), header.get_best_affine(), path)


def grid(path: Path) -> Grid:
    """Where the voxels of ``path`` lie, from its header alone."""
    header = _header_of(path)
    return Grid(header.get_data_shape()[::-1], header.get_best_affine())


def check_same_grid(paths: Iterable[Path]) -> Grid:
    """The grid that all ``paths`` share; voxels are not read.

    Raises:
        InputError: A file differs from the grid that most files have (the first, in a draw); the
            sentence names each such file and in what it differs. Or a file cannot be read.
    """
    grids = {path: grid(path) for path in paths}
    reference, misfits = grid_misfits(grids)
    if misfits:
        raise InputError(f"{'; '.join(misfits)}: resample the case to one grid")
    return grids[reference]


def check_same_grids(groups: Iterable[Iterable[Path]]) -> None:
    """Refuse groups of files that do not share a grid each; all misfits are named at once."""
    sentences = []
    for paths in groups:
        try:
            check_same_grid(paths)
        except InputError as error:
            sentences.append(str(error))
    if sentences:
        raise InputError("; ".join(sentences))


def resample(volume: Volume, target: Grid) -> Volume:
    """``volume`` on the grid ``target``: linear, 0 outside its own field of view.

    Places are compared by the affines alone, nothing is registered; a volume that is on the grid
    already comes back as it is. Two that do not overlap are refused.
    """
    if target.difference(volume.grid) is None:
        return volume
    moved = Volume(sample_on(volume, target, np.eye(4)), target.affine, volume.path)
    if not moved.data.any():
        raise InputError(f"{volume.path} does not overlap the grid it is to be brought to")
    return moved


def sample_on(volume: Volume, target: Grid, motion: np.ndarray) -> np.ndarray:
    """``volume`` at the voxels of ``target``, (D, H, W) float32: linear, 0 outside.

    A voxel between the outermost samples and the edge of the field of view counts as outside.
    ``motion`` is (4, 4), a place of the target to the same anatomy in the volume, RAS+ mm.
    """
    from scipy import ndimage

    to_own = np.linalg.inv(volume.affine) @ motion @ target.affine
    matrix: Any = to_own[:3, :3][::-1, ::-1]
    offset: Any = to_own[:3, 3][::-1]
    sampled = ndimage.affine_transform(volume.data, matrix, offset, target.shape_zyx, order=1)
    return sampled.astype(np.float32, copy=False)


def value_limits(path: Path) -> tuple[float, float]:
    """Where :func:`write_like` ``path`` clamps: (-inf, inf) unless it has unscaled integers."""
    header = _header_of(path)
    dtype = header.get_data_dtype()
    if dtype.kind == "f" or _scaling(path, header) != (1.0, 0.0):
        return -np.inf, np.inf
    return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)


def write_like(
    reference: Path, data: np.ndarray, path: Path, description: str = "", dtype: Any = None
) -> None:
    """Write ``data`` on the grid of ``reference``: same affine and codes, units and type.

    Integer types are rounded and clamped to their range and stored without scaling. Where the
    reference itself scales its integers, so does the new file, with a zero offset (0 stays 0)
    and a step no finer than the reference's and wide enough to hold all of ``data``.

    Args:
        reference: A NIfTI file.
        data: (D, H, W), finite.
        path: ``.nii`` or ``.nii.gz``; replaced in one piece.
        description: For the header, at most 79 bytes; longer is cut.
        dtype: A floating type for values in units of their own; None is the reference's.
    """
    if dtype is not None and np.dtype(dtype).kind != "f":
        raise ValueError(f"expected a floating type, got {np.dtype(dtype)}")
    header = _header_like(reference, data, description)
    if dtype is not None:
        header.set_data_dtype(dtype)
    stored, (slope, inter) = header.get_data_dtype(), _scaling(reference, header)
    if stored.kind == "f":
        slope = 1.0
    elif (slope, inter) != (1.0, 0.0):
        slope = max(abs(slope), float(np.abs(data).max()) / np.iinfo(stored).max)
    _write(path, header, data, slope)


def image_like(reference: Path, data: np.ndarray, description: str) -> NiftiImage:
    """``data`` (D, H, W) as a float32 nibabel image on the grid of ``reference``."""
    header = _header_like(reference, data, description)
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    return kind(xyz_to_zyx(data.astype(np.float32)), header.get_best_affine(), header)


def _header_like(reference: Path, data: np.ndarray, description: str) -> Any:
    header = _header_of(reference)
    if data.shape != header.get_data_shape()[::-1]:
        raise ValueError(
            f"data is {data.shape} (z, y, x) but {reference} is {header.get_data_shape()[::-1]}; "
            "was it cropped or padded without being restored?"
        )
    header["descrip"] = description.encode("ascii", "replace")[:79]
    header["cal_min"] = header["cal_max"] = 0
    return header


def write_new(path: Path, data: np.ndarray, affine: np.ndarray, dtype: Any) -> None:
    """Write ``data`` (D, H, W) as ``dtype`` on a grid of its own, in mm, RAS+ by ``affine``.

    Integer types are rounded and clamped to their range.
    """
    if data.ndim != 3:
        raise ValueError(f"expected (D, H, W), got {data.shape}")
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(data.shape[::-1])
    header.set_xyzt_units("mm", "sec")
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    _write(path, header, data, slope=1.0)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """``path`` unpacked; damage becomes one sentence."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except EOFError as error:
        raise InputError(f"{path} is truncated: the compressed stream ends early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _content(path: Path) -> tuple[Any, bytes]:
    """Header and all bytes it promises; read to the end so that the checksum is verified."""
    with _opened(path) as file:
        head = file.read(540)
        header = _header(path, head)
        voxels = int(np.prod(header.get_data_shape(), dtype=np.int64))
        size = int(header["vox_offset"]) + voxels * header.get_data_dtype().itemsize
        content = head + file.read(max(size - len(head), 0))
        while file.read(2**20):
            pass
    if len(content) < size:
        raise InputError(f"{path} is truncated: {len(content)} of {size} bytes")
    return header, content


def _header_of(path: Path) -> Any:
    with _opened(path) as file:
        return _header(path, file.read(540))


def _header(path: Path, head: bytes) -> Any:
    """The NIfTI-1 or -2 header in the first bytes of a file, checked."""
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    kind = nib.Nifti2Header if 540 in sizes else nib.Nifti1Header
    if not sizes & {348, 540} or len(head) < kind.template_dtype.itemsize:
        raise InputError(f"{path} is not a NIfTI file")
    try:
        header: Any = kind(head[: kind.template_dtype.itemsize])
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        affine, offset = header.get_best_affine(), int(header["vox_offset"])
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise InputError(f"{path} has a damaged header: {error}") from error
    if len(shape) != 3:
        raise InputError(
            f"{path} is {len(shape)}-D {shape} and must be 3-D; save one volume of it as a file "
            "of its own"
        )
    if min(shape) < 1 or int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise InputError(f"{path} has an absurd size in its header: {shape}")
    if bytes(header["magic"])[:2] != b"n+" or not kind.single_vox_offset <= offset < MAX_VOXELS:
        raise InputError(f"{path} has a damaged header: its voxels do not follow it")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path} has an affine in its header that cannot be used")
    if dtype.kind not in "iuf":
        raise InputError(f"{path} holds {dtype} voxels and must hold plain numbers")
    return header


def _scaling(path: Path, header: Any) -> tuple[float, float]:
    """(slope, offset) that turn stored numbers into values; (1, 0) where none is set."""
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError as error:
        raise InputError(f"{path} has a damaged header: {error}") from error
    return (1.0, 0.0) if slope is None else (float(slope), float(inter or 0))


def _write(path: Path, header: Any, data: np.ndarray, slope: float) -> None:
    """Bytes of ``data`` / ``slope`` in the header's own type behind the header."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path} must end in .nii or .nii.gz")
    if not np.isfinite(data).all():
        raise ValueError(f"refusing to write NaN or infinite voxels to {path}")
    dtype = header.get_data_dtype()
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        data = np.rint(np.asarray(data, dtype=np.float64) / slope).clip(info.min, info.max)
    offset = header.template_dtype.itemsize + 4
    header["vox_offset"], header["magic"] = offset, b"n+1" if offset == 352 else b"n+2\0\r\n\x1a\n"
    header["scl_slope"], header["scl_inter"] = slope, 0
    content = header.binaryblock + bytes(4) + np.asarray(data).astype(dtype).tobytes()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=4, mtime=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
