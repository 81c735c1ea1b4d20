import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from synth3d.volumes import read_label, write_new

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_brats_to_nnunet.py"
SUFFIXES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("convert_brats_to_nnunet", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cohort(tmp_path):
    """Two BraTS-2018-named cases, labels 0, 1, 2 and 4; each image holds its own number."""
    folder = tmp_path / "cohort"
    for number, name in enumerate(("Brats18_TOY_A_1", "Brats18_TOY_B_1")):
        for place, suffix in enumerate(SUFFIXES):
            image = np.full((3, 4, 5), 10 * number + place + 1)
            write_new(folder / name / f"{name}_{suffix}.nii.gz", image, np.eye(4), np.int16)
        label = np.array([0, 1, 2, 4] * 15).reshape(3, 4, 5)
        write_new(folder / name / f"{name}_seg.nii.gz", label, np.eye(4), np.uint8)
    return folder


def dataset_json(out):
    return json.loads((out / "Dataset501_BraTS" / "dataset.json").read_text())


def test_channels_are_in_brats_order_and_labels_consecutive(script, cohort, tmp_path, capsys):
    out = tmp_path / "raw"
    assert script.main([str(cohort), str(out)]) == 0
    described = dataset_json(out)
    assert described["channel_names"] == {"0": "t1n", "1": "t1c", "2": "t2w", "3": "t2f"}
    entry = described["dataset"]["Brats18_TOY_A_1"]
    assert [Path(p).name.split("_")[-1] for p in entry["images"]] == [
        f"{suffix}.nii.gz" for suffix in SUFFIXES
    ]
    assert np.unique(read_label(Path(entry["label"])).data).tolist() == [0, 1, 2, 3]
    assert "2 cases" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["--copy", "--link"])
def test_files_get_the_names_that_nnunet_wants(script, cohort, tmp_path, layout):
    out = tmp_path / "raw"
    assert script.main([str(cohort), str(out), layout]) == 0
    images = sorted(p.name for p in (out / "Dataset501_BraTS" / "imagesTr").iterdir())
    assert images[:2] == ["Brats18_TOY_A_1_0000.nii.gz", "Brats18_TOY_A_1_0001.nii.gz"]
    assert len(images) == 8


def test_what_a_case_lacks_comes_from_the_completed_cohort(script, cohort, tmp_path):
    completed = tmp_path / "completed"
    shutil.copytree(cohort, completed)
    (cohort / "Brats18_TOY_B_1" / "Brats18_TOY_B_1_flair.nii.gz").unlink()
    out = tmp_path / "raw"
    assert script.main([str(cohort), str(out), "--completed", str(completed)]) == 0
    described = dataset_json(out)["dataset"]
    first, second = (described[f"Brats18_TOY_{x}_1"]["images"] for x in "AB")
    assert str(completed) in second[3]
    assert not any(str(completed) in path for path in (*first, *second[:3]))


def test_a_channel_can_be_taken_where_the_case_has_it(script, cohort, tmp_path):
    completed = tmp_path / "completed"
    shutil.copytree(cohort, completed)
    out = tmp_path / "raw"
    flags = ["--completed", str(completed), "--take", "flair"]
    assert script.main([str(cohort), str(out), *flags]) == 0
    for entry in dataset_json(out)["dataset"].values():
        assert [str(completed) in path for path in entry["images"]] == [False] * 3 + [True]


def test_images_alone_go_where_nnunet_looks_for_test_cases(script, cohort, tmp_path):
    for label in cohort.rglob("*_seg.nii.gz"):
        label.unlink()
    out = tmp_path / "raw"
    assert script.main([str(cohort), str(out), "--no-labels"]) == 0
    assert len(list((out / "Dataset501_BraTS" / "imagesTs").iterdir())) == 8


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--id", "0"], "1 to 999"),
        (["--take", "flair"], "--take needs --completed"),
        (["--completed", "nowhere"], "nowhere"),
    ],
)
def test_bad_flags_get_one_sentence(script, cohort, tmp_path, capsys, flags, sentence):
    assert script.main([str(cohort), str(tmp_path / "raw"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error


def test_a_case_without_a_label_is_named(script, cohort, tmp_path, capsys):
    (cohort / "Brats18_TOY_A_1" / "Brats18_TOY_A_1_seg.nii.gz").unlink()
    assert script.main([str(cohort), str(tmp_path / "raw")]) == 2
    assert "Brats18_TOY_A_1" in capsys.readouterr().err
