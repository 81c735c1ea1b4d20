"""Training for any gap on a cohort full of gaps: who teaches, how it is judged, how it resumes."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from synth3d.cohort import Splits, find_cases
from synth3d.data import DataConfig, prepare, shown
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.frameworks.adversarial import Pix2PixOptions
from synth3d.models import ModelConfig
from synth3d.training import validation
from synth3d.training.config import RunConfig, TrainConfig
from synth3d.training.loop import cases_read, train
from synth3d.training.trainer import Trainer
from synth3d.training.validation import draw, posed, validate

FOUR = ("t1n", "t1c", "t2w", "t2f")
GONE = [("t2f",), ("t1n", "t1c"), ("t2w",), ("t1n", "t1c", "t2w"), (), ()]
"""What each case lacks, by number; the last two are validated on."""
ANY = RunConfig(
    mode="any", sources=FOUR, targets=FOUR,
    model=ModelConfig(widths=(4, 8), groups=4, blocks=1, stages=2),
    data=DataConfig(patch=(16, 16, 16), overlap=(0, 0, 0), batch=2, queue=8),
    train=TrainConfig(
        steps=8, learning_rate=2e-3, average=0.9, checkpoint_every=4, validate_every=8, threads=1,
        pix2pix=Pix2PixOptions(critic_width=4, critic_layers=2, adversarial_start=5),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def gappy(phantom_cohort, tmp_path_factory):
    root = tmp_path_factory.mktemp("gappy") / "in"
    for case, gone in zip(find_cases(phantom_cohort), GONE, strict=True):
        lost = shutil.ignore_patterns(*(f"*-{name}.nii.gz" for name in gone))
        shutil.copytree(case.folder, root / case.name, ignore=lost)
    return root


@pytest.fixture(scope="module")
def splits(gappy):
    names = tuple(case.name for case in find_cases(gappy))
    return Splits(names[:4], names[4:], ())


def test_a_case_teaches_with_what_it_has_if_that_is_two(gappy, splits, capsys):
    cases = find_cases(gappy)
    learn, check = cases_read(ANY, cases, splits)
    assert [case.name for case in learn] == list(splits.train[:3])
    said = capsys.readouterr().out
    assert f"left out, no two of t1n/t1c/t2w/t2f: {splits.train[3]}" in said
    assert "both" not in said
    cases_read(ANY, cases, dataclasses.replace(splits, train=(splits.train[0], splits.train[1])))
    said = capsys.readouterr().out
    assert "warning: no case has both t1n and t2f, nor t1c and t2f" in said
    three = dataclasses.replace(ANY, sources=FOUR[:3], targets=FOUR[:3])
    with pytest.raises(InputError, match=r"case with two of t1n/t1c/t2w, found 0 and 2"):
        cases_read(three, cases, dataclasses.replace(splits, train=(splits.train[3],)))


def test_killed_after_a_leg_it_ends_with_the_same_weights(gappy, splits, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    cases = find_cases(gappy)
    straight = train(ANY, cases, splits, gappy, tmp_path / "straight")
    scales = json.loads((straight / "scales.json").read_text())
    assert [tuple(name for name in FOUR if name not in case) for case in scales] == GONE[:3]
    real = Trainer.advance

    def advance(trainer, batch):
        if trainer.step >= 6:
            raise KeyboardInterrupt
        return real(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", advance)
        with pytest.raises(KeyboardInterrupt):
            train(ANY, cases, splits, gappy, tmp_path / "killed")
    again = train(ANY, cases, splits, gappy, tmp_path / "killed")
    assert sha256(again / "weights.safetensors") == sha256(straight / "weights.safetensors")


def test_validation_judges_all_that_each_case_then_lacks(gappy, monkeypatch):
    """What is not shown is judged by the truth and not seen; the mean is over the gap."""
    case = find_cases(gappy)[5]
    whole = prepare(case, FOUR, FOUR, mode="any")
    gaps = {posed(ANY, whole, number)[1] for number in range(14)}
    assert len(gaps) == 14
    given, wanted = posed(ANY, whole, 3)
    assert {*given.volumes} == {*FOUR} - {*wanted}
    assert np.array_equal(given.brain, shown(whole, tuple(given.volumes)).brain)
    seen = []

    def made(framework, prepared, data, options):
        seen.append(tuple(prepared.volumes))
        return np.stack([whole.volumes[name] + 0.1 * whole.brain for name in FOUR])

    monkeypatch.setattr(validation, "synthesize_case", made)
    scores, _ = validate(Trainer(ANY, torch.device("cpu")), [whole] * 14)
    assert len({*seen}) == 14
    assert scores["mae"] == pytest.approx(0.1, rel=1e-3)


def test_what_is_wanted_and_reaches_farther_is_judged_where_something_is_shown(gappy, monkeypatch):
    """Nothing is made elsewhere, and no network could."""
    whole = prepare(find_cases(gappy)[5], FOUR, FOUR, mode="any")
    given, (name, *_) = posed(ANY, whole, 3)
    farther = np.where(whole.brain, whole.volumes[name], np.float32(1))
    whole = dataclasses.replace(
        whole, volumes={**whole.volumes, name: farther}, brain=np.ones_like(whole.brain)
    )

    def made(framework, prepared, data, options):
        return np.stack([(whole.volumes[name] + 0.1) * given.brain for name in FOUR])

    monkeypatch.setattr(validation, "synthesize_case", made)
    monkeypatch.setattr(validation, "posed", lambda config, case, number: posed(config, case, 3))
    scores, _ = validate(Trainer(ANY, torch.device("cpu")), [whole])
    assert scores["mae"] == pytest.approx(0.1, rel=1e-3)


def test_the_picture_shows_the_brain_of_what_the_case_is_shown(gappy, tmp_path, monkeypatch):
    whole = prepare(find_cases(gappy)[5], FOUR, FOUR, mode="any")
    given, (name, *_) = posed(ANY, whole, 0)
    wide = dataclasses.replace(whole, brain=np.ones_like(whole.brain))
    made = np.stack([np.ones(whole.brain.shape, np.float32)] * len(FOUR))
    seen = []
    monkeypatch.setattr(validation, "draw_contact_sheet", lambda *args: seen.append(args))
    draw(ANY, tmp_path, [{"step": 1, "loss": {"l1": 1.0}}], wide, made)
    ((panels, error, brain, *_),) = seen
    assert {*panels} == {*given.volumes, f"synthetic {name}", f"real {name}"}
    np.testing.assert_array_equal(brain, given.brain)
    truth = whole.volumes[name]
    np.testing.assert_array_equal(error, np.where(given.brain, np.abs(1 - truth), 0))


def test_fixed_tasks_are_judged_as_ever():
    case = object()
    assert posed(RunConfig(), case, 7) == (case, ("t2f",))
