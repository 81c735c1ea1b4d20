"""The BraSyn container's entry point, run without Docker on a machine that forbids all it may."""

import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

import synth3d
from synth3d.cli import main
from synth3d.export.contents import LIBRARIES

FORBIDDING = '''
"""Only the folder OUT can be written, the user has no name, and there is no network."""
import os, pwd, sys

OUT, WRITING = os.environ.pop("ONLY_WRITABLE"), os.O_WRONLY | os.O_RDWR | os.O_CREAT

def nobody(*_):
    raise KeyError("no such user")

pwd.getpwuid = pwd.getpwnam = nobody
os.getuid = os.geteuid = lambda: 54321

def guard(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        os._exit(99)
    writes = event in ("os.mkdir", "os.rename", "os.remove")
    if writes or (event == "open" and isinstance(args[2], int) and args[2] & WRITING):
        path = args[0]
        if not isinstance(path, int) and path != os.devnull:
            if not os.path.abspath(os.fsdecode(path)).startswith(OUT):
                raise PermissionError(13, "read-only file system", path)

sys.addaudithook(guard)
'''


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def context(ready, tmp_path_factory):
    """The context of two runs, FLAIR and T1; read-only."""
    folder = tmp_path_factory.mktemp("container") / "context"
    words = ("export", ready / "flair", "--also", ready / "t1", "--to", "brasyn", folder)
    assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture
def start(context, tmp_path):
    """Start the entry point as ``docker run`` does: without an environment."""
    (tmp_path / "forbidding").mkdir()
    (tmp_path / "forbidding" / "sitecustomize.py").write_text(FORBIDDING)

    def run(data, out):
        return subprocess.run(
            [sys.executable, context / "app" / "main.py", data, out],
            env={"PYTHONPATH": str(tmp_path / "forbidding"), "ONLY_WRITABLE": str(out)},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_one_file_for_each_case_without_home_network_or_another_place_to_write(
    ready, context, start, tmp_path
):
    out = tmp_path / "out"
    out.mkdir()
    before = sorted(context.rglob("*"))
    done = start(ready / "in", out)
    assert (done.returncode, done.stderr) == (0, "")
    cases = synth3d.find_cases(ready / "in")
    assert names_in(out) == [f"{c.name}-{c.missing()[0]}.nii.gz" for c in cases]
    assert sorted(context.rglob("*")) == before
    case = cases[1]  # which the second run makes
    run = synth3d.load_run(ready / "t1", "cpu")
    made, own = nib.load(out / f"{case.name}-t1n.nii.gz"), run.synthesize(case)["t1n"]
    np.testing.assert_allclose(made.get_fdata(), own.get_fdata(), rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(made.affine, nib.load(case.images["t2w"]).affine)
    assert made.get_data_dtype() == np.float32


def test_a_rerun_replaces_its_own_files_and_leaves_others(ready, start, tmp_path):
    data, out = tmp_path / "in", tmp_path / "out"
    name = "Phantom-00000-000"
    shutil.copytree(ready / "in" / name, data / name)
    out.mkdir()
    (out / "notes.txt").write_text("of somebody")
    (out / f".partial-1-{name}-t2f.nii.gz").write_bytes(b"half")
    (out / f"{name}-t2f.nii.gz").write_bytes(b"damaged")
    assert start(data, out).returncode == 0
    assert names_in(out) == [f"{name}-t2f.nii.gz", "notes.txt"]
    assert nib.load(out / f"{name}-t2f.nii.gz").get_fdata().any()


def test_cases_that_it_cannot_do_are_all_named_and_none_is_done(ready, start, tmp_path):
    data = tmp_path / "in"
    shutil.copytree(ready / "in", data)
    cases = synth3d.find_cases(data)
    cases[0].images["t1n"].unlink()
    shutil.copy(cases[1].images["t2f"], data / cases[1].name / f"{cases[1].name}-t1n.nii.gz")
    shutil.copytree(
        data / cases[2].name, data / "lacking-one", ignore=shutil.ignore_patterns("*t2w*")
    )
    for path in (data / "lacking-one").iterdir():
        path.rename(path.with_name("lacking-one" + path.name.removeprefix(cases[2].name)))
    flair, t1 = (data / "lacking-one" / f"lacking-one-{name}.nii.gz" for name in ("t2f", "t1n"))
    shutil.copy(t1, flair)
    done = start(data, tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    for fact in (f"{cases[0].name} must lack one sequence and lacks t1n and t2f",
                 f"{cases[1].name} must lack one sequence and lacks none",
                 "lacking-one lacks t2w; this container makes t2f, t1n"):  # fmt: skip
        assert fact in line
    assert not (tmp_path / "out").exists()


def test_trouble_in_the_voxels_of_one_case_stops_no_other(ready, start, tmp_path):
    data, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(ready / "in", data)
    bad = data / "Phantom-00001-000" / "Phantom-00001-000-t2w.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-1000])
    done = start(data, out)
    assert done.returncode == 2
    assert "truncated" in done.stderr
    assert len(names_in(out)) == 2


def test_the_requirements_are_what_the_entry_point_imports(ready, context):
    """Counted in a process of its own; what belongs to a library's own needs is pip's affair."""
    code = (
        "import sys, importlib.metadata as m; import synth3d\n"
        f"synth3d.load_run({str(ready / 'flair')!r}, 'cpu')\n"
        "print(*{n.split('.')[0] for n in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    pinned = {line.split("==")[0] for line in (context / "requirements.txt").read_text().split()}
    assert pinned == set(LIBRARIES)
    assert {"torch", "numpy", "nibabel", "torchio"} <= loaded
    unpinned = {"matplotlib", "nilearn", "nnunetv2", "sklearn", "skimage", "lpips", "PIL", "jinja2"}
    assert not loaded & unpinned
