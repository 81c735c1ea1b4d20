"""Claims about ``import synth3d``: light, complete, and as docs/api.md tells it."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import seg_eval
import synth3d
from synth3d.errors import InputError

ROOT = Path(__file__).parents[3]
SOURCES = ("t1n", "t1c", "t2w")


def test_importing_takes_next_to_no_time_and_nothing_heavy():
    code = "import sys, synth3d; print({'torch', 'numpy', 'nibabel'} & {*sys.modules})"
    spent = []
    for _ in range(3):
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare = time.perf_counter()
        told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        spent.append(time.perf_counter() - bare - (bare - before))
        assert told.stdout.strip() == b"set()"
    assert min(spent) < 0.2


def test_what_is_offered_is_there_and_type_checkers_see_it():
    assert {*synth3d.__all__} >= {"find_cases", "train", "load_run", "Run", "complete"}
    assert all(getattr(synth3d, name) for name in synth3d.__all__)
    tree = ast.parse((ROOT / "synth3d" / "__init__.py").read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in block.body for alias in node.names}
    assert seen | {"__version__"} == {*synth3d.__all__}
    with pytest.raises(AttributeError, match="nonsense"):
        synth3d.nonsense  # noqa: B018


@pytest.mark.parametrize("package", [synth3d, seg_eval])
def test_a_notebook_finds_what_is_offered_and_nothing_else(package):
    assert {*dir(package)} == {*package.__all__}


@pytest.mark.parametrize(
    ("call", "given", "settings", "parts"),
    [
        ("complete", ("run", "in", "out"), {}, ["'run'", "run=", "data=", "out="]),
        ("complete", (), {"data": ROOT, "out": ROOT, "misssing": "flair"}, ["nearest: missing"]),
        ("complete", (), {"run": ROOT}, ["data and out"]),
        ("train", ("BraTS",), {}, ["'BraTS'", "data="]),
        ("train", (), {"stesp": 4}, ["nearest: steps"]),
        ("calibrate", ("run", "in"), {}, ["run=", "data="]),
        ("calibrate", (), {"run": ROOT}, ["wants data"]),
    ],
)
def test_a_call_that_cannot_be_meant_is_refused_in_one_sentence(call, given, settings, parts):
    with pytest.raises(InputError) as raised:
        getattr(synth3d, call)(*given, **settings)
    assert [part for part in parts if part not in str(raised.value)] == []


@pytest.fixture(scope="module")
def run(ready):
    return synth3d.load_run(str(ready / "run"), device="cpu")


@pytest.fixture(scope="module")
def cases(ready):
    return synth3d.find_cases(ready / "in")


def test_a_case_and_its_files_give_the_picture_that_completing_gives(run, cases, completed):
    whole, lacking = cases[0], cases[2]
    assert (run.sources, run.targets) == (SOURCES, ("t2f",))
    assert run.config.dim == 3
    (made,) = run.synthesize(lacking).values()
    written = nib.load(completed / lacking.name / f"{lacking.name}_flair.nii.gz")
    assert made.get_data_dtype() == np.float32
    np.testing.assert_array_equal(made.affine, written.affine)
    for key in ("pixdim", "qform_code", "sform_code", "xyzt_units"):
        np.testing.assert_array_equal(made.header[key], written.header[key])
    assert made.header["descrip"].item().startswith(b"synthetic t2f by synth3d")
    np.testing.assert_allclose(made.get_fdata(), written.get_fdata(), atol=0.51)  # integers there
    aliases = {"T1": lacking.images["t1n"], "t1gd": str(lacking.images["t1c"])}
    paths = run.synthesize(aliases | {"t2": lacking.images["t2w"]})
    np.testing.assert_array_equal(paths["t2f"].get_fdata(), made.get_fdata())
    assert list(run.synthesize(whole)) == list(run.synthesize(whole, "flair")) == ["t2f"]


def test_arrays_give_the_picture_that_their_files_give(run, cases):
    case = cases[2]
    files = {name: nib.load(case.images[name]) for name in SOURCES}
    arrays = {name: file.get_fdata().T for name, file in files.items()}
    (made,) = run.synthesize(arrays, affine=files["t1n"].affine).values()
    assert made.dtype == np.float32
    assert made.shape == arrays["t1n"].shape
    (image,) = run.synthesize(case).values()
    np.testing.assert_allclose(made, image.get_fdata().T, rtol=1e-5)
    some = run.synthesize({"t2": arrays["t2w"]}, affine=files["t1n"].affine)
    assert some["t2f"].shape == made.shape  # the run learned to do without the others


def test_a_case_is_also_its_folder_or_images_that_nibabel_read(run, cases, ready):
    case = cases[2]
    (expected,) = run.synthesize(case).values()
    for folder in (case.folder, str(case.folder)):
        (made,) = run.synthesize(folder).values()
        np.testing.assert_array_equal(made.get_fdata(), expected.get_fdata())
    images = {name: nib.load(case.images[name]) for name in SOURCES}
    before = {name: image.get_filename() for name, image in images.items()}
    (made,) = run.synthesize(images).values()
    np.testing.assert_array_equal(made.get_fdata(), expected.get_fdata())
    np.testing.assert_array_equal(made.affine, expected.affine)
    for key in ("pixdim", "qform_code", "sform_code", "xyzt_units"):
        np.testing.assert_array_equal(made.header[key], expected.header[key])
    assert {name: image.get_filename() for name, image in images.items()} == before
    beside = images | {"t1n": case.images["t1n"]}
    np.testing.assert_array_equal(run.synthesize(beside)["t2f"].get_fdata(), expected.get_fdata())
    with pytest.raises(InputError, match="4 cases"):
        run.synthesize(ready / "in")
    with pytest.raises(InputError, match="affine"):
        run.synthesize(case.folder, affine=np.eye(4))


def test_values_of_an_image_in_memory_are_not_rounded_to_the_type_of_its_file(run, cases):
    """As when a scan was normalised in a notebook: whole numbers in the file, 0 to 1 now."""
    read = {name: nib.load(cases[2].images[name]) for name in SOURCES}
    small = {name: image.get_fdata() / 1000 for name, image in read.items()}
    assert read["t1n"].get_data_dtype().kind == "i"
    scaled = {n: nib.Nifti1Image(small[n], read[n].affine, read[n].header) for n in SOURCES}
    (made,) = run.synthesize(scaled).values()
    arrays = {name: values.T for name, values in small.items()}
    (expected,) = run.synthesize(arrays, affine=read["t1n"].affine).values()
    np.testing.assert_allclose(made.get_fdata().T, expected, rtol=1e-5)


def test_a_run_says_what_it_is_in_one_line(run, ready):
    several = synth3d.load_run([ready / "run", ready / "random"], device="cpu")
    for one, names in ((run, ["run"]), (several, ["run", "random"])):
        line = repr(one)
        assert [part for part in (*names, *SOURCES, "t2f") if part not in line] == []
        assert len(line.splitlines()) == 1


CUBE, EYE = np.ones((8, 9, 10)), np.eye(4)


@pytest.mark.parametrize(
    ("case", "settings", "part"),
    [
        ({"ct": CUBE}, {"affine": EYE}, "ct"),
        ({"t1": CUBE, "t1n": CUBE}, {"affine": EYE}, "t1n"),
        ({"t1": CUBE}, {}, "affine"),
        ({"t1": CUBE}, {"affine": np.zeros((4, 4))}, "affine"),
        ({"t1": "a.nii"}, {"affine": EYE}, "affine"),
        ({"t1": CUBE, "t2": "a.nii"}, {"affine": EYE}, "both"),
        ({"t1": CUBE, "t2": CUBE[1:]}, {"affine": EYE}, "t2w (7, 9, 10)"),
        ({"t1": CUBE[0]}, {"affine": EYE}, "(9, 10)"),
        ({"t1": CUBE * np.nan}, {"affine": EYE}, "t1n"),
        ({"t1": CUBE.astype(str)}, {"affine": EYE}, "t1n"),
        ({"flair": CUBE}, {"affine": EYE}, "t1n, t1c, t2w"),
        ({}, {}, "t1n, t1c, t2w"),
        ({"t1": "gone.nii"}, {}, "gone.nii"),
        ({"t1": CUBE}, {"affine": EYE, "wanted": ["t1c"]}, "t1c"),
        ({"t1": [CUBE]}, {}, "list"),
        ({"t1": nib.Nifti1Image(np.zeros((4, 5, 6, 2), "int16"), EYE)}, {}, "4-D"),
        (["a.nii", "b.nii"], {}, "list"),
        (nib.Nifti1Image(CUBE, EYE), {}, "Nifti1Image"),
        ("gone", {}, "gone"),
    ],
)
def test_what_is_no_case_is_refused_in_one_sentence(run, case, settings, part):
    with pytest.raises(InputError) as raised:
        run.synthesize(case, **settings)
    assert part in str(raised.value)
    assert "\n" not in str(raised.value)


def test_sources_that_a_run_needs_and_are_missing_are_named(write_run, cases, tmp_path):
    run = synth3d.load_run(write_run(tmp_path / "run", dropout=0), device="cpu")
    with pytest.raises(InputError, match="t1c, t2w"):
        run.synthesize({"t1": cases[2].images["t1n"]})


def test_the_page_is_done_as_it_is_written(tmp_path, monkeypatch):
    """All Python of docs/api.md but what judges, which takes trained segmenters."""
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        if "seg_eval" not in block:
            exec(compile(block, "docs/api.md", "exec"), names)
    assert [one.state for one in names["done"]] == ["made"] * 6
    assert all(path.is_file() for one in names["done"] for path in one.paths.values())
    assert (tmp_path / "work" / "flair.nii.gz").is_file()
