"""Bad input to `synth3d complete`: one clear sentence, exit code 2, nothing half-written."""

import errno
import gzip
import json
import shutil

import numpy as np
import pytest
import torch

from synth3d.cli import main as command
from synth3d.data.options import DataConfig
from synth3d.files import lock, sha256, write_json
from synth3d.frameworks import FRAMEWORKS
from synth3d.images.intensity import Scale, ScalePrior
from synth3d.images.volumes import read, write_new
from synth3d.models.options import ModelConfig
from synth3d.training.config import RunConfig, TrainConfig, build_framework
from synth3d.training.run_folder import FORMAT, save_weights, write_config

NAMES = ("Phantom-00000-000", "Phantom-00001-000")
SHAPE = (9, 10, 11)


def picture(seed):
    volume = np.zeros(SHAPE, np.float32)
    volume[1:-1, 1:-1, 1:-1] = np.random.default_rng(seed).integers(50, 900, (7, 8, 9))
    return volume


def image_path(root, modality, name=NAMES[0]):
    return root / "in" / name / f"{name}-{modality}.nii.gz"


@pytest.fixture
def root(tmp_path):
    """Two cases without FLAIR in `in`, a run that makes FLAIR in `run`."""
    for number, name in enumerate(NAMES):
        for i, modality in enumerate(("t1n", "t1c", "t2w")):
            data = picture(10 * number + i)
            write_new(image_path(tmp_path, modality, name), data, np.diag([1, 1, 2, 1]), np.int16)
    config = RunConfig(
        model=ModelConfig(name="resunet", widths=(4, 8), blocks=1, groups=2, stages=1),
        data=DataConfig(patch=(8, 8, 8), overlap=(4, 4, 4), source_dropout=0.0),
        train=TrainConfig(framework="l1"),
    )
    run = tmp_path / "run"
    torch.manual_seed(0)
    network = build_framework(config, training=False).generator
    write_config(run, config)
    save_weights(run / "weights.safetensors", network)
    write_json(run / "scales.json", ScalePrior([{"t2f": Scale(50, 900)}] * 3).to_list())
    digest = sha256(run / "weights.safetensors")
    write_json(run / "done.json", {"format": FORMAT, "weights_sha256": digest})
    return tmp_path


def complain(root, capsys, *flags, out=None):
    """What `synth3d complete` says; it must be one sentence, and nothing half-done may be left."""
    out = out or root / "out"
    arguments = ["complete", "--data", str(root / "in"), "--out", str(out), "--device", "cpu"]
    if "--plumbing" not in flags:
        arguments += ["--run", str(root / "run")]
    assert command([*arguments, *flags]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    if out.is_dir():
        left = [path for path in out.rglob("*") if path.name.startswith((".partial", ".started"))]
        assert not left
        for receipt in out.rglob("*.receipt.json"):
            for name, digest in json.loads(receipt.read_text())["files"].items():
                assert sha256(out / name) == digest
    return lines[0]


def test_the_untouched_fixture_is_good(root):
    arguments = ["complete", "--run", str(root / "run"), "--data", str(root / "in")]
    assert command([*arguments, "--out", str(root / "out")]) == 0


def test_no_cases(root, capsys):
    shutil.rmtree(root / "in")
    assert "no folder" in complain(root, capsys)
    (root / "in").mkdir()
    assert "no cases under" in complain(root, capsys)
    assert not (root / "out").exists()


def test_every_case_without_an_input_that_the_run_needs_is_named_at_once(root, capsys):
    image_path(root, "t1c").unlink()
    image_path(root, "t2w", NAMES[1]).unlink()
    text = complain(root, capsys)
    assert "2 problems" in text
    assert f"case {NAMES[0]}: lacks t1c, which the run needs to make t2f" in text
    assert f"case {NAMES[1]}: lacks t2w" in text
    assert not (root / "out").exists()


def test_a_case_with_no_input_at_all(root, capsys):
    for modality in ("t1n", "t1c", "t2w"):
        image_path(root, modality).unlink()
    write_new(image_path(root, "pd"), picture(0), np.eye(4), np.int16)
    assert "has none of the sequences t1n, t1c, t2w" in complain(root, capsys)


def test_a_case_with_nothing_but_a_label(root, capsys):
    for modality in ("t1n", "t1c", "t2w"):
        image_path(root, modality).unlink()
    write_new(image_path(root, "seg"), picture(0) > 0, np.eye(4), np.uint8)
    assert "has none of the sequences t1n, t1c, t2w" in complain(root, capsys)


def test_a_case_folder_as_input_and_its_parent_as_output(root, capsys):
    arguments = ["complete", "--run", str(root / "run"), "--out", str(root / "in")]
    assert command([*arguments, "--data", str(root / "in" / NAMES[0])]) == 2
    assert "is in the input folder" in capsys.readouterr().err
    assert len(list((root / "in" / NAMES[0]).iterdir())) == 3


def test_a_missing_sequence_that_the_run_cannot_make(root, capsys):
    write_new(image_path(root, "t2f"), picture(5), np.diag([1, 1, 2, 1]), np.int16)
    image_path(root, "t1n").unlink()
    assert "lacks t1n, which the run cannot make; it makes t2f" in complain(root, capsys)
    assert "cannot make t1c" in complain(root, capsys, "--missing", "t1ce")


def test_two_files_for_one_modality(root, capsys):
    shutil.copy(image_path(root, "t1n"), root / "in" / image_path(root, "t1n").name)
    assert "two files for t1n" in complain(root, capsys)


def test_a_truncated_file(root, capsys):
    path = image_path(root, "t1c")
    path.write_bytes(path.read_bytes()[:-40])
    assert f"{path} is truncated" in complain(root, capsys)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(root, capsys, value):
    data = picture(0)
    data[4, 4, 4] = value
    path = image_path(root, "t1c")
    write_new(path, picture(0), np.diag([1, 1, 2, 1]), np.float32)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[352 : 352 + data.nbytes] = data.tobytes()
    path.write_bytes(gzip.compress(content))
    assert f"{path} has 1 NaN or infinite voxels" in complain(root, capsys)


def test_a_bad_case_does_not_keep_the_others_from_being_done(root, capsys):
    write_new(image_path(root, "t1c"), np.zeros(SHAPE), np.diag([1, 1, 2, 1]), np.int16)
    assert "1 of 2 cases could not be completed" in complain(root, capsys)
    assert not (root / "out" / NAMES[0]).exists()
    assert (root / "out" / NAMES[1] / f"{NAMES[1]}-t2f.nii.gz").is_file()


def test_an_all_zero_volume(root, capsys):
    write_new(image_path(root, "t1c"), np.zeros(SHAPE), np.diag([1, 1, 2, 1]), np.int16)
    assert "is zero everywhere" in complain(root, capsys)


def test_differing_grids_within_a_case(root, capsys):
    write_new(image_path(root, "t1c"), picture(0), np.diag([1, 1, 3, 1]), np.int16)
    text = complain(root, capsys)
    assert f"{NAMES[0]}-t1c.nii.gz differs" in text
    assert "spacing" in text
    write_new(image_path(root, "t1c"), picture(0)[1:], np.diag([1, 1, 2, 1]), np.int16)
    assert "shape" in complain(root, capsys)
    assert not (root / "out").exists()


def test_another_grid_of_a_sequence_that_the_run_does_not_use_is_no_trouble(root):
    write_new(image_path(root, "pd"), picture(0)[1:], np.diag([1, 1, 2, 1]), np.int16)
    arguments = ["complete", "--run", str(root / "run"), "--data", str(root / "in")]
    assert command([*arguments, "--out", str(root / "out")]) == 0


def test_a_four_dimensional_file(root, capsys):
    path = image_path(root, "t2w")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[40:56] = np.array([4, *SHAPE[::-1], 1, 1, 1, 1], np.int16).tobytes()
    path.write_bytes(gzip.compress(content))
    assert "is 4-D" in complain(root, capsys)


def test_a_target_that_is_already_there(root, capsys):
    taken = root / "out" / NAMES[1] / f"{NAMES[1]}-t2f.nii.gz"
    write_new(taken, picture(3), np.eye(4), np.int16)
    before = sha256(taken)
    assert f"{taken} is already there; --overwrite replaces it" in complain(root, capsys)
    assert sha256(taken) == before
    assert not (root / "out" / NAMES[0]).exists()


def test_another_real_file_in_the_way(root, capsys):
    taken = root / "out" / NAMES[1] / f"{NAMES[1]}-t1n.nii.gz"
    write_new(taken, picture(3), np.eye(4), np.int16)
    assert f"{taken} is already there" in complain(root, capsys)


def test_an_output_folder_that_is_a_file(root, capsys):
    (root / "out").write_text("mine")
    assert "cannot create the folder" in complain(root, capsys)
    assert (root / "out").read_text() == "mine"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_an_output_folder_that_is_full_or_may_not_be_written(root, capsys, monkeypatch, code):
    from pathlib import Path

    write = Path.write_bytes

    def refuse(path, data):
        if path.name.endswith("t2f.nii.gz"):
            write(path, data[:100])
            raise OSError(code, "no room or no right")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    arguments = ["--data", str(root / "in"), "--out", str(root / "out"), "--device", "cpu"]
    assert command(["complete", "--run", str(root / "run"), *arguments]) == 2
    assert "error: cannot write" in capsys.readouterr().err
    assert not list((root / "out").rglob("*t2f*"))
    monkeypatch.undo()
    assert command(["complete", "--run", str(root / "run"), *arguments]) == 0


@pytest.mark.parametrize("inside", [".", "completed"])
def test_an_output_folder_inside_the_input_folder(root, capsys, inside):
    text = complain(root, capsys, out=root / "in" / inside)
    assert "lies in the input folder" in text


def test_another_process_in_the_output_folder(root, capsys):
    with lock(root / "out"):
        assert "another process work" in complain(root, capsys)


def test_a_folder_that_is_no_run(root, capsys):
    (root / "run" / "config.json").unlink()
    assert "is not a run folder" in complain(root, capsys)


def test_an_unfinished_run(root, capsys):
    (root / "run" / "done.json").unlink()
    assert "is not finished" in complain(root, capsys)


def test_a_run_of_another_version(root, capsys):
    write_json(root / "run" / "done.json", {"format": FORMAT + 1})
    assert f"this version reads {FORMAT}" in complain(root, capsys)


def test_a_run_of_another_dimension(root, capsys):
    path = root / "run" / "config.json"
    write_json(path, json.loads(path.read_text()) | {"dim": 2})
    assert "data.patch must be 2 numbers, as dim is 2" in complain(root, capsys)


def test_scales_without_the_target(root, capsys):
    write_json(root / "run" / "scales.json", [])
    assert "it has no scale of ['t2f']" in complain(root, capsys)


@pytest.mark.parametrize("file", ["config.json", "scales.json", "weights.safetensors"])
def test_a_damaged_run(root, capsys, file):
    path = root / "run" / file
    path.write_bytes(path.read_bytes()[:-30])
    complain(root, capsys)
    assert not (root / "out").exists()


def test_weights_of_another_network(root, capsys):
    path = root / "run" / "weights.safetensors"
    save_weights(path, torch.nn.Linear(2, 2))
    assert "weights" in complain(root, capsys)


def test_weights_that_give_nan(root, capsys, monkeypatch):
    broken = lambda self, tiles, present, wanted, seed=0: tiles[:, :1] * torch.nan  # noqa: E731
    monkeypatch.setattr(FRAMEWORKS["l1"], "synthesize", broken)
    assert "the network gives NaN" in complain(root, capsys)


def test_an_unknown_case_or_modality(root, capsys):
    assert "no case is called nobody" in complain(root, capsys, "--cases", "nobody")
    assert "is not a modality" in complain(root, capsys, "--missing", "ct")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--overlap", "1"], "overlap is a share of the tile"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--plumbing"], "--plumbing needs --missing"),
        (["--plumbing", "--missing", "flair"], "has no real t2f to send through"),
        (["--format", "nnunet", "--cases", "x"], "no case is called x"),
    ],
)
def test_flags_that_make_no_sense(root, capsys, flags, message):
    assert message in complain(root, capsys, *flags)


def test_nnunet_needs_every_channel(root, capsys):
    path = root / "run" / "config.json"
    config = json.loads(path.read_text()) | {"sources": ["t1n", "t1c", "pd"]}
    write_json(path, config)
    for name in NAMES:
        image_path(root, "t2w", name).rename(image_path(root, "pd", name))
    assert "nnU-Net needs all of" in complain(root, capsys, "--format", "nnunet")


def test_a_cohort_of_two_endings_does_not_fit_nnunet(root, capsys):
    path = image_path(root, "t1n")
    volume = read(path)
    write_new(path.with_suffix(""), volume.data, volume.affine, np.int16)
    path.unlink()
    assert "one file ending" in complain(root, capsys, "--format", "nnunet")
