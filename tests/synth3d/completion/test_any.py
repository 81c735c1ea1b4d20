"""A run for any gap fills whatever each case lacks, each case its own, and nothing else."""

import json
import shutil

import numpy as np
import pytest

import synth3d
from synth3d.cli import main
from synth3d.cohort import find_cases
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.images.volumes import read, write_like
from synth3d.training import runs_that_make

FOUR = ("t1n", "t1c", "t2w", "t2f")
LACKING = [("t1c",), ("t2w", "t2f"), ("t1n", "t1c", "t2w"), (), ("t2f",), (), ()]
"""What each of the cases lacks; one more lacks what the others have."""


@pytest.fixture(scope="module")
def gappy(tmp_path_factory, write_case, write_run):
    """``in``: cases with gaps of their own; runs ``any``, ``flair`` and ``both``, untrained."""
    root = tmp_path_factory.mktemp("gappy")
    for number, gone in enumerate(LACKING):
        write_case(root / "in", number, [name for name in FOUR if name not in gone])
    write_run(root / "any", mode="any", sources=FOUR, targets=FOUR)
    write_run(root / "flair", dropout=0)
    write_run(root / "both", sources=["t1n", "t2w"], targets=["t1c", "t2f"])
    return root


@pytest.fixture
def complete(gappy, tmp_path):
    def run(out="out", **settings):
        given = {"run": gappy / "any", "data": gappy / "in", "device": "cpu"}
        return synth3d.complete(out=tmp_path / out, **given | settings)

    return run


def test_each_case_gets_its_own_gap_filled_and_a_whole_one_is_left_alone(gappy, complete):
    done = complete()
    assert [one.made for one in done] == LACKING
    for before, one in zip(find_cases(gappy / "in"), done, strict=True):
        receipt = json.loads(one.receipt.read_text())
        assert one.state == ("made" if one.made else "whole")
        assert receipt["sources"] == ([n for n in FOUR if n not in one.made] if one.made else [])
        assert {*one.paths} == {*FOUR}
        for name, path in before.images.items():
            assert sha256(one.paths[name]) == sha256(path)
        for name in one.made:
            assert read(one.paths[name]).data.any()
    assert [one.state for one in complete()] == ["done" if made else "whole" for made in LACKING]


def test_what_is_hidden_is_made_too_and_never_looked_at(gappy, complete, tmp_path):
    """Not even its head: the hidden files are noise over half of the volume."""
    shutil.copytree(gappy / "in", tmp_path / "in")
    for case in find_cases(tmp_path / "in"):
        for name in ("t1n", "t2f"):
            if name in case.images:
                noise = np.random.default_rng(0).integers(
                    1, 900, read(case.images[name]).data.shape
                )
                noise[: len(noise) // 2] = 0
                write_like(case.images[name], noise, case.images[name])
    names = [f"Brats18_X_{number}_1" for number in (0, 3)]
    for out, data in (("one", gappy / "in"), ("two", tmp_path / "in")):
        done = complete(out, data=data, missing=["t1", "flair"], cases=names)
        assert [one.made for one in done] == [("t1n", "t1c", "t2f"), ("t1n", "t2f")]
    for made in (tmp_path / "one").glob("*/*.nii.gz"):
        assert sha256(made) == sha256(tmp_path / "two" / made.relative_to(tmp_path / "one"))


def test_a_case_with_nothing_to_look_at_is_refused_by_name(gappy, tmp_path, capsys):
    flags = ["--run", gappy / "any", "--data", gappy / "in", "--out", tmp_path, "--device", "cpu"]
    assert main(["complete", *map(str, flags), "--missing", *FOUR]) == 2
    said = capsys.readouterr().err
    assert "case Brats18_X_3_1: has none of the sequences t1n, t1c, t2w, t2f" in said
    assert not [*tmp_path.iterdir()]
    assert main(["complete", *map(str, flags), "--missing", "flair"]) == 2
    said = capsys.readouterr().err
    assert said.count("has none of the sequences") == said.count("Brats18_X_2_1") == 1


def test_a_fixed_run_asked_for_another_gap_says_which_runs_could(gappy, complete, tmp_path):
    assert runs_that_make(["t2f"], gappy) == ["any", "both", "flair"]
    assert runs_that_make(["t1c", "t2f"], gappy) == ["any", "both"]
    assert runs_that_make([*FOUR], gappy) == []
    with pytest.raises(InputError, match=r"cannot make t1n; any beside it can make t1n$"):
        complete(run=gappy / "flair", missing=["t1n"])
    with pytest.raises(InputError, match=r"X_0_1: lacks t1c, .* makes t2f; any and both beside"):
        complete(run=gappy / "flair", cases=["Brats18_X_0_1"])
    shutil.copytree(gappy / "flair", tmp_path / "runs" / "flair")
    with pytest.raises(InputError, match=r"no run beside it .*: train one with --target any"):
        complete(run=tmp_path / "runs" / "flair", missing=["t1n"])


def test_a_gap_that_no_training_case_showed_is_filled_with_a_warning(gappy, complete, tmp_path):
    """No training case had both t2w and t2f: from t1n either was learnt, from the other neither."""
    run = shutil.copytree(gappy / "any", tmp_path / "run")
    scales = json.loads((run / "scales.json").read_text())[0]
    apart = [{n: s for n, s in scales.items() if n != gone} for gone in ("t2w", "t2f")]
    (run / "scales.json").write_text(json.dumps(apart * 2))
    whole = "Brats18_X_3_1"
    for number, hidden in enumerate((["t1n", "t1c", "t2f"], ["t1c", "t2f"], ["t2w"])):
        (done,) = complete(f"out{number}", run=run, cases=[whole], missing=hidden, unchecked=True)
        told = " ".join(json.loads(done.receipt.read_text()).get("suspicions", []))
        assert ("nothing that any training case had beside t2f: " in told) == (number == 0)
        assert "beside t1n" not in told


def test_from_python_it_makes_what_a_case_lacks_or_what_is_asked_for(gappy):
    run = synth3d.load_run(gappy / "any", device="cpu")
    one, _, _, whole, *_ = find_cases(gappy / "in")
    assert list(run.synthesize(one)) == ["t1c"]
    assert list(run.synthesize(whole, ["t2w"])) == ["t2w"]
    with pytest.raises(InputError, match="lacks nothing; say with wanted= what to make"):
        run.synthesize(whole)


def test_from_an_incomplete_cohort_to_a_complete_one(phantom_cohort, tmp_path, capsys):
    gaps = [("t2f",), ("t1n", "t1c"), ("t2w",), (), (), ("t1c",)]
    for case, gone in zip(find_cases(phantom_cohort), gaps, strict=True):
        lost = shutil.ignore_patterns(*(f"*-{name}.nii.gz" for name in gone))
        shutil.copytree(case.folder, tmp_path / "in" / case.name, ignore=lost)
    run = synth3d.train(
        data=tmp_path / "in", target="any", recipe="phantom", work=tmp_path / "work", steps=3,
        model="resunet", framework="l1", widths=(4, 8), patch=(16, 16, 16), threads=1,
        device="cpu",
    )  # fmt: skip
    assert run.folder.name.startswith("any-resunet-in-")
    done = synth3d.complete(
        run=run.folder, data=tmp_path / "in", out=tmp_path / "out", device="cpu", unchecked=True
    )
    assert [one.made for one in done] == gaps
    assert "any of t1n+t1c+t2w+t2f" in capsys.readouterr().out
    assert not any(case.missing() for case in find_cases(tmp_path / "out"))
