"""A file is judged by its header before memory is taken, and is not read for ever."""

import gzip
import os
import resource
import struct
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from synth3d.errors import InputError
from synth3d.images.nifti import MOST_BEHIND
from synth3d.images.volumes import grid, read, read_label, write_new


def bomb(path, shape=(4, 5, 6), dtype=np.uint8, voxels=0, behind=0):
    """A header that promises ``shape``, so many voxels of zeros, and zeros behind them."""
    header = nib.Nifti1Header()
    header.set_data_shape((1, 1, 1))
    header.set_data_dtype(dtype)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    plain = bytearray(header.binaryblock)
    struct.pack_into("<3h", plain, 42, *shape)
    with gzip.open(path, "wb", 1) if path.name.endswith(".gz") else path.open("wb") as file:
        file.write(plain + bytes(4))
        left = voxels * np.dtype(dtype).itemsize + behind
        while left > 0:
            left -= file.write(bytes(min(left, 2**22)))
    return path


@pytest.mark.parametrize(
    ("name", "made", "told"),
    [
        ("a.nii.gz", {"shape": (1024, 1024, 1024)}, "absurd size"),
        ("a.nii.gz", {"shape": (512, 512, 600), "dtype": np.float64}, "absurd size"),
        ("a.nii.gz", {"shape": (600, 600, 600)}, "truncated"),
        ("a.nii.gz", {"shape": (600, 600, 600), "dtype": np.float32, "voxels": 9_000}, "truncated"),
        ("a.nii", {"shape": (600, 600, 600)}, "truncated"),
        ("a.nii.gz", {"voxels": 120, "behind": 2 * MOST_BEHIND}, "goes on for over 16 MiB"),
        ("a.nii", {"voxels": 120, "behind": 2 * MOST_BEHIND}, "goes on for over 16 MiB"),
    ],
)
def test_what_a_header_promises_is_weighed_first(tmp_path, name, made, told):
    path = bomb(tmp_path / name, **made)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for action in (read, read_label):
        with pytest.raises(InputError, match=told):
            action(path)
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_padding_behind_the_image_is_no_fault(tmp_path):
    assert not read_label(bomb(tmp_path / "a.nii.gz", voxels=120, behind=5000)).data.any()


def test_a_pipe_is_no_image(tmp_path):
    for name in ("A-t1n.nii", "A-t1n.nii.gz"):
        os.mkfifo(tmp_path / name)
        for action in (grid, read):
            with pytest.raises(InputError, match="a pipe or a device"):
                action(tmp_path / name)


@pytest.mark.slow
def test_the_largest_image_is_read_in_bounded_memory(tmp_path):
    """Scaled int16 of 512³: under 2 GB, though float64 of it alone would be 1 GB."""
    path = tmp_path / "a.nii.gz"
    write_new(path, np.ones((512, 512, 512), np.int16), np.eye(4), np.int16)
    program = (
        "import re, sys; from pathlib import Path; from synth3d.images import read; "
        "read(Path(sys.argv[1])); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    told = subprocess.run([sys.executable, "-c", program, path], capture_output=True, check=True)
    assert int(told.stdout) < 2 << 20
