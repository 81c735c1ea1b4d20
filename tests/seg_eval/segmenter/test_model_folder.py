"""Model folders from elsewhere: recognised by what they say, trusted by nobody's word but ours."""

import hashlib
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seg_eval.segmenter.model_folder import read_model_folder, trained_here
from seg_eval.segmenter.nnunet import (
    Segmenter,
    open_model_folder,
    train_segmenter,
)
from seg_eval.segmenter.preprocessing import prepare
from seg_eval.segmenter.raw_dataset import RawRequest, write_raw_dataset
from seg_eval.segmenter.trust import sealed
from synth3d.cohort import MODALITIES
from synth3d.errors import InputError
from synth3d.files import read_json, write_json

pytestmark = pytest.mark.filterwarnings("ignore")  # third parties warn while being imported

PLAIN = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
SPACING = (1, 1, 1)


@pytest.fixture(scope="module")
def volumes(cases, volumes_of) -> dict[str, np.ndarray]:
    return volumes_of(cases[4])


@pytest.fixture(scope="module")
def expected(ours, volumes) -> np.ndarray:
    labels = Segmenter(ours).predict(volumes, SPACING)
    assert labels.any(), "a prediction of nothing would prove nothing"
    return labels


@pytest.fixture
def foreign(ours, tmp_path):
    """A copy of our folder, without our receipt, whose JSON files may be changed."""

    def make(plans=None, name=None, **described) -> Path:
        folder = tmp_path / (name or "nnUNetTrainer__nnUNetPlans__3d_fullres")
        shutil.copytree(ours, folder, ignore=shutil.ignore_patterns("model.json"))
        for file, change in (("dataset.json", described), ("plans.json", plans or {})):
            content = json.loads((folder / file).read_text()) | change
            (folder / file).write_text(json.dumps(content))
        return folder

    return make


def opened(folder: Path, **options) -> Segmenter:
    return open_model_folder(folder, trust=True, **options)


def oracle(folder: Path, stack: np.ndarray, folds: tuple = (0,)) -> np.ndarray:
    """nnU-Net's own prediction."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from seg_eval.segmenter.environment import nnunet_environment

    with nnunet_environment(1):
        device = torch.device("cpu")
        predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), folds)
        return predictor.predict_single_npy_array(stack, {"spacing": list(SPACING)})


def test_our_own_folder_is_nnunets_and_predicts_as_nnunet_does(ours, volumes, expected):
    stack = np.stack([volumes[name] for name in MODALITIES]).astype(np.float32)
    np.testing.assert_array_equal(oracle(ours, stack), expected)


def test_another_order_of_channels_is_followed(foreign, volumes, expected):
    folder = foreign(channel_names={"0": "FLAIR", "1": "T1", "2": "T1ce", "3": "T2"})
    segmenter = opened(folder)
    assert segmenter.channels == ("t2f", "t1n", "t1c", "t2w")
    renamed = {name: volumes[MODALITIES[place]] for place, name in enumerate(segmenter.channels)}
    np.testing.assert_array_equal(segmenter.predict(renamed, SPACING), expected)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_model_of_plain_labels_is_understood(cases, tmp_path, volumes, swapped, toy):
    raw = write_raw_dataset(RawRequest(tmp_path / "raw", cases[:3], 502, "Plain"))
    description = json.loads((raw.folder / "dataset.json").read_text())
    del description["regions_class_order"]
    # The same voxels; only the names of 1 and 2 differ, so the answer must too.
    description["labels"] = PLAIN | ({"NCR": 2, "ED": 1} if swapped else {})
    (raw.folder / "dataset.json").write_text(json.dumps(description))
    model = train_segmenter(prepare(raw, tmp_path, toy, cases[:3]))
    stack = np.stack([volumes[name] for name in MODALITIES]).astype(np.float32)
    painted = oracle(model, stack)
    assert painted.any()
    wanted = np.array([0, 2, 1, 3] if swapped else [0, 1, 2, 3])[painted]
    segmenter = Segmenter(model)
    assert not segmenter.model.codes.regions
    np.testing.assert_array_equal(segmenter.predict(volumes, SPACING), wanted)


@pytest.fixture
def ensemble(foreign, frozen) -> Path:
    folder = foreign()
    other = train_segmenter(frozen, seed=1)
    shutil.copytree(other / "fold_0", folder / "fold_1")
    shutil.copytree(other / "fold_0", folder / "fold_all")
    return folder


def test_all_numbered_folds_are_averaged_and_fold_all_serves_alone(ensemble, volumes, expected):
    stack = np.stack([volumes[name] for name in MODALITIES]).astype(np.float32)
    both = opened(ensemble)
    assert both.model.folds == ("0", "1")
    mean = both.predict(volumes, SPACING)
    np.testing.assert_array_equal(mean, oracle(ensemble, stack, (0, 1)))
    assert (mean != expected).any()
    for fold in ("fold_0", "fold_1"):
        shutil.rmtree(ensemble / fold)
    assert read_model_folder(ensemble).folds == ("all",)


def test_published_best_checkpoints_are_taken(foreign, volumes, expected):
    folder = foreign()
    fold = folder / "fold_0"
    (fold / "checkpoint_final.pth").replace(fold / "checkpoint_best.pth")
    np.testing.assert_array_equal(opened(folder).predict(volumes, SPACING), expected)


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_without_trust_no_checkpoint_is_opened(foreign, tmp_path, capsys):
    folder, sprung = foreign(), tmp_path / "sprung"
    (folder / "model.json").write_text(json.dumps({"finished": True}))  # anyone can write one
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(pickle.dumps(Trap(sprung)))
    for own in (None, tmp_path / "elsewhere"):
        with pytest.raises(InputError, match="Python pickles, which run any code .*--trust"):
            open_model_folder(folder, trust=False, own=own)
    assert not sprung.exists()
    with pytest.raises(InputError, match="cannot be loaded by nnunetv2"):
        opened(folder)
    assert sprung.exists(), "the trap works, so the refusal above has a meaning"
    assert "pickles" in capsys.readouterr().out


def test_a_model_of_our_own_work_folder_needs_no_trust(ours, work, volumes, expected, capsys):
    segmenter = open_model_folder(ours, trust=False, own=work)
    np.testing.assert_array_equal(segmenter.predict(volumes, SPACING), expected)
    assert capsys.readouterr().out == ""


def test_a_receipt_counts_only_in_our_folder_and_for_its_checkpoint(ours, tmp_path):
    home, away = tmp_path / "home", tmp_path / "away"
    model = Path(shutil.copytree(ours, home / ours.name))
    found = read_model_folder(model)
    assert [trained_here(found, own) for own in (home, away, None)] == [True, False, False]
    (home / "link").symlink_to(shutil.copytree(ours, away / ours.name))
    assert not trained_here(replace(found, folder=home / "link"), home)
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    whole, receipt = checkpoint.read_bytes(), json.loads((model / "model.json").read_text())
    checkpoint.write_bytes(whole + b"x")
    assert not trained_here(found, home)
    # What another can write: the truth about another checkpoint, but no seal of ours on it.
    told = {"checkpoint_sha256": hashlib.sha256(whole + b"x").hexdigest()}
    bare = {"finished": True}
    for forged in (receipt | told, bare | told, bare, {**bare, "seal": None}, receipt | {"x": 1}):
        (model / "model.json").write_text(json.dumps(forged))
        assert not trained_here(found, home)
    checkpoint.write_bytes(whole)
    (model / "model.json").write_text(json.dumps(dict(reversed(receipt.items()))))
    assert trained_here(found, home)


@pytest.mark.parametrize("finished", [True, False])
def test_a_training_in_a_work_folder_of_somebody_elses_is_neither_taken_nor_gone_on_with(
    frozen, monkeypatch, finished
):
    model = train_segmenter(frozen, seed=11)
    receipt = read_json(model / "model.json")
    if not finished:
        write_json(model / "model.json", sealed(receipt | {"finished": False}))
    monkeypatch.setenv("XDG_STATE_HOME", str(model.parent / "another-user"))
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    with pytest.raises(InputError, match="none that you trained .*--trust"):
        train_segmenter(frozen, seed=11)
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before
    assert train_segmenter(frozen, seed=11, trust=True) == model


def test_a_foreign_trainer_class_is_found_through_nnunets_variable(
    foreign, tmp_path, monkeypatch, volumes, expected
):
    folder = foreign()
    path = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    torch.save(checkpoint | {"trainer_name": "StrangeTrainer"}, path)
    with pytest.raises(InputError, match=r"class StrangeTrainer, which .* nnUNet_extTrainer"):
        opened(folder)
    outside = tmp_path / "trainers"
    outside.mkdir()
    (outside / "strange.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class StrangeTrainer(nnUNetTrainer): pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(outside))
    segmenter = opened(folder)
    np.testing.assert_array_equal(segmenter.predict(volumes, SPACING), expected)


def test_a_two_dimensional_model_is_taken(foreign, volumes):
    """With untrained weights; that it is fed and read rightly is what counts."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = foreign(name="nnUNetTrainer__nnUNetPlans__2d")
    plans = PlansManager(str(folder / "plans.json"))
    torch.manual_seed(0)
    network = nnUNetTrainer.build_network_architecture(
        plans, plans.get_configuration("2d"), 4, 3, False
    )
    checkpoint = {"network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer"}
    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save(checkpoint | {"init_args": {"configuration": "2d"}}, path)
    labels = opened(folder).predict(volumes, SPACING)
    stack = np.stack([volumes[name] for name in MODALITIES]).astype(np.float32)
    np.testing.assert_array_equal(labels, oracle(folder, stack))
    misnamed = folder.with_name("nnUNetTrainer__nnUNetPlans__3d_fullres")
    folder.rename(misnamed)
    with pytest.raises(InputError, match="of another configuration"):
        opened(misnamed)


def test_a_renamed_folder_is_known_by_its_log(foreign, volumes, expected):
    folder = foreign(name="our-best-segmenter")
    log = folder / "fold_0" / "debug.json"
    log.write_text(json.dumps({"configuration_name": "3d_fullres"}))
    np.testing.assert_array_equal(opened(folder).predict(volumes, SPACING), expected)
    log.unlink()
    with pytest.raises(InputError, match="does not tell which of"):
        read_model_folder(folder)


CONFIGURATION = {"normalization_schemes": ["ZScoreNormalization"] * 4}
PLANS = {"image_reader_writer": "SimpleITKIO", "configurations": {"3d_fullres": CONFIGURATION}}
FOUR = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
DATASET = {
    "channel_names": FOUR,
    "labels": {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]},
    "regions_class_order": [2, 1, 3],
}


@pytest.fixture
def written(tmp_path):
    """A model folder of which there is nothing but what reading it needs."""

    def write(dataset=None, plans=None):
        folder = tmp_path / "Trainer__Plans__3d_fullres"
        (folder / "fold_0").mkdir(parents=True)
        (folder / "fold_0" / "checkpoint_final.pth").touch()
        (folder / "dataset.json").write_text(json.dumps(DATASET | (dataset or {})))
        (folder / "plans.json").write_text(json.dumps(PLANS | (plans or {})))
        return folder

    return write


@pytest.mark.parametrize(
    "names",
    [
        ("T1", "T1ce", "T2", "FLAIR"),
        ("t1_native", "T1Gd", "t2w", "T2-FLAIR"),
        ("MR_T1", "t1 post contrast", "T2-weighted", "flair"),
    ],
)
def test_channels_are_known_by_name(written, names):
    named = {str(index): name for index, name in enumerate(names)}
    assert read_model_folder(written({"channel_names": named})).channels == MODALITIES


def test_a_tissue_may_be_a_list_of_one_integer(written):
    labels = {"background": 0, "NCR": [1], "ED": [2], "ET": [3]}
    model = read_model_folder(written({"labels": labels, "regions_class_order": None}))
    assert model.table == {0: 0, 1: 1, 2: 2, 3: 3}


def channels(**changed):
    return {"channel_names": FOUR | {key[1:]: name for key, name in changed.items()}}, {}


def configured(**values):
    return {}, {"configurations": {"3d_fullres": CONFIGURATION | values}}


DAMAGED = "is damaged, or not nnU-Net v2's"
CT = ["CTNormalization", *["ZScoreNormalization"] * 3]
ORIENTED = "NibabelIOWithReorient"


@pytest.mark.parametrize(
    ("described", "sentence"),
    [
        (channels(_1="DWI"), "name of channel 1 says too little: 'dwi'"),
        (channels(_0="CT"), "name of channel 0 says too little: 'ct'"),
        (channels(_1="t1w"), "two channels of one modality"),
        (channels(_1="T1"), "two channels of one modality"),
        (channels(_5="T1"), "numbered from 0"),
        (({"channel_names": {"0": "T1", "1": "T2"}}, {}), "4 normalisation schemes for 2 channels"),
        (({"labels": PLAIN | {"vessel": 4}, "regions_class_order": None}, {}), "to us: vessel"),
        (configured(normalization_schemes=CT), "normalises t1n by CTNormalization"),
        (configured(previous_stage="3d_lowres"), "second stage of a cascade"),
        (({}, {"image_reader_writer": ORIENTED}), f"read by {ORIENTED}"),
        (({}, {"configurations": None}), "no configurations"),
        (({}, {"configurations": {"2d": {}}}), "does not tell which of 2d it is"),
        (configured(inherits_from=[]), DAMAGED),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(written, described, sentence):
    folder = written(*described)
    with pytest.raises(InputError, match=sentence):
        read_model_folder(folder)


def test_another_network_than_the_plans_have_is_refused(foreign, ours):
    plans = json.loads((ours / "plans.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["arch_kwargs"]["features_per_stage"] = [5, 8, 8]
    folder = foreign(plans)
    with pytest.raises(InputError, match="cannot be loaded by nnunetv2"):
        opened(folder)


def test_a_folder_near_a_model_is_told_where_the_model_is(written, tmp_path):
    folder = written()
    with pytest.raises(InputError, match="there is no such folder"):
        read_model_folder(tmp_path / "none")
    with pytest.raises(InputError, match="give the folder above"):
        read_model_folder(folder / "fold_0")
    with pytest.raises(InputError, match=f"did you mean .*{folder.name}"):
        read_model_folder(tmp_path)
    (folder / "fold_1").mkdir()
    (folder / "fold_1" / "checkpoint_latest.pth").touch()
    with pytest.raises(InputError, match=r"fold_1 without checkpoint_final\.pth"):
        read_model_folder(folder)
    for name in ("fold_0", "fold_1"):
        shutil.rmtree(folder / name)
    with pytest.raises(InputError, match="no fold_0"):
        read_model_folder(folder)
