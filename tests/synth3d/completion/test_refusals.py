"""Bad input to `synth3d complete`: one clear sentence, exit code 2, nothing half-written."""

import errno
import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from synth3d.cli import main as command
from synth3d.errors import InputError
from synth3d.files import sha256, write_json
from synth3d.frameworks import FRAMEWORKS
from synth3d.images.volumes import read, write_new

NAMES = ("Brats18_X_2_1", "Brats18_X_3_1")
TOKENS = {"t1n": "_t1", "t1c": "_t1ce", "t2w": "_t2", "t2f": "_flair", "pd": "_pd", "seg": "_seg"}


@pytest.fixture
def root(ready, write_run, tmp_path):
    """Two cases without FLAIR in `in`; in `run` one that makes FLAIR and needs all the others."""
    for name in NAMES:
        shutil.copytree(ready / "in" / name, tmp_path / "in" / name)
    write_run(tmp_path / "run", dropout=0)
    return tmp_path


@pytest.mark.parametrize(("first", "then"), [("brats", "nnunet"), ("nnunet", "brats")])
def test_two_formats_in_one_folder_are_refused(complete, tmp_path, first, then):
    complete(cases=["Brats18_X_2_1"], format=first)
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(InputError, match=f"in the format {first}.*{then} is asked for"):
        complete(cases=["Brats18_X_2_1"], format=then, overwrite=True)
    assert sorted((tmp_path / "out").rglob("*")) == before
    complete(cases=["Brats18_X_2_1"], format=first)


def image(root, modality, name=NAMES[0]):
    return root / "in" / name / f"{name}{TOKENS[modality]}.nii.gz"


def rewrite(path, change=lambda data, affine: (data, affine), like=None, dtype=np.int16):
    """The volume of ``like``, or its own, changed."""
    volume = read(like or path)
    data, affine = change(volume.data, volume.affine)
    write_new(path, data, affine, dtype)


def arguments(root, *flags, out=None):
    run = [] if "--plumbing" in flags else ["--run", str(root / "run")]
    place = ["--data", str(root / "in"), "--out", str(out or root / "out"), "--device", "cpu"]
    return ["complete", *run, *place, *flags]


def complain(root, capsys, *flags, out=None):
    """What `synth3d complete` says; it must be one sentence, and nothing half-done may be left."""
    assert command(arguments(root, *flags, out=out)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    out = out or root / "out"
    if out.is_dir():
        hidden = [path for path in out.rglob(".*") if path.is_file()]
        assert not hidden
        for receipt in out.rglob("*.receipt.json"):
            for name, digest in json.loads(receipt.read_text())["files"].items():
                assert sha256(out / name) == digest
    return lines[0]


def lose(*pairs):
    def change(root):
        for modality, name in pairs:
            image(root, modality, name).unlink()

    return change


def make_4d(path, like):
    one = nib.load(like)
    data = np.stack([np.asanyarray(one.dataobj)] * 2, axis=-1)
    nib.save(nib.Nifti1Image(data, one.affine), path)


def test_many_problems_are_told_in_part_and_counted(root, capsys):
    for number in range(12):
        shutil.copytree(root / "in" / NAMES[0], root / "in" / f"Brats18_Y_{number}_1")
        for path in (root / "in" / f"Brats18_Y_{number}_1").iterdir():
            path.rename(path.with_name(path.name.replace(NAMES[0], f"Brats18_Y_{number}_1")))
        image(root, "t1c", f"Brats18_Y_{number}_1").unlink()
    told = complain(root, capsys)
    assert "12 problems" in told
    assert told.count("lacks t1c") == 10
    assert "2 more" in told
    assert not (root / "out").exists()


def make_whole_but_t1(root):
    rewrite(image(root, "t2f"), like=image(root, "t2w"))
    image(root, "t1n").unlink()


def configure(**values):
    def change(root):
        path = root / "run" / "config.json"
        write_json(path, json.loads(path.read_text()) | values)

    return change


UNTOUCHED = {
    "no folder": (lambda root: shutil.rmtree(root / "in"), ["no folder"]),
    "inputs that the run needs, all named at once": (
        lose(("t1c", NAMES[0]), ("t2w", NAMES[1])),
        ["2 problems", f"{NAMES[0]}: lacks t1c", f"{NAMES[1]}: lacks t2w", "t2f"],
    ),
    "nothing but a label": (
        lose(*((m, NAMES[0]) for m in ("t1n", "t1c", "t2w"))),
        ["has none", "t1n, t1c, t2w"],
    ),
    "a missing sequence that the run cannot make": (make_whole_but_t1, ["t1n", "makes t2f"]),
    "another grid": (
        lambda root: rewrite(image(root, "t1c"), lambda data, affine: (data[1:], affine)),
        [f"{NAMES[0]}_t1ce.nii.gz differs", "shape"],
    ),
    "headers of all cases, whether read or taken over": (
        lambda root: (
            rewrite(image(root, "t1c"), lambda data, affine: (data[1:], affine)),
            make_4d(image(root, "t2f", NAMES[1]), image(root, "t1n", NAMES[1])),
        ),
        ["2 problems", f"{NAMES[0]}_t1ce.nii.gz differs", "ANTs", f"{NAMES[1]}_flair", "4-D"],
    ),
    "a sequence that is there already, on another grid": (
        lambda root: rewrite(
            image(root, "t2f"), lambda data, affine: (data[1:], affine), image(root, "t1n")
        ),
        [f"{NAMES[0]}_flair.nii.gz differs", "shape"],
    ),
    "a label on another grid": (
        lambda root: rewrite(image(root, "seg"), lambda data, affine: (data[1:], affine)),
        [f"{NAMES[0]}_seg.nii.gz differs", "shape"],
    ),
    "an unfinished run": (lambda root: (root / "run" / "done.json").unlink(), ["not finished"]),
    "scales without the target": (
        lambda root: write_json(root / "run" / "scales.json", []),
        ["scales.json", "t2f"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNTOUCHED)
def test_what_is_wrong_is_told_before_anything_is_written(root, capsys, what):
    change, parts = UNTOUCHED[what]
    change(root)
    told = complain(root, capsys)
    assert all(part in told for part in parts)
    assert not (root / "out").exists()


def test_an_output_folder_in_the_input_folder_or_that_is_a_file(root, capsys):
    order = ["complete", "--run", str(root / "run"), "--out", str(root / "in")]
    assert command([*order, "--data", str(root / "in" / NAMES[0])]) == 2
    assert "is in the input folder" in capsys.readouterr().err
    assert len(list((root / "in" / NAMES[0]).iterdir())) == 4
    for inside in (".", "completed"):
        assert "input folder" in complain(root, capsys, out=root / "in" / inside)
    (root / "file").write_text("mine")
    assert "cannot create the folder" in complain(root, capsys, out=root / "file")
    assert (root / "file").read_text() == "mine"


def put_infinity(path):
    rewrite(path, dtype=np.float32)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-4:] = np.float32(np.inf).tobytes()
    path.write_bytes(gzip.compress(content))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "truncated"),
        (put_infinity, "1 NaN"),
    ],
)
def test_bad_voxels_are_told_before_anything_is_written(root, capsys, change, part):
    change(image(root, "t1c"))
    told = complain(root, capsys)
    assert f"{image(root, 't1c')}" in told
    assert part in told
    assert not list((root / "out").glob("*"))


@pytest.mark.parametrize("modality", ["t2f", "t1n"])
def test_a_file_in_the_way_is_named_and_kept(root, capsys, modality):
    taken = root / "out" / NAMES[1] / f"{NAMES[1]}{TOKENS[modality]}.nii.gz"
    write_new(taken, np.ones((3, 4, 5)), np.eye(4), np.int16)
    before = sha256(taken)
    told = complain(root, capsys)
    assert f"{taken}" in told
    assert "--overwrite" in told
    assert sha256(taken) == before
    assert not (root / "out" / NAMES[0]).exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_an_output_folder_that_is_full_or_may_not_be_written(root, capsys, monkeypatch, code):
    write = Path.write_bytes

    def refuse(path, data):
        if path.name.endswith("flair.nii.gz"):
            write(path, data[:100])
            raise OSError(code, "no room or no right")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert command(arguments(root)) == 2
    told = capsys.readouterr().err
    assert "error: cannot write" in told
    assert f"{NAMES[0]}_flair.nii.gz" in told
    assert "0 of 2 cases are done" in told
    assert not list((root / "out").rglob("*flair*"))
    monkeypatch.undo()  # and the fixture is good, whatever grid what the run does not use has
    rewrite(image(root, "pd"), lambda data, affine: (data[1:], affine), image(root, "t1n"))
    assert command(arguments(root)) == 0


def test_a_disk_that_gets_full_is_told_by_the_case_and_not_by_the_page(root, capsys, monkeypatch):
    import synth3d.files.writing as writing

    fsync, full = writing.os.fsync, []

    def refuse(handle):
        name = Path(f"/proc/self/fd/{handle}").resolve().name
        full.extend([1] if f"{NAMES[1]}_flair" in name else [])
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(writing.os, "fsync", refuse)
        assert command(arguments(root)) == 2
    lines = capsys.readouterr().err.splitlines()
    (told,) = [line for line in lines if line.startswith("error: ")]
    assert f"{NAMES[1]}_flair" in told
    assert "1 of 2 cases are done" in told
    assert "index.html" not in told
    assert any("index.html" in line for line in lines if line.startswith("warning: "))
    assert command(arguments(root)) == 0
    assert (root / "out" / "index.html").is_file()


def test_weights_that_give_nan(root, capsys, monkeypatch):
    broken = lambda self, tiles, present, wanted, seed=0: tiles[:, :1] * torch.nan  # noqa: E731
    monkeypatch.setattr(FRAMEWORKS["l1"], "synthesize", broken)
    assert "the network gives NaN" in complain(root, capsys)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--overlap", "1"], "overlap"),
        (["--batch", "0"], "--batch"),
        (["--threads", "0"], "--threads"),
        (["--workers", "0"], "--workers"),
        *((["--part", part], "--part wants K/N") for part in ("0/3", "4/3", "1", "a/b", "1/2/3")),
        (["--dask", "tcp://x", "--workers", "2"], "not both"),
        (["--plumbing"], "--missing"),
        (["--plumbing", "--missing", "flair"], "no real t2f"),
        (["--format", "nnunet", "--cases", "nobody"], "nobody"),
        (["--missing", "ct"], "is not a modality"),
        (["--missing", "t1ce"], "cannot make t1c"),
    ],
)
def test_flags_that_make_no_sense(root, capsys, flags, part):
    assert part in complain(root, capsys, *flags)


def test_nnunet_needs_every_channel_and_one_file_ending(root, capsys):
    path = image(root, "t1n")
    rewrite(path.with_suffix(""), like=path)
    path.unlink()
    assert "one file ending" in complain(root, capsys, "--format", "nnunet")
    configure(sources=["t1n", "t1c", "pd"])(root)
    for name in NAMES:
        image(root, "t2w", name).rename(image(root, "pd", name))
    assert "nnU-Net needs all of" in complain(root, capsys, "--format", "nnunet")
