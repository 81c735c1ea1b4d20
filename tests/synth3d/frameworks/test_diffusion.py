"""What DDPM and IDDPM make of a generator: losses, steps, samples."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from synth3d.data.batch import Batch
from synth3d.data.task import Task
from synth3d.frameworks import FRAMEWORKS
from synth3d.frameworks.diffusion import DDPMOptions, IDDPMOptions, Noised, to_state
from synth3d.frameworks.schedule import Schedule
from synth3d.training.config import build_framework

BOTH = pytest.mark.parametrize("name", ["ddpm", "iddpm"])


def around(generator: nn.Module, options: DDPMOptions | IDDPMOptions, targets: int = 1, dim=2):
    """The diffusion of ``options`` around a generator of two sources."""
    task = Task(dim, ("t1n", "t2w"), ("t2f", "pd")[:targets])
    return FRAMEWORKS[options.name](generator, task, options)


@pytest.fixture
def options():
    """By name: a hundred steps."""
    return {made.name: made(diffusion_steps=100, sampling_steps=10, validation_steps=5)
            for made in (DDPMOptions, IDDPMOptions)}  # fmt: skip


@pytest.fixture
def cell(make_config):
    """(name, ...) → it around a ResUNet."""
    return lambda name, **more: build_framework(make_config(name, **more))


class Oracle(nn.Module):
    """Knows the image, and so the noise that a state must hold."""

    def __init__(self, schedule: Schedule, image: torch.Tensor, learned: bool) -> None:
        super().__init__()
        self.schedule, self.image, self.learned = schedule, image, learned
        self.times: list[float] = []

    def forward(self, x, present=None, wanted=None, time=None):
        self.times.append(float(time[0]))
        index = (time * len(self.schedule) / 1000).round().long()
        alpha_bar = self.schedule.alpha_bar[index].view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        state = x[:, -self.image.shape[0] :]
        noise = (state - alpha_bar.sqrt() * self.image) / (1 - alpha_bar).sqrt()
        return torch.cat([noise, torch.zeros_like(noise)], 1) if self.learned else noise


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("name", ["ddpm", "iddpm", "ddpm-beta"])
def test_a_perfect_prediction_gives_the_image_exactly(name, steps):
    image = torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(1)) * 1.5
    if name == "iddpm":
        options = IDDPMOptions(diffusion_steps=50, sampling_steps=steps)
    else:
        variance = "beta" if name.endswith("beta") else "posterior"
        options = DDPMOptions(diffusion_steps=50, sampling_steps=steps, variance=variance)
    schedule = FRAMEWORKS[options.name].make_schedule(50)
    oracle = Oracle(schedule, to_state(image), options.name == "iddpm")
    cell = around(oracle, options, targets=2)
    masks = torch.ones(3, 1, dtype=torch.bool), torch.ones(3, 2, dtype=torch.bool)
    result = cell.synthesize(torch.ones(3, 1, 6, 5), *masks, seed=3)
    torch.testing.assert_close(result, image.expand(3, -1, -1, -1), rtol=0, atol=2e-4)
    assert len(oracle.times) == steps
    assert oracle.times == sorted(oracle.times, reverse=True)
    assert 0 <= min(oracle.times) <= max(oracle.times) < 1000


class Spy(nn.Module):
    """Keeps what it is given; answers with noise times a weight."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight, self.outputs = nn.Parameter(torch.ones(())), outputs

    def forward(self, x, present=None, wanted=None, time=None):
        self.given = (x, present, wanted, time)
        return self.weight * x[:, -1:].expand(-1, self.outputs, *x.shape[2:])


@BOTH
@pytest.mark.parametrize("dim", [2, 3])
def test_noise_lies_on_the_targets_alone_and_only_where_there_is_something(
    name, dim, options, make_batch
):
    batch, spy = make_batch(dim, 8), Spy(FRAMEWORKS[name].channels(2, 1)[1])
    around(spy, options[name], dim=dim).generator_loss(batch, 0)
    x, present, wanted, time = spy.given
    assert torch.equal(x[:, :2], batch.sources)
    assert (x[:, 2:][~batch.brain] == 0).all()
    assert x[:, 2:][batch.brain].std() > 0.1
    assert present.shape == (2, 3)
    assert wanted.shape == (2, spy.outputs)
    assert time.dtype == torch.float32
    assert (time >= 0).all()
    assert (time < 1000).all()


@BOTH
def test_losses_count_wanted_voxels_of_the_brain_only(name, cell, make_batch):
    diffusion, batch = cell(name), make_batch(side=8)
    outside = replace(batch, targets=torch.where(batch.brain, batch.targets, 9.0))
    first, second = diffusion.generator_loss(batch, 0), diffusion.generator_loss(outside, 0)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    nothing = replace(batch, wanted=~batch.wanted)
    assert all(term == 0 for term in diffusion.generator_loss(nothing, 0).values())


def drawn(diffusion, batch: Batch, steps: int = 100) -> Noised:
    """What it draws at step 0."""
    image = to_state(batch.targets)
    index, noise = diffusion.drawn(batch, 0)
    assert index.max() < steps
    return Noised(image, noise, diffusion.schedule.noised(image, noise, index), index)


def test_ddpm_minimises_the_squared_error_of_the_noise(options, make_batch):
    batch, spy = make_batch(side=8), Spy(1)
    with torch.no_grad():
        spy.weight.zero_()
    diffusion = around(spy, options["ddpm"])
    noise = drawn(diffusion, batch).noise
    found = diffusion.generator_loss(batch, 0)["noise"]
    torch.testing.assert_close(found, noise[batch.brain].square().mean())


def test_the_bound_is_zero_for_a_perfect_reverse_step_and_the_likelihood_at_the_last(options):
    diffusion, image = around(Spy(2), options["iddpm"]), torch.zeros(3, 1, 8, 8)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([1, 60, 0])
    noised = Noised(image, noise, diffusion.schedule.noised(image, noise, index), index)
    lowest = torch.full_like(noise, -1.0)
    perfect = diffusion.bound(noise, lowest, noised)[:2]
    torch.testing.assert_close(perfect, torch.zeros_like(perfect), rtol=0, atol=1e-4)
    assert (diffusion.bound(noise + 0.3, lowest.neg(), noised)[:2] > 0).all()
    last = diffusion.bound(noise, lowest.neg(), noised)[2]
    expected = 0.5 * math.log(2 * math.pi * diffusion.schedule.beta[0].item())
    torch.testing.assert_close(last, torch.full_like(last, expected), rtol=1e-4, atol=1e-5)


def test_the_bound_teaches_the_variance_and_not_the_noise(cell, make_batch):
    diffusion = cell("iddpm")
    diffusion.generator_loss(make_batch(side=8), 0)["vlb"].backward()
    grad = diffusion.generator.tail.weight.grad
    assert (grad[0] == 0).all()
    assert grad[1].abs().max() > 0


def test_the_bounds_weight_is_that_of_the_sum_over_all_steps_in_bits(options, make_batch):
    batch, spy = make_batch(side=8), Spy(2)
    diffusion = around(spy, options["iddpm"])
    found = diffusion.generator_loss(batch, 0)["vlb"]
    noised = drawn(diffusion, batch)
    output = spy(torch.where(batch.brain, noised.state, 0))
    nats = diffusion.bound(output[:, :1], output[:, 1:], noised)
    torch.testing.assert_close(found, 0.001 * 100 * nats[batch.brain].mean() / math.log(2))


def test_images_stay_within_the_range_that_the_options_say():
    cell = around(Spy(1), DDPMOptions(diffusion_steps=50, clip=(0, 1)))
    with torch.no_grad():
        cell.generator.weight.fill_(-5.0)
    masks = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    result = cell.synthesize(torch.ones(1, 1, 6, 6), *masks)
    assert result.min() >= -1e-6
    assert result.max() <= 1 + 1e-6


@BOTH
def test_samples_follow_from_the_seed_and_differ_within_a_batch(name, cell):
    diffusion = cell(name).eval()
    sources = torch.rand(1, 2, 8, 8).expand(2, -1, -1, -1)
    masks = torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    first, again, other = (diffusion.synthesize(sources, *masks, seed=s) for s in (0, 0, 9))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first[0], first[1])
    shifted = diffusion.synthesize(sources[:1], masks[0][:1], masks[1][:1], seed=1)
    torch.testing.assert_close(shifted[0], first[1])


@BOTH
def test_centred_networks_get_centred_sources_and_untouched_noise(name, cell, make_batch):
    diffusion = cell(name, model={"centred": True})
    spy = Spy(diffusion.channels(2, 1)[1])
    diffusion.generator.generator, batch = spy, make_batch(side=8)
    found = diffusion.predict(batch.sources, batch.targets, 50, batch.present, batch.wanted)
    x = spy.given[0]
    expected = torch.where(batch.brain, (batch.sources - 0.5) * 4, 0)
    torch.testing.assert_close(x[:, :2], expected)
    assert torch.equal(x[:, 2:], batch.targets)
    assert torch.equal(found, x[:, 2:].expand_as(found))
