"""Model folders whose JSON files are damaged, or odd and sound; no checkpoint is opened."""

import json

import pytest

from seg_eval.segmenter.model_folder import read_model_folder
from synth3d.errors import InputError

CONFIGURATION = {"normalization_schemes": ["ZScoreNormalization"] * 4}
PLANS = {"image_reader_writer": "SimpleITKIO", "configurations": {"3d_fullres": CONFIGURATION}}
DATASET = {
    "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"},
    "labels": {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]},
    "regions_class_order": [2, 1, 3],
}


@pytest.fixture
def written(tmp_path):
    def write(dataset=None, plans=None):
        folder = tmp_path / "Trainer__Plans__3d_fullres"
        (folder / "fold_0").mkdir(parents=True)
        (folder / "fold_0" / "checkpoint_final.pth").touch()
        (folder / "dataset.json").write_text(json.dumps(DATASET | (dataset or {})))
        (folder / "plans.json").write_text(json.dumps(PLANS | (plans or {})))
        return folder

    return write


def test_a_tissue_may_be_a_list_of_one_integer(written):
    labels = {"background": 0, "NCR": [1], "ED": [2], "ET": [3]}
    model = read_model_folder(written({"labels": labels, "regions_class_order": None}))
    assert model.table == {0: 0, 1: 1, 2: 2, 3: 3}


@pytest.mark.parametrize(
    ("dataset", "plans"),
    [
        ({"regions_class_order": [None, 1, 3]}, {}),
        ({"labels": {"background": "none", "NCR": 1, "ED": 2, "ET": 3}}, {}),
        ({}, {"configurations": {"3d_fullres": None}}),
        ({}, {"configurations": {"3d_fullres": {"normalization_schemes": None}}}),
        ({}, {"configurations": {"3d_fullres": CONFIGURATION | {"inherits_from": []}}}),
    ],
)
def test_nonsense_is_one_sentence(written, dataset, plans):
    folder = written(dataset, plans)
    with pytest.raises(InputError, match="is damaged, or not nnU-Net v2's"):
        read_model_folder(folder)
