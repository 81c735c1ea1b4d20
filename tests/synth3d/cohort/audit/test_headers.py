"""Corrected copies: one grid a case by SimpleITK and nibabel alike, voxels to the last bit."""

import gzip
import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from synth3d.cohort import AuditRequest, find_cases, run_audit
from synth3d.errors import InputError
from synth3d.images import check_same_grid

LPS = np.array([[-3.0, 0, 0, 4], [0, -3, 0, 60], [0, 0, 3, 7], [0, 0, 0, 1]])
MOVED = LPS + np.pad([[12.0], [0], [0]], ((0, 1), (3, 0)))
SHEARED = LPS.copy()
SHEARED[0, 1] = 0.15
FIELDS = ("datatype", "scl_slope", "scl_inter", "descrip", "aux_file")


def cohort(root, edits, plain=()):
    """Two cases; ``edits`` are the header fields or forms of a role, for ``all`` or by name."""
    for number, role in [(n, role) for n in range(2) for role in ("t1n", "t1c", "t2w", "seg")]:
        path = root / f"BraTS-GLI-0000{number}-000" / f"BraTS-GLI-0000{number}-000-{role}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        how = edits.get(role, edits.get("all", {}))
        header = nib.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_data_shape((5, 6, 7))
        header.set_qform(how.get("q", LPS), 1)
        header.set_sform(how.get("s", LPS), 1)
        header.set_xyzt_units("mm")
        header["scl_slope"], header["scl_inter"], header["aux_file"] = 0.25, 0, b"kept"
        for name in how.keys() - {"q", "s"}:
            header[name] = how[name]
        header["magic"], header["vox_offset"] = b"n+1", 352
        voxels = np.random.default_rng(number).integers(0, 4, 210).astype(np.int16) * 4
        content = header.binaryblock + bytes(4) + voxels.tobytes()
        path.write_bytes(content if role in plain else gzip.compress(content))
    return root


def raw(path):
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


NAN = [1, np.nan, 3, 3, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"all": {"s": SHEARED, "qform_code": 0}}, "orthonormal"),
        ({"all": {"qform_code": 0, "sform_code": 0}}, "left from right"),
        ({"t1c": {"qform_code": 0, "sform_code": 0}}, "from .*t1n.*lost"),
        ({"seg": {"q": np.eye(4), "s": np.eye(4)}}, "from .*t1n.*lost"),
        ({"t1c": {"pixdim": NAN, "sform_code": 0}}, "from .*t1n.*lost"),
        ({"t1c": {"q": MOVED, "sform_code": 2}}, "from its sform"),
        ({"all": {"sform_code": 2}, "t1c": {"s": MOVED, "sform_code": 2}}, "as nnU-Net reads"),
        ({"t1c": {"xyzt_units": 1}}, "from its sform"),
        ({"all": {"pixdim": NAN}}, "from its sform"),
        ({"t2w": {"s": LPS * [[1.00004], [1], [1], [1]]}}, "as nnU-Net reads"),
    ],
)
def test_copies_lie_on_one_grid_and_hold_the_same_voxels(tmp_path, capsys, edits, words):
    source, out = cohort(tmp_path / "in", edits, plain=("t1n",)), tmp_path / "out"
    before = {path: path.read_bytes() for path in source.rglob("*.nii.gz")}
    assert run_audit(AuditRequest(source, fix_headers=out)) == 0
    told = capsys.readouterr().out
    assert len(told.splitlines()) == 8
    assert re.search(words, told)
    for case in find_cases(out):
        files = [*case.images.values(), case.label]
        check_same_grid(files)
        seen = []
        for path in files:
            old, new = raw(source / path.relative_to(out)), raw(path)
            assert old[348:] == new[348:]
            for name in FIELDS:
                one, two = (nib.Nifti1Header(b[:348], check=False)[name] for b in (old, new))
                assert one.tobytes() == two.tobytes()
            image = SimpleITK.ReadImage(str(path))
            seen.append((*image.GetSpacing(), *image.GetDirection(), *image.GetOrigin()))
            affine = np.diag([-1, -1, 1, 1]) @ nib.load(path).affine
            edges = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
            np.testing.assert_allclose(affine[:3, :3], edges, atol=1e-5)
        np.testing.assert_allclose(seen, [seen[0]] * len(seen), rtol=1e-6, atol=1e-5)
    assert {path: path.read_bytes() for path in before} == before


def test_a_case_without_a_remedy_is_named_and_left_out(tmp_path, capsys):
    source = cohort(tmp_path / "in", {"t1c": {"q": MOVED, "s": MOVED}})
    assert run_audit(AuditRequest(source, fix_headers=tmp_path / "out")) == 1
    assert capsys.readouterr().out.count("error: BraTS-GLI") == 2
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    for out in (source / "there", source):
        with pytest.raises(InputError, match="only read"):
            run_audit(AuditRequest(source, fix_headers=out))
    with pytest.raises(InputError, match="already there"):
        run_audit(AuditRequest(source, fix_headers=tmp_path))
