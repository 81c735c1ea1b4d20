"""What DDPM and IDDPM make of a generator: losses, steps, samples."""

import math

import pytest
import torch
from torch import nn

from synth3d.config.frameworks import DDPMOptions, IDDPMOptions
from synth3d.config.run import DataConfig, ModelConfig, RunConfig, TrainConfig
from synth3d.data.batch import Batch
from synth3d.frameworks import FRAMEWORKS
from synth3d.frameworks.build import build
from synth3d.frameworks.diffusion import DDPM, IDDPM, to_state
from synth3d.frameworks.schedule import Schedule


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
    made = FRAMEWORKS[name.partition("-")[0]]
    schedule = made.make_schedule(50)
    oracle = Oracle(schedule, to_state(image), made is IDDPM)
    cell = made(oracle, schedule, options, n_targets=2)
    masks = torch.ones(3, 1, dtype=torch.bool), torch.ones(3, 2, dtype=torch.bool)
    result = cell.synthesize(torch.ones(3, 1, 6, 5), *masks, seed=3)
    torch.testing.assert_close(result, image.expand(3, -1, -1, -1), rtol=0, atol=2e-4)
    assert len(oracle.times) == steps
    assert oracle.times == sorted(oracle.times, reverse=True)
    assert 0 <= min(oracle.times) <= max(oracle.times) < 1000


def config(name: str, dim: int = 2, **model) -> RunConfig:
    options = {"diffusion_steps": 100, "sampling_steps": 10, "validation_steps": 5}
    return RunConfig(
        dim=dim,
        sources=("t1n", "t2w"),
        data=DataConfig(patch=(8,) * dim, overlap=(0,) * dim),
        model=ModelConfig(name="resunet", widths=(4, 8), blocks=1, **model),
        train=TrainConfig(
            framework=name, ddpm=DDPMOptions(**options), iddpm=IDDPMOptions(**options)
        ),
    )


def make_batch(dim: int = 2, side: int = 8) -> Batch:
    draws = torch.Generator().manual_seed(0)
    sources = torch.rand(2, 2, *[side] * dim, generator=draws)
    brain = torch.ones(2, 1, *[side] * dim, dtype=torch.bool)
    brain[..., :3] = False
    sources = sources * brain
    present, wanted = torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    return Batch(sources, 0.8 * sources[:, 1:], present, wanted, brain)


class Spy(nn.Module):
    """Keeps what it is given; answers with noise times a weight."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight, self.outputs = nn.Parameter(torch.ones(())), outputs

    def forward(self, x, present=None, wanted=None, time=None):
        self.given = (x, present, wanted, time)
        return self.weight * x[:, -1:].expand(-1, self.outputs, *x.shape[2:])


@pytest.mark.parametrize("name", ["ddpm", "iddpm"])
@pytest.mark.parametrize("dim", [2, 3])
def test_noise_lies_on_the_targets_alone_and_only_where_there_is_something(name, dim):
    made, batch = FRAMEWORKS[name], make_batch(dim)
    spy = Spy(made.channels(2, 1)[1])
    cell = made.from_config(spy, config(name, dim))
    cell.generator_loss(batch, 0)
    x, present, wanted, time = spy.given
    assert torch.equal(x[:, :2], batch.sources)
    assert (x[:, 2:][~batch.brain] == 0).all()
    assert x[:, 2:][batch.brain].std() > 0.1
    assert present.shape == (2, 3)
    assert wanted.shape == (2, spy.outputs)
    assert time.dtype == torch.float32
    assert (time >= 0).all()
    assert (time < 1000).all()


@pytest.mark.parametrize("name", ["ddpm", "iddpm"])
def test_losses_count_wanted_voxels_of_the_brain_only(name):
    cell, batch = build(config(name)), make_batch()
    wild = torch.where(batch.brain, batch.targets, 9.0)
    outside = Batch(batch.sources, wild, batch.present, batch.wanted, batch.brain)
    first, second = cell.generator_loss(batch, 0), cell.generator_loss(outside, 0)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    nothing = Batch(batch.sources, batch.targets, batch.present, ~batch.wanted, batch.brain)
    assert all(term == 0 for term in cell.generator_loss(nothing, 0).values())


@pytest.mark.parametrize("name", ["ddpm", "iddpm"])
def test_a_step_draws_the_same_noise_whenever_it_is_taken(name):
    cell, batch = build(config(name)), make_batch()
    found = [cell.generator_loss(batch, step)["noise"].item() for step in (5, 6, 5)]
    assert found[0] == found[2]
    assert found[0] != found[1]


def test_ddpm_minimises_the_squared_error_of_the_noise():
    batch, spy = make_batch(), Spy(1)
    cell = DDPM.from_config(spy, config("ddpm"))
    with torch.no_grad():
        spy.weight.zero_()
    found = cell.generator_loss(batch, 0)["noise"]
    draws = cell.randomness(0)
    torch.randint(100, (2,), generator=draws)
    noise = torch.randn(batch.targets.shape, generator=draws)
    torch.testing.assert_close(found, noise[batch.brain].square().mean())


def test_the_bound_is_zero_for_a_perfect_reverse_step_and_never_negative():
    batch = make_batch()
    cell = IDDPM.from_config(Spy(2), config("iddpm"))
    image = to_state(batch.targets)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([1, 60])
    state = cell.schedule.noised(image, noise, index)
    lowest = torch.full_like(noise, -1.0)
    perfect = cell.bound(noise, lowest, image, state, index)
    torch.testing.assert_close(perfect, torch.zeros_like(perfect), rtol=0, atol=1e-4)
    wrong = cell.bound(noise + 0.3, lowest.neg(), image, state, index)
    assert (wrong > 0).all()


def test_the_last_step_of_the_bound_is_the_images_likelihood():
    cell, image = IDDPM.from_config(Spy(2), config("iddpm")), torch.zeros(1, 1, 4, 4)
    noise, index = torch.full_like(image, 0.5), torch.tensor([0])
    state = cell.schedule.noised(image, noise, index)
    found = cell.bound(noise, torch.full_like(image, 1.0), image, state, index)
    beta = cell.schedule.beta[0].item()
    assert found.flatten()[0].item() == pytest.approx(0.5 * math.log(2 * math.pi * beta), rel=1e-4)


def test_the_bound_teaches_the_variance_and_not_the_noise():
    cell, batch = build(config("iddpm")), make_batch()
    cell.generator_loss(batch, 0)["vlb"].backward()
    grad = cell.generator.tail.weight.grad
    assert (grad[0] == 0).all()
    assert grad[1].abs().max() > 0


def test_the_bounds_weight_is_that_of_the_sum_over_all_steps_in_bits():
    batch, spy = make_batch(), Spy(2)
    cell = IDDPM.from_config(spy, config("iddpm"))
    found = cell.generator_loss(batch, 0)["vlb"]
    draws, image = cell.randomness(0), to_state(batch.targets)
    index = torch.randint(100, (2,), generator=draws)
    state = cell.schedule.noised(image, torch.randn(image.shape, generator=draws), index)
    output = spy(torch.where(batch.brain, state, 0))
    nats = cell.bound(output[:, :1], output[:, 1:], image, state, index)
    expected = 0.001 * 100 * nats[batch.brain].mean() / math.log(2)
    torch.testing.assert_close(found, expected)


def test_images_stay_within_the_range_that_the_options_say():
    cell = DDPM(Spy(1), Schedule.linear(50), DDPMOptions(diffusion_steps=50, clip=(0, 1)), 1)
    with torch.no_grad():
        cell.generator.weight.fill_(-5.0)
    masks = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    result = cell.synthesize(torch.ones(1, 1, 6, 6), *masks)
    assert result.min() >= -1e-6
    assert result.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["ddpm", "iddpm"])
def test_samples_follow_from_the_seed_and_differ_within_a_batch(name):
    cell = build(config(name)).eval()
    sources = torch.rand(1, 2, 8, 8).expand(2, -1, -1, -1)
    masks = torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    first, again, other = (cell.synthesize(sources, *masks, seed=s) for s in (0, 0, 9))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first[0], first[1])
    shifted = cell.synthesize(sources[:1], masks[0][:1], masks[1][:1], seed=1)
    torch.testing.assert_close(shifted[0], first[1])


@pytest.mark.parametrize("name", ["ddpm", "iddpm"])
def test_centred_networks_get_centred_sources_and_untouched_noise(name):
    cell = build(config(name, centred=True))
    spy = Spy(cell.channels(2, 1)[1])
    cell.generator.generator, batch = spy, make_batch()
    found = cell.predict(batch.sources, batch.targets, 50, batch.present, batch.wanted)
    x = spy.given[0]
    expected = torch.where(batch.brain, (batch.sources - 0.5) * 4, 0)
    torch.testing.assert_close(x[:, :2], expected)
    assert torch.equal(x[:, 2:], batch.targets)
    assert torch.equal(found, x[:, 2:].expand_as(found))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm", "iddpm"])
def test_a_trained_diffusion_samples_what_the_sources_say(name):
    torch.manual_seed(0)
    cell = build(config(name, centred=True))
    optimizer = torch.optim.Adam(cell.generator.parameters(), 4e-3)
    draws = torch.Generator().manual_seed(0)
    masks = torch.ones(8, 2, dtype=torch.bool), torch.ones(8, 1, dtype=torch.bool)
    brain = torch.ones(8, 1, 8, 8, dtype=torch.bool)

    def batch() -> Batch:
        coarse = torch.rand(8, 2, 4, 4, generator=draws)
        sources = nn.functional.interpolate(coarse, size=8, mode="bilinear") + 0.01
        return Batch(sources, sources[:, :1] - 0.8 * sources[:, 1:] + 0.4, *masks, brain)

    for step in range(800):
        optimizer.zero_grad()
        sum(cell.generator_loss(batch(), step).values()).backward()
        optimizer.step()
    test = batch()
    made = cell.eval().synthesize(test.sources, *masks)
    error = (made - test.targets).square().mean()
    assert error < 0.05 * test.targets.var()
