"""No name of a case, run or arm leads out of its folder, whichever program is asked to write."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth3d.errors import InputError
from synth3d.files.names import LONGEST, fault_of, place, plain, refuse_names

BAD = [
    "", ".", "..", "../x", "a/b", "/abs", "a\\b", "C:x", "a:b", "x\0", "x\n", "x\x1b[31m",
    "\u202ex",
    "\ud800", "\udcff", ".hidden", "-rf", "--overwrite", "a.", "a ", " a", "CON", "nul.nii.gz",
    "com1", "LPT9.txt", "a*", "a?", "a|b", '"', "<b>", "x" * (LONGEST + 1), "ü" * LONGEST, None, 5,
]  # fmt: skip


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_name_that_could_lead_astray_is_refused_and_named_alone(tmp_path, name):
    assert fault_of(name)
    for call in (lambda: place(tmp_path, "good", name), lambda: refuse_names(["good", name])):
        with pytest.raises(InputError) as raised:
            call()
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < 500
    assert fault_of(plain(str(name))) is None


@given(st.text(max_size=300))
def test_whatever_the_name_the_file_lies_in_its_folder_or_is_refused(text):
    from pathlib import Path

    folder = Path("/out")
    assert place(folder, plain(text)).parent == folder
    try:
        path = place(folder, text, text)
    except InputError:
        assert fault_of(text)
    else:
        assert path.parent.parent == folder
        assert os.path.normpath(path) == str(path)
        assert plain(text) == text or len(text.encode()) > 100


@pytest.mark.parametrize("name", ["BraTS-GLI-00001-000", "sub-01_ses-2", "Ömer +1 (2)", "a..b"])
def test_names_of_the_field_stay_as_they_are(tmp_path, name):
    assert place(tmp_path, name, f"{name}.nii.gz") == tmp_path / name / f"{name}.nii.gz"


def test_no_folder_on_the_way_is_a_link_but_the_first_may_be(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "work").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "case").symlink_to(tmp_path)
    assert place(tmp_path / "work", "new", "x.json").parent.name == "new"
    with pytest.raises(InputError, match="is a link"):
        place(tmp_path / "work", "case", "x.json")
