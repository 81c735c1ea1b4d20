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
OURS = {"labels": {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("convert_nnunet_to_brats")


def write_cohort(folder, release, label=True, dtype=np.int16):
    """One case; its label, if any, has 0, 1, 2 and the release's enhancing tumour."""
    name, tokens, seg, enhancing, ending = COHORTS[release]
    for place, token in enumerate(tokens):
        image = np.arange(120).reshape(SHAPE) + place + 1
        write_new(folder / name / f"{name}{token}{ending}", image, AFFINE, dtype)
    values = np.resize([0, 1, 2, enhancing], SHAPE)
    if label:
        write_new(folder / name / f"{name}{seg}{ending}", values, AFFINE, np.uint8)
    return name, values


def predict(folder, name, values, described=OURS, affine=AFFINE):
    """A prediction file and, unless None, the dataset.json that nnU-Net leaves beside it."""
    write_new(folder / f"{name}.nii.gz", values, affine, np.uint8)
    if described is not None:
        (folder / "dataset.json").write_text(json.dumps(described))
    return folder


@pytest.mark.parametrize("label", [True, False], ids=["labelled", "unlabelled"])
@pytest.mark.parametrize("release", COHORTS)
def test_the_case_gets_its_own_names_integers_and_header(script, tmp_path, release, label):
    name, values = write_cohort(tmp_path / "in", release, label)
    _, tokens, seg, enhancing, ending = COHORTS[release]
    predicted = np.resize([3, 0, 0, 1, 2], SHAPE)
    folder = predict(tmp_path / "predicted", name, predicted)
    assert script.main([str(folder), str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    path = tmp_path / "out" / name / f"{name}{seg}{ending}"
    found = read_label(path)
    np.testing.assert_array_equal(found.data, np.where(predicted == 3, enhancing, predicted))
    own, image = nib.load(path).header, nib.load(
        tmp_path / "in" / name / f"{name}{seg if label else tokens[0]}{ending}"
    ).header  # fmt: skip
    np.testing.assert_array_equal(own.get_best_affine(), image.get_best_affine())
    for field in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
        np.testing.assert_array_equal(own[field], image[field])


@pytest.mark.parametrize("layout", ["--reference", "--copy"])
@pytest.mark.parametrize("release", COHORTS)
def test_there_and_back_again_is_no_change(script, load_script, tmp_path, release, layout):
    name, values = write_cohort(tmp_path / "in", release)
    forth = load_script("convert_brats_to_nnunet")
    assert forth.main([str(tmp_path / "in"), str(tmp_path / "raw"), layout]) == 0
    dataset = tmp_path / "raw" / "Dataset501_BraTS"
    described = json.loads((dataset / "dataset.json").read_text())
    ending = described["file_ending"]
    label = dataset / "labelsTr" / f"{name}{ending}"
    if layout == "--reference":
        label = Path(described["dataset"][name]["label"])
    (tmp_path / "predicted").mkdir()
    shutil.copy(label, tmp_path / "predicted" / f"{name}{ending}")
    shutil.copy(dataset / "dataset.json", tmp_path / "predicted")
    call = [str(tmp_path / "predicted"), str(tmp_path / "in"), str(tmp_path / "out"), "--flat"]
    assert script.main(call) == 0
    np.testing.assert_array_equal(read_label(tmp_path / "out" / f"{name}{ending}").data, values)


def test_swapped_integers_are_recognised(script, tmp_path):
    """As nnU-Net's own converter writes them; all wordings: tests of seg_eval's label names."""
    regions = {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
    name, _ = write_cohort(tmp_path / "in", "2018")
    described = {"labels": {"background": 0, **regions}}
    folder = predict(tmp_path / "p", name, np.resize([0, 1, 2, 3], SHAPE), described)
    assert script.main([str(folder), str(tmp_path / "in"), str(tmp_path / "out"), "--flat"]) == 0
    found = read_label(tmp_path / "out" / f"{name}.nii.gz").data
    np.testing.assert_array_equal(found, np.resize([0, 2, 1, 4], SHAPE))


def test_a_floating_case_gets_whole_numbers_on_its_grid(script, tmp_path):
    name, _ = write_cohort(tmp_path / "in", "2023", label=False, dtype=np.float32)
    folder = predict(tmp_path / "p", name, np.resize([0, 3], SHAPE))
    assert script.main([str(folder), str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    path = tmp_path / "out" / name / f"{name}-seg.nii.gz"
    np.testing.assert_allclose(read_unchecked(path).affine, AFFINE)
    assert nib.load(path).get_data_dtype() == np.uint8


def test_labels_decide_before_names(script, tmp_path):
    name, _ = write_cohort(tmp_path / "in", "2018")
    seg = tmp_path / "in" / name / f"{name}_seg.nii.gz"
    write_new(seg, np.resize([0, 1, 2, 3], SHAPE), AFFINE, np.uint8)
    folder = predict(tmp_path / "p", name, np.resize([0, 3], SHAPE))
    assert script.main([str(folder), str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert np.unique(read_label(tmp_path / "out" / name / seg.name).data).tolist() == [0, 3]


def test_a_dry_run_writes_nothing_and_files_are_kept(script, tmp_path, capsys):
    name, _ = write_cohort(tmp_path / "in", "2018")
    folder = predict(tmp_path / "p", name, np.zeros(SHAPE))
    call = [str(folder), str(tmp_path / "in"), str(tmp_path / "out")]
    assert script.main([*call, "--dry-run"]) == 0
    assert f"{name}_seg.nii.gz" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert script.main(call) == 0
    assert script.main(call) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert script.main([*call, "--overwrite"]) == 0


def test_the_input_is_never_written_over(script, tmp_path, capsys):
    name, values = write_cohort(tmp_path / "in", "2018")
    folder = predict(tmp_path / "p", name, np.zeros(SHAPE))
    call = [str(folder), str(tmp_path / "in"), str(tmp_path / "in"), "--overwrite"]
    assert script.main(call) == 2
    assert "over the input" in capsys.readouterr().err
    kept = read_label(tmp_path / "in" / name / f"{name}_seg.nii.gz").data
    np.testing.assert_array_equal(kept, values)


@pytest.mark.parametrize(
    ("flags", "described", "values", "affine", "sentence"),
    [
        ([], None, [0, 1], AFFINE, "give --codes"),
        (["--codes", "1,2"], None, [0, 1], AFFINE, "three different integers"),
        (["--codes", "1,2,2"], None, [0, 1], AFFINE, "three different integers"),
        ([], {"labels": 3}, [0, 1], AFFINE, "no labels"),
        ([], OURS, [0, 7], AFFINE, "[7]"),
        ([], OURS, [0, 1], np.eye(4), "differs"),
    ],
)
def test_bad_input_gets_one_sentence_and_no_file(
    script, tmp_path, capsys, flags, described, values, affine, sentence
):
    name, _ = write_cohort(tmp_path / "in", "2018")
    folder = predict(tmp_path / "p", name, np.resize(values, SHAPE), described, affine)
    call = [str(folder), str(tmp_path / "in"), str(tmp_path / "out"), *flags]
    assert script.main(call) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("checking")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert sentence in lines[0]
    assert not (tmp_path / "out").exists()


def test_all_strangers_are_named(script, tmp_path, capsys):
    write_cohort(tmp_path / "in", "2018")
    predict(tmp_path / "p", "nobody", np.zeros(SHAPE))
    predict(tmp_path / "p", "noone", np.zeros(SHAPE))
    assert script.main([str(tmp_path / "p"), str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    assert "nobody.nii.gz, noone.nii.gz" in capsys.readouterr().err


def test_four_alone_in_new_names_is_not_guessed(script, tmp_path, capsys):
    name, _ = write_cohort(tmp_path / "in", "2023")
    seg = tmp_path / "in" / name / f"{name}-seg.nii.gz"
    write_new(seg, np.resize([0, 1, 4], SHAPE), AFFINE, np.uint8)
    folder = predict(tmp_path / "p", name, np.resize([0, 3], SHAPE))
    call = [str(folder), str(tmp_path / "in"), str(tmp_path / "out")]
    assert script.main(call) == 2
    assert "cavity" in capsys.readouterr().err
    assert script.main([*call, "--labels", "brats2023"]) == 0
    assert np.unique(read_label(tmp_path / "out" / name / seg.name).data).tolist() == [0, 3]
