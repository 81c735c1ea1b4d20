import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from synth3d.images.volumes import read_label, write_new

OLD = ("_t1", "_t1ce", "_t2", "_flair", "_seg")
NEW = ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")
RELEASES = {
    "2018": (("Brats18_CBICA_AAB_1", "Brats18_TCIA01_131_1"), OLD, (1, 2, 4), ".nii.gz"),
    "2019": (("BraTS19_2013_0_1", "BraTS19_CBICA_ABC_1"), OLD, (1, 2, 4), ".nii"),
    "2020": (("BraTS20_Training_001", "BraTS20_Training_002"), OLD, (1, 2, 4), ".nii"),
    "2021": (("BraTS2021_00000", "BraTS2021_00002"), OLD, (1, 2, 4), ".nii.gz"),
    "2023": (("BraTS-GLI-00000-000", "BraTS-MEN-00004-000"), NEW, (1, 2, 3), ".nii.gz"),
    "2024": (("BraTS-GLI-00005-100", "BraTS-GLI-00005-101"), NEW, (1, 2, 3, 4), ".nii.gz"),
    "ped": (("BraTS-PED-00005-000", "BraTS-PED-00006-000"), NEW, (1, 2, 3, 4), ".nii.gz"),
}
CODES = {
    "2023": {1: 1, 2: 2, 3: 3},
    "2024": {1: 1, 2: 2, 3: 3, 4: 4},
    "ped": {1: 3, 2: 1, 3: 4, 4: 2},
}
A, B = RELEASES["2018"][0]


def write_cohort(folder, release):
    """Two cases on a grid that is not the standard one."""
    names, tokens, values, ending = RELEASES[release]
    affine = np.array([[-1.5, 0, 0, 9], [0, -1, 0, 11], [0, 0, 2, -7], [0, 0, 0, 1.0]])
    for name in names:
        generator = np.random.default_rng(sum(map(ord, name)))
        for token in tokens[:4]:
            image = generator.integers(1, 500, (14, 16, 18))
            write_new(folder / name / f"{name}{token}{ending}", image, affine, np.int16)
        label = generator.choice([0, *values], (14, 16, 18))
        write_new(folder / name / f"{name}{tokens[4]}{ending}", label, affine, np.uint8)
    return folder


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("convert_brats_to_nnunet")


@pytest.fixture
def cohort(tmp_path):
    return write_cohort(tmp_path / "in", "2018")


@pytest.fixture
def forth(script, tmp_path, capsys):
    """Converts the cohort ``in``; (exit code, what was said)."""

    def run(*flags: str, out: str = "raw") -> tuple[int, str]:
        code = script.main([str(tmp_path / "in"), str(tmp_path / out), *flags])
        said = capsys.readouterr()
        return code, said.err if code else said.out

    return run


@pytest.fixture
def dataset(tmp_path):
    return tmp_path / "raw" / "Dataset501_BraTS"


def described(dataset):
    return json.loads((dataset / "dataset.json").read_text())


def test_channels_are_in_brats_order_and_labels_consecutive(forth, cohort, dataset):
    code, said = forth()
    assert (code, "2 cases" in said) == (0, True)
    found = described(dataset)
    assert found["channel_names"] == {"0": "t1n", "1": "t1c", "2": "t2w", "3": "t2f"}
    entry = found["dataset"][A]
    assert [Path(p).name for p in entry["images"]] == [f"{A}{token}.nii.gz" for token in OLD[:4]]
    assert np.unique(read_label(Path(entry["label"])).data).tolist() == [0, 1, 2, 3]


def test_what_a_case_lacks_or_is_taken_comes_from_the_completed_cohort(forth, cohort, tmp_path):
    completed = tmp_path / "completed"
    shutil.copytree(cohort, completed)
    (cohort / B / f"{B}_flair.nii.gz").unlink()
    for out, taken, flags in (("a", [0, 1], []), ("b", [1, 1], ["--take", "flair"])):
        assert forth("--completed", str(completed), *flags, out=out)[0] == 0
        entries = described(tmp_path / out / "Dataset501_BraTS")["dataset"].values()
        lent = [[str(completed) in path for path in entry["images"]] for entry in entries]
        assert lent == [[False] * 3 + [bool(flair)] for flair in taken]


def test_images_alone_go_where_nnunet_looks_for_test_cases(forth, cohort, dataset):
    for label in cohort.rglob("*_seg.nii.gz"):
        label.unlink()
    assert forth("--no-labels")[0] == 0
    placed = list((dataset / "imagesTs").iterdir())
    assert len(placed) == 8
    assert not {p.stat().st_ino for p in placed} & {p.stat().st_ino for p in cohort.rglob("*.gz")}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--id", "0"], "1 to 999"),
        (["--take", "flair"], "--take needs --completed"),
        (["--completed", "nowhere"], "nowhere"),
        (["--labels", "brats2023"], f"{A}_seg.nii.gz: label values [4] are none of brats2023"),
    ],
)
def test_bad_flags_get_one_sentence(forth, cohort, flags, sentence):
    code, error = forth(*flags)
    assert code == 2
    assert "error: " in error
    assert sentence in error


@pytest.mark.parametrize("layout", ["--reference", "--link", "--copy"])
@pytest.mark.parametrize("release", RELEASES)
def test_every_release_becomes_the_same_labels(forth, dataset, tmp_path, release, layout):
    names, tokens, _, ending = RELEASES[release]
    write_cohort(tmp_path / "in", release)
    assert forth(layout)[0] == 0
    found = described(dataset)
    assert (found["numTraining"], found["file_ending"]) == (2, ending)
    codes = {0: 0} | CODES.get(release, {1: 1, 2: 2, 4: 3})
    assert set(found["labels"]) - {"background", "WT", "TC", "ET"} == (
        {"2024": {"RC"}, "ped": {"CC"}}.get(release, set())
    )
    for name in names:
        placed = dataset / "labelsTr" / f"{name}{ending}"
        new = Path(found["dataset"][name]["label"]) if layout == "--reference" else placed
        old = read_label(tmp_path / "in" / name / f"{name}{tokens[4]}{ending}").data
        expected = np.vectorize(codes.get)(old)
        np.testing.assert_array_equal(read_label(new).data, expected)


def test_a_dry_run_tells_and_writes_nothing(forth, cohort, tmp_path):
    code, told = forth("--dry-run", "--copy")
    assert code == 0
    assert "4 → 3" in told
    assert B in told
    assert not (tmp_path / "raw").exists()


def test_a_finished_dataset_is_replaced_only_when_told(forth, cohort, dataset):
    assert forth("--copy")[0] == 0
    shutil.rmtree(cohort / B)
    code, said = forth("--copy")
    assert (code, "--overwrite" in said) == (2, True)
    assert described(dataset)["numTraining"] == 2
    assert forth("--copy", "--overwrite")[0] == 0
    assert described(dataset)["numTraining"] == 1
    assert len(list((dataset / "imagesTr").iterdir())) == 4
    assert len(list(cohort.rglob("*.nii.gz"))) == 5


def test_an_unfinished_dataset_is_gone_on_with(forth, cohort, dataset):
    assert forth("--link")[0] == 0
    (dataset / "dataset.json").unlink()
    next((dataset / "imagesTr").iterdir()).unlink()
    assert forth("--link")[0] == 0
    assert len(list((dataset / "imagesTr").iterdir())) == 8
    (dataset / "dataset.json").unlink()
    shutil.rmtree(cohort / B)
    code, said = forth("--link")
    assert (code, f"{B}_0000.nii.gz" in said) == (2, True)
    assert not (dataset / "dataset.json").exists()


def test_a_case_on_two_grids_is_refused(forth, cohort):
    path = cohort / A / f"{A}_t2.nii.gz"
    write_new(path, np.ones((14, 16, 18)), np.diag([2, 1, 1, 1]), np.int16)
    code, said = forth()
    assert (code, f"{A}_t2.nii.gz differs" in said) == (2, True)


def test_the_release_can_be_told(forth, cohort, dataset):
    assert forth("--labels", "brats2024")[0] == 0
    assert described(dataset)["labels"]["RC"] == [4]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["--reference", "--link", "--copy"])
def test_stock_nnunet_finds_it_in_order(forth, tmp_path, plan_and_preprocess, layout):
    write_cohort(tmp_path / "in", "2024")
    write_cohort(tmp_path / "in", "ped")
    assert forth(layout)[0] == 0
    code, told = plan_and_preprocess(tmp_path / "raw", 501, "-c", "3d_fullres")
    assert code == 0, told
    assert "verify_dataset_integrity Done" in told
    assert "Error" not in told
    ready = tmp_path / "preprocessed" / "Dataset501_BraTS" / "nnUNetPlans_3d_fullres"
    assert len(list(ready.glob("*_seg.b2nd"))) == 4
