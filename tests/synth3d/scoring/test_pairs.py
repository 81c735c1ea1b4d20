"""Claims about which synthetic file is scored against which real one."""

import json

import pytest

from synth3d.errors import InputError
from synth3d.scoring.pairs import find_pairs

A, B, OTHER = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000", "BraTS-GLI-00003-000"


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def cohort(folder, cases=(A, B), sequences=("t1n", "t1c", "t2w", "t2f")):
    for case in cases:
        touch(folder / case, *(f"{case}-{role}.nii.gz" for role in (*sequences, "seg")))
    return folder


@pytest.fixture
def real(tmp_path):
    return cohort(tmp_path / "real")


@pytest.fixture
def synthetic(tmp_path):
    """Write these files, empty, into the folder that is to be scored."""
    return lambda *names: touch(tmp_path / "synthetic", *names)


def refusal(*args, **kwargs):
    with pytest.raises(InputError) as caught:
        find_pairs(*args, **kwargs)
    return str(caught.value)


LAYOUTS = {
    "case folders": (f"{A}/{A}-t2f.nii.gz", f"{B}/{B}-t2f.nii.gz"),
    "flat, as a BraSyn container writes": (f"{A}-t2f.nii.gz", f"{B}-t2f.nii.gz"),
    "names of 2018": (f"{A}_flair.nii", f"{B}_flair.nii"),
    "nnU-Net channel, no dataset.json": (f"{A}_0003.nii.gz", f"{B}_0003.nii.gz"),
    "case ids alone": (f"{A}.nii.gz", f"{B}.nii.gz"),
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_finds_the_files_of_every_layout(real, synthetic, names):
    folder = synthetic(*names)
    found = find_pairs(real, folder, "t2f")
    assert [pair.case for pair in found.pairs] == [A, B]
    assert [pair.real.name for pair in found.pairs] == [f"{A}-t2f.nii.gz", f"{B}-t2f.nii.gz"]
    assert [pair.synthetic.relative_to(folder).as_posix() for pair in found.pairs] == list(names)
    assert [pair.label.name for pair in found.pairs] == [f"{A}-seg.nii.gz", f"{B}-seg.nii.gz"]
    assert [pair.patient for pair in found.pairs] == ["00001", "00002"]
    assert found.naming == "brats2023"


def test_a_table_says_whose_cases_and_labels_they_are_and_nothing_of_other_labels(real, synthetic):
    table = real / "cohort.csv"
    rows = [f"{c},Ann,{c}/{c}-t2f.nii.gz,{c}/{c}-seg.nii.gz,ped" for c in (A, B)]
    table.write_text("\n".join(["case,patient,t2f,seg,labels", *rows]))
    folder = synthetic(f"{A}-t2f.nii.gz", f"{B}-t2f.nii.gz")
    told = find_pairs(table, folder, "t2f").pairs
    assert [(pair.patient, pair.labelled.scheme) for pair in told] == [("Ann", "ped")] * 2
    others = touch(real.parent / "labels", f"{A}.nii.gz", f"{B}.nii.gz")
    assert [p.labelled.scheme for p in find_pairs(table, folder, "t2f", None, others).pairs] == [
        None, None,
    ]  # fmt: skip


def test_reads_nnunet_channels_by_name_and_not_by_number(real, synthetic):
    folder = synthetic(*(f"imagesTs/{c}_{i:04d}.nii.gz" for c in (A, B) for i in range(2)))
    channels = {"channel_names": {"0": "FLAIR", "1": "T1"}}
    (folder / "dataset.json").write_text(json.dumps(channels))
    found = find_pairs(real, folder, "t2f")
    assert [pair.synthetic.name for pair in found.pairs] == [f"{A}_0000.nii.gz", f"{B}_0000.nii.gz"]


def test_takes_the_one_sequence_that_each_case_has(real, synthetic):
    found = find_pairs(real, synthetic(f"{A}-t2f.nii.gz", f"{B}-t1c.nii.gz"))
    assert [pair.modality for pair in found.pairs] == ["t2f", "t1c"]
    assert found.pairs[1].real.name == f"{B}-t1c.nii.gz"


def test_says_what_an_unnamed_sequence_was_taken_for(real, synthetic):
    folder = synthetic(f"{A}_0003.nii.gz", f"{B}_0003.nii.gz")
    notes = find_pairs(real, folder, "t2f").notes
    assert any("*_0003" in note for note in notes)
    assert any("taken for t2f" in note for note in notes)
    for other in (folder, real):
        text = refusal(real, other)
        assert f"{real} holds several sequences of 2 cases, {A}, {B}" in text
        assert "--modality" in text


def test_never_pairs_by_position(real, synthetic):
    """As many files as cases, in the same order, and other ids: sorting would pair them."""
    folder = synthetic(*(f"{case}-t2f.nii.gz" for case in (OTHER, "BraTS-GLI-00004-000")))
    text = refusal(real, folder, "t2f")
    assert f"{folder} has no t2f for 2 cases, {A}, {B}" in text
    assert f"files of 2 cases, {OTHER}, BraTS-GLI-00004-000, which {real} lacks" in text


def test_tells_all_that_is_missing_at_once(tmp_path, synthetic):
    cases = [f"BraTS-GLI-0000{i}-000" for i in range(6)]
    real = cohort(tmp_path / "real", cases[:5])
    (real / cases[4] / f"{cases[4]}-t2f.nii.gz").unlink()
    folder = synthetic(*(f"{case}-t2f.nii.gz" for case in (cases[0], cases[4], cases[5])))
    text = refusal(real, folder, "t2f")
    assert f"has no t2f for 3 cases, {cases[1]}, {cases[2]}, {cases[3]}" in text
    assert f"{real} has no t2f for 1 case, {cases[4]}" in text
    assert f"has files of 1 case, {cases[5]}, which {real} lacks" in text


def test_tells_what_is_missing_when_no_sequence_was_named(real, synthetic):
    folder = synthetic(f"{A}-t2f.nii.gz")
    assert f"{folder} has no t2f for 1 case, {B}" in refusal(real, folder)
    cohort(real, [OTHER])
    synthetic(f"{B}-t1c.nii.gz")
    assert f"{folder} has no file for 1 case, {OTHER}" in refusal(real, folder)


def test_a_choice_of_cases_narrows_what_is_asked_for(real, synthetic):
    folder = synthetic(f"{A}-t2f.nii.gz", f"{OTHER}-t2f.nii.gz")
    found = find_pairs(real, folder, cases=[A])
    assert [pair.case for pair in found.pairs] == [A]
    assert any("left out" in note and OTHER in note for note in found.notes)
    assert "nobody" in refusal(real, folder, cases=[A, "nobody"])


@pytest.mark.parametrize(
    "names",
    [
        (f"{A}_0003.nii.gz", f"{A}_0001.nii.gz", f"{B}_0003.nii.gz", f"{B}_0001.nii.gz"),
        (f"{A}_0003.nii.gz", f"{B}_0001.nii.gz"),
        (f"{A}_0003.nii.gz", "somebody.nii.gz"),
    ],
)
def test_refuses_channels_that_could_mean_anything(real, synthetic, names):
    assert "dataset.json" in refusal(real, synthetic(*names), "t2f")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("head_0001.nii.gz", "head_0002.nii.gz"), ("head_0001.nii.gz", "head_0002.nii.gz")),
        (("anna.nii.gz", "bela.nii.gz"), ("x/anna.nii", "y/bela.nii")),
    ],
)
def test_names_of_no_naming_are_case_ids_also_where_they_end_in_four_digits(
    tmp_path, synthetic, ours, theirs
):
    found = find_pairs(touch(tmp_path / "r", *ours), synthetic(*theirs))
    assert [pair.case for pair in found.pairs] == [name.removesuffix(".nii.gz") for name in ours]
    assert [pair.modality for pair in found.pairs] == [None, None]
    assert found.naming == ""


def test_labels_of_another_folder(real, synthetic, tmp_path):
    folder = synthetic(f"{A}-t2f.nii.gz", f"{B}-t2f.nii.gz")
    labels = touch(tmp_path / "labels", f"{A}.nii.gz")
    assert f"{labels} has no label for 1 case, {B}" in refusal(real, folder, labels=labels)
    touch(labels, f"{B}-seg.nii.gz")
    found = find_pairs(real, folder, labels=labels)
    assert [pair.label.name for pair in found.pairs] == [f"{A}.nii.gz", f"{B}-seg.nii.gz"]
    touch(labels, f"{B}.nii.gz")
    assert f"both labels of {B}" in refusal(real, folder, labels=labels)


def test_what_a_reader_should_know_is_noted(real, synthetic, tmp_path):
    folder = synthetic(f"{A}-t2f.nii.gz", f"{B}-t2f.nii.gz", "error_map.nii.gz")
    (real / A / f"{A}-seg.nii.gz").unlink()
    found = find_pairs(real, folder)
    assert found.pairs[0].label is None
    odd, unlabelled = found.notes
    assert "error_map.nii.gz" in odd
    assert A in unlabelled
    links = tmp_path / "links"
    links.mkdir()
    (links / f"{B}-t2f.nii.gz").symlink_to(real / B / f"{B}-t2f.nii.gz")
    (note,) = find_pairs(real, links, cases=[B]).notes
    assert "is the real one itself" in note


def test_a_folder_of_some_cases_is_told_how_to_score_these_alone(real, tmp_path):
    folder = touch(tmp_path / "some", f"{A}-t2f.nii.gz")
    assert "--splits" in refusal(real, folder)
    assert find_pairs(real, folder, cases=[A]).pairs
    assert "--splits" not in refusal(real, folder, cases=[A, B])  # is chosen already


def test_refuses_folders_without_use(real, tmp_path):
    assert "no folder" in refusal(real, tmp_path / "nowhere")
    assert "is not a folder" in refusal(real, real / A / f"{A}-t2f.nii.gz")
    (tmp_path / "empty").mkdir()
    assert "no images" in refusal(real, tmp_path / "empty")
    twice = touch(tmp_path / "twice", f"x/{A}.nii.gz", f"y/{A}.nii.gz")
    assert "keep one of them" in refusal(real, twice, "t2f")
    double = touch(tmp_path / "double", f"x/{A}-t2f.nii.gz", f"y/{A}-t2f.nii.gz")
    assert "two files for t2f" in refusal(real, double, "t2f")
