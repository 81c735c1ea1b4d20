import json
from pathlib import Path

import numpy as np
import pytest

from synth3d.errors import InputError
from synth3d.images import registration
from synth3d.images.registration import LPS, Rigid, register_rigid, write_transform
from synth3d.images.volumes import Volume, grid, read, write_new

NAME = "IXI002-Guys-0828"
BRAIN = np.stack(np.meshgrid([-56, 56], [-70, 70], [-52, 52], [1]), -1).reshape(-1, 4)
"""Corners of the box around the phantom's brain, mm."""


def worst_mm(found, true):
    """How far apart two motions put a corner of the brain's box, at most."""
    return float(np.linalg.norm((BRAIN @ (found - true).T)[:, :3], axis=1).max())


def read_transform(path):
    """The (4, 4) matrix, RAS+ mm, of a transform file, as ITK reads it."""
    import SimpleITK as sitk  # noqa: N813

    transform = sitk.AffineTransform(sitk.ReadTransform(str(path)))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = transform.GetTranslation()
    return LPS @ matrix @ LPS


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("convert_ixi_to_nnunet")


@pytest.fixture
def convert(script, ixi, tmp_path, capsys):
    """Converts ``ixi``, or another folder, to ``raw``; (exit code, what was said)."""

    def run(*flags: object, cohort: Path = ixi) -> tuple[int, str]:
        code = script.main([str(cohort), str(tmp_path / "raw"), *map(str, flags)])
        said = capsys.readouterr()
        return code, said.err if code else said.out

    return run


@pytest.fixture(scope="module")
def moved(head):
    """How the head moved between T2 and T1."""
    return head.motion((-6, 4, 8), (5, -4, 6))


@pytest.fixture(scope="module")
def ixi(head, moved, tmp_path_factory):
    """One case; treat as read-only."""
    folder = tmp_path_factory.mktemp("ixi")
    head.write_ixi_case(folder, NAME, moved)
    return folder


@pytest.fixture(scope="module")
def converted(script, ixi, tmp_path_factory):
    """The dataset of that case."""
    out = tmp_path_factory.mktemp("raw")
    assert script.main([str(ixi), str(out)]) == 0
    return out / "Dataset600_IXI"


def scanned(head, contrast, on, motion, seed):
    picture = head.scan(contrast, on, motion, seed).astype(np.float32)
    return Volume(picture, on.affine, Path(f"{contrast}.nii.gz"))


def test_the_known_motion_is_found_within_half_a_voxel(head, moved, converted):
    found = read_transform(converted / "transforms" / f"{NAME}_0000.tfm")
    half = min(head.T2_GRID.spacing_mm) / 2
    assert worst_mm(found, moved) < half
    assert worst_mm(np.eye(4), moved) > 5 * half  # it had something to find


def test_t1_lies_on_the_grid_of_t2_where_the_head_is(head, converted):
    t1 = converted / "imagesTs" / f"{NAME}_0000.nii.gz"
    assert grid(t1).difference(head.T2_GRID) is None
    at_rest = head.scan("T1", head.T2_GRID, np.eye(4), 5)
    found = read(t1).data
    # The middle, which T1 saw whole; the nearest thing to compare with is noise and blur.
    inside = (slice(8, -8),) * 3
    assert np.corrcoef(found[inside].ravel(), at_rest[inside].ravel())[0, 1] > 0.95


def test_what_is_on_the_grid_is_copied_and_the_motion_noted(ixi, converted):
    for channel, contrast in ((1, "T2"), (2, "PD")):
        placed = converted / "imagesTs" / f"{NAME}_{channel:04d}.nii.gz"
        source = ixi / f"IXI-{contrast}" / f"{NAME}-{contrast}.nii.gz"
        assert placed.read_bytes() == source.read_bytes()
        assert not placed.samefile(source)
    described = json.loads((converted / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "t1n", "1": "t2w", "2": "pd"}
    assert described["numTraining"] == 0
    note = json.loads((converted / "transforms" / f"{NAME}_0000.json").read_text())
    assert note["mutual_information_after"] > note["mutual_information_before"]


def test_a_finished_dataset_stays_and_an_unfinished_one_is_gone_on_with(
    script, ixi, converted, capsys, monkeypatch
):
    call = [str(ixi), str(converted.parent)]
    assert script.main(call) == 2
    assert "--overwrite" in capsys.readouterr().err
    (converted / "dataset.json").unlink()
    monkeypatch.setattr(script, "register_rigid", None)  # would not be callable
    assert script.main(call) == 0
    assert (converted / "dataset.json").is_file()


def test_images_that_share_a_grid_move_together(script, ixi):
    from synth3d.cohort import find_cases

    (job,) = script.plan_jobs(find_cases(ixi), ["t1n", "t2w", "pd"], "t1n", None)
    assert job.moved == ((1, 2),)
    (job,) = script.plan_jobs(find_cases(ixi), ["pd", "t2w"], "t2w", None)
    assert job.moved == ()


def write_labels(folder, head, name=NAME):
    tissue = np.digitize(head.scan("T2", head.T2_GRID, np.eye(4), 0), [200, 600])
    write_new(folder / f"{name}.nii.gz", tissue, head.T2_GRID.affine, np.uint8)
    return folder


def test_labels_make_a_training_set(convert, head, tmp_path):
    labels = write_labels(tmp_path / "labels", head)
    flags = ["--channels", "T2", "PD", "--labels", labels, "--label-names", "brain", "fluid"]
    assert convert(*flags)[0] == 0
    dataset = tmp_path / "raw" / "Dataset600_IXI"
    described = json.loads((dataset / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "brain": 1, "fluid": 2}
    assert (dataset / "labelsTr" / f"{NAME}.nii.gz").is_file()
    assert len(list((dataset / "imagesTr").iterdir())) == 2


@pytest.mark.slow
def test_stock_nnunet_finds_it_in_order(convert, head, tmp_path, plan_and_preprocess):
    labels = tmp_path / "labels"
    for number, shift in enumerate(((3, -2, 4), (-4, 1, 2))):
        name = f"IXI00{number}-HH-1211"
        moved = head.motion(shift, (2, -1, 3))
        head.write_ixi_case(tmp_path / "ixi", name, moved, seed=number)
        write_labels(labels, head, name)
    assert convert("--labels", labels, "--link", cohort=tmp_path / "ixi")[0] == 0
    code, told = plan_and_preprocess(tmp_path / "raw", 600, "-c", "3d_fullres", "--no_pp")
    assert code == 0, told
    assert "verify_dataset_integrity Done" in told
    for word in ("Error", "mismatch", "WARNING"):
        assert word not in told


def test_cases_that_lack_images_are_left_out_and_named(script, convert, tmp_path, capsys):
    whole = [f"{NAME}-{contrast}" for contrast in ("T1", "T2", "PD")]
    for name in (*whole, "IXI003-HH-1-T1", "IXI004-HH-2-T2"):
        write_new(tmp_path / "ixi" / f"{name}.nii.gz", np.ones((3, 4, 5)), np.eye(4), np.int16)
    assert script.main([str(tmp_path / "ixi"), str(tmp_path / "raw"), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "1 of 3 cases are complete" in said
    for told in ("IXI003-HH-1 lacks t2w, pd", "IXI004-HH-2 lacks t1n, pd"):
        assert told in said
    for path in (tmp_path / "ixi").glob(f"{NAME}*"):
        path.unlink()
    code, error = convert("--dry-run", cohort=tmp_path / "ixi")
    assert code == 2
    assert "IXI003-HH-1 lacks t2w, pd; IXI004-HH-2 lacks t1n, pd" in error
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--grid", "flair"], "--grid"),
        (["--channels", "t1", "t1", "t2"], "differ"),
        (["--label-names", "a"], "--labels"),
        (["--threads", "0"], "1 or more"),
        (["--labels", "nowhere"], f"the label nowhere/{NAME}.nii.gz"),
        (["--id", "1000"], "1 to 999"),
    ],
)
def test_bad_flags_get_one_sentence(convert, tmp_path, flags, sentence):
    code, error = convert(*flags)
    assert (code, error[:7]) == (2, "error: ")
    assert sentence in error
    assert not (tmp_path / "raw").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift", "degrees"),
    [((0, 0, 0), (0, 0, 0)), ((0.8, 0.5, -0.7), (1, 0, 0)), ((20, 30, -25), (0, 0, 10))],
)
@pytest.mark.parametrize("least", [200_000, 30_000], ids=["all", "sampled"])
def test_motions_near_and_far_are_found_within_half_a_voxel(
    head, shift, degrees, least, monkeypatch
):
    monkeypatch.setattr(registration, "LEAST", least)
    true = head.motion(shift, degrees)
    fixed = scanned(head, "T2", head.T2_GRID, np.eye(4), 1)
    moving = scanned(head, "T1", head.T1_GRID, true, 2)
    assert worst_mm(register_rigid(fixed, moving).matrix, true) < 1.6


def test_a_transform_file_says_to_itk_what_was_found(head, tmp_path):
    matrix = head.motion((3, -5, 7), (10, -20, 30))
    write_transform(Rigid(matrix, 1.0, 0.5), tmp_path / "a.tfm")
    np.testing.assert_allclose(read_transform(tmp_path / "a.tfm"), matrix, atol=1e-9)


def test_angle_and_shift_are_those_of_the_motion(head):
    for degrees in (0, 0.01, 30, 179):
        rigid = Rigid(head.motion((1, 2, 3), (degrees, 0, 0)), 1.0, 1.0)
        assert rigid.angle_degrees == pytest.approx(degrees, abs=1e-6)
    still = Rigid(head.motion((1, 2, 3), (0, 0, 0)), 1.0, 1.0)
    np.testing.assert_allclose(still.shift_mm(head.T2_GRID), [1, 2, 3], atol=1e-9)


def test_a_constant_image_is_refused(head):
    fixed = scanned(head, "T2", head.T2_GRID, np.eye(4), 1)
    flat = Volume(np.ones((9, 9, 9), np.float32), np.eye(4), Path("flat.nii.gz"))
    with pytest.raises(InputError, match=r"flat\.nii\.gz is constant"):
        register_rigid(fixed, flat)
