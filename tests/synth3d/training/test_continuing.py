"""--continue RUN: a run goes on by its name; more steps follow as if it had never been finished."""

import json
import shutil

import pytest

from synth3d.cli import main
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.runs import known_run
from synth3d.training import TrainRequest, load_run, train_run
from synth3d.training.trainer import Trainer

SMALL = (
    "model.widths=[4,8]", "model.groups=2", "model.blocks=1", "model.stages=2",
    "data.patch=[16,16,16]", "data.overlap=[0,0,0]", "data.batch=2", "data.queue=8",
    "data.workers=0", "data.validation_cases=1", "train.framework=l1", "train.average=0.9",
    "train.checkpoint_every=4", "train.validate_every=4", "train.decay=constant",
)  # fmt: skip


@pytest.fixture(scope="module")
def request_of(small_requests):
    """(name, settings, fields) → a small training."""
    return small_requests("phantom", SMALL)


@pytest.fixture(scope="module")
def short(request_of):
    """A finished run of six steps, in the middle between two checkpoints; not to be changed."""
    return train_run(request_of("short", steps=6))


@pytest.fixture(scope="module")
def long(request_of):
    """The same training with ten steps at once."""
    return train_run(request_of("long", steps=10))


@pytest.fixture
def own(short, tmp_path):
    """A copy of the short run in a working folder of its own."""
    return shutil.copytree(short, tmp_path / "runs" / "own")


def go_on(run, **fields):
    return train_run(TrainRequest(continued=run.name, work=run.parents[1], device="cpu", **fields))


def test_more_steps_end_as_the_longer_training_does(own, short, long):
    assert go_on(own, steps=10) == own
    assert sha256(own / "weights.safetensors") == sha256(long / "weights.safetensors")
    assert sha256(own / "weights.safetensors") != sha256(short / "weights.safetensors")
    assert load_run(own).config == load_run(long).config
    assert json.loads((own / "done.json").read_text())["steps"] == 10
    steps = [json.loads(line)["step"] for line in (own / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    before = sha256(own / "resume.pt")
    assert go_on(own) == own  # nothing is left to do
    assert sha256(own / "resume.pt") == before


def test_killed_while_it_grows_it_is_unfinished_and_goes_on(own, long, monkeypatch, capsys):
    real = Trainer.advance

    def advance(trainer, batch):
        if trainer.step >= 9:
            raise KeyboardInterrupt
        return real(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", advance)
        with pytest.raises(KeyboardInterrupt):
            go_on(own, steps=10)
    found = known_run(own)
    assert (found.state, found.step, found.steps) == ("unfinished", 8, 10)
    with pytest.raises(InputError, match="is not finished; synth3d train --continue"):
        load_run(own)
    capsys.readouterr()
    go_on(own)
    assert "going on at step 8 of 10" in capsys.readouterr().out
    assert sha256(own / "weights.safetensors") == sha256(long / "weights.safetensors")


def test_it_says_what_becomes_of_the_learning_rate(request_of, short, own, capsys):
    go_on(own, steps=7)
    assert "the learning rate stays" in capsys.readouterr().out
    run = train_run(request_of("cosine", ("train.decay=cosine", "train.warmup=0"), steps=2))
    go_on(run, steps=4)
    assert "50% of" in capsys.readouterr().out  # the middle of a cosine over four steps


def test_a_run_says_with_which_recipe_it_was_begun_and_whether_it_is_a_trial(short, own):
    assert json.loads((short / "recipe.json").read_text()) == {"name": "phantom", "steps": 400}
    assert known_run(short).is_trial
    go_on(own, steps=7)
    assert json.loads((own / "recipe.json").read_text())["name"] == "phantom"


def no_state(run):
    (run / "resume.pt").unlink()


def no_cohort(run):
    (run / "cohort.json").unlink()


def two_stages(run):
    config = json.loads((run / "config.json").read_text())
    config |= {"mode": "any", "sources": ["t1n", "t2f"], "targets": ["t1n", "t2f"]}
    config["model"]["name"] = "tsf"
    tsf = {"pretrain": 0.5, "perceptual_weight": 0.0}
    config["train"] |= {"framework": "tsf", "tsf": tsf}
    (run / "config.json").write_text(json.dumps(config))


def other_threads(run):
    config = json.loads((run / "config.json").read_text())
    config["train"]["threads"] = 2
    (run / "config.json").write_text(json.dumps(config))


def no_such_case(run):
    cohort = json.loads((run / "cohort.json").read_text())
    (run / "cohort.json").write_text(json.dumps(cohort | {"train": [*cohort["train"], "Gone-1"]}))


@pytest.mark.parametrize(
    ("spoil", "flags", "why"),
    [
        (other_threads, ["--steps", "9"], "was begun in another way"),
        (no_such_case, ["--steps", "9"], "Gone-1 (train) is not in the cohort"),
        (no_such_case, ["--steps", "9", "--dry-run"], "Gone-1 (train) is not in the cohort"),
        (no_state, ["--steps", "9"], "keeps no resume.pt"),
        (no_cohort, [], "no cohort.json, as one that was exported"),
        (two_stages, ["--steps", "9"], "learns in 2 stages (tsf)"),
        (None, ["--steps", "5"], "has 6 steps, which can only grow; got 5"),
        (None, ["--batch", "3", "--set", "train.seed=1"], "assign, batch would make it another"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused_and_stays_as_it_is(own, spoil, flags, why, capsys):
    if spoil:
        spoil(own)
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*")}
    command = ["train", "--continue", "own", "--work", str(own.parents[1]), "--device", "cpu"]
    assert main([*command, *flags]) == 2
    assert why in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in own.rglob("*")} == before


def test_other_steps_under_the_same_name_are_refused_with_the_way_out(request_of, short, capsys):
    with pytest.raises(InputError, match=r"train\.steps.*--continue .*short --steps N"):
        train_run(request_of("short", steps=8))
