"""What is to be restored is not learnt from cases that have it thick themselves."""

import json
import shutil

import numpy as np
import pytest
import torch

from synth3d.cohort import find_cases
from synth3d.data import DataConfig, Task, thick_cases
from synth3d.errors import InputError
from synth3d.files import write_json
from synth3d.images import coarse, coarse_grid, read, write_new
from synth3d.training import TrainRequest, loop, train_run

TASK = Task(3, ("t1n", "t2f"), ("t2f",), "fixed", ("t2f",), (4, 1, 1))
TINY = (
    "model.name=resunet", "model.widths=[4,8]", "model.blocks=1", "data.patch=[16,16,16]",
    "data.overlap=[0,0,0]", "data.batch=2", "data.queue=8", "data.workers=0",
    "data.validation_cases=1", "train.checkpoint_every=2",
)  # fmt: skip


def thicken(case, ratio, back):
    """The case's FLAIR becomes its scan in thick slices, interpolated to its grid or not."""
    path = case.images["t2f"]
    fine = read(path)
    scan, affine = coarse(fine.data, ratio, "slices"), coarse_grid(fine.grid, ratio).affine
    if back:
        image = torch.from_numpy(scan)[None, None]
        scan = torch.nn.functional.interpolate(image, size=fine.data.shape, mode="trilinear")
        scan, affine = scan[0, 0].numpy() * (fine.data != 0), fine.affine
    path.unlink()
    write_new(path, scan, affine, np.float32)


@pytest.fixture
def cohort(tmp_path):
    """Four balls of detail, as fine along every axis."""
    for number in range(4):
        name = f"BraTS-GLI-{number:05d}-000"
        for seed, modality in enumerate(("t1n", "t2f")):
            path = tmp_path / "cohort" / name / f"{name}-{modality}.nii.gz"
            write_new(path, ball(2 * number + seed), np.diag([-1.0, -1.0, 1.0, 1.0]), "int16")
    return tmp_path / "cohort"


def ball(seed):
    from scipy import ndimage

    fine = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(48,) * 3), 1.0)
    places = np.indices(fine.shape) - 23.5
    return ((500 + 1000 * fine) * ((places**2).sum(0) < 20**2)).astype(np.float32)


def test_thick_truths_are_told_by_header_and_by_spectrum(cohort):
    cases = find_cases(cohort)
    for number, (ratio, back) in enumerate([((4, 1, 1), False), ((4, 1, 1), True)]):
        thicken(cases[number], ratio, back)
    thicken(cases[2], (1, 1, 4), True)  # thick where nothing is restored
    found = thick_cases(cases, TASK, DataConfig(), voxels=True)
    assert [*found] == [case.name for case in cases[:2]]
    assert found[cases[0].name] == "4 voxels along z"
    assert found[cases[1].name].endswith(" voxels along z")
    assert [*thick_cases(cases, TASK, DataConfig(), voxels=False)] == [cases[0].name]
    fills = Task(3, ("t1n",), ("t2f",))
    assert thick_cases(cases, fills, DataConfig(), voxels=True) == {}
    # A truth of slices a quarter as thick as what is restored is better than none.
    far = Task(3, ("t1n", "t2f"), ("t2f",), "fixed", ("t2f",), (16, 1, 1))
    assert [*thick_cases(cases, far, DataConfig(), voxels=True)] == [cases[0].name]


def test_a_training_leaves_them_out_and_says_so(cohort, tmp_path, capsys, monkeypatch):
    first, second, third, fourth = find_cases(cohort)
    thicken(first, (4, 1, 1), False)
    thicken(second, (4, 1, 1), True)
    splits = {"train": [first.name, second.name, third.name], "val": [fourth.name], "test": []}
    write_json(tmp_path / "splits.json", splits)

    def request(name, *assign):
        return TrainRequest(
            data=cohort, splits=tmp_path / "splits.json", recipe="cpu", framework="l1", steps=2,
            sources="t1", degraded="flair=4,1,1", assign=(*TINY, *assign), threads=1,
            device="cpu", work=tmp_path, name=name,
        )  # fmt: skip

    run = train_run(request("run"))
    kept = json.loads((run / "cohort.json").read_text())
    assert [*kept["left_out_thick"]] == [first.name, second.name]
    assert kept["train"] == splits["train"]
    assert len(json.loads((run / "scales.json").read_text())) == 1
    said = f"training: left out, t2f is thick there already, no truth to learn: {first.name} (4 "
    assert said in capsys.readouterr().out
    shutil.rmtree(third.folder)
    write_json(tmp_path / "splits.json", splits | {"train": [first.name, second.name]})
    with pytest.raises(InputError, match=r"found 0 and 1 beside 2 in which t2f is thick already"):
        train_run(request("none"))

    def asked(cases, task, data, voxels):
        raise InputError(f"voxels are looked at: {voxels}")

    monkeypatch.setattr(loop, "thick_cases", asked)
    with pytest.raises(InputError, match="looked at: False"):
        train_run(request("kept", "degrade.keep_thick=true"))
