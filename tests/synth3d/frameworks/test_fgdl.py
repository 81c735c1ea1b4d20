"""FGDL's label correction: it moves what is learnt from, and nothing else, ever."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from synth3d.data.batch import Batch
from synth3d.errors import InputError
from synth3d.frameworks.base import TrainingPlan
from synth3d.frameworks.build import build
from synth3d.frameworks.fgdl import FGDL, FGDLOptions
from synth3d.models import warp
from synth3d.models.options import ModelConfig
from synth3d.training.config import build_framework
from synth3d.training.trainer import Trainer

CPU = torch.device("cpu")
TERMS = {"l1", "similarity", "smoothness", "folded"}


@pytest.fixture
def make(make_config):
    """(dim, options) → the framework, for training."""

    def built(dim=2, training=True, **options) -> FGDL:
        torch.manual_seed(0)
        made = build_framework(make_config("fgdl", dim, 16, **options), training)
        assert isinstance(made, FGDL)
        return made

    return built


class Known(nn.Module):
    """A generator that has learnt everything: it returns the first source."""

    def forward(self, x, present=None, wanted=None):
        return x[:, :1]


def blobs(side: int, shift: tuple[int, int]) -> Batch:
    """Smooth pictures, and as a target the first source moved by whole voxels."""
    draws = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 2, side // 4, side // 4, generator=draws)
    sources = nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    targets = torch.roll(sources[:, :1], shift, (2, 3))
    brain = torch.zeros(2, 1, side, side, dtype=torch.bool)
    brain[..., 4:-4, 4:-4] = True
    here = torch.ones(2, 2, dtype=torch.bool)
    return Batch(sources, targets, here, here[:, :1], brain)


@pytest.mark.parametrize("dim", [2, 3])
def test_it_begins_with_the_label_as_it_is(make, make_batch, dim):
    fgdl, batch = make(dim), make_batch(dim)
    corrected, moved = fgdl.corrected(batch)
    assert moved.abs().max() < 1e-3
    torch.testing.assert_close(corrected.targets, batch.targets, atol=2e-3, rtol=0)
    for name in ("sources", "present", "wanted", "brain", "label"):
        assert getattr(corrected, name) is getattr(batch, name)
    terms = fgdl.generator_loss(batch, 0)
    assert terms.keys() == TERMS
    assert terms["folded"] == 0
    assert not terms["folded"].requires_grad


def test_nothing_but_a_training_step_moves_anything(make, make_batch):
    """Synthesis has no registration network; where there is one, it is not asked."""
    assert make(training=False).registration is None
    assert make(correct=False).registration is None
    assert make(correct=False).generator_loss(make_batch(), 0).keys() == {"l1", "similarity"}
    fgdl, batch, asked = make(), make_batch(), []
    fgdl.registration.register_forward_hook(lambda *_: asked.append(1))
    fgdl.eval().synthesize(batch.sources, batch.present, batch.wanted)
    assert not asked
    fgdl.generator_loss(batch, 0)
    assert asked == [1]
    kept = [name for name, player in fgdl.players().items() if player.kept]
    assert kept == ["generator"]


def test_it_finds_by_how_much_labels_are_off(make):
    """With a generator that is right the label is what moves, back by the shift."""
    fgdl = make(smoothness_weight=0.1, registration_width=8)
    fgdl.generator, shift = Known(), (2, -1)
    batch = blobs(32, shift)
    learns = torch.optim.Adam(fgdl.registration.parameters(), 3e-3)
    losses = []
    for step in range(60):
        learns.zero_grad()
        terms = fgdl.generator_loss(batch, step)
        sum(terms.values()).backward()
        learns.step()
        losses.append(terms["l1"].item())
    _, moved = fgdl.corrected(batch)
    assert losses[-1] < 0.4 * losses[0]
    middle = moved[..., 8:-8, 8:-8].mean((0, 2, 3))
    torch.testing.assert_close(middle, torch.tensor([2.0, -1.0]), atol=0.7, rtol=0)


def test_tumours_can_be_kept_where_they_are(make, make_batch):
    fgdl, batch = make(keep_tumour=True), make_batch()
    label = torch.zeros_like(batch.label)
    label[:, :, 4:8, 5:9] = 2
    batch = replace(batch, label=label)
    nn.init.normal_(fgdl.registration.out.weight, std=0.5)
    corrected, moved = fgdl.corrected(batch)
    tumour = label > 0
    assert torch.equal(moved.abs().amax(1, keepdim=True)[tumour], torch.zeros(int(tumour.sum())))
    torch.testing.assert_close(corrected.targets[tumour], batch.targets[tumour])
    assert moved.abs().mean() > 0.1


def test_each_target_is_moved_by_itself_and_none_that_is_not_wanted(make_batch):
    task = replace(_task(), targets=("t2f", "t1c"))
    plan = TrainingPlan(2, patch=(16, 16))
    small = FGDLOptions(registration_width=4)
    fgdl = build(task, ModelConfig("resunet", (4, 8), 1), "fgdl", small, plan)
    nn.init.normal_(fgdl.registration.out.weight, std=0.5)
    batch = make_batch(targets=2)
    both, moved = fgdl.corrected(batch)
    fields = moved.view(2, 2, 2, 16, 16)
    for b in range(2):
        for t in range(2):
            alone = warp(batch.targets[b, t][None, None], fields[b, t][None])
            torch.testing.assert_close(both.targets[b, t], alone[0, 0])
    wanted = torch.tensor([[True, False], [True, True]])
    wild = batch.targets.masked_fill(~wanted[..., None, None], torch.nan)
    blind = replace(batch, wanted=wanted, targets=wild)
    torch.testing.assert_close(fgdl.corrected(blind)[0].targets[wanted], both.targets[wanted])
    assert all(term.isfinite() for term in fgdl.generator_loss(blind, 0).values())


def _task():
    from synth3d.data.task import Task

    return Task(2, ("t1n", "t2w"), ("t2f",))


def test_both_players_learn_by_one_loss(make_config, make_batch):
    trainer, batch = Trainer(make_config("fgdl", train={"learning_rate": 1e-3}), CPU), make_batch()
    before = {n: [p.clone() for p in m.module.parameters()] for n, m in trainer.players.items()}
    trainer.advance(batch)
    assert before.keys() == {"generator", "registration"}
    for name, player in trainer.players.items():
        pairs = zip(before[name], player.module.parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs)


def test_spacings_that_do_not_fit_are_refused(make):
    with pytest.raises(InputError, match=r"train.fgdl.spacing .* 2 lengths, as dim is 2"):
        make(spacing=(1.0, 1.0, 1.0))
    with pytest.raises(InputError, match=r"train.fgdl.cap"):
        FGDLOptions(cap=0.0)
    with pytest.raises(InputError, match=r"train.fgdl.spacing"):
        FGDLOptions(spacing=(1.0, -1.0))
