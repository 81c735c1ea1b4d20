import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from synth3d.images.volumes import read_label, write_new

SUFFIXES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("convert_brats_to_nnunet")


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


def test_what_a_case_lacks_or_is_taken_comes_from_the_completed_cohort(script, cohort, tmp_path):
    completed = tmp_path / "completed"
    shutil.copytree(cohort, completed)
    (cohort / "Brats18_TOY_B_1" / "Brats18_TOY_B_1_flair.nii.gz").unlink()
    for out, taken, flags in (("a", [0, 1], []), ("b", [1, 1], ["--take", "flair"])):
        call = [str(cohort), str(tmp_path / out), "--completed", str(completed), *flags]
        assert script.main(call) == 0
        entries = dataset_json(tmp_path / out)["dataset"].values()
        lent = [[str(completed) in path for path in entry["images"]] for entry in entries]
        assert lent == [[False] * 3 + [bool(flair)] for flair in taken]


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


def write_case(folder, name, tokens, values, ending=".nii.gz"):
    """A case whose label holds ``values``, on a grid that is not the standard one."""
    affine = np.array([[-1.5, 0, 0, 9], [0, -1, 0, 11], [0, 0, 2, -7], [0, 0, 0, 1.0]])
    generator = np.random.default_rng(sum(map(ord, name)))
    for token in tokens[:4]:
        image = generator.integers(1, 500, (14, 16, 18))
        write_new(folder / name / f"{name}{token}{ending}", image, affine, np.int16)
    label = generator.choice([0, *values], (14, 16, 18))
    write_new(folder / name / f"{name}{tokens[4]}{ending}", label, affine, np.uint8)


OLD = ("_t1", "_t1ce", "_t2", "_flair", "_seg")
NEW = ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")
RELEASES = {
    "2018": (("Brats18_CBICA_AAB_1", "Brats18_TCIA01_131_1"), OLD, (1, 2, 4), ".nii.gz"),
    "2019": (("BraTS19_2013_0_1", "BraTS19_CBICA_ABC_1"), OLD, (1, 2, 4), ".nii"),
    "2020": (("BraTS20_Training_001", "BraTS20_Training_002"), OLD, (1, 2, 4), ".nii"),
    "2021": (("BraTS2021_00000", "BraTS2021_00002"), OLD, (1, 2, 4), ".nii.gz"),
    "2023": (("BraTS-GLI-00000-000", "BraTS-MEN-00004-000"), NEW, (1, 2, 3), ".nii.gz"),
    "2024": (("BraTS-GLI-00005-100", "BraTS-GLI-00005-101"), NEW, (1, 2, 3, 4), ".nii.gz"),
}


@pytest.mark.parametrize("layout", ["--reference", "--link", "--copy"])
@pytest.mark.parametrize("release", RELEASES)
def test_every_release_becomes_the_same_labels(script, tmp_path, release, layout):
    names, tokens, values, ending = RELEASES[release]
    for name in names:
        write_case(tmp_path / "in", name, tokens, values, ending)
    assert script.main([str(tmp_path / "in"), str(tmp_path / "raw"), layout]) == 0
    described = dataset_json(tmp_path / "raw")
    assert (described["numTraining"], described["file_ending"]) == (2, ending)
    enhancing = 4 if max(values) == 4 and 3 not in values else 3
    for name in names:
        folder = tmp_path / "raw" / "Dataset501_BraTS"
        placed = folder / "labelsTr" / f"{name}{ending}"
        new = Path(described["dataset"][name]["label"]) if layout == "--reference" else placed
        old = read_label(tmp_path / "in" / name / f"{name}{tokens[4]}{ending}").data
        expected = np.select([old == 1, old == 2, old == enhancing], [1, 2, 3], 0)
        np.testing.assert_array_equal(read_label(new).data, expected)


def test_a_dry_run_tells_and_writes_nothing(script, cohort, tmp_path, capsys):
    assert script.main([str(cohort), str(tmp_path / "raw"), "--dry-run", "--copy"]) == 0
    told = capsys.readouterr().out
    assert "4 → 3" in told
    assert "Brats18_TOY_B_1" in told
    assert not (tmp_path / "raw").exists()


def test_a_finished_dataset_is_replaced_only_when_told(script, cohort, tmp_path, capsys):
    call = [str(cohort), str(tmp_path / "raw"), "--copy"]
    assert script.main(call) == 0
    shutil.rmtree(cohort / "Brats18_TOY_B_1")
    assert script.main(call) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert dataset_json(tmp_path / "raw")["numTraining"] == 2
    assert script.main([*call, "--overwrite"]) == 0
    assert dataset_json(tmp_path / "raw")["numTraining"] == 1
    assert len(list((tmp_path / "raw" / "Dataset501_BraTS" / "imagesTr").iterdir())) == 4
    assert len(list(cohort.rglob("*.nii.gz"))) == 5


def test_an_unfinished_dataset_is_gone_on_with(script, cohort, tmp_path, capsys):
    call = [str(cohort), str(tmp_path / "raw"), "--link"]
    assert script.main(call) == 0
    folder = tmp_path / "raw" / "Dataset501_BraTS"
    (folder / "dataset.json").unlink()
    next((folder / "imagesTr").iterdir()).unlink()
    assert script.main(call) == 0
    assert len(list((folder / "imagesTr").iterdir())) == 8
    (folder / "dataset.json").unlink()
    shutil.rmtree(cohort / "Brats18_TOY_B_1")
    assert script.main(call) == 2
    assert "Brats18_TOY_B_1_0000.nii.gz" in capsys.readouterr().err
    assert not (folder / "dataset.json").exists()


def test_a_case_on_two_grids_is_refused(script, cohort, tmp_path, capsys):
    path = cohort / "Brats18_TOY_A_1" / "Brats18_TOY_A_1_t2.nii.gz"
    write_new(path, np.ones((3, 4, 5)), np.diag([2, 1, 1, 1]), np.int16)
    assert script.main([str(cohort), str(tmp_path / "raw")]) == 2
    assert "Brats18_TOY_A_1_t2.nii.gz differs" in capsys.readouterr().err


def test_the_release_can_be_told_and_is_checked(script, cohort, tmp_path, capsys):
    flags = [str(cohort), str(tmp_path / "raw"), "--labels"]
    assert script.main([*flags, "brats2023"]) == 2
    assert "Brats18_TOY_A_1_seg.nii.gz [4]" in capsys.readouterr().err
    assert script.main([*flags, "brats2024"]) == 0
    label = dataset_json(tmp_path / "raw")["dataset"]["Brats18_TOY_A_1"]["label"]
    assert np.unique(read_label(Path(label)).data).tolist() == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["--reference", "--link", "--copy"])
def test_stock_nnunet_finds_it_in_order(script, tmp_path, plan_and_preprocess, layout):
    for release in ("2018", "2021"):
        names, tokens, values, ending = RELEASES[release]
        for name in names:
            write_case(tmp_path / "in", name, tokens, values, ending)
    assert script.main([str(tmp_path / "in"), str(tmp_path / "raw"), layout]) == 0
    code, told = plan_and_preprocess(tmp_path / "raw", 501, "-c", "3d_fullres")
    assert code == 0, told
    assert "verify_dataset_integrity Done" in told
    assert "Error" not in told
    ready = tmp_path / "preprocessed" / "Dataset501_BraTS" / "nnUNetPlans_3d_fullres"
    assert len(list(ready.glob("*_seg.b2nd"))) == 4
