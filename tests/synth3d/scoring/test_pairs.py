"""Claims about which synthetic file is scored against which real one."""

import json
import re

import pytest

from synth3d.errors import InputError
from synth3d.scoring.pairs import find_pairs

A, B = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"
ALL = ("t1n", "t1c", "t2w", "t2f")


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def cohort(folder, cases=(A, B), sequences=ALL):
    for case in cases:
        touch(folder / case, *(f"{case}-{role}.nii.gz" for role in (*sequences, "seg")))
    return folder


@pytest.fixture
def real(tmp_path):
    return cohort(tmp_path / "real")


LAYOUTS = {
    "case folders": (f"{A}/{A}-t2f.nii.gz", f"{B}/{B}-t2f.nii.gz"),
    "flat, as a BraSyn container writes": (f"{A}-t2f.nii.gz", f"{B}-t2f.nii.gz"),
    "names of 2018": (f"{A}_flair.nii", f"{B}_flair.nii"),
    "nnU-Net channel, no dataset.json": (f"{A}_0003.nii.gz", f"{B}_0003.nii.gz"),
    "case ids alone": (f"{A}.nii.gz", f"{B}.nii.gz"),
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_finds_the_files_of_every_layout(real, tmp_path, names):
    synthetic = touch(tmp_path / "synthetic", *names)
    found = find_pairs(real, synthetic, "t2f")
    assert [pair.case for pair in found.pairs] == [A, B]
    assert [pair.real.name for pair in found.pairs] == [f"{A}-t2f.nii.gz", f"{B}-t2f.nii.gz"]
    assert [pair.synthetic.relative_to(synthetic).as_posix() for pair in found.pairs] == list(names)
    assert [pair.label.name for pair in found.pairs] == [f"{A}-seg.nii.gz", f"{B}-seg.nii.gz"]
    assert [pair.patient for pair in found.pairs] == ["00001", "00002"]
    assert found.naming == "brats2023"


def test_reads_nnunet_channels_by_name_and_not_by_number(real, tmp_path):
    names = [f"imagesTs/{case}_{i:04d}.nii.gz" for case in (A, B) for i in range(2)]
    synthetic = touch(tmp_path / "Dataset001", *names)
    channels = {"channel_names": {"0": "FLAIR", "1": "T1"}}
    (synthetic / "dataset.json").write_text(json.dumps(channels))
    found = find_pairs(real, synthetic, "t2f")
    assert [pair.synthetic.name for pair in found.pairs] == [f"{A}_0000.nii.gz", f"{B}_0000.nii.gz"]


def test_takes_the_one_sequence_that_each_case_has(real, tmp_path):
    synthetic = touch(tmp_path / "synthetic", f"{A}-t2f.nii.gz", f"{B}-t1c.nii.gz")
    found = find_pairs(real, synthetic)
    assert [pair.modality for pair in found.pairs] == ["t2f", "t1c"]
    assert found.pairs[1].real.name == f"{B}-t1c.nii.gz"


def test_says_what_an_unnamed_sequence_was_taken_for(real, tmp_path):
    synthetic = touch(tmp_path / "synthetic", f"{A}_0003.nii.gz", f"{B}_0003.nii.gz")
    notes = find_pairs(real, synthetic, "t2f").notes
    assert f"no dataset.json says what *_0003 in {synthetic} is" in notes
    assert f"the names in {synthetic} say no sequence: taken for t2f" in notes
    with pytest.raises(InputError, match=r"real holds several sequences of 2 cases, .*--modality"):
        find_pairs(real, synthetic)


def test_completed_folders_need_to_be_told_the_sequence(real, tmp_path):
    synthetic = cohort(tmp_path / "completed")
    assert len(find_pairs(real, synthetic, "t2f").pairs) == 2
    with pytest.raises(InputError) as caught:
        find_pairs(real, synthetic)
    assert f"{synthetic} holds several sequences of 2 cases, {A}, {B}" in str(caught.value)
    assert "(t1c t1n t2f t2w): say which one to score with --modality" in str(caught.value)


def test_never_pairs_by_position(real, tmp_path):
    """As many files as cases, in the same order, and other ids: sorting would pair them."""
    others = ("BraTS-GLI-00003-000", "BraTS-GLI-00004-000")
    synthetic = touch(tmp_path / "synthetic", *(f"{case}-t2f.nii.gz" for case in others))
    with pytest.raises(InputError) as caught:
        find_pairs(real, synthetic, "t2f")
    assert str(caught.value) == (
        f"{synthetic} has no t2f for 2 cases, {A}, {B}; "
        f"{synthetic} has files of 2 cases, {others[0]}, {others[1]}, which {real} lacks"
    )


def test_tells_all_that_is_missing_at_once(tmp_path):
    cases = [f"BraTS-GLI-0000{i}-000" for i in range(6)]
    real = cohort(tmp_path / "real", cases[:5])
    (real / cases[4] / f"{cases[4]}-t2f.nii.gz").unlink()
    names = [f"{case}-t2f.nii.gz" for case in (cases[0], cases[4], cases[5])]
    synthetic = touch(tmp_path / "synthetic", *names)
    with pytest.raises(InputError) as caught:
        find_pairs(real, synthetic, "t2f")
    text = str(caught.value)
    assert f"has no t2f for 3 cases, {cases[1]}, {cases[2]}, {cases[3]}" in text
    assert f"{real} has no t2f for 1 case, {cases[4]}; choose other cases" in text
    assert f"has files of 1 case, {cases[5]}, which {real} lacks" in text


def test_tells_what_is_missing_when_no_sequence_was_named(real, tmp_path):
    synthetic = touch(tmp_path / "synthetic", f"{A}-t2f.nii.gz")
    with pytest.raises(InputError) as caught:
        find_pairs(real, synthetic)
    assert str(caught.value) == f"{synthetic} has no t2f for 1 case, {B}"
    cohort(real, ["BraTS-GLI-00003-000"])
    touch(synthetic, f"{B}-t1c.nii.gz")
    with pytest.raises(InputError) as caught:
        find_pairs(real, synthetic)
    assert str(caught.value) == f"{synthetic} has no file for 1 case, BraTS-GLI-00003-000"


def test_a_choice_of_cases_narrows_what_is_asked_for(real, tmp_path):
    synthetic = touch(tmp_path / "s", f"{A}-t2f.nii.gz", "BraTS-GLI-00009-000-t2f.nii.gz")
    found = find_pairs(real, synthetic, cases=[A])
    assert [pair.case for pair in found.pairs] == [A]
    assert any("left out" in note and "00009" in note for note in found.notes)
    with pytest.raises(InputError, match=f"{real} has no case called nobody"):
        find_pairs(real, synthetic, cases=[A, "nobody"])


@pytest.mark.parametrize(
    "names",
    [
        (f"{A}_0003.nii.gz", f"{A}_0001.nii.gz", f"{B}_0003.nii.gz", f"{B}_0001.nii.gz"),
        (f"{A}_0003.nii.gz", f"{B}_0001.nii.gz"),
        (f"{A}_0003.nii.gz", "somebody.nii.gz"),
    ],
)
def test_refuses_channels_that_could_mean_anything(real, tmp_path, names):
    synthetic = touch(tmp_path / "synthetic", *names)
    with pytest.raises(InputError, match=r"one channel number .*folder that holds dataset\.json"):
        find_pairs(real, synthetic, "t2f")


def test_ids_that_end_in_four_digits_are_ids(tmp_path):
    names = ("head_0001.nii.gz", "head_0002.nii.gz")
    real, synthetic = touch(tmp_path / "r", *names), touch(tmp_path / "s", *names)
    found = find_pairs(real, synthetic)
    assert [pair.case for pair in found.pairs] == ["head_0001", "head_0002"]
    assert [pair.modality for pair in found.pairs] == [None, None]
    assert found.naming == ""


def test_real_files_need_no_known_names(tmp_path):
    real = touch(tmp_path / "real", "anna.nii.gz", "bela.nii.gz")
    synthetic = touch(tmp_path / "synthetic", "x/anna.nii", "y/bela.nii")
    found = find_pairs(real, synthetic)
    assert [pair.synthetic.name for pair in found.pairs] == ["anna.nii", "bela.nii"]


def test_labels_of_another_folder(real, tmp_path):
    synthetic = touch(tmp_path / "synthetic", f"{A}-t2f.nii.gz", f"{B}-t2f.nii.gz")
    labels = touch(tmp_path / "labels", f"{A}.nii.gz")
    with pytest.raises(InputError, match=f"{labels} has no label for 1 case, {B}"):
        find_pairs(real, synthetic, labels=labels)
    touch(labels, f"{B}-seg.nii.gz")
    found = find_pairs(real, synthetic, labels=labels)
    assert [pair.label.name for pair in found.pairs] == [f"{A}.nii.gz", f"{B}-seg.nii.gz"]
    touch(labels, f"{B}.nii.gz")
    with pytest.raises(InputError, match=f"are both labels of {B}"):
        find_pairs(real, synthetic, labels=labels)


def test_a_case_without_label_is_noted(real, tmp_path):
    (real / A / f"{A}-seg.nii.gz").unlink()
    synthetic = touch(tmp_path / "synthetic", f"{A}-t2f.nii.gz", f"{B}-t2f.nii.gz")
    found = find_pairs(real, synthetic)
    assert found.pairs[0].label is None
    assert found.notes == (f"no label and so no tumour scores: 1 case, {A}",)


def test_a_link_to_the_real_file_is_noted(real, tmp_path):
    synthetic = tmp_path / "synthetic"
    synthetic.mkdir()
    for case in (A, B):
        (synthetic / f"{case}-t2f.nii.gz").symlink_to(real / case / f"{case}-t2f.nii.gz")
    notes = find_pairs(real, synthetic).notes
    assert notes == (f"the synthetic file is the real one itself: 2 cases, {A}, {B}",)


def test_refuses_folders_without_use(real, tmp_path):
    with pytest.raises(InputError, match="no folder"):
        find_pairs(real, tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a folder"):
        find_pairs(real, real / A / f"{A}-t2f.nii.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no images \(\.nii or \.nii\.gz\) under"):
        find_pairs(real, tmp_path / "empty")
    twice = touch(tmp_path / "twice", f"x/{A}.nii.gz", f"y/{A}.nii.gz")
    with pytest.raises(InputError, match="have one name: keep one of them"):
        find_pairs(real, twice, "t2f")
    double = touch(tmp_path / "double", f"x/{A}-t2f.nii.gz", f"y/{A}-t2f.nii.gz")
    with pytest.raises(InputError, match="has two files for t2f"):
        find_pairs(real, double, "t2f")


def test_images_that_fit_no_naming_are_noted(real, tmp_path):
    names = [f"{A}-t2f.nii.gz", f"{B}-t2f.nii.gz", "error_map.nii.gz"]
    synthetic = touch(tmp_path / "synthetic", *names)
    (note,) = find_pairs(real, synthetic).notes
    assert re.search(r"ignored in .*, as their names fit no naming: error_map\.nii\.gz", note)
