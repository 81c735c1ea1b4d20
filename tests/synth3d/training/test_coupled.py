"""A training that is coupled to a segmenter: what it notes, what it refuses, how it goes on."""

import dataclasses
import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from synth3d.cohort import find_cases, make_splits
from synth3d.errors import InputError
from synth3d.files import read_json, sha256, write_json
from synth3d.images import read
from synth3d.losses import DESCRIPTION, WEIGHTS
from synth3d.training import TrainRequest, train_run
from synth3d.training.run_folder import load_run, read_log
from synth3d.training.start import coupled_to
from synth3d.training.trainer import Trainer

TERMS = {"features": 0.5, "label": 0.5, "answer": 0.5, "tumour": 0.5, "boundary": 0.5}
RECIPE = {
    "model": {"name": "resunet", "widths": [4, 8], "blocks": 1, "groups": 2},
    "data": {
        "patch": [16, 16, 16], "overlap": [4, 4, 4], "batch": 2, "queue": 4, "tumour_chance": 0.5,
        "validation_cases": 1,
    },
    "train": {
        "framework": "l1", "steps": 6, "learning_rate": 2e-3, "checkpoint_every": 2,
        "validate_every": 6, "average": 0.9, "threads": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def splits(phantom_cohort):
    return make_splits(find_cases(phantom_cohort))


@pytest.fixture(scope="module")
def original(write_segmenter, phantom_cohort, splits, tmp_path_factory):
    case = find_cases(phantom_cohort)[0]
    spacing = read(case.images["t1n"]).spacing_mm
    folder = tmp_path_factory.mktemp("export") / "segmenter"
    return write_segmenter(folder, cases=sorted(splits.train), spacing_mm=[*spacing], seed=7)


@pytest.fixture
def export(original, tmp_path):
    return shutil.copytree(original, tmp_path / "segmenter")


@pytest.fixture
def run_it(phantom_cohort, tmp_path):
    """Train with a recipe coupled to ``export``, as the command line does."""

    def run(export, work=None, assign=(), train=(), dry_run=False, **coupling):
        work = work or tmp_path / "work"
        work.mkdir(exist_ok=True)
        coupling = {"segmenter": str(export), **(coupling or TERMS)}
        recipe = RECIPE | {"train": RECIPE["train"] | {"coupling": coupling} | dict(train)}
        write_json(work / "recipe.json", recipe)
        how = {"work": work, "name": "run", "device": "cpu", "assign": assign, "dry_run": dry_run}
        return train_run(TrainRequest(phantom_cohort, recipe=str(work / "recipe.json"), **how))

    return run


def described(export, **said):
    write_json(export / DESCRIPTION, read_json(export / DESCRIPTION) | said)
    return export


@pytest.mark.parametrize("more", [{}, {"start": 3}, {"every": 2, "balance": True}])
def test_a_dry_run_of_a_coupled_training_tells_its_time(export, run_it, capsys, tmp_path, more):
    """With the segmenter at work, and leaves nothing."""
    assert run_it(export, dry_run=True, **TERMS, **more) is None
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("time:")]
    assert len(lines) <= 15
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["recipe.json"]


def test_a_coupled_run_notes_by_whom_it_was_taught(export, run_it, splits):
    """And needs the export no more once it is finished."""
    run = run_it(export)
    (noted,) = read_json(run / "cohort.json")["coupled"]
    about = read_json(export / DESCRIPTION)
    assert noted == {
        "weights_sha256": about["weights_sha256"], "checkpoint_sha256": "0" * 64, "seed": 7,
        "cases": sorted(splits.train), "origin": "T__P__3d_fullres",
    }  # fmt: skip
    said = read_json(run / "config.json")["train"]["coupling"]
    assert said["segmenter"] == str(export.resolve())
    assert said["segmenter_sha256"] == about["weights_sha256"]
    assert {"l1", *TERMS} == set(read_log(run / "log.jsonl")[0]["loss"])
    shutil.rmtree(export)
    assert load_run(run).framework.coupling is None


def test_killed_and_gone_on_it_ends_with_the_same_weights(export, run_it, tmp_path):
    """Bit for bit, with all terms, balanced by what earlier steps measured, at some steps only."""
    how = TERMS | {"balance": True, "every": 2, "start": 1}
    straight, real = run_it(export, tmp_path / "straight", **how), Trainer.advance

    def advance(trainer, batch):
        if trainer.step >= 3:
            raise KeyboardInterrupt
        return real(trainer, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", advance)
        with pytest.raises(KeyboardInterrupt):
            run_it(export, tmp_path / "killed", **how)
    assert (tmp_path / "killed" / "runs" / "run" / "resume.pt").is_file()
    again = run_it(export, tmp_path / "killed", **how)
    assert sha256(again / "weights.safetensors") == sha256(straight / "weights.safetensors")
    plain = run_it(export, tmp_path / "plain", tumour=1e-9, label=1e-9)
    assert sha256(plain / "weights.safetensors") != sha256(straight / "weights.safetensors")


def test_a_segmenter_that_saw_other_cases_is_refused(export, run_it, splits, tmp_path):
    described(export, cases=[*splits.train, splits.test[0]])
    with pytest.raises(InputError, match=splits.test[0]):
        run_it(export)
    assert not (tmp_path / "work" / "runs").exists()


def test_one_that_does_not_say_whom_it_saw_is_warned_of(export, run_it, capsys):
    run = run_it(described(export, cases=None))
    assert "warning: the segmenter" in capsys.readouterr().out
    assert read_json(run / "cohort.json")["coupled"][0]["cases"] is None


def test_other_voxels_are_refused(export, run_it):
    with pytest.raises(InputError, match="1×1×1 mm"):
        run_it(described(export, spacing_mm=[1.0, 1.0, 1.0]))


def test_another_segmenter_in_its_place_is_refused(export, run_it, monkeypatch):
    """A run goes on with the one that it was begun with; so does its saved configuration."""
    run = run_it(export, label=0.5)
    state = load_file(export / WEIGHTS)
    save_file({name: value + 1 for name, value in state.items()}, export / WEIGHTS)
    described(export, weights_sha256=sha256(export / WEIGHTS))
    with pytest.raises(InputError, match="segmenter_sha256"):
        run_it(export, label=0.5)
    digest = read_json(run / "config.json")["train"]["coupling"]["segmenter_sha256"]
    with pytest.raises(InputError, match="another"):
        run_it(export, label=0.5, segmenter_sha256=digest)


def test_its_hash_is_not_set_by_hand(export, run_it):
    with pytest.raises(InputError, match="not set by hand"):
        run_it(export, assign=("train.coupling.segmenter_sha256=abc",))


def test_a_run_that_is_begun_from_a_coupled_one_was_taught_by_its_segmenter(export, run_it):
    run = run_it(export, label=0.5)
    config = load_run(run).config
    (before,) = coupled_to(config)
    train = dataclasses.replace(config.train, start=str(run), start_sha256="x")
    alone = dataclasses.replace(train, coupling=type(train.coupling)())
    assert coupled_to(dataclasses.replace(config, train=alone)) == [json.loads(json.dumps(before))]
    assert len(coupled_to(dataclasses.replace(config, train=train))) == 2


def test_the_export_is_what_a_missing_one_asks_for(run_it, tmp_path):
    with pytest.raises(InputError, match="seg_eval export-segmenter"):
        run_it(tmp_path / "nowhere")
