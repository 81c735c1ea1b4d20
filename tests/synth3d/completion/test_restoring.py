"""A sequence that is there with thick slices is replaced by what a run makes of it."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import synth3d
from synth3d.bids.command import main as bids_app
from synth3d.cli import main
from synth3d.cohort import find_cases
from synth3d.data import DataConfig, DegradeConfig, Task, degrade, prepare
from synth3d.data.prepared import prepare_sources, read_sources
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.frameworks.reconstruction import Reconstruction
from synth3d.images.coarse import coarse
from synth3d.images.grids import Grid
from synth3d.images.resampling import edges_in, resample_within, share_beyond
from synth3d.images.volumes import Volume, read

FOUR = ["t1n", "t1c", "t2w", "t2f"]
RATIO = (4, 1, 1)
POOR = {"sources": FOUR, "degrade": {"source": "t2f", "ratio": list(RATIO), "profile": "slices"}}


def thicken(path, ratio, back=False, profile="slices", gain=1.0):
    """Replace the file by its scan with voxels ``ratio`` (z, y, x) times as long."""
    image = nib.load(path)
    volume = image.get_fdata().T.astype(np.float32) * gain
    scan, affine = coarse(volume, ratio, profile), image.affine @ np.diag([*ratio[::-1], 1])
    affine[:3, 3] += image.affine[:3, :3] @ ((np.array(ratio[::-1]) - 1) / 2)
    data = scan.T
    if back:
        scan = torch.nn.functional.interpolate(
            torch.from_numpy(scan)[None, None], size=volume.shape, mode="trilinear"
        )
        data, affine = scan[0, 0].numpy().T, image.affine
    made = nib.Nifti1Image(data.astype(np.float32), affine)
    made.header.set_xyzt_units("mm")
    nib.save(made, path)


def cover(path, share):
    """Leave of the file the lower ``share`` along x."""
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    data[int(share * len(data)) :] = 0
    nib.save(nib.Nifti1Image(data, image.affine, image.header), path)


def thick_cohort(source, folder, count=1, ratio=RATIO, **how):
    for case in find_cases(source)[:count]:
        shutil.copytree(case.folder, folder / case.name)
    for case in find_cases(folder):
        thicken(case.images["t2f"], ratio, **how)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, write_run):
    """``poor`` restores FLAIR of slices 4 times as thick, ``fills`` makes one that lacks."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "poor", **POOR)
    write_run(root / "fills")
    return root


@pytest.fixture
def gives_back(monkeypatch):
    """The network's picture is its last source, so what is written must be the scan."""

    def last(self, sources, present, wanted, seed=0):
        return sources[:, -1:]

    monkeypatch.setattr(Reconstruction, "synthesize", last)


def complete(run, data, out, restore=("flair",), **settings):
    return synth3d.complete(run=run, data=data, out=out, restore=restore, device="cpu", **settings)


def receipt_of(done):
    return json.loads(done.receipt.read_text())


@pytest.mark.parametrize("format", ["brats", "nnunet"])
def test_what_is_written_is_on_the_fine_grid_in_the_poor_files_own_units(
    runs, phantom_cohort, tmp_path, gives_back, format
):
    data = thick_cohort(phantom_cohort, tmp_path / "in", gain=0.05)
    before = {path: sha256(path) for path in data.rglob("*.nii.gz")}
    case, (done,) = (
        find_cases(data)[0],
        complete(runs / "poor", data, tmp_path / "out", format=format),
    )
    assert (done.state, done.made) == ("made", ("t2f",))
    assert {path: sha256(path) for path in data.rglob("*.nii.gz")} == before
    result, sibling = nib.load(done.paths["t2f"]), nib.load(case.images["t2w"])
    assert result.shape == sibling.shape == (32, 32, 32)
    assert np.array_equal(result.affine, sibling.affine)
    assert b"restored synthetic t2f" in result.header["descrip"].tobytes()
    # Own units: a twentieth of what the siblings have would be rounded away by their integers.
    expected = resample_within(read(case.images["t2f"]), read(case.images["t2w"]).grid).data
    brain = np.logical_or.reduce([read(case.images[m]).data != 0 for m in FOUR[:3]])
    made = read(done.paths["t2f"]).data
    inside = brain & (expected > 0)
    assert np.allclose(made[inside], expected[inside], rtol=1e-3, atol=1e-3 * expected.max())
    assert not made[~brain].any()
    proof = receipt_of(done)
    assert proof["synthetic"]
    assert (proof["restored"], proof["hidden"]) == (["t2f"], [])
    facts = proof["targets"]["t2f"]
    assert facts["scale_from"] == "own"
    assert facts["restored"] == {
        "ratio_asked": [4, 1, 1], "ratio_found": [4.0, 1.0, 1.0], "found_by": "header",
    }  # fmt: skip
    assert proof["suspicions"] == []
    assert proof["sources"] == FOUR
    for name in FOUR[:3]:
        assert sha256(done.paths[name]) == sha256(case.images[name])
    assert main(["verify", str(tmp_path / "out")]) == 0
    # The same again is done; a lost picture is made again, the same.
    again = complete(runs / "poor", data, tmp_path / "out", format=format)
    assert again[0].state == "done"
    whole = sha256(done.paths["t2f"])
    done.paths["t2f"].unlink()
    complete(runs / "poor", data, tmp_path / "out", format=format, overwrite=True)
    assert sha256(done.paths["t2f"]) == whole


@pytest.mark.parametrize("profile", ["slices", "kspace"])
@pytest.mark.parametrize("ratio", [(4, 1, 1), (1, 2, 4)])
def test_completing_sees_what_training_saw(phantom_cohort, tmp_path, ratio, profile):
    """The scan in a file and the scan of a training are one picture, in one scale.

    Also where the sequence covers a part of the others' brain alone, and is background beyond it.
    """
    task = Task(3, tuple(FOUR), ("t2f",), "fixed", ("t2f",), ratio)
    data = DataConfig()
    shutil.copytree(find_cases(phantom_cohort)[0].folder, tmp_path / "real" / "P-00000-000")
    real = find_cases(tmp_path / "real")[0]
    cover(real.images["t2f"], 0.6)
    fine = prepare(real, task.outlined_by(real.images), task.targets, data)
    assert 0.2 < (fine.volumes["t2f"] == 0)[fine.brain].mean() < 0.6
    taught = degrade(fine, task, data, DegradeConfig("t2f", ratio, profile))
    thick = thick_cohort(tmp_path / "real", tmp_path / "in", ratio=ratio, profile=profile)
    poor = find_cases(thick)[0]
    asked = prepare_sources(poor, read_sources(poor, task, data), task, data)
    assert np.array_equal(asked.brain, taught.brain)
    assert "t2f" not in asked.volumes
    own, other = asked.scales["t2f"], taught.scales["t2f"]
    assert own.low == pytest.approx(other.low, abs=0.02 * other.width)
    assert own.width == pytest.approx(other.width, rel=0.02)
    seen, shown = asked.poor["t2f"][taught.brain], taught.poor["t2f"][taught.brain]
    assert np.percentile(np.abs(seen - shown), 95) < 0.02
    assert ((seen == 0) == (shown == 0)).mean() > 0.99  # background alone is 0
    assert np.array_equal(asked.sources(task)[:3], taught.sources(task)[:3])


def test_a_file_that_was_interpolated_is_the_same_to_the_network(runs, phantom_cohort, tmp_path):
    task = Task(3, tuple(FOUR), ("t2f",), "fixed", ("t2f",), RATIO)
    seen = []
    for back in (False, True):
        folder = thick_cohort(phantom_cohort, tmp_path / str(back), back=back)
        case = find_cases(folder)[0]
        seen.append(
            prepare_sources(case, read_sources(case, task, DataConfig()), task, DataConfig())
        )
    one, other = (prepared.poor["t2f"] for prepared in seen)
    assert np.allclose(one, other, atol=1e-3)
    (done,) = complete(runs / "poor", tmp_path / "True", tmp_path / "out")
    assert receipt_of(done)["targets"]["t2f"]["restored"]["found_by"] == "spectrum"


def test_another_thickness_than_was_learnt_is_said(runs, phantom_cohort, tmp_path, capsys):
    data = thick_cohort(phantom_cohort, tmp_path / "in", ratio=(1, 1, 4))
    (done,) = complete(runs / "poor", data, tmp_path / "out")
    said = "t2f is 1x1x4 times as coarse (z, y, x) as the others by its header, and the run was"
    assert [text for text in receipt_of(done)["suspicions"] if said in text]
    assert said in capsys.readouterr().out


def test_slices_that_leave_brain_out_are_refused(runs, phantom_cohort, tmp_path):
    data = thick_cohort(phantom_cohort, tmp_path / "in")
    path = find_cases(data)[0].images["t2f"]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata()[:, :, :4].astype(np.float32), image.affine), path)
    with pytest.raises(
        InputError, match=r"does not cover the brain of .*: [1-9]\d% of it lies out"
    ):
        complete(runs / "poor", data, tmp_path / "out")
    assert not [*tmp_path.glob("out/**/*.nii.gz")]


@pytest.mark.parametrize(
    ("run", "settings", "words"),
    [
        (
            "fills",
            {},
            "t2f and restores nothing; leave --restore t2f away, or train one with --deg",
        ),
        ("poor", {"restore": ()}, "restores t2f, which has to be there; say --restore t2f"),
        (
            "poor",
            {"restore": ("t1ce",)},
            "restores t2f, which has to be there; leave --restore t1c",
        ),
        ("poor", {"missing": ("flair",)}, "t2f cannot be both missing and restored"),
        ("poor", {"missing": ("t1ce",)}, "makes t2f and cannot make t1c"),
        ("poor", {"explain": True}, "--restore goes with neither --plumbing nor --explain"),
        ("poor", {"restore": ("flare",)}, "'flare' is not a modality"),
    ],
)
def test_what_a_run_cannot_restore_is_refused(runs, phantom_cohort, tmp_path, run, settings, words):
    with pytest.raises(InputError, match=words):
        complete(runs / run, phantom_cohort, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (["t2f"], "has no t2f, which the run restores and cannot make from nothing"),
        (FOUR[:3], "has none of t1n, t1c, t2w, on whose grid t2f is restored"),
    ],
)
def test_a_case_without_what_it_takes_is_named(runs, phantom_cohort, tmp_path, gone, words):
    data = thick_cohort(phantom_cohort, tmp_path / "in", count=2)
    case = find_cases(data)[1]
    for name in gone:
        case.images[name].unlink()
    with pytest.raises(InputError, match=f"^case {case.name}: {words}"):
        complete(runs / "poor", data, tmp_path / "out")


def test_a_derivative_has_the_restored_one_alone_and_says_of_what_it_is(
    runs, phantom_cohort, tmp_path
):
    (tmp_path / "bids").mkdir()
    (tmp_path / "bids" / "dataset_description.json").write_text(
        json.dumps({"Name": "x", "BIDSVersion": "1.10.0"})
    )
    real, folder = find_cases(phantom_cohort)[0], tmp_path / "bids" / "sub-1" / "anat"
    folder.mkdir(parents=True)
    names = {"t1n": "T1w", "t1c": "ce-GADOLINIUM_T1w", "t2w": "T2w", "t2f": "FLAIR"}
    for name, suffix in names.items():
        shutil.copy(real.images[name], folder / f"sub-1_{suffix}.nii.gz")
    thicken(folder / "sub-1_FLAIR.nii.gz", RATIO)
    out = tmp_path / "out"
    (done,) = complete(runs / "poor", tmp_path / "bids", out, format="bids")
    made = [path.name for path in out.rglob("*.nii.gz")]
    assert made == ["sub-1_desc-synth_FLAIR.nii.gz"]
    flags = ["--run", str(runs / "poor"), "--restore", "flair", "--device", "cpu"]
    assert bids_app([str(tmp_path / "bids"), str(tmp_path / "app"), "participant", *flags]) == 0
    (app,) = (tmp_path / "app").rglob("*.nii.gz")
    assert sha256(app) == sha256(done.paths["t2f"])
    about = json.loads(next(out.rglob("sub-1_desc-synth_FLAIR.json")).read_text())
    assert "bids:raw:sub-1/anat/sub-1_FLAIR.nii.gz" in about["Sources"]


def test_python_restores_as_the_command_does(runs, phantom_cohort, tmp_path):
    data = thick_cohort(phantom_cohort, tmp_path / "in")
    (done,) = complete(runs / "poor", data, tmp_path / "out")
    run = synth3d.load_run(runs / "poor", device="cpu")
    images = run.synthesize(find_cases(data)[0])
    assert np.array_equal(images["t2f"].get_fdata(), nib.load(done.paths["t2f"]).get_fdata())


def test_edges_and_cover_of_another_grid():
    fine = nib.affines.from_matvec(np.diag([1.0, 1, 1]))
    long = Grid((3, 8, 8), np.array([[0, -1.0, 0, 7], [1, 0, 0, 0], [0, 0, 4, 1.5], [0, 0, 0, 1]]))
    whole = Grid((12, 8, 8), fine)
    assert edges_in(long, whole) == (4, 1, 1)
    mask = np.ones(whole.shape_zyx, bool)
    assert share_beyond(long, whole, mask) == 0
    less = Grid((2, 8, 8), long.affine)
    assert share_beyond(less, whole, mask) == pytest.approx(1 / 3)
    mask[8:] = False
    assert share_beyond(less, whole, mask) == 0
    # Linear between the middles of slices, constant beyond them; in-plane, axes are exchanged.
    slices = np.zeros((3, 8, 8), np.float32)
    slices[:, 2, 5] = (4, 8, 16)
    moved = resample_within(Volume(slices, long.affine, Path()), whole).data
    assert moved.shape == whole.shape_zyx
    assert moved[:, 5, 5].tolist() == [4, 4, 4.5, 5.5, 6.5, 7.5, 9, 11, 13, 15, 16, 16]
    assert np.count_nonzero(moved) == 12


TINY = {"model": "resunet", "framework": "l1", "recipe": "phantom", "precision": "fp32",
        "threads": 1, "device": "cpu", "name": "run"}  # fmt: skip


@pytest.mark.slow
def test_a_trained_run_comes_nearer_to_the_truth_than_interpolation(phantom_cohort, tmp_path):
    run = synth3d.train(
        data=phantom_cohort, work=tmp_path, degraded="flair=4,1,1", steps=150, batch=4,
        widths=(8, 16), patch=(16, 16, 16),
        assign=["train.learning_rate=0.003", "data.patches_per_case=8"], **TINY,
    )  # fmt: skip
    unseen = json.loads((run.folder / "cohort.json").read_text())["test"][0]
    case = next(case for case in find_cases(phantom_cohort) if case.name == unseen)
    shutil.copytree(case.folder, tmp_path / "in" / case.name)
    poor = find_cases(tmp_path / "in")[0].images["t2f"]
    thicken(poor, RATIO, profile="kspace")
    (done,) = complete(run.folder, tmp_path / "in", tmp_path / "out")
    truth, made = read(case.images["t2f"]), read(done.paths["t2f"])
    brain = np.logical_or.reduce([read(case.images[name]).data != 0 for name in FOUR[:3]])
    errors = [
        np.sqrt(np.square(volume.data - truth.data)[brain].mean())
        for volume in (made, resample_within(read(poor), truth.grid))
    ]
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.slow
def test_slices_are_restored_along_their_rows_and_columns(phantom_cohort, tmp_path, gives_back):
    """(1, y, x) of the plane: in coronal slices a row is one of the volume's z."""
    run = synth3d.train(
        data=phantom_cohort, work=tmp_path, degraded="flair=1,4,1", steps=1, batch=2, dim="2d",
        plane="coronal", widths=(4, 8), patch=(16, 16), **TINY | {"recipe": "phantom-2d"},
    )  # fmt: skip
    data = thick_cohort(phantom_cohort, tmp_path / "in")
    case, (done,) = find_cases(data)[0], complete(run.folder, data, tmp_path / "out")
    facts = receipt_of(done)["targets"]["t2f"]["restored"]
    assert facts["ratio_asked"] == [4, 1, 1] == facts["ratio_found"]
    expected = resample_within(read(case.images["t2f"]), read(case.images["t2w"]).grid).data
    made = read(done.paths["t2f"]).data
    inside = (made != 0) & (expected > 0)
    assert inside.sum() > 1000
    assert np.allclose(made[inside], expected[inside], rtol=1e-3, atol=1e-3 * expected.max())
