"""Whatever a cohort's files are called, the arms' files are found; `synth3d complete` is real."""

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seg_eval.arms.poor import Degradation, PoorScans
from seg_eval.arms.synthesisers import completed_file
from seg_eval.evaluation import evaluate
from seg_eval.experiment.request import RunRequest
from synth3d.cli import main as synth3d
from synth3d.cohort import find_cases
from synth3d.images.volumes import read, write_new

pytestmark = pytest.mark.usefixtures("plain_pictures")
ORDER = ("t2f", "t1n", "t1c", "t2w")
NUMBERED = {str(index): name for index, name in enumerate(ORDER)}
BIDS = {"t1n": "T1w", "t1c": "ce-gd_T1w", "t2w": "T2w", "t2f": "FLAIR", "seg": "label-lesion_mask"}
FLAT = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", "seg": "seg"}


def nnunet(case: str, number: int, role: str) -> str:
    if role == "seg":
        return f"labelsTr/{case}.nii.gz"
    return f"imagesTr/{case}_{ORDER.index(role):04d}.nii.gz"


def listed(case: str, number: int, role: str) -> str:
    """Files of one name in a folder per sequence, listed in dataset.json."""
    return f"{role}/{case}/image.nii.gz"


def bids(case: str, number: int, role: str) -> str:
    return f"sub-{number:02d}/ses-1/anat/sub-{number:02d}_ses-1_{BIDS[role]}.nii.gz"


def flat_unzipped(case: str, number: int, role: str) -> str:
    return f"{case}_{FLAT[role]}.nii"


def gadolinium(case: str, number: int, role: str) -> str:
    """T1ce is called T1Gd, and there is a file of either ending."""
    name = FLAT[role].replace("t1ce", "t1gd")
    return f"{case}/{case}_{name}.nii{'' if role == 't2f' else '.gz'}"


def write_cohort(source: Path, named: Callable[[str, int, str], str], out: Path) -> None:
    """The cohort under other names, with a dataset.json where nnU-Net has one."""
    described: dict[str, Any] = {"channel_names": NUMBERED}
    for number, case in enumerate(find_cases(source)):
        for role, path in {**case.images, "seg": case.label}.items():
            target = out / named(case.name, number, role)
            target.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes()
            target.write_bytes(content if target.suffix == ".gz" else gzip.decompress(content))
        if named is listed:
            images, label = ([listed(case.name, 0, r) for r in of] for of in (ORDER, ("seg",)))
            entry = {"images": images, "label": label[0]}
            described.setdefault("dataset", {})[case.name] = entry
    if named in (nnunet, listed):
        (out / "dataset.json").write_text(json.dumps(described))


def asked(data: Path, work: Path, missing: str, arms: str) -> RunRequest:
    names = [case.name for case in find_cases(data)]
    split = work / "splits.json"
    work.mkdir(exist_ok=True)
    split.write_text(json.dumps({"train": names[:4], "val": names[4:5], "test": names[5:]}))
    return RunRequest(
        missing, data, split, work=work, threads=1, name="toy", arms=(arms,), device="cpu"
    )


@pytest.mark.parametrize("named", [nnunet, listed, bids, flat_unzipped, gadolinium])
def test_arms_of_a_cohort_in_any_naming(named, toy_cohort, machines, tmp_path):
    data, work = tmp_path / "data", tmp_path / "work"
    write_cohort(toy_cohort, named, data)
    codes = []
    engines = replace(
        machines.engines(), synth3d=lambda words: codes.append(synth3d([*words, "--device", "cpu"]))
    )
    assert evaluate(asked(data, work, "flair,t1ce", "copy,plumbing"), engines).code == 0
    assert codes == [0]
    summary = json.loads((work / "eval" / "toy" / "summary.json").read_text())
    assert summary["plumbing"]["passed"]
    for arm in ("copy", "plumbing"):
        assert len([*(work / "eval" / "toy" / "arms" / arm).rglob("*.nii*")]) >= 2 * 3


@pytest.mark.parametrize("named", [nnunet, listed, bids, flat_unzipped, gadolinium])
def test_scans_stand_for_the_sequence_in_any_naming(named, toy_cohort, tmp_path):
    """What restores them finds the cases, and its files are where the arms look for them."""
    write_cohort(toy_cohort, named, tmp_path / "data")
    cases = find_cases(tmp_path / "data")[:2]
    scans = PoorScans(tmp_path / "scans", Degradation("t2f", (1, 1, 4)), lambda *given: given[0])
    found = find_cases(scans.cohort(cases))
    assert [case.name for case in found] == [case.name for case in cases]
    for poor, real in zip(found, cases, strict=True):
        assert poor.images.keys() == real.images.keys()
        assert read(poor.images["t2f"]).data.shape == (*read(real.images["t2f"]).data.shape[:2], 5)
        for name in ("t1n", "t1c", "t2w"):
            assert poor.images[name].samefile(real.images[name])
        made, looked_for = (completed_file(tmp_path, c, ("t2f",), "t2f") for c in (poor, real))
        assert made == looked_for


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
