"""Pairs that lie farther apart than a correction may move them are named, once a training ends."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from synth3d.cohort import find_cases
from synth3d.data import DataConfig
from synth3d.data.cache.store import make
from synth3d.frameworks.fgdl import FGDLOptions
from synth3d.models import ModelConfig
from synth3d.training.config import RunConfig, TrainConfig
from synth3d.training.record import Record
from synth3d.training.trainer import Trainer
from synth3d.training.validation import held_back

OPTIONS = FGDLOptions(
    perceptual_weight=0, adversarial_weight=0, registration_width=4, cap=2.0, similarity_weight=0
)


class Bright(torch.nn.Module):
    """As far as can be where the target is bright, half as far elsewhere."""

    def forward(self, x):
        far = torch.where(x[:, :1] > 0.75, 2.0, 1.0)
        return far.expand(-1, x.ndim - 2, *x.shape[2:])


class Cases(list):
    """A shelf."""

    cases = ()
    facts = ()


@pytest.fixture(params=[2, 3])
def setting(request, phantom_cohort):
    dim = request.param
    data = DataConfig((16,) * dim, (0,) * dim)
    train = TrainConfig(framework="fgdl", fgdl=OPTIONS, steps=2)
    model = ModelConfig(name="resunet", widths=(4, 8), blocks=1)
    config = RunConfig(dim=dim, model=model, data=data, train=train)
    trainer, cases = Trainer(config, torch.device("cpu")), find_cases(phantom_cohort)[:2]
    shelf = Cases(make(case, config.task, data, whole=False) for case in cases)
    shelf.cases = cases
    return trainer, shelf


def test_the_share_of_each_case_is_that_of_its_brain(setting):
    trainer, shelf = setting
    assert set(held_back(trainer, shelf).values()) == {0.0}
    trainer.framework.correction.registration = Bright()
    found = held_back(trainer, shelf)
    for packed, case in zip(shelf, shelf.cases, strict=True):
        prepared = packed.prepared(case)
        bright = prepared.volumes["t2f"][prepared.brain] > 0.75
        assert found[case.name] == pytest.approx(bright.mean())
        assert 0.01 < bright.mean() < 0.5


def test_cases_are_named_where_the_log_tells_of_the_cap_and_not_looked_at_where_not(setting):
    trainer, shelf = setting
    trainer.framework.correction.registration = Bright()
    record = Record.__new__(Record)
    record.trainer, record.log = trainer, [{"step": 1, "loss": {"l1": 1.0, "capped": 0.0}}]
    assert record.remarks(shelf) == ([], {})
    record.log = [{"step": 1, "loss": {"l1": 1.0, "capped": 0.1}}, {"step": 2, "validation": {}}]
    texts, shares = record.remarks(shelf)
    assert set(shares) == {case.name for case in shelf.cases}
    most = max(shares, key=shares.__getitem__)
    assert texts[1].startswith(f"moved so far in a share of the brain: {most} ({shares[most]:.1%}")
    trainer.framework.correction.registration = torch.nn.Sequential(Bright(), Half())
    assert len(record.remarks(shelf)[0]) == 1


class Half(torch.nn.Module):
    """Half as far."""

    def forward(self, x):
        return x / 2


def test_a_label_that_training_has_moved_is_looked_at_as_moved(setting):
    """As an experiment misaligns it, and not as it lies in the file."""
    from synth3d.data import MisalignConfig

    trainer, shelf = setting
    trainer.framework.correction.registration = Bright()
    before = held_back(trainer, shelf)
    far = MisalignConfig("t2f", shift=6.0, draw="fixed_magnitude", when="train")
    trainer.config = replace(trainer.config, misalign=far)
    assert not np.allclose([*held_back(trainer, shelf).values()], [*before.values()])
