"""A bad file in the training set stops `synth3d train` with one sentence that names it."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from synth3d.cli import main
from synth3d.cohort.cases import find_cases
from synth3d.cohort.splits import make_splits

SHORT = ["--steps", "2", "--threads", "1", "--device", "cpu", "--recipe", "phantom",
         "--set", "train.checkpoint_every=2"]  # fmt: skip


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(path, change):
    image = nib.load(path)
    data = change(np.asarray(image.dataobj, np.float32))
    nib.save(nib.Nifti1Image(data, image.affine), path)


def poke(value):
    def change(data):
        data[tuple(n // 2 for n in data.shape)] = value
        return data

    return change


def add_an_axis(path):
    image = nib.load(path)
    data = np.asarray(image.dataobj)[..., None].repeat(2, axis=-1)
    nib.save(nib.Nifti1Image(data, image.affine), path)


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("t1n", truncate, "t1n"),
        ("t2w", lambda p: rewrite(p, poke(np.nan)), "NaN"),
        ("t2w", lambda p: rewrite(p, poke(np.inf)), "infinite"),
        ("t1c", add_an_axis, "4-D"),
        ("t2f", lambda p: rewrite(p, np.zeros_like), "zero"),
        ("t2f", lambda p: rewrite(p, lambda d: d[:-1]), "t2f"),
        ("seg", lambda p: rewrite(p, poke(7)), "7"),
        ("seg", lambda p: rewrite(p, poke(0.5)), "seg"),
    ],
    ids=["truncated", "nan", "inf", "4-D", "all zero", "other grid", "label", "fraction"],
)
def test_one_sentence_and_exit_code_2(phantom_cohort, tmp_path, capsys, kind, damage, message):
    data = shutil.copytree(phantom_cohort, tmp_path / "data")
    case = make_splits(find_cases(data)).train[0]
    bad = data / case / f"{case}-{kind}.nii.gz"
    damage(bad)
    command = ["train", "--data", str(data), "--work", str(tmp_path / "work"), *SHORT]
    assert main(command) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert case in errors[0]
    assert "Traceback" not in captured.err
    assert not list((tmp_path / "work").rglob("weights.safetensors"))
