"""One network for every gap, in every cell that can learn it: what is absent does not exist."""

from dataclasses import replace

import pytest
import torch

from synth3d.data.batch import Batch, head_of, only
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.frameworks import FRAMEWORKS
from synth3d.frameworks.medsynth import MedSynthOptions, residual_channel
from synth3d.frameworks.mmgan import MMGan
from synth3d.models import GENERATORS
from synth3d.training.trainer import Trainer

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
SIDE = {2: 16, 3: 8}
PRESENT = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1], [0, 1, 0, 1]]).bool()
WANTED = torch.tensor([[0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]).bool()
CELLS = [
    pytest.param(generator, framework, dim, id=f"{generator}-{framework}-{dim}d")
    for generator in GENERATORS
    for framework in FRAMEWORKS
    for dim in (2, 3)
    if "any" in FRAMEWORKS[framework].modes
    and FRAMEWORKS[framework].needs <= GENERATORS[generator].offers
    and (generator, dim) != ("arc-resunet", 3)
]


def batch_of(dim: int) -> Batch:
    """Four samples with gaps of their own; heads differ a little."""
    draws = torch.Generator().manual_seed(0)
    truth = torch.rand(4, 4, *[SIDE[dim]] * dim, generator=draws) + 0.1
    for channel in range(4):
        truth[:, channel, ..., : 2 + channel] = 0
    sources = only(truth, PRESENT)
    return Batch(sources, truth, PRESENT, WANTED, head_of(sources))


def plain_for(framework: str) -> str:
    """The plainest generator that ``framework`` can use."""
    return "resunet" if FRAMEWORKS[framework].needs <= GENERATORS["resunet"].offers else "tsf"


@pytest.fixture(scope="module")
def trainer_of(make_config, vgg16):
    def make(generator, framework, dim, passes=1):
        options = {"critic_layers": 1, "sampling_steps": 2, "validation_steps": 2,
                   "perceptual_weight": 100.0 if framework == "pgan" else 0.0,
                   "perceptual_weights": str(vgg16)}  # fmt: skip
        known = FRAMEWORKS[framework].Options
        options = {key: value for key, value in options.items() if hasattr(known, key)}
        how = {"name": generator, "centred": True}
        train = {"steps": 9, "learning_rate": 1e-2}
        given = {"sources": SEQUENCES, "either": True, **options}
        config = make_config(framework, dim, SIDE[dim], how, train, **given)
        data = replace(config.data, batch=4 // passes)
        config = replace(config, data=data, train=replace(config.train, accumulate=passes))
        return Trainer(config, torch.device("cpu"))

    return make


@pytest.mark.parametrize(("generator", "framework", "dim"), CELLS)
def test_a_gap_is_the_samples_own_and_holds_nothing(generator, framework, dim, trainer_of):
    """After a step that changes weights: neither NaN where nothing is, nor other samples matter."""
    trainer, batch = trainer_of(generator, framework, dim), batch_of(dim)
    before = [p.clone() for p in trainer.framework.generator.parameters()]
    trainer.advance(batch)
    now = trainer.framework.generator.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, now, strict=True))
    cell = trainer.framework.eval()
    with torch.inference_mode():
        made = cell.synthesize(batch.sources, PRESENT, WANTED, seed=3)
        assert made.shape == batch.sources.shape
        absent = ~PRESENT[(..., *[None] * dim)]
        for wild in (torch.nan, torch.inf, 7.0):
            full = batch.sources.masked_fill(absent, wild)
            again = cell.synthesize(full, PRESENT, WANTED, seed=3)
            assert torch.equal(again[WANTED], made[WANTED])
        for b in range(4):
            one = [part[b : b + 1] for part in (batch.sources, PRESENT, WANTED)]
            alone = cell.synthesize(*one, seed=3 + b)
            pair = alone[0][WANTED[b]], made[b][WANTED[b]]
            torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-3)  # a diffusion's many roundings


@pytest.mark.parametrize("framework", sorted(n for n, f in FRAMEWORKS.items() if "any" in f.modes))
def test_the_truth_of_what_is_not_wanted_is_no_part_of_a_loss(framework, trainer_of):
    found = []
    for wild in (0.0, 5.0):
        cell, batch = trainer_of(plain_for(framework), framework, 2).framework, batch_of(2)
        free = ~WANTED[..., None, None]
        other = replace(batch, targets=torch.where(free, batch.targets + wild, batch.targets))
        terms = [player.loss(other, 4) for player in cell.players().values() if player.loss]
        found.append([(name, term.item()) for each in terms for name, term in each.items()])
    assert found[0] == found[1]


@pytest.mark.parametrize("framework", sorted(n for n, f in FRAMEWORKS.items() if "any" in f.modes))
def test_shares_of_a_batch_of_gaps_teach_what_the_whole_does(framework, trainer_of):
    """More is asked by two processes, of fixed targets, in test_shares."""
    whole, parts = (trainer_of(plain_for(framework), framework, 2, passes) for passes in (1, 2))
    for _ in range(3):
        terms = whole.advance(batch_of(2))
        assert parts.advance(batch_of(2)) == pytest.approx(terms, rel=1e-4, abs=1e-6)


def test_mmgan_has_each_sequence_once_and_the_brain_of_what_it_gives_away(trainer_of):
    assert MMGan.channels_of(Task(2, SEQUENCES, SEQUENCES, "any")) == (4, 4)
    cell, batch = trainer_of("resunet", "mmgan", 2).framework, batch_of(2)
    truth, known = cell.all_channels(batch)
    assert torch.equal(known, PRESENT | WANTED)
    assert torch.equal(only(truth, known), only(batch.targets, known))
    given = cell.given(batch, 8, cell.draws(batch, 8))
    assert given.any(1).all()
    assert (given <= known).all()
    assert (given != known).any(1).all()
    judged = cell.judged(batch, given)
    assert torch.equal(judged.any((2, 3)), known & ~given)
    assert not (judged & ~head_of(only(truth, given))).any()


def test_medsynth_adds_no_source_that_may_be_absent():
    task = Task(2, SEQUENCES, SEQUENCES, "any")
    assert residual_channel(task, MedSynthOptions()) == -1
    with pytest.raises(InputError, match="residual must be first or none where mode is any"):
        residual_channel(task, MedSynthOptions(residual="t1n"))
