"""What the voxels say is heard before anything is written, and remembered; output follows input."""

import json
import shutil

import numpy as np
import pytest

import synth3d
from synth3d.cli import main as command
from synth3d.cohort import Roles, find_cases
from synth3d.cohort.audit.problems import audit
from synth3d.errors import InputError
from synth3d.files import read_json, sha256, write_json
from synth3d.images import background_of, foreground, read, write_new


@pytest.fixture(scope="module")
def heads(tmp_path_factory, write_run):
    """A phantom of 40³ without FLAIR in ``in``, and a run trained on others of its grid."""
    from synth3d.phantom.cohort import make_cohort

    root = tmp_path_factory.mktemp("sanity")
    make_cohort(root / "in", cases=1, size=40, seed=4)
    (case,) = find_cases(root / "in")
    case.images["t2f"].unlink()
    write_run(root / "run", dropout=0)
    return root


@pytest.fixture
def changed(heads, tmp_path):
    """Rewrite sequences of the case, in a copy, with edges ``scale`` times as long."""

    def change(changes, dtype="float32", scale=1.0):
        (case,) = find_cases(heads / "in")
        for modality, path in case.images.items():
            if modality == "t2f":
                continue
            volume = read(path)
            data = changes.get(modality, changes.get("all", lambda v: v))(volume.data)
            target = tmp_path / "in" / path.relative_to(heads / "in")
            affine = volume.affine @ np.diag([scale, scale, scale, 1])
            write_new(target, np.ascontiguousarray(data), affine, dtype)
        return tmp_path / "in"

    return change


def complete(heads, data, out, *flags):
    return command(
        ["complete", "--run", str(heads / "run"), "--data", str(data), "--out", str(out)]
        + ["--device", "cpu", *flags]
    )


def test_a_contradiction_is_refused_before_anything_is_written(heads, changed, tmp_path, capsys):
    data, out = changed({"t2w": lambda v: v[:, :, ::-1]}), tmp_path / "out"
    assert complete(heads, data, out) == 2
    told = capsys.readouterr().err
    assert "t2w is flipped" in told
    assert "--unchecked" in told
    assert not out.exists()
    (case,) = find_cases(data)
    with pytest.raises(InputError, match="t2w is flipped"):
        synth3d.load_run(heads / "run", "cpu").synthesize(case)
    assert complete(heads, data, out, "--unchecked") == 0
    (receipt,) = out.rglob("*.receipt.json")
    assert "t2w is flipped" in json.dumps(read_json(receipt)["suspicions"])


def test_only_a_gap_is_refused_a_case_without_one_is_taken_over_as_it_is(
    heads, changed, tmp_path, capsys
):
    data = changed({"t2w": lambda v: v[:, :, ::-1]})
    assert complete(heads, data, tmp_path / "out") == 2
    (case,) = find_cases(data)
    shutil.copyfile(case.images["t1n"], case.folder / case.file_name("t2f"))
    assert complete(heads, data, tmp_path / "out") == 0
    assert all(sha256(path) == sha256(tmp_path / "out" / path.relative_to(data))
               for path in data.rglob("*.nii.gz"))  # fmt: skip
    found = [problem.message for problem in audit(data).problems]
    assert any("complete fills no gap" in text for text in found)


def test_suspicions_stand_in_the_receipt_and_are_said_again(heads, changed, tmp_path, capsys):
    data, out = changed({"t2w": lambda v: v * 5000}), tmp_path / "out"
    done = read_json(heads / "run" / "done.json")
    write_json(heads / "run" / "done.json", done | {"orientations": ["RAS"]})
    told = []
    for _ in range(2):
        assert complete(heads, data, out) == 0
        lines = capsys.readouterr().out.splitlines()
        told.append([line for line in lines if line.startswith("warning: ")])
    write_json(heads / "run" / "done.json", done)
    assert told[0] == told[1]
    assert len(told[0]) == 2
    (receipt,) = out.rglob("*.receipt.json")
    suspicions = read_json(receipt)["suspicions"]
    assert all(text in line for text, line in zip(suspicions, told[0], strict=True))
    assert any("times as bright" in text for text in suspicions)
    assert any("oriented" in text for text in suspicions)


@pytest.mark.parametrize("learnt", [None, 3, 12])
def test_a_run_says_once_and_in_each_receipt_what_it_would_not_notice(
    ready, tmp_path, capsys, learnt
):
    """``learnt`` cases taught it what exchanged sequences look like; None, as runs of before."""
    run, out, sources = tmp_path / "run", tmp_path / "out", ("t1n", "t1c", "t2w")
    shutil.copytree(ready / "run", run)
    if learnt is not None:
        draws = np.random.default_rng(0)
        seen = [draws.normal((1, 0, 0, 0), 0.1, (36, 4)).T for _ in range(learnt)]
        write_json(run / "roles.json", Roles.learn(seen, sources).to_dict())
    words = ["complete", "--run", str(run), "--data", str(ready / "in"), "--device", "cpu"]
    assert command([*words, "--out", str(out)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "exchanged" in line]
    receipts = [read_json(path) for path in out.rglob("*.receipt.json")]
    told = [receipt["unnoticed"] for receipt in receipts if "unnoticed" in receipt]
    assert len(said) == (learnt != 12)
    assert len(told) == 2 * len(said)  # of the cases for which something was made
    assert {*said} == {f"note: {text}" for text in told}


@pytest.mark.parametrize("known", [False, True, None])
@pytest.mark.parametrize("larger", [1, 1.3])
def test_a_skull_that_was_left_on_is_told_unless_the_run_learnt_from_such(
    heads, changed, tmp_path, capsys, known, larger
):
    """``known`` is what the run says of its training; None, nothing, as runs of before."""
    data, run = changed({}, scale=larger), tmp_path / "run"
    shutil.copytree(heads / "run", run)
    told = {} if known is None else {"with_skulls": known}
    write_json(run / "done.json", read_json(run / "done.json") | told)
    words = ["complete", "--run", str(run), "--data", str(data), "--device", "cpu"]
    assert command([*words, "--out", str(tmp_path / "out")]) == 0
    (receipt,) = (tmp_path / "out").rglob("*.receipt.json")
    suspected = [text for text in read_json(receipt)["suspicions"] if "skull-stripped" in text]
    assert len(suspected) == (larger > 1 and not known)
    said = capsys.readouterr().out
    assert all(f": {text}" in said for text in suspected)
    assert ("skull-stripped" in said) == bool(suspected)
    for text in suspected:  # a run that does not know leaves both open
        assert ("unless the run" in text) == (known is None)


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        (lambda v: v, "int16"),
        (lambda v: v - 1024, "int16"),
        (lambda v: (v - v.mean()) / v.std(), "float32"),
        (lambda v: np.where(v > 0, (v - v[v > 0].mean()) / v[v > 0].std(), 0), "float32"),
        (lambda v: v / v.max(), "float32"),
    ],
    ids=["scanner", "minus 1024", "z-scored", "z-scored in the brain", "zero to one"],
)
def test_what_is_written_has_the_background_and_range_of_its_siblings(
    heads, changed, tmp_path, change, dtype
):
    data, out = changed({"all": change}, dtype), tmp_path / "out"
    assert complete(heads, data, out) == 0
    (case,) = find_cases(out)
    volumes = {m: read(path).data for m, path in case.images.items()}
    made = volumes.pop("t2f")
    brain = np.logical_or.reduce([foreground(v) for v in volumes.values()])
    grounds = [background_of(v) for v in volumes.values()]
    assert min(grounds) - 1e-3 <= made[~brain].min() <= made[~brain].max() <= max(grounds) + 1e-3
    widest = max(float(np.ptp(v)) for v in volumes.values())
    assert np.ptp(made) < 3 * widest
    lowest = min(float(v.min()) for v in volumes.values())
    assert made.min() >= lowest - widest
