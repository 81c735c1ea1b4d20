"""NIfTI in and out; the one place where file order (x, y, z) becomes ours (z, y, x).

What comes in is checked to the last byte; what goes out lies on
the grid of another file, with the same bytes each time.
"""

import gzip
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import nibabel as nib
import numpy as np

from synth3d.errors import InputError
from synth3d.files import atomic_path
from synth3d.images.geometry import CODES, MM, Place, can_be_written, place_of
from synth3d.images.grids import Grid, grid_misfits, remedies
from synth3d.images.nifti import content_of, header_of, scaling, shape_xyz

ArrayOrTensor = TypeVar("ArrayOrTensor")
NiftiImage: TypeAlias = nib.Nifti1Image

ABSURD_VALUE = 1e15
"""No scanner and no scaling of its images gives more; squares of it still fit into float32."""

LABEL_TOLERANCE = 1e-3
"""A label this near to a whole number is one, written with a scale or as a float."""


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
    if bad := int(np.count_nonzero(strange := ~np.isfinite(volume.data))):
        outside = strange[[0, -1]].mean() > 0.5  # most of the outer slices
        hint = ": they mark its background, so write 0 there" if outside else ""
        raise InputError(f"{volume.path} has {bad} NaN or infinite voxels{hint}")
    if (most := float(np.abs(volume.data).max(initial=0))) > ABSURD_VALUE:
        raise InputError(f"{volume.path} has an absurd value, {most:.3g}: it is damaged")
    if not volume.data.any():
        raise InputError(f"{volume.path} is zero everywhere")


def read_label(path: Path) -> Volume:
    """The segmentation in ``path`` as int16 (z, y, x), rounded; it may be all zero.

    Raises:
        InputError: A value is not within ``LABEL_TOLERANCE`` of a small whole number.
    """
    return read_rounded_label(path)[0]


def read_rounded_label(path: Path) -> tuple[Volume, float]:
    """As :func:`read_label`, and by how much the values were off whole numbers; 0 for integers."""
    volume = read_unchecked(path)
    with np.errstate(invalid="ignore"):
        label = np.rint(volume.data).astype(np.int16)
        off = float(np.abs(volume.data - label).max(initial=0))
    if not off <= LABEL_TOLERANCE:  # which NaN is not
        raise InputError(
            f"{path} is not a segmentation: it has values that are not within {LABEL_TOLERANCE} of "
            "small integers; save the integers themselves, and resample labels by nearest "
            "neighbour"
        )
    return Volume(label, volume.affine, path), off


def read_unchecked(path: Path) -> Volume:
    """Like :func:`read`, but any values will do."""
    header, content = content_of(path)
    dtype, offset = header.get_data_dtype(), int(header["vox_offset"])
    shape = shape_xyz(header)[::-1]  # x runs fastest in the file, as W does in our order
    stored = np.frombuffer(content, dtype, count=int(np.prod(shape)), offset=offset).reshape(shape)
    slope, inter = scaling(path, header)
    if (slope, inter) != (1.0, 0.0):
        stored = _scaled(stored, slope, inter)
    with np.errstate(over="ignore"):  # becomes infinite, which the caller checks
        return Volume(stored.astype(np.float32), _grid(header).affine, path)


def _scaled(stored: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """The values of stored numbers as float32, computed in float64 slice by slice."""
    values = np.empty(stored.shape, np.float32)
    with np.errstate(over="ignore"):
        for plane, numbers in zip(values, stored, strict=True):
            plane[:] = numbers * np.float64(slope) + inter
    return values


def grid(path: Path) -> Grid:
    """Where the voxels of ``path`` lie, from its header alone."""
    return _grid(header_of(path))


def _grid(header: Any) -> Grid:
    """Of a header that was not refused."""
    said, (x, y, z) = place_of(header), shape_xyz(header)
    assert said.affine is not None
    return Grid((z, y, x), said.affine, said.other, said.lost, said.codes == (0, 0))


def check_same_grid(paths: Iterable[Path], whole: bool = True) -> Grid:
    """The grid that all ``paths``, a ``whole`` case's or not, share; voxels are not read.

    Raises:
        InputError: A file differs from the grid that most files have (the first, in a draw); the
            sentence names each such file and in what it differs. Or a file cannot be read.
    """
    grids, faults = {}, []
    for path in paths:
        try:
            grids[path] = grid(path)
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("; ".join(faults))
    reference, misfits = grid_misfits(grids)
    if misfits:
        raise InputError(f"{'; '.join(misfits)}: {remedies(grids, reference, whole)}")
    return grids[reference]


def check_same_grids(groups: Iterable[Iterable[Path]], whole: bool = True) -> None:
    """As :func:`check_same_grid` for each of ``groups``; all misfits are named at once."""
    sentences = []
    for paths in groups:
        try:
            check_same_grid(paths, whole)
        except InputError as error:
            sentences.append(str(error))
    if sentences:
        raise InputError("; ".join(sentences))


def value_limits(path: Path) -> tuple[float, float]:
    """Where :func:`write_like` ``path`` clamps: (-inf, inf) unless it has unscaled integers."""
    header = header_of(path)
    dtype = header.get_data_dtype()
    if dtype.kind == "f" or scaling(path, header) != (1.0, 0.0):
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
    stored, (slope, inter) = header.get_data_dtype(), scaling(reference, header)
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
    header = header_of(reference)
    if data.shape != shape_xyz(header)[::-1]:
        raise ValueError(
            f"data is {data.shape} (z, y, x) but {reference} is {shape_xyz(header)[::-1]}; "
            "was it cropped or padded without being restored?"
        )
    header.set_data_shape(shape_xyz(header))
    header["descrip"] = description.encode("ascii", "replace")[:79]
    header["cal_min"] = header["cal_max"] = 0
    return header


def write_image(path: Path, image: NiftiImage) -> None:
    """Write ``image``, of nibabel, as it would be saved: its own header, its own numbers.

    Values that its type cannot hold are not rounded to it, they become float32.

    Raises:
        InputError: The file that it is read from is damaged or gone.
    """
    try:
        voxels, header = np.asanyarray(image.dataobj), image.header.copy()
        if voxels.dtype.kind == "f" and header.get_data_dtype().kind != "f":
            header.set_data_dtype(np.float32)
        content = type(image)(voxels, image.affine, header).to_bytes()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"the image cannot be read: {error}") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_new(path: Path, data: np.ndarray, affine: np.ndarray, dtype: Any) -> None:
    """Write ``data`` (D, H, W) as ``dtype`` on a grid of its own, in mm, RAS+ by ``affine``.

    Integer types are rounded and clamped to their range.
    """
    if data.ndim != 3:
        raise ValueError(f"expected (D, H, W), got {data.shape}")
    if not can_be_written(affine):
        raise InputError(
            f"the affine of {path.name} is sheared or not finite, which no reader but nibabel "
            "takes: give the image orthonormal directions"
        )
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(data.shape[::-1])
    header.set_xyzt_units("mm", "sec")
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    _write(path, header, data, slope=1.0)


def place(path: Path) -> Place:
    """What the header of ``path`` says of its place, also where it would be refused for that."""
    return place_of(header_of(path, lenient=True))


def shape_of(path: Path) -> tuple[int, ...]:
    """(D, H, W) by the header of ``path``, whatever it says of its place."""
    return shape_xyz(header_of(path, lenient=True))[::-1]


def write_moved(source: Path, affine: np.ndarray, target: Path) -> None:
    """Write ``source`` to ``target`` with the place ``affine`` in both forms, in mm, and 3-D.

    The stored voxels, their type and scaling, and all else in the header are kept to the last bit.
    ``target`` ends as ``source`` does and is compressed if its name says so.
    """
    header, content = content_of(source, lenient=True)
    used = header.template_dtype.itemsize
    header.set_data_shape(shape_xyz(header))
    header["pixdim"][1:4] = 1  # of damaged edges nibabel would not part
    header["xyzt_units"] = int(header["xyzt_units"]) // 8 * 8 + MM
    for set_form, name in ((header.set_qform, "qform_code"), (header.set_sform, "sform_code")):
        set_form(affine, code=code if 0 < (code := int(header[name])) in CODES else 1)
    header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    content = header.binaryblock + content[used:]
    if target.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=4, mtime=0)
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def _rounded(data: np.ndarray, slope: float, dtype: Any) -> np.ndarray:
    """``data`` / ``slope`` as whole numbers that ``dtype`` holds, slice by slice to save memory."""
    info, rounded = np.iinfo(dtype), np.empty(data.shape, dtype)
    for plane, values in zip(rounded, data, strict=True):
        found = np.rint(np.asarray(values, dtype=np.float64) / slope)
        plane[:] = found.clip(info.min, info.max).astype(dtype)
    return rounded


def _write(path: Path, header: Any, data: np.ndarray, slope: float) -> None:
    """Bytes of ``data`` / ``slope`` in the header's own type behind the header."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path} must end in .nii or .nii.gz")
    if not np.isfinite(data).all():
        raise ValueError(f"refusing to write NaN or infinite voxels to {path}")
    dtype = header.get_data_dtype()
    if dtype.kind in "iu":
        data = _rounded(data, slope, dtype)
    offset = header.template_dtype.itemsize + 4
    header["vox_offset"], header["magic"] = offset, b"n+1" if offset == 352 else b"n+2\0\r\n\x1a\n"
    header["scl_slope"], header["scl_inter"] = slope, 0
    content = header.binaryblock + bytes(4) + np.asarray(data).astype(dtype, copy=False).tobytes()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=4, mtime=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
