import gzip
import shutil

import numpy as np
import pytest
from scipy import ndimage

from synth3d.cohort import find_cases, make_splits
from synth3d.cohort.splits import Splits
from synth3d.cohort.twins import find_twins, refuse_twins
from synth3d.errors import InputError
from synth3d.images.volumes import read, write_new


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Eight phantoms on the finest grid that is quick to make."""
    from synth3d.phantom.cohort import make_cohort

    folder = tmp_path_factory.mktemp("twins") / "cohort"
    make_cohort(folder, cases=8, size=48, seed=0)
    return folder


FIRST, TWIN = "Phantom-00000-000", "Phantom-00100-000"


def copies(data, affine):
    """What a copy can look like: (name, voxels, affine, type)."""
    turned = np.diag([1.0, -1.0, 1.0, 1.0]) @ affine
    yield "scaled", data * 0.37, affine, np.float32
    yield "offset", np.where(data > 0, data, -1000), affine, np.float32
    yield "flipped", data[:, ::-1], turned, np.float32
    yield "mirrored", data[:, :, ::-1], affine, np.float32
    yield "padded", np.pad(data, ((3, 0), (0, 5), (2, 2))), affine, np.float32
    yield "turned", data.transpose(0, 2, 1), affine[:, [1, 0, 2, 3]], np.float32


def test_no_two_phantoms_are_taken_for_one(cohort):
    assert find_twins(find_cases(cohort)) == []


@pytest.mark.parametrize("how", ["bytes", "gzip", "resampled", *range(6)])
def test_a_copy_on_another_side_is_refused_by_name(cohort, tmp_path, how):
    shutil.copytree(cohort, tmp_path / "c")
    source = read(cohort / FIRST / f"{FIRST}-t1n.nii.gz")
    there = tmp_path / "c" / TWIN / f"{TWIN}-t1n.nii.gz"
    there.parent.mkdir()
    if how == "bytes":
        shutil.copy(source.path, there)
    elif how == "gzip":
        there.write_bytes(gzip.compress(gzip.decompress(source.path.read_bytes()), 1))
    elif how == "resampled":
        write_new(there, ndimage.zoom(source.data, 1.3, order=1), source.affine, np.float32)
    else:
        _, *what = list(copies(source.data, source.affine))[how]
        write_new(there, *what)
    cases = find_cases(tmp_path / "c")
    ((one, other, _),) = find_twins(cases)
    assert (one, other) == (FIRST, TWIN)
    rest = tuple(case.name for case in cases if case.name not in (FIRST, TWIN))
    with pytest.raises(InputError, match=f"{FIRST} .train. and {TWIN} .test."):
        refuse_twins(cases, Splits((FIRST, *rest), (), (TWIN,)))
    refuse_twins(cases, Splits((FIRST, TWIN), (), rest))
    refuse_twins(cases, Splits((FIRST,), (), rest, (TWIN,)))  # excluded: in no figure


def test_a_fingerprint_is_remembered_until_the_file_changes(cohort, tmp_path, monkeypatch):
    from synth3d.cohort import twins

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(twins, "WORTH_KEEPING", 0)
    shutil.copytree(cohort, tmp_path / "c")
    cases = find_cases(tmp_path / "c")
    assert find_twins(cases) == []
    looked_at = []
    inner = twins.fingerprint
    monkeypatch.setattr(twins, "fingerprint", lambda path: looked_at.append(path) or inner(path))
    assert find_twins(cases) == []
    assert not looked_at
    changed = cases[1].images["t1n"]
    source = read(cases[0].images["t1n"])
    write_new(changed, source.data * 2, source.affine, np.float32)
    ((one, other, _),) = find_twins(cases)
    assert (one, other, looked_at) == (cases[0].name, cases[1].name, [changed])


def test_damaged_and_empty_images_are_nobodys_twin(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "c")
    for case in find_cases(tmp_path / "c")[:2]:
        case.images["t1n"].write_bytes(b"no image" + case.name.encode())
    for case in find_cases(tmp_path / "c")[2:4]:
        write_new(case.images["t1n"], np.zeros((4, 5, 6)) + len(case.name), np.eye(4), np.int16)
        with case.images["t1n"].open("ab") as file:
            file.write(gzip.compress(case.name.encode()))
    cases = find_cases(tmp_path / "c")
    refuse_twins(cases, make_splits(cases))
