"""A cohort becomes a raw dataset that nnU-Net reads as meant."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from seg_eval.segmenter.raw_dataset import RawPlan, RawRequest, write_raw_dataset
from synth3d.cohort import MODALITIES, Case, find_cases
from synth3d.errors import InputError
from synth3d.images.volumes import read_label, write_new

SHAPE = (4, 5, 6)
NAMES_2018 = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", "seg": "seg"}


def write_case(root: Path, name: str, values: tuple[int, ...], brats2018: bool = False) -> None:
    for index, kind in enumerate((*MODALITIES, "seg")):
        data = np.full(SHAPE, 10.0 * (index + 1))
        if kind == "seg":
            data[:] = 0
            data[0, 0, : len(values)] = values
        tail = f"_{NAMES_2018[kind]}" if brats2018 else f"-{kind}"
        write_new(root / name / f"{name}{tail}.nii.gz", data, np.diag([1, 2, 3, 1]), np.int16)


@pytest.fixture
def cohort_2018(tmp_path) -> list[Case]:
    write_case(tmp_path / "in", "Brats18_A_1", (1, 2, 4), brats2018=True)
    write_case(tmp_path / "in", "Brats18_B_1", (1, 2), brats2018=True)
    return find_cases(tmp_path / "in")


@pytest.fixture
def cohort_2023(tmp_path) -> list[Case]:
    for number in (1, 2):
        write_case(tmp_path / "in", f"BraTS-GLI-0000{number}-000", (1, 2, 3))
    return find_cases(tmp_path / "in")


@pytest.fixture
def write(tmp_path):
    """The cases as ``raw/Dataset601_Toy``."""

    def written(cases: list[Case], number: int = 601, name: str = "Toy", **options) -> RawPlan:
        return write_raw_dataset(RawRequest(tmp_path / "raw", cases, number, name, **options))

    return written


def description(folder: Path) -> dict:
    return json.loads((folder / "dataset.json").read_text())


def test_files_are_used_where_they_lie_and_matched_by_name(write, tmp_path, cohort_2023):
    raw = write(cohort_2023, channels=("t2f", "t1n"))
    found = description(raw.folder)
    assert raw.folder == tmp_path / "raw" / "Dataset601_Toy"
    assert found["channel_names"] == {"0": "t2f", "1": "t1n"}
    case = cohort_2023[0]
    assert found["dataset"][case.name] == {
        "images": [str(case.images["t2f"]), str(case.images["t1n"])],
        "label": str(case.label),
    }
    assert raw.files[case.name] == (case.images["t2f"], case.images["t1n"], case.label)
    assert [path.name for path in raw.folder.iterdir()] == ["dataset.json"]


def test_labels_1_2_4_are_rewritten_to_1_2_3_on_the_same_grid(write, cohort_2018):
    raw = write(cohort_2018)
    for case in cohort_2018:
        old, new = read_label(case.label), read_label(raw.files[case.name][-1])
        np.testing.assert_array_equal(new.data, np.where(old.data == 4, 3, old.data))
        np.testing.assert_array_equal(new.affine, old.affine)


def test_rewritten_labels_are_found_from_anywhere(write, tmp_path, cohort_2018, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = write_raw_dataset(RawRequest(Path("raw"), cohort_2018, 601, "Toy"))
    listed = description(raw.folder)["dataset"][cohort_2018[0].name]
    monkeypatch.chdir(tmp_path.parent)
    assert Path(listed["label"]).is_file()
    assert all(map(os.path.isfile, listed["images"]))


def test_a_second_run_changes_nothing(write, tmp_path, cohort_2018):
    def contents() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in (tmp_path / "raw").rglob("*") if p.is_file()}

    first = write(cohort_2018)
    before = contents()
    assert write(cohort_2018) == first
    assert contents() == before


@pytest.mark.parametrize("keep", [True, False])
def test_cases_of_several_schemes_become_one(write, tmp_path, keep):
    """Only files of those that differ are rewritten; a cavity and a cyst have a place or none."""
    for name, values in (
        ("GLI-1-000", (1, 2, 3)),
        ("GLI-2-100", (2, 3, 4)),
        ("PED-3-000", (1, 2, 3, 4)),
    ):
        write_case(tmp_path / "in", f"BraTS-{name}", values)
    cases = find_cases(tmp_path / "in")
    raw = write(cases, keep_tissues=keep)
    found = [np.unique(read_label(raw.files[case.name][-1]).data).tolist() for case in cases]
    assert found == [
        [0, 1, 2, 3],
        *([[0, 2, 3, 4], [0, 1, 2, 3, 5]] if keep else [[0, 2, 3], [0, 1, 2, 3]]),
    ]
    assert [raw.recoded(case.name) for case in cases] == [False, not keep, True]
    said = description(raw.folder)
    assert set(said["labels"]) == {"background", "WT", "TC", "ET", *(("CC", "RC") if keep else ())}
    assert len(said["regions_class_order"]) == len(said["labels"]) - 1


def test_a_file_can_be_replaced_and_then_need_not_exist(write, cohort_2023):
    synthetic = cohort_2023[0].images["t1n"]
    cohort_2023[0].images["t2f"].unlink()
    name = cohort_2023[0].name
    raw = write(cohort_2023, replace={name: {"t2f": synthetic}})
    assert raw.files[name][3] == synthetic


@pytest.mark.parametrize("layout", ["link", "copy"])
def test_standard_names_hold_the_same_bytes(write, cohort_2018, layout):
    raw = write(cohort_2018, layout=layout)
    assert "dataset" not in description(raw.folder)
    for case in cohort_2018:
        for channel, modality in enumerate(MODALITIES):
            placed = raw.folder / "imagesTr" / f"{case.name}_{channel:04d}.nii.gz"
            assert placed.read_bytes() == case.images[modality].read_bytes()
            assert placed.samefile(case.images[modality]) == (layout == "link")
        label = raw.folder / "labelsTr" / f"{case.name}.nii.gz"
        assert set(np.unique(read_label(label).data)) <= {0, 1, 2, 3}


def test_cases_without_labels_become_test_images(write, cohort_2023):
    raw = write(cohort_2023, layout="link", labels=False)
    assert len(list((raw.folder / "imagesTs").iterdir())) == 8
    assert description(raw.folder)["numTraining"] == 0
    assert {len(files) for files in raw.files.values()} == {4}


def test_all_missing_files_are_named_at_once(write, cohort_2023):
    cohort_2023[0].images["t2f"].unlink()
    cohort_2023[1].images["t1c"].unlink()
    with pytest.raises(InputError, match=r"00001-000 lacks t2f; .*00002-000 lacks t1c"):
        write(cohort_2023)


def test_a_cohort_without_any_tumour_is_refused(write, tmp_path):
    write_case(tmp_path / "in", "BraTS-GLI-00001-000", ())
    with pytest.raises(InputError, match="no case has a labelled voxel"):
        write(find_cases(tmp_path / "in"))


@pytest.mark.parametrize(("number", "name"), [(0, "Toy"), (1000, "Toy"), (5, "a b"), (5, "")])
def test_ids_and_names_that_nnunet_refuses_are_refused(write, cohort_2023, number, name):
    with pytest.raises(InputError, match="dataset"):
        write(cohort_2023, number, name)


def test_an_id_means_one_dataset(write, cohort_2023):
    write(cohort_2023)
    with pytest.raises(InputError, match="Dataset601_Toy"):
        write(cohort_2023, name="Other")
