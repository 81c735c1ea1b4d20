"""Whatever a cohort's files are called, the arms' files are found; `synth3d complete` is real."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seg_eval.evaluation import evaluate
from seg_eval.experiment.request import RunRequest
from synth3d.cli import main as synth3d
from synth3d.cohort.cases import Case, find_cases
from synth3d.images.volumes import read, write_new

pytestmark = pytest.mark.usefixtures("plain_pictures")
CHANNELS = ("t2f", "t1n", "t1c", "t2w")
BIDS = {"t1n": "T1w", "t1c": "ce-gd_T1w", "t2w": "T2w", "t2f": "FLAIR"}


def as_nnunet(case: Case, number: int, out: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        (out / part).mkdir(parents=True, exist_ok=True)
    for channel, name in enumerate(CHANNELS):
        shutil.copy(case.images[name], out / "imagesTr" / f"{case.name}_{channel:04d}.nii.gz")
    shutil.copy(case.label, out / "labelsTr" / f"{case.name}.nii.gz")
    names = {str(index): name for index, name in enumerate(CHANNELS)}
    (out / "dataset.json").write_text(json.dumps({"channel_names": names}))


def as_listed_nnunet(case: Case, number: int, out: Path) -> None:
    """Files of one name in a folder per sequence, listed in dataset.json."""
    path = out / "dataset.json"
    names = {str(index): name for index, name in enumerate(CHANNELS)}
    value = json.loads(path.read_text()) if path.is_file() else {"channel_names": names}
    images = {**case.images, "seg": case.label}
    for name, image in images.items():
        (out / name / case.name).mkdir(parents=True)
        shutil.copy(image, out / name / case.name / "image.nii.gz")
    value.setdefault("dataset", {})[case.name] = {
        "images": [f"{name}/{case.name}/image.nii.gz" for name in CHANNELS],
        "label": f"seg/{case.name}/image.nii.gz",
    }
    path.write_text(json.dumps(value))


def as_bids(case: Case, number: int, out: Path) -> None:
    folder = out / f"sub-{number:02d}" / "ses-1" / "anat"
    folder.mkdir(parents=True)
    for name, suffix in BIDS.items():
        shutil.copy(case.images[name], folder / f"sub-{number:02d}_ses-1_{suffix}.nii.gz")
    shutil.copy(case.label, folder / f"sub-{number:02d}_ses-1_dseg.nii.gz")


def as_flat_unzipped(case: Case, number: int, out: Path) -> None:
    out.mkdir(exist_ok=True)
    for path in (*case.images.values(), case.label):
        (out / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))


def asked(data: Path, work: Path, missing: str, arms: str) -> RunRequest:
    names = [case.name for case in find_cases(data)]
    split = work / "splits.json"
    work.mkdir(exist_ok=True)
    split.write_text(json.dumps({"train": names[:4], "val": names[4:5], "test": names[5:]}))
    return RunRequest(
        missing, data, split, work=work, threads=1, name="toy", arms=(arms,), device="cpu"
    )


def as_brats_with_gadolinium(case: Case, number: int, out: Path) -> None:
    """T1ce is called T1Gd, and there is a file of either ending."""
    (out / case.name).mkdir(parents=True)
    for path in (*case.images.values(), case.label):
        shutil.copy(path, out / case.name / path.name.replace("_t1ce", "_t1gd"))
    zipped = out / case.name / case.images["t2f"].name
    zipped.with_suffix("").write_bytes(gzip.decompress(zipped.read_bytes()))
    zipped.unlink()


@pytest.mark.parametrize(
    "rename",
    [as_nnunet, as_listed_nnunet, as_bids, as_flat_unzipped, as_brats_with_gadolinium],
)
def test_arms_of_a_cohort_in_any_naming(rename, toy_cohort, machines, tmp_path):
    data, work = tmp_path / "data", tmp_path / "work"
    for number, case in enumerate(find_cases(toy_cohort)):
        rename(case, number, data)
    codes = []
    engines = machines.engines()
    engines = replace(
        engines, synth3d=lambda words: codes.append(synth3d([*words, "--device", "cpu"]))
    )
    assert evaluate(asked(data, work, "flair,t1ce", "copy,plumbing"), engines).code == 0
    assert codes == [0]
    summary = json.loads((work / "eval" / "toy" / "summary.json").read_text())
    assert summary["plumbing"]["passed"]
    for arm in ("copy", "plumbing"):
        assert len([*(work / "eval" / "toy" / "arms" / arm).rglob("*.nii*")]) >= 2 * 3


def test_a_sequence_in_finer_units_than_its_neighbours_is_not_rounded_away(
    toy_cohort, machines, tmp_path
):
    """FLAIR as floats from 0 to 1 beside integers: the rivals must be in its units."""
    data, work = tmp_path / "data", tmp_path / "work"
    shutil.copytree(toy_cohort, data)
    for case in find_cases(data):
        image = read(case.images["t2f"])
        write_new(image.path, image.data / image.data.max(), image.affine, np.float32)
    evaluate(asked(data, work, "flair", "ridge"), machines.engines())
    made = read(next((work / "eval" / "toy" / "arms" / "ridge").rglob("*TOY_F_1_flair.nii.gz")))
    assert len(np.unique(made.data)) > 100
