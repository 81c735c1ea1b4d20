"""nnU-Net in our hands: prepared, trained, stopped, continued and asked, on toy brains."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_plans.presets import Network
from seg_eval.segmenter import nnunet
from seg_eval.segmenter import preprocessing as preparation
from seg_eval.segmenter.nnunet import Segmenter, resample, train_segmenter
from seg_eval.segmenter.preprocessing import prepare
from seg_eval.segmenter.raw_dataset import RawPlan, RawRequest, write_raw_dataset
from seg_eval.segmenter.trust import sealed
from synth3d.cohort import MODALITIES, Case, find_cases
from synth3d.errors import InputError
from synth3d.files import read_json, write_json
from synth3d.images.volumes import read_label, write_new

pytestmark = pytest.mark.filterwarnings("ignore")  # third parties warn while being imported

SIZE = 24
CONTRAST = {  # brain, necrosis, oedema, enhancing tumour
    "t1n": (100, 60, 80, 70),
    "t1c": (100, 60, 90, 200),
    "t2w": (100, 200, 180, 150),
    "t2f": (100, 120, 200, 150),
}


def write_toy(root: Path, number: int) -> None:
    """A ball of a brain with a tumour of three shells; only t1c tells enhancing tumour."""
    rng = np.random.default_rng(number)
    z, y, x = np.mgrid[:SIZE, :SIZE, :SIZE] - SIZE / 2
    brain = z**2 + y**2 + x**2 < (SIZE / 2 - 2) ** 2
    away = np.sqrt((z - 2) ** 2 + (y + number % 3) ** 2 + x**2)
    seg = np.select([away < 2, away < 3.5, away < 5], [1, 3, 2], 0)
    name = f"Toy-{number:05d}-000"
    for kind in MODALITIES:
        image = (np.array(CONTRAST[kind])[seg] + rng.normal(0, 5, seg.shape)) * brain
        write_new(root / name / f"{name}-{kind}.nii.gz", image, np.eye(4), np.int16)
    write_new(root / name / f"{name}-seg.nii.gz", seg, np.eye(4), np.uint8)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    root = tmp_path_factory.mktemp("toys")
    for number in range(4):
        write_toy(root, number)
    return find_cases(root)


@pytest.fixture(scope="module")
def raw(cases, tmp_path_factory: pytest.TempPathFactory) -> RawPlan:
    return write_raw_dataset(RawRequest(tmp_path_factory.mktemp("raw"), cases, 601, "Toy"))


@pytest.fixture(scope="module")
def build(raw, cases, toy) -> Callable[..., Path]:
    """Prepare and train in a folder; everything of the toy preset unless told otherwise."""

    def run(work: Path, seed: int = 0, **options) -> Path:
        return train_segmenter(prepare(raw, work, toy, cases[:3]), seed, **options)

    return run


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def model(build, work) -> Path:
    return build(work)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_trained_model_labels_a_case_on_its_own_grid(model, cases, volumes_of):
    labels = Segmenter(model).predict(volumes_of(cases[3]), (1, 1, 1))
    assert labels.shape == (SIZE, SIZE, SIZE)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1, 2, 3}


def test_prediction_ignores_the_scale_of_a_channel_and_the_order_of_names(model, cases, volumes_of):
    segmenter, channels = Segmenter(model), volumes_of(cases[3])
    expected = segmenter.predict(channels, (1, 1, 1))
    scaled = {name: channels[name] * 0.5 for name in reversed(MODALITIES)}
    np.testing.assert_array_equal(segmenter.predict(scaled, (1, 1, 1)), expected)


def test_regions_are_painted_in_brats_2023_integers(model):
    """Heads are WT, TC, ET; a voxel of WT alone is oedema (2), of TC necrosis (1), of ET 3."""
    on, off = 9.0, -9.0
    logits = torch.tensor([[off, on, on, on], [off, off, on, on], [off, off, off, on]])
    manager = Segmenter(model)._predictor.label_manager
    painted = manager.convert_logits_to_segmentation(logits[:, :, None, None])
    assert painted.flatten().tolist() == [0, 2, 1, 3]


def test_a_second_run_does_nothing(model, build, work, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a finished stage was done again")

    def state() -> dict[Path, int]:
        files = (path for path in work.rglob("*") if path.is_file() and path.name != ".lock")
        return {path: path.stat().st_mtime_ns for path in files}

    before = state()
    monkeypatch.setattr(nnunet, "_train", forbidden)
    for stage in ("_fingerprint", "_plan", "_preprocess"):
        monkeypatch.setattr(preparation, stage, forbidden)
    assert build(work) == model
    assert state() == before


def test_one_seed_gives_one_model_and_another_seed_another(
    model, build, work, tmp_path, weights_of
):
    assert same(weights_of(build(tmp_path)), weights_of(model))
    assert all(torch.isfinite(values).all() for values in weights_of(model).values())
    other = build(work, seed=1)
    assert other != model
    assert not same(weights_of(other), weights_of(model))


def test_a_training_that_was_stopped_ends_with_the_same_weights(
    model, build, tmp_path, monkeypatch, weights_of
):
    """Killed while it writes the checkpoint of its second epoch."""

    def stopped(trainer):
        save = trainer.save_checkpoint

        def save_checkpoint(filename):
            save(filename)
            if trainer.current_epoch > 0:
                os.truncate(filename, 1000)
                raise KeyboardInterrupt

        trainer.save_checkpoint = save_checkpoint
        tame(trainer)

    tame = nnunet.tame
    monkeypatch.setattr(nnunet, "tame", stopped)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    fold = tmp_path / model.relative_to(model.parents[3]) / "fold_0"
    assert (fold / "checkpoint_latest.pth").is_file()
    assert not (fold / "checkpoint_final.pth").is_file()
    monkeypatch.setattr(nnunet, "tame", tame)
    assert same(weights_of(build(tmp_path)), weights_of(model))


def test_preprocessing_goes_on_with_the_next_case(raw, cases, tmp_path, monkeypatch, toy):
    prepared = prepare(raw, tmp_path, toy, cases[:3])
    folder = prepared.folder / "toy_3d_fullres"
    first = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pkl")}
    receipt = tmp_path / "toy" / "prepared.json"
    write_json(receipt, sealed(read_json(receipt) | {"finished": False}))
    (folder / f"{cases[1].name}.pkl").unlink()
    assert prepare(raw, tmp_path, toy, cases[:3]).digest == prepared.digest
    redone = [name for name, then in first.items() if (folder / name).stat().st_mtime_ns != then]
    assert redone == [f"{cases[1].name}.pkl"]


def test_dropout_training_has_a_folder_of_its_own(model, build, work, weights_of):
    robust = build(work, channel_dropout=0.5)
    assert robust.name == "ScheduledTrainer__toy-seed0-dropout0.5__3d_fullres"
    assert not same(weights_of(robust), weights_of(model))


def test_what_cannot_work_is_said_in_a_sentence(model, cases, tmp_path, volumes_of):
    with pytest.raises(InputError, match="no finished nnU-Net model"):
        Segmenter(tmp_path)
    channels = volumes_of(cases[0])
    channels["t2f"] = np.where(channels["t2f"] == 0, -1, channels["t2f"])
    with pytest.raises(InputError, match="t2f has no zero background"):
        Segmenter(model).predict(channels, (1, 1, 1))


def test_nan_voxels_are_not_read_as_zeros(tmp_path, toy):
    for number in range(2):
        write_toy(tmp_path / "in", number)
    found = find_cases(tmp_path / "in")
    import nibabel

    path = found[1].images["t1c"]
    broken = nibabel.load(path)
    data = broken.get_fdata()
    data[SIZE // 2] = np.nan
    nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), broken.affine), path)
    raw = write_raw_dataset(RawRequest(tmp_path / "raw", found, 601, "Toy"))
    with pytest.raises(InputError, match="t1c.nii.gz has 576 NaN or infinite"):
        prepare(raw, tmp_path / "work", toy, found)


@pytest.mark.slow
def test_a_proper_training_finds_all_regions_of_a_new_case(raw, cases, tmp_path, toy, volumes_of):
    preset = replace(toy, network=Network((16, 16, 16), 2, (8, 16, 16), (1, 1)))
    preset = replace(preset, schedule=toy.schedule | {"epochs": 20, "iterations": 20})
    model = train_segmenter(prepare(raw, tmp_path, preset, cases[:3]))
    found = Segmenter(model).predict(volumes_of(cases[3]), (1, 1, 1))
    truth = read_label(cases[3].label).data
    for labels in ((1, 2, 3), (1, 3), (3,)):
        a, b = np.isin(found, labels), np.isin(truth, labels)
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.8


def test_thick_slices_are_resampled_as_nnunet_does_it():
    """Cubic, but from the nearest along an axis of voxels more than three times as long."""
    scan = np.random.default_rng(0).random((6, 5, 4)).astype(np.float32)
    thick = resample(scan, (1, 1, 4), (6, 5, 16))
    np.testing.assert_allclose(thick, np.repeat(scan, 4, axis=2), rtol=1e-5)
    thin = resample(scan, (1, 1, 2), (6, 5, 8))
    assert thin.shape == (6, 5, 8)
    assert thin.dtype == np.float32
    assert not np.allclose(thin, np.repeat(scan, 2, axis=2), atol=0.05)
    np.testing.assert_allclose(resample(0 * scan + 7, (1, 1, 2), (6, 5, 8)), 7, rtol=1e-5)
