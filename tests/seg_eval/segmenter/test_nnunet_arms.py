"""Segmenters beside the frozen one: fewer channels, replaced channels, stock networks, at once."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from nnunet_plans.presets import PRESETS
from seg_eval.segmenter import nnunet
from seg_eval.segmenter.environment import nnunet_environment
from seg_eval.segmenter.nnunet import Segmenter, train_segmenter
from seg_eval.segmenter.preprocessing import Prepared, network_digest, prepare
from seg_eval.segmenter.raw_dataset import RawRequest, write_raw_dataset
from synth3d.cohort import MODALITIES
from synth3d.errors import InputError
from synth3d.files import lock, read_json, sha256
from synth3d.images.volumes import read, write_like

pytestmark = pytest.mark.filterwarnings("ignore")  # third parties warn while being imported

THREE = tuple(name for name in MODALITIES if name != "t2f")


@pytest.fixture(scope="module")
def dataset(cases, work, toy) -> Callable[..., Prepared]:
    """Prepare three cases in a folder of their own."""

    def make(name: str, plans_of: Prepared | None = None, preset=None, **options) -> Prepared:
        folder = work / name
        raw = write_raw_dataset(RawRequest(folder / "raw", cases[:3], 501, "Cohort", **options))
        return prepare(raw, folder, preset or toy, cases[:3], plans_of=plans_of)

    return make


def test_a_specialist_takes_its_three_of_four_channels(dataset, frozen, cases, volumes_of):
    special = dataset("specialist", frozen, channels=THREE)
    model = train_segmenter(special)
    segmenter = Segmenter(model)
    assert segmenter.channels == THREE
    channels = volumes_of(cases[4])
    labels = segmenter.predict(channels, (1, 1, 1))
    assert labels.shape == channels["t1n"].shape
    other = channels | {"t2f": np.zeros_like(channels["t2f"])}
    np.testing.assert_array_equal(segmenter.predict(other, (1, 1, 1)), labels)
    with pytest.raises(InputError, match="takes t1n, t1c, t2w; it was not given t1c"):
        segmenter.predict({k: v for k, v in channels.items() if k != "t1c"}, (1, 1, 1))


def test_all_arms_share_one_network_and_only_the_channels_differ(dataset, frozen, ours, weights_of):
    special = dataset("specialist", frozen, channels=THREE)
    mine, theirs = read_json(frozen.plans), read_json(special.plans)
    assert network_digest(mine) == network_digest(theirs)
    configuration = theirs["configurations"]["3d_fullres"]
    assert len(configuration["normalization_schemes"]) == 3
    assert len(configuration["use_mask_for_norm"]) == 3
    statistics = "foreground_intensity_properties_per_channel"
    assert [theirs[statistics][str(place)] for place in range(3)] == [
        mine[statistics][str(place)] for place in range(3)
    ]
    receipt = read_json(special.root / "prepared.json")
    assert receipt["plans_of"] == sha256(frozen.plans)
    assert receipt["plans_sha256"] == sha256(special.plans)
    assert read_json(frozen.root / "prepared.json")["plans_of"] is None
    models = [ours, train_segmenter(special)]
    told = [read_json(model / "model.json") for model in models]
    assert told[0]["network_sha256"] == told[1]["network_sha256"]
    weights = [weights_of(model) for model in models]
    assert weights[0].keys() == weights[1].keys()
    shapes = {
        (weights[0][name].shape[1], weights[1][name].shape[1])
        for name in weights[0]
        if weights[0][name].shape != weights[1][name].shape
    }
    assert shapes == {(4, 3)}


def test_frozen_plans_hold_even_where_other_data_would_be_planned_otherwise(dataset, frozen):
    """A changed plan of the frozen one is what the others get, not one of their own."""
    changed = replace(frozen, root=frozen.root.parent / "changed" / "toy")
    shutil.copytree(frozen.root, changed.root)
    plans = read_json(changed.plans)
    plans["configurations"]["3d_fullres"]["patch_size"] = [32, 16, 16]
    changed.plans.write_text(json.dumps(plans))
    special = dataset("other-plans", changed, channels=THREE)
    assert read_json(special.plans)["configurations"]["3d_fullres"]["patch_size"] == [32, 16, 16]
    assert special.digest != dataset("specialist", frozen, channels=THREE).digest


def test_a_retrained_segmenter_sees_the_replaced_channel(dataset, frozen, cases, work):
    replaced = {}
    for case in cases[:3]:
        path = work / "synthetic" / f"{case.name}-t2f.nii.gz"
        write_like(case.images["t2f"], read(case.images["t2f"]).data[::-1].copy(), path)
        replaced[case.name] = {"t2f": path}
    again = dataset("retrained", frozen, replace=replaced)
    assert network_digest(read_json(again.plans)) == network_digest(read_json(frozen.plans))
    assert again.digest != frozen.digest
    model = train_segmenter(again)
    assert Segmenter(model).channels == MODALITIES


def test_two_seeds_may_be_trained_at_once_but_not_one_twice(frozen, cases, toy):
    """As with one process per GPU; the data are not prepared anew meanwhile."""
    name = "ScheduledTrainer__toy-seed7__3d_fullres"
    as_a_training = frozen.root / "locks" / name
    with lock(frozen.root, shared=True), lock(as_a_training):
        with pytest.raises(InputError, match=f"another process works in .*{name}"):
            train_segmenter(frozen, seed=7)
        with pytest.raises(InputError, match="another process works in"):
            prepare(frozen.raw, frozen.root.parent, toy, cases[:2])
        assert prepare(frozen.raw, frozen.root.parent, toy, cases[:3]) == frozen
        assert read_json(train_segmenter(frozen, seed=8) / "model.json")["finished"]
    assert read_json(train_segmenter(frozen, seed=7) / "model.json")["finished"]


def test_an_overfull_gpu_or_disk_is_told_and_the_training_can_go_on(frozen, monkeypatch):
    def overfull(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(nnunet, "_train", overfull)
    with pytest.raises(InputError, match=r"training nnU-Net \(toy-seed9\) needs more memory than"):
        train_segmenter(frozen, seed=9)
    monkeypatch.undo()
    assert read_json(train_segmenter(frozen, seed=9) / "model.json")["finished"]


def test_the_trainer_takes_the_gpu_that_it_is_told(frozen, tmp_path):
    """nnU-Net itself would take cuda:0; built without a GPU here, so nothing is moved to it."""
    from nnunetv2.run.run_training import get_trainer_from_args

    folders = frozen.folders | {"results": tmp_path}
    with nnunet_environment(1, folders=folders):
        for device in ("cuda:1", "cpu"):
            trainer = get_trainer_from_args(
                *("Dataset501_Cohort", "3d_fullres", 0, "ScheduledTrainer", "toy"),
                device=torch.device(device),
            )
            assert str(trainer.device) == device


@pytest.mark.parametrize("name", ["standard", "resenc-m"])
def test_stock_networks_are_planned_for_real(dataset, name, cases):
    prepared = dataset(name, preset=PRESETS[name])
    plans = read_json(prepared.plans)
    configuration = plans["configurations"]["3d_fullres"]
    assert plans["plans_name"] == name
    residual = configuration["architecture"]["network_class_name"].endswith("ResidualEncoderUNet")
    assert residual == (name == "resenc-m")
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"][0] == 32
    data = prepared.folder / configuration["data_identifier"]
    assert {path.stem for path in data.glob("*.pkl")} == {case.name for case in cases[:3]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["standard", "resenc-m"])
def test_stock_networks_are_trained_with_our_seeds_and_dropout(dataset, name, cases, volumes_of):
    short = {"epochs": 1, "iterations": 1, "validation_iterations": 1}
    preset = replace(PRESETS[name], schedule=dict(PRESETS[name].schedule) | short)
    prepared = dataset(name, preset=preset)
    first = train_segmenter(prepared, channel_dropout=0.5, device="cpu")
    assert read_json(first / "model.json")["parameters"] > 1e6
    labels = Segmenter(first, device="cpu").predict(volumes_of(cases[4]), (1, 1, 1))
    assert labels.shape == volumes_of(cases[4])["t1n"].shape
