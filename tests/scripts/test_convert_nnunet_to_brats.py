import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from synth3d.images.volumes import read_label, read_unchecked, write_new

AFFINE = np.array([[-1.5, 0, 0, 9], [0, -1, 0, 11], [0, 0, 2, -7], [0, 0, 0, 1.0]])
SHAPE = (4, 5, 6)
OLD = ("_t1", "_t1ce", "_t2", "_flair")
NEW = ("-t1n", "-t1c", "-t2w", "-t2f")
COHORTS = {
    "2018": ("Brats18_CBICA_AAB_1", OLD, "_seg", 4, ".nii.gz"),
    "2020": ("BraTS20_Training_001", OLD, "_seg", 4, ".nii"),
    "2021": ("BraTS2021_00000", OLD, "_seg", 4, ".nii.gz"),
    "2023": ("BraTS-GLI-00000-000", NEW, "-seg", 3, ".nii.gz"),
}
MORE = {
    "2024": ("BraTS-GLI-00000-100", NEW, "-seg", 3, ".nii.gz"),
    "ped": ("BraTS-PED-00000-000", NEW, "-seg", 1, ".nii.gz"),
}
OURS = {"labels": {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("convert_nnunet_to_brats")


@pytest.fixture
def back(script, tmp_path, capsys):
    """Converts the predictions in ``p`` for the cohort ``in``; (exit code, what was said)."""

    def run(*flags: str, out: str = "out") -> tuple[int, str]:
        code = script.main([*(str(tmp_path / name) for name in ("p", "in", out)), *flags])
        said = capsys.readouterr()
        return code, said.err if code else said.out

    return run


def write_cohort(root, release, values=None, label=True, dtype=np.int16):
    """One case; its label, if any, has 0, 1, 2 and the release's enhancing tumour."""
    name, tokens, seg, enhancing, ending = (COHORTS | MORE)[release]
    folder = root / "in" / name
    for place, token in enumerate(tokens):
        image = np.arange(120).reshape(SHAPE) + place + 1
        write_new(folder / f"{name}{token}{ending}", image, AFFINE, dtype)
    values = np.resize(values or [0, 1, 2, enhancing], SHAPE)
    if label:
        write_new(folder / f"{name}{seg}{ending}", values, AFFINE, np.uint8)
    return name, values


def predict(root, name, values, described=OURS, affine=AFFINE):
    """A prediction and, unless None, the dataset.json that nnU-Net leaves beside it."""
    write_new(root / "p" / f"{name}.nii.gz", np.resize(values, SHAPE), affine, np.uint8)
    if described is not None:
        (root / "p" / "dataset.json").write_text(json.dumps(described))


def labels_in(path):
    return np.unique(read_label(path).data).tolist()


@pytest.mark.parametrize("label", [True, False], ids=["labelled", "unlabelled"])
@pytest.mark.parametrize("release", COHORTS)
def test_the_case_gets_its_own_names_integers_and_header(back, tmp_path, release, label):
    name, _ = write_cohort(tmp_path, release, label=label)
    _, tokens, seg, enhancing, ending = COHORTS[release]
    predicted = np.resize([3, 0, 0, 1, 2], SHAPE)
    predict(tmp_path, name, predicted)
    assert back()[0] == 0
    path = tmp_path / "out" / name / f"{name}{seg}{ending}"
    expected = np.where(predicted == 3, enhancing, predicted)
    np.testing.assert_array_equal(read_label(path).data, expected)
    model = tmp_path / "in" / name / f"{name}{seg if label else tokens[0]}{ending}"
    own, image = nib.load(path).header, nib.load(model).header
    np.testing.assert_array_equal(own.get_best_affine(), image.get_best_affine())
    for field in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
        np.testing.assert_array_equal(own[field], image[field])


@pytest.mark.parametrize("layout", ["--reference", "--copy"])
@pytest.mark.parametrize("release", [*COHORTS, *MORE])
def test_there_and_back_again_is_no_change(back, load_script, tmp_path, release, layout):
    name, values = write_cohort(tmp_path, release, [0, 1, 2, 3, 4] if release in MORE else None)
    forth = load_script("convert_brats_to_nnunet")
    assert forth.main([str(tmp_path / "in"), str(tmp_path / "raw"), layout]) == 0
    dataset = tmp_path / "raw" / "Dataset501_BraTS"
    described = json.loads((dataset / "dataset.json").read_text())
    ending = described["file_ending"]
    label = dataset / "labelsTr" / f"{name}{ending}"
    if layout == "--reference":
        label = Path(described["dataset"][name]["label"])
    (tmp_path / "p").mkdir()
    shutil.copy(label, tmp_path / "p" / f"{name}{ending}")
    shutil.copy(dataset / "dataset.json", tmp_path / "p")
    assert back("--flat")[0] == 0
    np.testing.assert_array_equal(read_label(tmp_path / "out" / f"{name}{ending}").data, values)


def test_swapped_integers_are_recognised(back, tmp_path):
    """As nnU-Net's own converter writes them; all wordings: tests of seg_eval's label names."""
    regions = {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
    name, _ = write_cohort(tmp_path, "2018")
    predict(tmp_path, name, [0, 1, 2, 3], {"labels": {"background": 0, **regions}})
    assert back("--flat")[0] == 0
    found = read_label(tmp_path / "out" / f"{name}.nii.gz").data
    np.testing.assert_array_equal(found, np.resize([0, 2, 1, 4], SHAPE))


def test_a_floating_case_gets_whole_numbers_on_its_grid(back, tmp_path):
    name, _ = write_cohort(tmp_path, "2023", label=False, dtype=np.float32)
    predict(tmp_path, name, [0, 3])
    assert back()[0] == 0
    path = tmp_path / "out" / name / f"{name}-seg.nii.gz"
    np.testing.assert_allclose(read_unchecked(path).affine, AFFINE)
    assert nib.load(path).get_data_dtype() == np.uint8


def test_labels_decide_before_names_and_four_alone_in_new_names_is_not_guessed(back, tmp_path):
    old, _ = write_cohort(tmp_path, "2018", values=[0, 1, 2, 3])
    predict(tmp_path, old, [0, 3])
    assert back(out="a")[0] == 0
    assert labels_in(tmp_path / "a" / old / f"{old}_seg.nii.gz") == [0, 3]
    for folder in ("in", "p"):
        shutil.rmtree(tmp_path / folder)
    new, _ = write_cohort(tmp_path, "2023", values=[0, 4])
    predict(tmp_path, new, [0, 3])
    code, said = back(out="b")
    assert (code, "brats2018" in said, "brats2024" in said) == (2, True, True)
    assert not (tmp_path / "b").exists()
    assert back("--labels", "ped", out="b")[0] == 0
    assert labels_in(tmp_path / "b" / new / f"{new}-seg.nii.gz") == [0, 1]


def test_a_dry_run_writes_nothing_and_files_are_kept(back, tmp_path):
    name, values = write_cohort(tmp_path, "2018")
    predict(tmp_path, name, [0])
    code, said = back("--dry-run")
    assert (code, f"{name}_seg.nii.gz" in said) == (0, True)
    assert not (tmp_path / "out").exists()
    assert back()[0] == 0
    code, said = back()
    assert (code, "--overwrite" in said) == (2, True)
    assert back("--overwrite")[0] == 0
    code, said = back("--overwrite", out="in")
    assert (code, "over the input" in said) == (2, True)
    kept = read_label(tmp_path / "in" / name / f"{name}_seg.nii.gz").data
    np.testing.assert_array_equal(kept, values)


@pytest.mark.parametrize(
    ("flags", "described", "values", "affine", "sentence"),
    [
        ([], None, [0, 1], AFFINE, "give --codes"),
        (["--codes", "1,2"], None, [0, 1], AFFINE, "three different integers"),
        (["--codes", "1,2,2"], None, [0, 1], AFFINE, "three different integers"),
        ([], {"labels": 3}, [0, 1], AFFINE, "no labels; say it with --codes"),
        ([], OURS, [0, 7], AFFINE, "label values [7] are none of 0, 1, 2, 3"),
        ([], OURS, [0, 1], np.eye(4), "differs"),
    ],
)
def test_bad_input_gets_one_sentence_and_no_file(
    back, tmp_path, flags, described, values, affine, sentence
):
    name, _ = write_cohort(tmp_path, "2018")
    predict(tmp_path, name, values, described, affine)
    code, said = back(*flags)
    (line,) = [line for line in said.splitlines() if "left]" not in line]
    assert code == 2
    assert line.startswith("error: ")
    assert sentence in line
    assert not (tmp_path / "out").exists()


def test_all_strangers_are_named(back, tmp_path):
    write_cohort(tmp_path, "2018")
    predict(tmp_path, "nobody", [0])
    predict(tmp_path, "noone", [0])
    code, said = back()
    assert (code, "nobody.nii.gz, noone.nii.gz" in said) == (2, True)
