"""MM-GAN: what is hidden when, what stands in for it, what counts, who is judged."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from synth3d.data.batch import Batch
from synth3d.data.task import Task
from synth3d.frameworks.base import TrainingPlan
from synth3d.frameworks.mmgan import MMGan, MMGanOptions, impute


def draws(seed: int = 0, samples: int = 1) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + b) for b in range(samples)]


@pytest.fixture
def batch(make_batch) -> Batch:
    return make_batch(targets=2)


class Copies(nn.Module):
    """Every channel becomes a weight times its first input; keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x, present=None, wanted=None):
        self.shown = (x, present, wanted)
        return self.weight * x[:, :1].expand_as(x)


class Judge(nn.Module):
    """One score per channel: the mean of the first half; keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[torch.Tensor] = []

    def forward(self, x):
        self.shown.append(x)
        return x[:, : x.shape[1] // 2].mean((2, 3), keepdim=True)


def make(critic: nn.Module | None = None, steps: int = 60, **options) -> MMGan:
    task = Task(2, ("t1n", "t2w"), ("t2f", "t1c"))
    cell = MMGan(Copies(), task, MMGanOptions(critic_width=4, **options), TrainingPlan(steps))
    cell.critic = critic or Judge()
    return cell


def test_all_sequences_go_in_and_come_out(batch):
    assert MMGan.channels(3, 1) == (4, 4)
    cell = make()
    assert cell.make_critic()(torch.zeros(1, 8, 24, 24)).shape[1] == 4
    assert cell.synthesize(batch.sources, batch.present, batch.wanted).shape == batch.targets.shape
    assert set(cell.generator_loss(batch, 0)) == {"l1", "adversarial"}
    assert set(cell.critic_loss(batch, 0)) == {"critic"}


def test_the_curriculum_of_the_reference_code():
    """60 epochs and 4 sequences: one hidden for 10, up to two for 10, up to three from then on."""
    cell = make(steps=60, curriculum=0.5)
    found = [cell.most_hidden(step, 4) for step in (0, 9, 10, 19, 20, 59)]
    assert found == [1, 1, 2, 2, 3, 3]
    assert make(curriculum=0.0).most_hidden(0, 4) == 3
    assert [make(curriculum=1.0).most_hidden(s, 3) for s in (0, 29, 30, 59)] == [1, 1, 2, 2]


@given(
    seed=st.integers(0, 10**6),
    step=st.integers(0, 59),
    missing=st.sampled_from(["any", "targets"]),
    known=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4),
)
def test_something_known_is_hidden_and_something_is_left(seed, step, missing, known):
    cell, known = make(missing=missing), torch.tensor(known)
    known[:, 0] |= ~known[:, :3].any(1)  # a case has a source
    hidden = cell.hidden(known, 3, step, draws(seed, len(known)))
    assert not (hidden & ~known).any()
    given_ = known & ~hidden
    assert given_.any(1).all()
    if missing == "any":
        assert (hidden.any(1) == (known.sum(1) > 1)).all()
        assert (hidden.sum(1) <= cell.most_hidden(step, 5)).all()
    else:
        assert (given_[:, 3:] == 0).all()
        assert given_[:, :3].any(1).all()
        budget = (cell.most_hidden(step, 5) - known[:, 3:].sum(1)).clamp(min=0)
        assert (hidden[:, :3].sum(1) <= budget).all()


def test_every_allowed_subset_is_as_likely_as_another():
    cell, known = make(), torch.ones(4000, 3, dtype=torch.bool)
    hidden = cell.hidden(known, 2, 59, draws(samples=4000))
    _, counts = hidden.unique(dim=0, return_counts=True)
    assert len(counts) == 6
    assert counts.min() > 580  # 667 ± 24
    assert counts.max() < 755


def test_what_stands_in_for_a_hidden_channel():
    truth = torch.arange(1.0, 9).reshape(1, 4, 2)
    truth[..., 0] = 0  # background
    kept = torch.tensor([[True, False, True, False]])
    zeros, told = impute(truth, kept, "zeros", draws())
    assert torch.equal(zeros[0, [0, 2]], truth[0, [0, 2]])
    assert (zeros[0, [1, 3]] == 0).all()
    assert torch.equal(told, kept)
    mean, told = impute(truth, kept, "mean", draws())
    assert mean[0, 1].tolist() == mean[0, 3].tolist() == [0, (2 + 6) / 2]
    assert told.all()
    noise, told = impute(truth, kept, "noise", draws())
    assert torch.equal(noise[0, 1], noise[0, 3])
    assert noise[0, 1, 0] == 0
    assert noise[0, 1, 1] == torch.randn(1, 2, generator=draws()[0])[0, 1]
    assert told.all()
    nothing, _ = impute(truth, ~kept & kept, "mean", draws())
    assert (nothing == 0).all()


@pytest.mark.parametrize("imputation", ["zeros", "noise", "mean"])
def test_the_network_never_sees_what_is_hidden(imputation, batch):
    cell = make(imputation=imputation, missing="targets", curriculum=1.0)
    seen = []
    for wild in (0, 50):
        other = replace(batch, targets=batch.targets + wild)
        cell.generator_loss(other, 0)
        seen.append(cell.generator.shown[0])
    assert torch.equal(*seen)


def test_real_channels_come_back_as_they_are_and_do_not_count(batch):
    cell = make(missing="targets", curriculum=1.0)
    truth = torch.cat([batch.sources, batch.targets], 1)
    given_ = torch.tensor([[True, True, False, False]] * 2)
    output = cell.complete(truth, given_, draws())
    assert torch.equal(output[:, :2], batch.sources)
    assert torch.equal(output[:, 2:], 2 * batch.sources[:, :1].expand(-1, 2, -1, -1))
    found = cell.generator_loss(batch, 0)["l1"]
    error = (2 * batch.sources[:, :1] - batch.targets).abs()
    expected = 0.9 * error[batch.brain.expand_as(error)].mean()
    torch.testing.assert_close(found, expected)


def test_without_implicit_conditioning_everything_known_counts(batch):
    cell = make(missing="targets", curriculum=1.0, implicit_conditioning=False)
    found = cell.generator_loss(batch, 0)["l1"]
    truth = torch.cat([batch.sources, batch.targets], 1)
    error = (2 * batch.sources[:, :1] - truth).abs()
    torch.testing.assert_close(found, 0.9 * error[batch.brain.expand_as(error)].mean())


def test_the_critic_is_told_of_each_sequence_whether_it_is_real(batch):
    judge = Judge()
    cell = make(judge, missing="targets", curriculum=1.0)
    adversarial = cell.generator_loss(batch, 0)["adversarial"]
    critic = cell.critic_loss(batch, 0)["critic"]
    truth = torch.cat([batch.sources, batch.targets], 1)
    output = torch.cat([batch.sources, 2 * batch.sources[:, :1].expand(-1, 2, -1, -1)], 1)
    for seen, first in zip(judge.shown, (output, truth, output), strict=True):
        assert torch.equal(seen, torch.cat([first, truth], 1))
    fake, real = output.mean((2, 3)), truth.mean((2, 3))
    labels = torch.tensor([1.0, 1, 0, 0])
    torch.testing.assert_close(adversarial, 0.1 * (fake - 1).square().mean())
    expected = 0.5 * ((real - 1).square().mean() + (fake - labels).square().mean())
    torch.testing.assert_close(critic, expected)


def test_what_is_not_known_has_no_effect_at_all(batch):
    found = []
    present, wanted = batch.present.clone(), batch.wanted.clone()
    present[0, 1] = wanted[1, 0] = False
    sources = batch.sources * present[..., None, None]
    for wild in (0, 9):
        targets = torch.where(wanted[..., None, None], batch.targets, wild)
        cell = make()
        other = Batch(sources, targets, present, wanted, batch.brain)
        terms = cell.generator_loss(other, 40) | cell.critic_loss(other, 40)
        found.append([term.item() for term in terms.values()])
    assert found[0] == found[1]


def test_absent_sources_are_made_too_and_noise_is_the_same_for_every_tile(batch):
    cell = make(imputation="noise")
    present = torch.tensor([[True, False], [True, True]])
    made = cell.synthesize(batch.sources, present, batch.wanted)
    x = cell.generator.shown[0]
    assert made.shape == (2, 2, 16, 16)
    assert not torch.equal(x[0, 1], batch.sources[0, 1])
    assert torch.equal(x[1, :2], batch.sources[1])
    assert torch.equal(x[0, 2], x[1, 2])
    assert torch.equal(made, cell.synthesize(batch.sources, present, batch.wanted))
