"""Runs on slices, from the command line to a completed folder; and IXI, PD included."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from synth3d.cli import main
from synth3d.cohort import find_cases
from synth3d.cohort.audit.problems import audit
from synth3d.cohort.splits import make_splits
from synth3d.completion.makers.scales import storable_scale
from synth3d.data.options import DataConfig
from synth3d.data.prepared import prepare
from synth3d.images.intensity import Scale, foreground
from synth3d.images.planes import Turn
from synth3d.images.volumes import read, write_new
from synth3d.training.validation import slice_scores

TINY = [
    "--widths", "4,8", "--groups", "2", "--patch", "32,32", "--steps", "6", "--batch", "4",
    "--threads", "1", "--device", "cpu", "--set", "model.blocks=1", "--set", "model.stages=2",
    "--set", "train.checkpoint_every=3", "--set", "train.validate_every=3",
    "--set", "train.framework=l1", "--set", "data.validation_cases=1", "--set", "data.queue=16",
    "--set", "data.patches_per_case=8", "--set", "data.workers=0",
]  # fmt: skip


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


def train(cohort, work, name, *flags):
    assert run("train", "--data", cohort, "--work", work, "--name", name, *TINY, *flags) == 0
    return work / "runs" / name


@pytest.fixture(scope="module")
def coronal(phantom_cohort, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    return train(phantom_cohort, work, "coronal", "--dim", "2d", "--plane", "coronal")


def without_flair(cohort, folder, keep=1):
    """Some cases of ``cohort`` whose FLAIR was never acquired."""
    for case in find_cases(cohort)[:keep]:
        shutil.copytree(case.folder, folder / case.name)
        (folder / case.name / case.images["t2f"].name).unlink()
    return folder


@pytest.mark.parametrize(
    ("patch", "flags", "spacing"),
    [("32,32", (), [6, 6]), ("24,40", ("--set", "data.slice_size=[24, 40]"), [8, 4.8])],
)
def test_a_run_on_slices_completes_a_cohort_on_its_own_grid(
    phantom_cohort, tmp_path, capsys, patch, flags, spacing
):
    folder = train(phantom_cohort, tmp_path, "run", "--dim", "2d", "--patch", patch, *flags)
    done = json.loads((folder / "done.json").read_text())
    assert set(done["validation"]) == {"psnr", "ssim", "mae", "psnr_slices", "ssim_slices"}
    assert done["spacings_mm"] == [spacing]
    data = without_flair(phantom_cohort, tmp_path / "in")
    command = ("complete", "--run", folder, "--data", data, "--out", tmp_path / "out")
    assert run(*command, "--device", "cpu") == 0
    assert "warning" not in capsys.readouterr().out
    (case,) = find_cases(tmp_path / "out")
    made, real = nib.load(case.images["t2f"]), nib.load(case.images["t2w"])
    np.testing.assert_array_equal(made.affine, real.affine)
    assert made.shape == real.shape
    brain = np.any([read(case.images[name]).data != 0 for name in ("t1n", "t1c", "t2w")], 0)
    assert not made.get_fdata().T[~brain].any()
    assert made.get_fdata().T[brain].std() > 1
    receipt = json.loads(next(case.folder.glob("*.receipt.json")).read_text())
    assert receipt["identity"]["how"]["plane"] == "axial"
    assert "axial slices" in receipt["maker"]
    assert "clipped" not in receipt["targets"]["t2f"]


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
@pytest.mark.parametrize("intensity", ["median", "paper"])
def test_plumbing_through_slices(phantom_cohort, tmp_path, plane, intensity):
    """Our scale gives the real picture back; the paper's loses what is above its percentile."""
    flags = ("--plane", plane, "--set", f"data.intensity={intensity}", "--dim", "2d", "--steps", 1)
    folder = train(phantom_cohort, tmp_path, "run", *flags)
    name = find_cases(phantom_cohort)[0].name
    command = ("complete", "--run", folder, "--data", phantom_cohort, "--out", tmp_path / "out")
    assert run(*command, "--missing", "flair", "--plumbing", "--cases", name) == 0
    real = read(phantom_cohort / name / f"{name}-t2f.nii.gz").data
    made = read(tmp_path / "out" / name / f"{name}-t2f.nii.gz").data
    receipt = json.loads((tmp_path / "out" / name / f"{name}.receipt.json").read_text())
    target = receipt["targets"]["t2f"]
    if intensity == "median":
        np.testing.assert_allclose(made, real, atol=0.51)
        assert "clipped" not in target
    else:
        ceiling = np.percentile(real, 99.5)
        np.testing.assert_allclose(made, np.minimum(real, ceiling), atol=0.51)
        assert target["scale"] == {"low": 0, "high": pytest.approx(ceiling), "clips": True}
        assert "brighter than that is not brighter" in target["clipped"]


def test_other_voxels_within_the_slice_are_told_other_distances_between_slices_are_not(
    coronal, phantom_cohort, tmp_path, capsys
):
    """Nor are axes that are permuted and reversed: the picture is the same."""
    plain, turn = without_flair(phantom_cohort, tmp_path / "as-is"), Turn((2, 0, 1), (True, 0, 0))
    made = {}
    cohorts = {"plain": (), "turned": (), "thick": (1, 3, 1, 1), "coarse": (1, 1, 2, 1)}
    for name, edges in cohorts.items():
        for path in plain.rglob("*-t*.nii.gz"):  # the phantom's y runs from front to back
            volume = read(path)
            data, affine = volume.data, volume.affine @ np.diag(edges or (1, 1, 1, 1))
            if name == "turned":
                data, affine = turn.apply(data), turn.affine(affine, data.shape)
            write_new(tmp_path / name / path.relative_to(plain), data, affine, np.int16)
        data = ("--data", tmp_path / name, "--out", tmp_path / f"{name}-out", "--device", "cpu")
        assert run("complete", "--run", coronal, *data) == 0
        said = capsys.readouterr().out
        assert ("voxels of 12×6 mm (row, column)" in said) == (name == "coarse"), said
        assert ("voxels of" in said) == (name == "coarse"), said
        made[name] = read(next((tmp_path / f"{name}-out").rglob("*t2f.nii.gz"))).data
    np.testing.assert_array_equal(turn.apply(made["plain"]), made["turned"])


def test_slice_scores_are_those_of_the_slices(phantom_cohort):
    from skimage.metrics import structural_similarity

    case = find_cases(phantom_cohort)[0]
    ready = prepare(case, ("t1n", "t2w"), ("t2f",))
    real, made = ready.volumes["t2f"], 0.9 * ready.volumes["t2f"] + 0.02
    found = slice_scores(real, made, ready.brain, Turn((0, 1, 2), (False, False, False)))
    psnr, ssim = [], []
    for a, b, inside in zip(real, made, ready.brain, strict=True):
        if inside.any():
            psnr.append(-10 * np.log10(np.mean((a[inside] - b[inside]) ** 2)))
            full = structural_similarity(a, b, win_size=7, data_range=1.0, full=True)[1]
            ssim.append(full[inside].mean())
    nothing = slice_scores(real, made, ~(real < 9), Turn((0, 1, 2), (False, False, False)))
    assert np.isnan(list(nothing.values())).all()
    assert found["psnr_slices"] == pytest.approx(np.mean(psnr), rel=1e-5)
    assert found["ssim_slices"] == pytest.approx(np.mean(ssim), rel=1e-4)


@pytest.fixture(scope="module")
def ixi(phantom_cohort, tmp_path_factory):
    """A folder like IXI's: T1 sagittal on a grid of its own, PD and T2 axial; not stripped."""
    root, noise = tmp_path_factory.mktemp("ixi"), np.random.default_rng(0)
    turn = Turn((2, 0, 1), (False, True, False))
    for number, case in enumerate(find_cases(phantom_cohort), start=2):
        t1, t2 = (read(case.images[name]) for name in ("t1n", "t2w"))
        pd = np.sqrt(np.maximum(t1.data, 0) * t2.data.clip(0))
        stem = root / f"IXI{number:03d}-Guys-{800 + number:04d}"
        for name, data in (("T2", t2.data), ("PD", pd)):
            data = data + np.abs(noise.normal(0, 2, data.shape)) + 1
            write_new(root / f"{stem.name}-{name}.nii.gz", data, t2.affine, np.int16)
        sagittal = turn.apply(t1.data + np.abs(noise.normal(0, 2, t1.data.shape)) + 1)[:, 1:]
        affine = turn.affine(t1.affine, t1.data.shape)
        affine[:3, 3] += affine[:3, 1]  # the row that is left out
        write_new(root / f"{stem.name}-T1.nii.gz", sagittal, affine, np.int16)
    return root


IXI = ["--recipe", "ixi-2d", "--set", "data.slice_size=[32, 32]", "--set",
       "data.slices_per_case=9"]  # fmt: skip


def test_ixi_from_audit_to_a_completed_pd(ixi, tmp_path, capsys):
    found = audit(ixi)
    assert found.naming == "ixi"
    assert not found.errors
    assert any("data.common_grid" in problem.message for problem in found.problems)
    folder = train(ixi, tmp_path, "pd", *IXI)
    scales = json.loads((folder / "scales.json").read_text())
    assert all(set(case) == {"t1n", "t2w", "pd"} for case in scales)
    assert all(case["pd"]["clips"] and case["pd"]["low"] == 0 for case in scales)
    name = make_splits(find_cases(ixi)).test[0]
    command = ("complete", "--run", folder, "--data", ixi, "--out", tmp_path / "out")
    assert run(*command, "--missing", "pd", "--cases", name, "--device", "cpu") == 0
    made = nib.load(tmp_path / "out" / name / f"{name}-PD.nii.gz")
    t2 = nib.load(ixi / f"{name}-T2.nii.gz")
    np.testing.assert_array_equal(made.affine, t2.affine)
    assert made.shape == t2.shape
    receipt = json.loads((tmp_path / "out" / name / f"{name}.receipt.json").read_text())
    assert receipt["identity"]["how"]["common_grid"] == "t2w"
    assert "clipped" in receipt["targets"]["pd"]
    volume = read(tmp_path / "out" / name / f"{name}-PD.nii.gz").data
    assert volume[foreground(read(ixi / f"{name}-T2.nii.gz").data)].std() > 1


def test_without_a_common_grid_ixi_is_told_what_to_do(ixi, tmp_path, capsys):
    command = ("train", "--data", ixi, "--work", tmp_path, *TINY, "--dim", "2d", "--target", "pd")
    assert run(*command, "--sources", "t1,t2") == 2
    error = capsys.readouterr().err
    assert "data.common_grid" in error


def test_t1_on_a_grid_of_its_own_is_brought_to_t2s(ixi):
    case = find_cases(ixi)[0]
    ready = prepare(case, ("t1n", "t2w"), ("pd",), DataConfig(common_grid="t2w"))
    assert ready.brain.shape == (32, 32, 32)
    np.testing.assert_array_equal(ready.affine, read(case.images["t2w"]).affine)
    turn = Turn((2, 0, 1), (False, True, False))
    own = read(case.images["t1n"]).data
    expected = turn.undo(np.pad(own, [(0, 0), (1, 0), (0, 0)]))
    scale: Scale = ready.scales["t1n"]
    seen = scale.invert(ready.volumes["t1n"], ready.brain)
    np.testing.assert_allclose(seen[ready.brain], expected[ready.brain], rtol=1e-4, atol=0.01)


def test_a_clipping_scale_stays_one_whatever_the_file_can_hold():
    siblings = [Scale(0, 400, True), Scale(0, 900, True)]
    for scale in (Scale(0, 1, True), Scale(0, 800, True)):
        assert storable_scale(scale, siblings, (-32768.0, 32767.0))[0].clips
