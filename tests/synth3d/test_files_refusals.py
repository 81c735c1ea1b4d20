"""Every file that cannot be used is refused in one sentence that names it."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from synth3d.cohort import find_cases, label_scheme, require
from synth3d.errors import InputError
from synth3d.images.volumes import check_same_grid, grid, read, read_label, write_like, write_new

SHAPE = (4, 5, 6)
DATA = np.arange(120, dtype=np.float32).reshape(SHAPE)


def save(path, data=DATA, dtype="int16"):
    write_new(path, data, np.eye(4), dtype)
    return path


@pytest.fixture
def volume(tmp_path):
    return save(tmp_path / "A-t1n.nii.gz")


def sentence(action, *args, **kwargs):
    """The one sentence with which ``action`` refuses."""
    with pytest.raises(InputError) as raised:
        action(*args, **kwargs)
    text = str(raised.value)
    assert "\n" not in text
    return text


def overwrite_header(path, offset, kind, *values):
    """Change numbers in the header of a ``.nii.gz`` without anybody's checks."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(f"<{len(values)}{kind}", content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)))


def test_no_folder(tmp_path):
    assert sentence(find_cases, tmp_path / "gone") == f"no folder {tmp_path / 'gone'}"


def test_a_file_in_place_of_a_folder(volume):
    assert sentence(find_cases, volume) == f"{volume} is not a folder"


def test_no_cases_found(tmp_path):
    (tmp_path / "readme.txt").touch()
    assert f"no cases under {tmp_path}; expected files named as" in sentence(find_cases, tmp_path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("A-t1n.nii", "A-t1n.nii.gz"),
        ("A_t1ce.nii.gz", "A_t1gd.nii.gz"),
        ("HGG/A/A_t1.nii.gz", "LGG/A/A_t1.nii.gz"),
        ("sub-1/anat/sub-1_acq-a_T1w.nii.gz", "sub-1/anat/sub-1_acq-b_T1w.nii.gz"),
        ("A-seg.nii", "A-seg.nii.gz"),
    ],
)
def test_two_files_for_one_modality(tmp_path, first, second):
    for name in (first, second):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    text = sentence(find_cases, tmp_path)
    assert "has two files for" in text
    assert str(tmp_path / first) in text
    assert str(tmp_path / second) in text


def test_mixed_namings(tmp_path):
    (tmp_path / "A_t1.nii.gz").touch()
    (tmp_path / "B-t1n.nii.gz").touch()
    assert "mixes namings: brats2018 (A) and brats2023 (B)" in sentence(find_cases, tmp_path)


def test_a_case_without_the_inputs(volume):
    text = sentence(require, find_cases(volume.parent), ("t1n", "t2w", "t2f"))
    assert text == "1 of 1 cases lack files: A lacks t2w, t2f"


@pytest.mark.parametrize("cut", [1, 8, 9, 40])
def test_a_truncated_gz(volume, cut):
    """The last 8 bytes are the checksum: the voxels are all there and the file is still cut."""
    volume.write_bytes(volume.read_bytes()[:-cut])
    assert sentence(read, volume).startswith(f"{volume} is truncated")


def test_a_gz_cut_within_its_header(volume):
    volume.write_bytes(volume.read_bytes()[:30])
    for action in (read, grid, read_label):
        assert sentence(action, volume).startswith(f"{volume} is truncated")


def test_a_truncated_nii(tmp_path):
    path = save(tmp_path / "A-t1n.nii")
    path.write_bytes(path.read_bytes()[:-1])
    assert sentence(read, path) == f"{path} is truncated: 591 of 592 bytes"


def test_a_flipped_bit(volume):
    content = bytearray(volume.read_bytes())
    content[-5] ^= 1
    volume.write_bytes(bytes(content))
    assert sentence(read, volume).startswith(f"{volume} is damaged: CRC check failed")


@pytest.mark.parametrize("content", [b"", b"not a nifti at all" * 40, b"\x1f\x8b"])
def test_no_nifti(tmp_path, content):
    path = tmp_path / "A-t1n.nii"
    path.write_bytes(content)
    assert sentence(read, path) == f"{path} is not a NIfTI file"


def test_a_nii_called_gz(tmp_path):
    path = save(tmp_path / "A-t1n.nii").rename(tmp_path / "A-t1n.nii.gz")
    assert sentence(read, path).startswith(f"{path} is damaged: Not a gzipped file")


def test_a_missing_file_and_a_broken_link(tmp_path):
    assert "No such file" in sentence(read, tmp_path / "gone.nii.gz")
    (tmp_path / "A-t1n.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    (case,) = find_cases(tmp_path)
    assert "No such file" in sentence(read, case.images["t1n"])


def test_a_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "A-t1n.nii").mkdir()
    assert sentence(read, tmp_path / "A-t1n.nii").startswith("cannot read")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_voxels_are_counted(tmp_path, value):
    path = tmp_path / "A-t1n.nii.gz"
    data = DATA.copy()
    data[0, 0, :3] = value
    nib.save(nib.Nifti1Image(data.T, np.eye(4)), path)
    assert sentence(read, path) == f"{path} has 3 NaN or infinite voxels"


def test_a_volume_of_zeros(tmp_path):
    path = save(tmp_path / "A-t1n.nii.gz", np.zeros(SHAPE))
    assert sentence(read, path) == f"{path} is zero everywhere"


@pytest.mark.parametrize("shape", [(6, 5, 4, 1), (6, 5, 4, 3), (6, 5)])
def test_other_than_three_dimensions(tmp_path, shape):
    path = tmp_path / "A-t1n.nii.gz"
    nib.save(nib.Nifti1Image(np.ones(shape, np.int16), np.eye(4)), path)
    for action in (read, grid):
        text = sentence(action, path)
        assert f"is {len(shape)}-D {shape} and must be 3-D" in text


def test_an_absurd_size_is_refused_without_taking_the_memory(volume):
    overwrite_header(volume, 42, "h", 32000, 32000, 32000)
    assert "absurd size in its header: (32000, 32000, 32000)" in sentence(read, volume)


def test_a_negative_size(volume):
    overwrite_header(volume, 42, "h", -6, 5, 4)
    assert "absurd size" in sentence(read, volume)


def test_an_affine_that_is_no_affine(volume):
    overwrite_header(volume, 280, "f", *[0.0] * 12)
    assert "an affine in its header that cannot be used" in sentence(read, volume)


def test_voxels_that_do_not_follow_the_header(volume):
    overwrite_header(volume, 108, "f", 0.0)
    assert "damaged header" in sentence(read, volume)
    overwrite_header(volume, 108, "f", np.nan)
    assert "damaged header" in sentence(read, volume)


def test_colours_are_no_intensities(tmp_path):
    path = tmp_path / "A-t1n.nii.gz"
    colour = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(np.zeros((6, 5, 4), colour), np.eye(4)), path)
    assert "must hold plain numbers" in sentence(read, path)


def test_differing_grids_within_a_case(tmp_path, volume):
    other = save(tmp_path / "A-t2f.nii.gz", DATA[:, :, :-1])
    text = sentence(check_same_grid, [volume, other])
    assert text.startswith(f"{other} differs from A-t1n.nii.gz in shape")


def test_label_values_that_are_no_integers(tmp_path):
    path = save(tmp_path / "A-seg.nii.gz", DATA / 7, "float32")
    assert sentence(read_label, path).startswith(f"{path} is not a segmentation")
    data = np.full(SHAPE, np.nan, np.float32)
    nib.save(nib.Nifti1Image(data.T, np.eye(4)), path)
    assert sentence(read_label, path).startswith(f"{path} is not a segmentation")


def test_label_values_outside_any_scheme():
    text = sentence(label_scheme, {0, 1, 5, 10})
    assert text == "label values [5, 10] are in no BraTS scheme (0, 1, 2 and 3 or 4)"


def test_an_output_folder_that_cannot_be_made(tmp_path, volume):
    for folder in (volume, volume / "deeper"):
        text = sentence(write_like, volume, DATA, folder / "A-t2f.nii.gz")
        assert text.startswith("cannot create the folder")


def test_a_full_disk_leaves_no_half_written_file(tmp_path, volume, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("synth3d.files.os.fsync", full)
    target = tmp_path / "out" / "A-t2f.nii.gz"
    assert sentence(write_like, volume, DATA, target) == (
        f"cannot write {target}: No space left on device"
    )
    assert list(target.parent.iterdir()) == []
