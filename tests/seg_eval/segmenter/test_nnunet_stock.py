"""nnU-Net's own commands with our trainer, found where `seg_eval paths` points; tried for real.

Takes a few minutes and 5.5 GB, most of both for nnU-Net's own fingerprint.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seg_eval.segmenter.nnunet import open_model_folder
from seg_eval.segmenter.raw_dataset import RawRequest, write_raw_dataset
from seg_eval.segmenter.stock import paths
from synth3d.cohort import MODALITIES, find_cases
from synth3d.files import link_or_copy
from synth3d.images.volumes import read, read_label

pytestmark = pytest.mark.filterwarnings("ignore")  # third parties warn while being imported

SCHEDULE = {"epochs": 2, "iterations": 2, "validation_iterations": 1, "channel_dropout": 0.3}
TRAINED = ("501", "3d_fullres", "0", "-tr", "ScheduledTrainer", "-p", "tiny", "-device", "cpu")


@pytest.fixture
def command(tmp_path):
    """Run one of nnU-Net's console programs."""
    for name in ("preprocessed", "results"):
        (tmp_path / "stock" / name).mkdir(parents=True)
    (tmp_path / "raw").mkdir()
    variables = {"nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    environment = os.environ | paths(tmp_path) | variables

    def run(name: str, *arguments: str, workers: int = 1) -> str:
        program = Path(sys.executable).with_name(name)
        done = subprocess.run(
            [program, *arguments],
            env=environment | {"nnUNet_n_proc_DA": str(workers)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    return run


@pytest.mark.slow
def test_stock_commands_plan_train_and_predict_with_our_trainer(command, phantom_cohort, tmp_path):
    cases = find_cases(phantom_cohort)
    write_raw_dataset(RawRequest(tmp_path / "raw", cases[:5], 501, "Cohort"))
    command("nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres", "-npfp", "1",
            "-np", "1", "--verify_dataset_integrity")  # fmt: skip
    folder = tmp_path / "stock" / "preprocessed" / "Dataset501_Cohort"
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans |= {"plans_name": "tiny", "schedule": SCHEDULE}
    (folder / "tiny.json").write_text(json.dumps(plans))
    said = command("nnUNetv2_train", *TRAINED, workers=0)
    assert f"Using trainer 'ScheduledTrainer' from: {paths()['nnUNet_extTrainer']}" in said
    assert "Epoch 1" in said
    assert "Epoch 2" not in said

    for index, name in enumerate(MODALITIES):
        source = cases[5].images[name]
        link_or_copy(source, tmp_path / "in" / f"case_{index:04d}.nii.gz")
    command("nnUNetv2_predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"),
            "-d", "501", "-tr", "ScheduledTrainer", "-p", "tiny", "-c", "3d_fullres", "-f", "0",
            "-device", "cpu", "-npp", "0", "-nps", "0", "--disable_tta")  # fmt: skip
    predicted = read_label(tmp_path / "out" / "case.nii.gz").data
    model = tmp_path / "stock" / "results" / "Dataset501_Cohort"
    model /= "ScheduledTrainer__tiny__3d_fullres"
    volumes = {name: read(cases[5].images[name]) for name in MODALITIES}
    labels = open_model_folder(model, trust=True, device="cpu").predict(
        {name: volume.data for name, volume in volumes.items()}, volumes["t1n"].spacing_mm
    )
    assert labels.any()
    assert (labels == predicted).mean() > 0.999
