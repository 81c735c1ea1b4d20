"""An exported segmenter is nnU-Net's own network, behind nnU-Net's own preprocessing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seg_eval.cli import main
from seg_eval.segmenter.environment import nnunet_environment
from seg_eval.segmenter.export import ExportRequest, described, export_segmenter
from seg_eval.segmenter.model_folder import read_model_folder
from seg_eval.segmenter.nnunet import Segmenter, train_segmenter
from seg_eval.segmenter.preprocessing import prepare as prepare_cases
from seg_eval.segmenter.raw_dataset import RawRequest, write_raw_dataset
from synth3d.cohort import MODALITIES, Case
from synth3d.data import pack, prepare
from synth3d.data.cache import BRAIN, levels_of, region_of
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.images import read, write_like, xyz_to_zyx
from synth3d.losses import load_segmenter, standardised

pytestmark = pytest.mark.filterwarnings("ignore")  # third parties warn while being imported

CODES = ("t1n", "t1c", "t2w", "t2f")


@pytest.fixture(scope="module")
def exported(ours, work, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "segmenter"
    return export_segmenter(ExportRequest(ours, out, work=work))


@pytest.fixture
def foreign(ours, tmp_path):
    """A copy of our folder without our receipt, with changed JSON; plans stay the checkpoint's."""

    def make(change=lambda dataset, plans: None) -> Path:
        folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        shutil.copytree(ours, folder, ignore=shutil.ignore_patterns("model.json"))
        files = [folder / name for name in ("dataset.json", "plans.json")]
        contents = [json.loads(path.read_text()) for path in files]
        change(*contents)
        for path, content in zip(files, contents, strict=True):
            path.write_text(json.dumps(content))
        return folder

    return make


def nnunets_own(model: Path, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """What nnU-Net shows its network of a case, and the logits of its predictor in one tile."""
    with nnunet_environment(1):
        predictor = Segmenter(model, device="cpu")._predictor
        predictor.network._forward_pre_hooks.clear()
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        volumes = [read(case.images[name]) for name in CODES]
        stack = np.stack([volume.data for volume in volumes]).astype(np.float32)
        properties = {"spacing": list(volumes[0].spacing_mm)}
        data, _, _ = configuration.preprocessor_class(verbose=False).run_case_npy(
            stack, None, properties, plans, configuration, predictor.dataset_json
        )
        step = 4
        tile = [-(-side // step) * step for side in data.shape[1:]]
        configuration.configuration["patch_size"] = tile
        predictor.use_gaussian = False  # whose weights, in half precision, leave nothing at corners
        return data, predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).numpy()


def shown_by_us(case: Case, masked: bool = True) -> torch.Tensor:
    """z-scores (1, 4, *) of the smallest box around a case's head, from its prepared form."""
    packed = pack(prepare(case, MODALITIES[:3], MODALITIES[3:]))
    region = region_of(packed, "head" if masked else "box")
    levels = torch.from_numpy(levels_of(packed, CODES, region))[None]
    whole = tuple(slice(None) for _ in packed.box)
    volumes = torch.from_numpy(packed.cut(CODES, whole))[None]
    return standardised(volumes, volumes != 0, levels, torch.from_numpy(region)[None, None])


def test_logits_of_a_case_are_those_of_nnunets_predictor(ours, exported, cases):
    """Of the network within 1e-4; its predictor adds tiles up in half precision."""
    data, logits = nnunets_own(ours, cases[4])
    seen = shown_by_us(cases[4])
    np.testing.assert_allclose(seen[0].numpy(), data, atol=1e-4)
    loaded = load_segmenter(exported)
    with torch.inference_mode():
        found = loaded(seen)[0].numpy()
        network = Segmenter(ours, device="cpu").network
        short = [-side % 4 for side in data.shape[1:]]
        low = [n // 2 for n in short]
        around = [(0, 0), *((a, n - a) for a, n in zip(low, short, strict=True))]
        same = network(torch.from_numpy(np.pad(data, around))[None])[0].numpy()
        same = same[(..., *(slice(a, a + n) for a, n in zip(low, data.shape[1:], strict=True)))]
    assert np.ptp(found) > 1
    np.testing.assert_allclose(found, same, atol=1e-4)
    np.testing.assert_allclose(found, logits, rtol=2**-9, atol=1e-3)


def test_holes_and_background_inside_the_head_are_seen_as_nnunet_sees_them(ours, cases, tmp_path):
    """A hole in all channels, which has a score, and one in a single channel."""
    images = {}
    for name in CODES:
        path = cases[4].images[name]
        content, images[name] = read(path).data.copy(), tmp_path / cases[4].name / path.name
        z, y, x = (side // 2 for side in content.shape)
        content[z, y, x] = 0
        content[z - 3, y, x] *= name != "t2w"
        write_like(path, content, images[name])
    case = replace(cases[4], images=images)
    data, _ = nnunets_own(ours, case)
    np.testing.assert_allclose(shown_by_us(case)[0].numpy(), data, atol=1e-4)
    packed = pack(prepare(case, MODALITIES[:3], MODALITIES[3:]))
    hole = region_of(packed, "head") & ~(xyz_to_zyx(packed.marks) & BRAIN > 0)
    assert hole.sum() == 1
    assert (data[:, hole] < -1).all()


def test_without_a_mask_background_has_a_score_too(cases, volumes_of):
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
        ZScoreNormalization,
    )

    volumes = volumes_of(cases[4])
    inside = np.any([volumes[name] != 0 for name in CODES], axis=0)
    box = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(inside))
    seen = shown_by_us(cases[4], masked=False)[0].numpy()
    for channel, name in enumerate(CODES):
        cropped = volumes[name][box].astype(np.float32)
        expected = ZScoreNormalization(False, intensityproperties={}).run(cropped)
        np.testing.assert_allclose(seen[channel], expected, atol=1e-4)


def test_an_export_says_what_it_is(ours, exported, cases):
    about = load_segmenter(exported).about
    assert about.channels == CODES
    assert about.cases == tuple(sorted(case.name for case in cases[:3]))
    assert (about.seed, about.masked) == (0, True)
    assert about.spacing_mm == pytest.approx(read(cases[0].images["t1n"]).spacing_mm, abs=1e-5)
    assert about.regions
    assert about.heads == ((1, 2, 3), (1, 3), (3,))
    assert about.checkpoint_sha256 == sha256(ours / "fold_0" / "checkpoint_final.pth")
    assert about.origin == ours.name == "ScheduledTrainer__toy-seed0__3d_fullres"  # as judges go by
    assert not any(path.suffix in (".pth", ".pkl", ".pt") for path in exported.iterdir())


def test_an_export_again_is_the_same(ours, exported, work):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    export_segmenter(ExportRequest(ours, exported, work=work))
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before


def test_a_softmax_has_the_class_of_each_head(foreign, tmp_path):
    """nnU-Net's own converters call oedema 1, necrosis 2."""

    def softmax(dataset, plans):
        dataset["labels"] = {"background": 0, "ED": 1, "NCR": 2, "ET": 3}
        dataset.pop("regions_class_order", None)

    about = described(read_model_folder(foreign(softmax)))
    assert (about["regions"], about["heads"]) == (False, [[0], [2], [1], [3]])


def test_somebody_elses_needs_trust_and_knows_no_cases(foreign, tmp_path):
    model, out = foreign(), tmp_path / "out"
    with pytest.raises(InputError, match="--trust"):
        export_segmenter(ExportRequest(model, out, work=tmp_path))
    assert not out.exists()
    export_segmenter(ExportRequest(model, out, trust=True, work=tmp_path))
    about = load_segmenter(out).about
    assert (about.seed, about.cases) == (None, None)


def _set(*keys, value):
    def change(dataset, plans):
        at = plans
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value

    return change


NETWORK = "configurations", "3d_fullres", "architecture"
REFUSED = {
    "no masks": (_set("configurations", "3d_fullres", "use_mask_for_norm", value=None), "damaged"),
    "no spacing": (_set("configurations", "3d_fullres", "spacing", value=["wide"] * 3), "damaged"),
    "turned": (_set("transpose_forward", value=[1, 0, 2]), "turns axes"),
    "strange network": (
        _set(*NETWORK, "network_class_name", value="somewhere.primus.Primus"),
        "no export knows",
    ),
    "strange norm": (
        _set(*NETWORK, "arch_kwargs", "norm_op", value="torch.nn.BatchNorm3d"),
        "norm_op BatchNorm3d",
    ),
    "dropout": (
        _set(*NETWORK, "arch_kwargs", "dropout_op", value="torch.nn.Dropout3d"),
        "dropout_op",
    ),
    "slope": (
        _set(*NETWORK, "arch_kwargs", "nonlin_kwargs", value={"negative_slope": 0.2}),
        "nonlin_kwargs",
    ),
}


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_what_an_export_cannot_say_is_refused(change, said, foreign, tmp_path, capsys):
    """Before its pickle is opened, which nobody has vouched for."""
    out = tmp_path / "out"
    assert main(["export-segmenter", str(foreign(change)), str(out)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert said in error[0]
    assert not out.exists()


def test_of_several_folds_one_is_named(foreign, tmp_path):
    model = foreign()
    shutil.copytree(model / "fold_0", model / "fold_1")
    for fold in (None, "7"):
        with pytest.raises(InputError, match="--fold"):
            export_segmenter(ExportRequest(model, tmp_path / "out", fold, trust=True))
    out = export_segmenter(ExportRequest(model, tmp_path / "out", "1", trust=True))
    digest = sha256(model / "fold_1" / "checkpoint_final.pth")
    assert load_segmenter(out).about.checkpoint_sha256 == digest


def test_an_export_is_not_written_over_another(exported, foreign, tmp_path):
    model = foreign()
    state = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    state["current_epoch"] = 77
    torch.save(state, model / "fold_0" / "checkpoint_final.pth")
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    with pytest.raises(InputError, match="another segmenter's export"):
        export_segmenter(ExportRequest(model, out, trust=True))


def test_a_network_that_is_not_what_its_plans_say_is_refused(foreign, tmp_path, monkeypatch):
    """Nothing stays of an export that finds something else."""
    monkeypatch.setattr("seg_eval.segmenter.export.TOLERANCE", -1.0)
    out = tmp_path / "out"
    with pytest.raises(InputError, match="would not find"):
        export_segmenter(ExportRequest(foreign(), out, trust=True))
    assert not list(out.iterdir())


def test_a_small_residual_encoder_is_trained_judges_and_teaches(cases, toy, volumes_of, tmp_path):
    """As the preset cpu-mini-resenc has it; the export was held against nnU-Net's own logits."""
    preset = replace(toy, name="toy-resenc", network=replace(toy.network, residual=True))
    raw = write_raw_dataset(RawRequest(tmp_path / "raw", cases[:3], 501, "Cohort"))
    model = train_segmenter(prepare_cases(raw, tmp_path, preset, cases[:3]))
    labels = Segmenter(model).predict(volumes_of(cases[4]), (1, 1, 1))
    assert labels.shape == volumes_of(cases[4])["t1n"].shape
    out = export_segmenter(ExportRequest(model, tmp_path / "out", work=tmp_path))
    assert load_segmenter(out).about.architecture.network == "ResidualEncoderUNet"
