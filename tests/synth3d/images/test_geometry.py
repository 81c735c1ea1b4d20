"""What SimpleITK reads is what we read, or it is refused with what to do."""

import gzip
from itertools import product

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from synth3d.errors import InputError
from synth3d.images import (
    check_same_grid,
    grid,
    place,
    read,
    read_label,
    write_like,
    write_moved,
    write_new,
)
from synth3d.images.geometry import place_of

SHAPE = (4, 5, 6)
STORED = np.arange(1, 121, dtype=np.int16).reshape(SHAPE[::-1])


def turned(angles, edges=(2.0, 3.0, 1.5), origin=(5, -6, 7)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles).as_matrix() * edges
    affine[:3, 3] = origin
    return affine


Q, S = turned((0, 0, np.pi)), turned((0.1, 0.2, 0.3), origin=(8, 9, -3))


def header_of(qform=Q, sform=S, codes=(1, 1), shape=SHAPE, **fields):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_qform(qform, 1)
    header.set_sform(sform, 1)
    header["qform_code"], header["sform_code"] = codes
    for name, value in fields.items():
        header[name] = value
    header["magic"], header["vox_offset"] = b"n+1", 352
    return header


def file(path, **how):
    path.write_bytes(header_of(**how).binaryblock + bytes(4) + STORED.tobytes())
    return path


def seen_by_itk(path):
    """The affine, RAS+; None where SimpleITK refuses the file."""
    SimpleITK.ProcessObject_GlobalWarningDisplayOff()
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError:
        return None
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1, 1, 1]) @ affine


@pytest.mark.parametrize("codes", list(product(range(6), range(6))), ids=str)
def test_every_pair_of_codes_is_read_as_itk_reads_it(tmp_path, codes):
    path = file(tmp_path / "a.nii", codes=codes)
    np.testing.assert_allclose(grid(path).affine, seen_by_itk(path), atol=1e-4)
    one, conflict = grid(path), min(codes) > 0
    assert (one.conflict_mm > 5) == conflict
    assert one.lost == (codes == (0, 0))


@pytest.mark.parametrize("codes", [(0, 6), (1, 348), (6, 1), (-1, 2), (6, 6)], ids=str)
def test_a_code_that_nifti_does_not_know_is_refused_where_readers_differ(tmp_path, codes):
    """nibabel takes the form for not set, ITK for set."""
    with pytest.raises(InputError, match="does not know, .*--fix-headers"):
        grid(file(tmp_path / "a.nii", codes=codes))
    write_moved(tmp_path / "a.nii", S, tmp_path / "b.nii")
    np.testing.assert_allclose(grid(tmp_path / "b.nii").affine, seen_by_itk(tmp_path / "b.nii"))


@pytest.mark.parametrize("handed", [-1.0, -2.0, 0.0, 2.0, np.nan])
def test_any_handedness_is_read_as_itk_reads_it(tmp_path, handed):
    path = file(tmp_path / "a.nii", codes=(1, 0))
    content = bytearray(path.read_bytes())
    content[76:80] = np.float32(handed).tobytes()
    path.write_bytes(content)
    np.testing.assert_allclose(grid(path).affine, seen_by_itk(path), atol=1e-4)


def test_forms_that_mirror_each_other_are_refused(tmp_path):
    """ITK takes them for the same, and the sform; with another origin it takes the qform."""
    mirrored = Q @ np.diag([1, -1, 1, 1])
    with pytest.raises(InputError, match="mirror each other; .*--fix-headers"):
        grid(file(tmp_path / "a.nii", sform=mirrored, codes=(1, 2)))
    mirrored[0, 3] += 5
    path = file(tmp_path / "a.nii", sform=mirrored, codes=(1, 2))
    np.testing.assert_allclose(grid(path).affine, seen_by_itk(path), atol=1e-4)


@settings(max_examples=80)
@given(
    codes=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    edges=st.tuples(*[st.floats(0.3, 6)] * 3),
    shear=st.sampled_from([0, 1e-5, 4e-5, 4e-4, 1e-2, 0.2]),
    handed=st.sampled_from([-1, 1]),
    unit=st.sampled_from([0, 2]),
)
def test_any_header_is_read_as_itk_reads_it_or_refused(
    tmp_path_factory, codes, angles, edges, shear, handed, unit
):
    sform = turned(angles, edges) @ np.diag([1, 1, handed, 1])
    qform = turned(angles[::-1], edges) @ np.diag([handed, 1, 1, 1])
    sform[:3, 1] += shear * sform[:3, 0]
    path = tmp_path_factory.mktemp("place") / "a.nii"
    file(path, qform=qform, sform=sform, codes=codes, xyzt_units=unit)
    expected = seen_by_itk(path)
    said = place(path)
    if said.fault is None:
        np.testing.assert_allclose(grid(path).affine, expected, atol=2e-3)
        return
    with pytest.raises(InputError, match="--fix-headers"):
        grid(path)
    assert (
        "mirror" in said.fault
        or expected is None
        or not np.allclose(np.linalg.norm(sform[:3, 1]), edges[1], 1e-3)
    )


NAN = float("nan")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"pixdim": [1, 0, 3, 1.5, 0, 0, 0, 0]}, "edges .*0, 3, 1.5.*--fix-headers"),
        ({"pixdim": [1, NAN, 3, 1.5, 0, 0, 0, 0]}, "edges .*nan.*--fix-headers"),
        ({"pixdim": [1, -2, 3, 1.5, 0, 0, 0, 0]}, "edges .*-2.*--fix-headers"),
        ({"pixdim": [1, 4, 3, 1.5, 0, 0, 0, 0]}, "4, 3, 1.5.* of .*2, 3, 1.5.*by its sform"),
        ({"xyzt_units": 1}, "2000, 3000.*metres.*--fix-headers"),
        ({"srow_x": [NAN, 0, 0, 0], "codes": (0, 1)}, "cannot be used"),
        ({"quatern_b": 2.0, "codes": (1, 0)}, "damaged qform"),
        ({"sform": S @ np.array([[1, 0.1, 0, 0], *np.eye(4)[1:]]), "codes": (0, 2)}, "sheared"),
    ],
)
def test_what_nobody_can_read_alike_is_refused_with_the_remedy(tmp_path, how, words):
    with pytest.raises(InputError, match=words):
        check_same_grid([file(tmp_path / "a.nii", **how)])


def test_microns_are_scaled_as_itk_scales_them(tmp_path):
    far = np.diag([1000.0, 1000, 1000, 1])
    path = file(tmp_path / "a.nii", qform=far @ Q, sform=far @ S, xyzt_units=3)
    np.testing.assert_allclose(grid(path).affine, S, atol=1e-4)
    np.testing.assert_allclose(grid(path).affine, seen_by_itk(path), atol=1e-4)


@pytest.mark.parametrize("more", [(1,), (1, 1)])
def test_trailing_axes_of_one_are_read_and_not_written(tmp_path, more):
    path = file(tmp_path / "a.nii", shape=(*SHAPE, *more))
    np.testing.assert_array_equal(read(path).data, STORED)
    write_like(path, STORED * 2.0, tmp_path / "b.nii.gz")
    assert nib.load(tmp_path / "b.nii.gz").shape == SHAPE
    with pytest.raises(InputError, match="must be 3-D"):
        grid(file(tmp_path / "c.nii", shape=(2, 2, 15, 2)))


def test_a_name_that_says_otherwise_than_the_bytes_is_to_be_changed(tmp_path):
    plain = file(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"not compressed: rename it to a\.nii\b"):
        read(plain)
    packed = tmp_path / "b.nii"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(InputError, match=r"is compressed: rename it to b\.nii\.gz"):
        grid(packed)


LOST = np.eye(4)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"qform": LOST, "sform": LOST}, "header of odd.nii has lost its place.* that of t1.nii"),
        ({"codes": (0, 0)}, "header of odd.nii has lost its place"),
        ({"qform": Q, "sform": S, "codes": (1, 2)}, "disagree.*--fix-headers"),
        ({"sform": S * [[1.00003], [1], [1], [1]], "qform": S}, "nnU-Net takes .*--fix-headers"),
        ({"qform": Q, "sform": Q}, "resample"),
        ({"shape": (6, 5, 4)}, "shape .*resample"),
    ],
)
def test_the_remedy_fits_what_is_wrong(tmp_path, how, words):
    good = [file(tmp_path / f"t{i}.nii", qform=S, sform=S) for i in (1, 2)]
    with pytest.raises(InputError, match=words) as caught:
        check_same_grid([*good, file(tmp_path / "odd.nii", **how)])
    assert ("resample" in str(caught.value)) == ("resample" in words)


@pytest.mark.parametrize("by", [1e-6, 1e-5])
def test_rounding_of_an_affine_is_no_misfit(tmp_path, by):
    moved = S + np.pad(np.full((3, 1), by), ((0, 1), (3, 0)))
    pair = [file(tmp_path / f"{i}.nii", qform=a, sform=a) for i, a in enumerate((S, moved))]
    assert check_same_grid(pair).shape_zyx == SHAPE[::-1]


def test_remedies_for_voxels(tmp_path):
    data = np.full((4, 5, 6), np.nan)
    data[1:3, 1:4, 1:5] = 7
    write = {"affine": S, "dtype": "float32"}
    path = file(tmp_path / "a.nii")
    header = header_of()
    header.set_data_dtype(np.float32)
    path.write_bytes(header.binaryblock + bytes(4) + data.astype(np.float32).tobytes())
    with pytest.raises(InputError, match="NaN.*background, so write 0"):
        read(path)
    write_new(path, np.where(data > 0, 1e30, 0), **write)
    with pytest.raises(InputError, match="absurd"):
        read(path)
    write_new(path, np.where(data > 0, 2.99, 0), **write)
    with pytest.raises(InputError, match="save the integers themselves"):
        read_label(path)
    with pytest.raises(InputError, match="sheared"):
        write_new(path, np.ones((4, 5, 6)), np.array([[1, 0.2, 0, 0], *np.eye(4)[1:]]), "int16")


def test_a_header_is_judged_whatever_it_holds():
    """Random headers raise nothing: they have a place or a fault."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        header = nib.Nifti1Header(rng.bytes(348), check=False)
        with np.errstate(all="ignore"):
            place = place_of(header)
        assert (place.affine is None) == (place.fault is not None)
