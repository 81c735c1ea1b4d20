"""Every file that cannot be used is refused in one sentence that names it."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from synth3d.cohort import find_cases
from synth3d.errors import InputError
from synth3d.images.volumes import grid, read, read_label, write_new

SHAPE = (4, 5, 6)
DATA = np.arange(120, dtype=np.float32).reshape(SHAPE)


def save(path, data=DATA, dtype="int16"):
    write_new(path, data, np.eye(4), dtype)
    return path


def save_unchecked(path, data, dtype=np.float32):
    nib.save(nib.Nifti1Image(np.asarray(data).astype(dtype), np.eye(4)), path)


@pytest.fixture
def volume(tmp_path):
    return save(tmp_path / "A-t1n.nii.gz")


def sentence(action, *args, **kwargs):
    """The one sentence with which ``action`` refuses."""
    with pytest.raises(InputError) as raised:
        action(*args, **kwargs)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_folders_without_cases(tmp_path, volume):
    assert str(tmp_path / "gone") in sentence(find_cases, tmp_path / "gone")
    assert "is not a folder" in sentence(find_cases, volume)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").touch()
    assert f"no cases under {tmp_path / 'empty'}" in sentence(find_cases, tmp_path / "empty")


@pytest.mark.parametrize(
    ("first", "second", "part"),
    [
        ("A-t1n.nii", "A-t1n.nii.gz", "two files for"),
        ("A_t1ce.nii.gz", "A_t1gd.nii.gz", "two files for"),
        ("HGG/A/A_t1.nii.gz", "LGG/A/A_t1.nii.gz", "two files for"),
        ("sub-1/anat/sub-1_acq-a_T1w.nii.gz", "sub-1/anat/sub-1_acq-b_T1w.nii.gz", "two files"),
        ("A-seg.nii", "A-seg.nii.gz", "two files for"),
        ("A_t1.nii.gz", "B-t1n.nii.gz", "brats2018 (A) and brats2023 (B)"),
    ],
)
def test_two_files_for_one_modality_and_mixed_namings(tmp_path, first, second, part):
    for name in (first, second):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    text = sentence(find_cases, tmp_path)
    assert part in text
    if "two files" in part:
        assert str(tmp_path / first) in text
        assert str(tmp_path / second) in text


def cut(size):
    """The last 8 bytes are the checksum: without them all voxels are there, and it is still cut."""
    return lambda content: content[:-size]


def head_of(content):
    return content[:30]


def flip_a_bit(content):
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def header(offset, kind, *values):
    """Change numbers in the header without anybody's checks."""

    def change(content):
        plain = bytearray(gzip.decompress(content))
        struct.pack_into(f"<{len(values)}{kind}", plain, offset, *values)
        return gzip.compress(bytes(plain))

    return change


@pytest.mark.parametrize(
    ("change", "part"),
    [
        *[(cut(size), "is truncated") for size in (1, 8, 9, 40)],
        (head_of, "is truncated"),
        (flip_a_bit, "is damaged"),
        (gzip.decompress, "rename it to A-t1n.nii,"),
        (lambda content: gzip.compress(b"not a nifti at all" * 40), "is not a NIfTI file"),
        (header(42, "h", 32000, 32000, 32000), "absurd size"),  # nor is the memory taken
        (header(42, "h", -6, 5, 4), "absurd size"),
        (header(108, "f", 0.0), "damaged header"),  # voxels that do not follow it
        (header(108, "f", np.nan), "damaged header"),
    ],
)
def test_a_damaged_file(volume, change, part):
    volume.write_bytes(change(volume.read_bytes()))
    for action in (read, grid, read_label) if change is head_of else (read,):
        text = sentence(action, volume)
        assert text.startswith(str(volume))
        assert part in text


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is not a NIfTI file"),
        (b"not a nifti at all" * 40, "is not a NIfTI file"),
        (b"\x1f\x8b", "is compressed: rename it to A-t1n.nii.gz, or unpack it"),
    ],
)
def test_no_nifti_and_one_cut_short(tmp_path, content, fault):
    path = save(tmp_path / "A-t1n.nii")
    path.write_bytes(path.read_bytes()[:-1])
    assert "591 of 592 bytes" in sentence(read, path)
    path.write_bytes(content)
    assert sentence(read, path) == f"{path} {fault}"


def test_a_missing_file_a_broken_link_and_a_folder(tmp_path):
    assert "No such file" in sentence(read, tmp_path / "gone.nii.gz")
    (tmp_path / "A-t1n.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    assert "dangling link" in sentence(find_cases, tmp_path)
    (tmp_path / "B-t1n.nii").mkdir()
    assert "cannot read" in sentence(read, tmp_path / "B-t1n.nii")


COLOUR = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
BAD = np.where(DATA.T < 3, np.nan, DATA.T)


@pytest.mark.parametrize(
    ("data", "dtype", "part"),
    [
        (BAD, np.float32, "3 NaN or infinite"),
        (np.where(np.isnan(BAD), np.inf, BAD), np.float32, "3 NaN or infinite"),
        (np.where(np.isnan(BAD), -np.inf, BAD), np.float32, "3 NaN or infinite"),
        (np.zeros((6, 5, 4)), np.int16, "zero everywhere"),
        (np.zeros((6, 5, 4)), COLOUR, "plain numbers"),
        *[(np.ones(s), np.int16, "must be 3-D") for s in ((6, 5, 4, 3), (6, 5))],
    ],
)
def test_voxels_that_are_no_picture(tmp_path, data, dtype, part):
    path = tmp_path / "A-t1n.nii.gz"
    save_unchecked(path, data, dtype)
    text = sentence(read, path)
    assert text.startswith(str(path))
    assert part in text
    if part == "must be 3-D":
        assert part in sentence(grid, path)


@pytest.mark.parametrize("data", [DATA.T / 7, np.full((6, 5, 4), np.nan)])
def test_label_values_that_are_no_integers(tmp_path, data):
    path = tmp_path / "A-seg.nii.gz"
    save_unchecked(path, data)
    assert sentence(read_label, path).startswith(f"{path} is not a segmentation")
