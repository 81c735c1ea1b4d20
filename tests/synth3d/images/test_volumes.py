import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synth3d.errors import InputError
from synth3d.images.grids import Grid
from synth3d.images.resampling import resample
from synth3d.images.volumes import (
    Volume,
    check_same_grid,
    check_same_grids,
    grid,
    read,
    read_label,
    value_limits,
    write_like,
    write_new,
    xyz_to_zyx,
)

LPS = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 2.5, 0], [0, 0, 0, 1]])
LAS = np.array([[-0.9, 0, 0, 90], [0, 1.1, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])


def oblique(spacing=(0.9, 1.1, 3.0)):
    a, b = 0.3, -0.2
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(spacing)
    affine[:3, 3] = (-80.5, 91.25, -40)
    return affine


AFFINES = {"LPS": LPS, "LAS": LAS, "oblique": oblique()}
SHAPE = (3, 4, 5)
DATA = np.arange(60, dtype=np.float32).reshape(SHAPE)


def sibling(path, dtype="int16", affine=LAS, codes=(1, 2), scaling=(1, 0)):
    """A file made by nibabel, as a scanner's converter would; its values are 3 * DATA."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_xyzt_units("mm", "sec")
    slope, inter = scaling
    stored = np.rint((xyz_to_zyx(DATA) * 3 - inter) / slope).astype(dtype)
    image = nib.Nifti1Image(stored, affine, header)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_slope_inter(*scaling)
    nib.save(image, path)
    return path


def test_x_runs_fastest_in_the_file_and_last_in_the_array(tmp_path):
    write_new(tmp_path / "a.nii.gz", DATA, LPS, "int16")
    in_file = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    assert in_file.shape == (5, 4, 3)
    assert in_file[4, 1, 2] == DATA[2, 1, 4]
    assert read(tmp_path / "a.nii.gz").spacing_mm == (2.5, 1, 1)
    assert xyz_to_zyx(np.zeros((2, 7, 3, 4, 5))).shape == (2, 7, 5, 4, 3)
    assert xyz_to_zyx(torch.zeros(7, 3, 4, 5)).shape == (7, 5, 4, 3)


@settings(max_examples=40)
@given(
    data=arrays("uint8", st.tuples(*[st.integers(1, 5)] * 3)),
    dtype=st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"]),
    affine=st.sampled_from(list(AFFINES.values())),
    ending=st.sampled_from([".nii", ".nii.gz"]),
)
def test_what_is_written_is_read(tmp_path_factory, data, dtype, affine, ending):
    path = tmp_path_factory.mktemp("round") / f"a{ending}"
    data[0, 0, 0] = 1
    write_new(path, data, affine, dtype)
    volume = read(path)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert volume.data.dtype == np.float32
    assert nib.load(path).get_data_dtype() == dtype
    assert grid(path).shape_zyx == data.shape


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize(
    ("dtype", "codes"), [("int16", (1, 2)), ("uint8", (0, 4)), ("float32", (3, 0))]
)
def test_a_new_file_lies_on_the_grid_of_its_sibling(tmp_path, affine, dtype, codes):
    reference = sibling(tmp_path / "t1.nii.gz", dtype, affine, codes)
    write_like(reference, DATA + 0.4, tmp_path / "t2.nii.gz", "synthetic: a test")
    old, new = nib.load(reference), nib.load(tmp_path / "t2.nii.gz")
    np.testing.assert_array_equal(old.affine, new.affine)
    for name in ("dim", "pixdim", "datatype", "xyzt_units", "qform_code", "sform_code", "srow_x"):
        assert old.header[name].tobytes() == new.header[name].tobytes(), name
    assert bytes(new.header["descrip"]).startswith(b"synthetic: a test")
    expected = DATA + 0.4 if dtype == "float32" else DATA
    np.testing.assert_array_equal(read(tmp_path / "t2.nii.gz").data, expected.astype(np.float32))
    assert grid(reference).difference(grid(tmp_path / "t2.nii.gz")) is None


def test_integers_are_rounded_and_clamped_unless_they_are_scaled(tmp_path):
    reference = sibling(tmp_path / "a.nii.gz", "uint8")
    data = np.zeros(SHAPE)
    data[0, 0, :4] = (-7, 0.6, 254.9, 999)
    write_like(reference, data, tmp_path / "b.nii.gz")
    assert read(tmp_path / "b.nii.gz").data[0, 0, :4].tolist() == [0, 1, 255, 255]
    assert value_limits(reference) == (0, 255)
    for dtype, scaling in (("float32", (1, 0)), ("int16", (0.5, 0))):
        free = sibling(tmp_path / "c.nii.gz", dtype, scaling=scaling)
        assert value_limits(free) == (-np.inf, np.inf)


@pytest.mark.parametrize("scaling", [(0.01, 0), (0.01, 3.337), (0.5, -100), (-2, 1)])
def test_a_scaled_sibling_gives_true_values_and_a_zero_background(tmp_path, scaling):
    reference = sibling(tmp_path / "a.nii.gz", "int16", scaling=scaling)
    np.testing.assert_allclose(read(reference).data, DATA * 3, atol=abs(scaling[0]))
    data = DATA * 900.0 / DATA.max()
    write_like(reference, data, tmp_path / "b.nii.gz")
    written = read(tmp_path / "b.nii.gz").data
    np.testing.assert_allclose(written, data, atol=max(abs(scaling[0]), 900 / 32767))
    assert written[0, 0, 0] == 0
    assert nib.load(tmp_path / "b.nii.gz").get_data_dtype() == np.int16


def test_big_endian_and_nifti_2_siblings_work(tmp_path):
    image = nib.Nifti2Image(xyz_to_zyx(DATA), LAS, nib.Nifti2Header(endianness=">"))
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(read(tmp_path / "a.nii").data, DATA)
    write_like(tmp_path / "a.nii", DATA * 2, tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").get_fdata().T, DATA * 2)


def test_the_same_volume_gives_the_same_bytes_and_a_long_description_is_cut(tmp_path):
    for name in ("a", "b"):
        write_new(tmp_path / f"{name}.nii.gz", DATA, LAS, "int16")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    write_like(tmp_path / "a.nii.gz", DATA, tmp_path / "c.nii.gz", "ü" * 200)
    assert bytes(nib.load(tmp_path / "c.nii.gz").header["descrip"]).rstrip(b"\0") == b"?" * 79


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32"])
def test_labels_may_be_stored_as_any_number_and_be_empty(tmp_path, dtype):
    for label in ((DATA % 5).astype(np.uint8), np.zeros(SHAPE)):
        write_new(tmp_path / "seg.nii.gz", label, LAS, dtype)
        found = read_label(tmp_path / "seg.nii.gz").data
        assert found.dtype == np.int16
        np.testing.assert_array_equal(found, label)


@given(arrays(float, 3, elements=st.floats(-1, 1)), st.permutations(range(3)), st.booleans())
def test_orientation_agrees_with_nibabel(axis, order, flip):
    turn = np.eye(3) + 0.2 * np.cross(np.eye(3), axis)  # a small rotation, and some shear
    affine = np.eye(4)
    affine[:3, :3] = turn[:, list(order)] * (1, -2 if flip else 2, 3)
    expected = "".join(nib.orientations.aff2axcodes(affine))
    assert Grid(SHAPE, affine).orientation == expected
    np.testing.assert_allclose(
        Grid(SHAPE, affine).spacing_mm[::-1], nib.affines.voxel_sizes(affine)
    )


def moved(by):
    affine = LAS.copy()
    affine[0, 3] += by
    return affine


@pytest.mark.parametrize(
    ("shape", "affine", "match"),
    [
        ((3, 4, 6), LAS, r"shape \(z, y, x\) \(3, 4, 6\) against \(3, 4, 5\)"),
        (SHAPE, LAS @ np.diag([1, 1, 2, 1]), r"spacing \(z, y, x\) \(6, 1.1, 0.9\) against"),
        (SHAPE, LAS @ np.diag([1, -1, 1, 1]), "orientation LPS against LAS"),
        (SHAPE, moved(0.5), r"origin or direction \(corners lie up to 0.50 mm apart\)"),
    ],
)
def test_the_misfit_is_named_with_what_differs(tmp_path, shape, affine, match):
    paths = [tmp_path / f"{name}.nii.gz" for name in ("odd", "t1", "t2")]
    write_new(paths[0], np.ones(shape), affine, "int16")
    for path, by in zip(paths[1:], (0, 0.01), strict=True):  # rounding of an affine is no misfit
        write_new(path, np.ones(SHAPE), moved(by), "int16")
    shared = check_same_grid(paths[1:])
    assert (shared.shape_zyx, shared.orientation) == (SHAPE, "LAS")
    with pytest.raises(InputError, match=rf"odd\.nii\.gz differs from t1\.nii\.gz in {match}"):
        check_same_grid(paths)
    with pytest.raises(InputError, match=r"odd\.nii\.gz .*; .*odd\.nii\.gz differs"):
        check_same_grids([paths, paths[1:], paths])


def test_wrong_use_is_a_value_error(tmp_path):
    reference = sibling(tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"data is \(3, 4, 4\) .* but .* is \(3, 4, 5\)"):
        write_like(reference, DATA[..., 1:], tmp_path / "b.nii.gz")
    with pytest.raises(ValueError, match="refusing to write NaN"):
        write_like(reference, DATA * np.nan, tmp_path / "b.nii.gz")
    with pytest.raises(ValueError, match=r"must end in \.nii"):
        write_like(reference, DATA, tmp_path / "b.mha")
    with pytest.raises(ValueError, match="no grids"):
        check_same_grid([])
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_resampling_by_headers_finds_the_same_places(tmp_path):
    """A ramp in mm on one grid is the ramp on any other, 0 outside the field of view."""
    own = np.array([[0, 0, 2.0, -7], [-1.5, 0, 0, 9], [0, 1.0, 0, -5], [0, 0, 0, 1]])
    there = np.array([[-1.0, 0.1, 0, 3], [0, 1.2, 0.2, -3], [0, 0, 1.1, -4], [0, 0, 0, 1]])

    def ramp(affine, shape):
        z, y, x = np.indices(shape)
        mm = np.stack([x, y, z, np.ones(shape)], -1) @ affine.T
        return (50 + mm[..., 0] - 2 * mm[..., 1] + 3 * mm[..., 2]).astype(np.float32), mm

    values, _ = ramp(own, (9, 10, 8))
    target = Grid((17, 18, 14), there)
    found = resample(Volume(values, own, tmp_path), target)
    expected, mm = ramp(there, target.shape_zyx)
    index = mm @ np.linalg.inv(own).T
    inside = ((index[..., :3] >= 0) & (index[..., :3] <= np.array([7, 9, 8]))).all(-1)
    beyond = ((index[..., :3] < -1) | (index[..., :3] > np.array([8, 10, 9]))).any(-1)
    assert inside.sum() > 20
    assert beyond.sum() > 20
    np.testing.assert_allclose(found.data[inside], expected[inside], rtol=1e-4)
    assert not found.data[beyond].any()
    assert found.grid.difference(target) is None


def test_resampling_onto_its_own_grid_is_nothing_and_beside_it_an_error(tmp_path):
    volume = Volume(np.ones((3, 4, 5), np.float32), np.eye(4), tmp_path / "t1.nii.gz")
    assert resample(volume, volume.grid) is volume
    far = np.eye(4)
    far[:3, 3] = 900
    with pytest.raises(InputError, match="t1.nii.gz does not overlap the grid"):
        resample(volume, Grid((3, 4, 5), far))


def test_a_volume_in_units_of_its_own_is_stored_as_floats_on_the_grid_of_the_reference(tmp_path):
    reference, path = tmp_path / "t1.nii.gz", tmp_path / "made.nii.gz"
    write_new(reference, np.full((3, 4, 5), 700), LPS, np.int16)
    data = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)
    write_like(reference, data, path, "SYNTHETIC", dtype=np.float32)
    np.testing.assert_array_equal(read(path).data, data)
    np.testing.assert_array_equal(read(path).affine, read(reference).affine)
    with pytest.raises(ValueError, match="expected a floating type, got int16"):
        write_like(reference, data, path, dtype=np.int16)
