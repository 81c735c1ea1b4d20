"""Laws of the Gaussian process behind the diffusions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synth3d.frameworks.schedule import Schedule, gaussian_kl, gaussian_nll

SCHEDULES = st.builds(
    lambda kind, steps: getattr(Schedule, kind)(steps),
    st.sampled_from(["linear", "cosine"]),
    st.integers(1, 300),
)
NUMBERS = st.floats(-3, 3)


def tensor(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_ho_et_als_schedule():
    schedule = Schedule.linear(1000)
    assert schedule.beta[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    assert schedule.alpha_bar[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)


def test_the_cosine_schedule_is_equation_17():
    """cos²(π/2 (1/2 + 0.008) / 1.008) = 0.493767, cos²(π/2 · 0.008 / 1.008) = 0.999845."""
    assert Schedule.cosine(1000).alpha_bar[499].item() == pytest.approx(0.4938436, abs=1e-6)
    assert Schedule.cosine(10).alpha_bar[8].item() == pytest.approx(0.0240917, abs=1e-6)
    assert Schedule.cosine(4000).beta[0].item() == pytest.approx(9.8658e-6, rel=1e-4)
    assert Schedule.cosine(4000).beta[-1].item() == pytest.approx(0.999)


@given(schedule=SCHEDULES)
def test_noising_step_by_step_is_noising_at_once(schedule):
    """x_t = √(1 − β_t) x_{t−1} + √β_t ε keeps mean √ᾱ_t x and variance 1 − ᾱ_t."""
    mean, variance = 1.0, 0.0
    for beta, alpha_bar in zip(schedule.beta.tolist(), schedule.alpha_bar.tolist(), strict=True):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        assert mean == pytest.approx(math.sqrt(alpha_bar), rel=1e-9)
        assert variance == pytest.approx(1 - alpha_bar, rel=1e-9)


def test_noise_is_added_as_q_says_and_taken_away_again():
    schedule, image = Schedule.linear(1000), torch.full((2, 1, 4, 4), 0.7)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([100, 700])
    noised = schedule.noised(image, noise, index)
    alpha_bar = schedule.alpha_bar[700].item()
    expected = alpha_bar**0.5 * image[1] + (1 - alpha_bar) ** 0.5 * noise[1]
    torch.testing.assert_close(noised[1], expected)
    torch.testing.assert_close(noised[1], schedule.noised(image[1], noise[1], 700))
    torch.testing.assert_close(schedule.image_of(noised, noise, index), image)


@settings(max_examples=40)
@given(schedule=SCHEDULES, where=st.floats(0, 1), image=NUMBERS, state=NUMBERS)
def test_the_posterior_is_bayes_rule_on_a_grid(schedule, where, image, state):
    """q(x_{t−1} | x_t, x) ∝ N(x_{t−1}; √ᾱ_{t−1} x, 1 − ᾱ_{t−1}) N(x_t; √(1−β) x_{t−1}, β)."""
    if len(schedule) < 2:
        return
    t = 1 + round(where * (len(schedule) - 2))
    before, beta = schedule.alpha_bar[t - 1], schedule.beta[t]
    middle = schedule.posterior_mean(tensor(image), tensor(state), t)
    width = 9 * schedule.posterior_variance[t].sqrt()
    x = torch.linspace(-1, 1, 20001, dtype=torch.float64) * width + middle
    log = -0.5 * (x - before.sqrt() * image).square() / (1 - before)
    log = log - 0.5 * (state - (1 - beta).sqrt() * x).square() / beta
    weight = torch.softmax(log, 0)
    mean = (weight * x).sum()
    variance = (weight * (x - mean).square()).sum()
    torch.testing.assert_close(mean, middle, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance, schedule.posterior_variance[t], rtol=1e-5, atol=0)


@given(schedule=SCHEDULES, share=st.floats(0, 1))
def test_respacing_keeps_alpha_bar_at_the_steps_it_keeps(schedule, share):
    count = 1 + round(share * (len(schedule) - 1))
    kept = schedule.respaced(count)
    assert len(kept) == count
    assert kept.times[-1] == len(schedule) - 1
    assert count == 1 or kept.times[0] == 0
    assert list(kept.times) == sorted(set(kept.times))
    assert torch.equal(kept.alpha_bar, schedule.alpha_bar[list(kept.times)])
    torch.testing.assert_close(
        torch.cumprod(1 - kept.beta, 0), kept.alpha_bar, rtol=1e-9, atol=1e-15
    )


def test_all_steps_are_the_schedule_itself():
    schedule = Schedule.cosine(20)
    assert torch.equal(schedule.respaced(20).beta, schedule.beta)
    assert schedule.respaced(4).times == (0, 6, 13, 19)


@given(schedule=SCHEDULES, at=st.floats(0, 1))
def test_a_learned_variance_lies_between_its_bounds(schedule, at):
    t = round(at * (len(schedule) - 1))
    ends = [schedule.learned_log_variance(tensor(s), t).item() for s in (-1.0, 0.0, 1.0)]
    assert ends == sorted(ends)
    assert ends[0] == pytest.approx(schedule.log_posterior_variance[t].item())
    assert ends[2] == pytest.approx(schedule.log_beta[t].item())
    assert ends[1] == pytest.approx((ends[0] + ends[2]) / 2)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_kl_and_likelihood_are_those_of_gaussians(mean, log, mean_2, log_2):
    values = [tensor(v) for v in (mean, log, mean_2, log_2)]
    found = gaussian_kl(*values)
    normal = torch.distributions.Normal
    one, other = normal(values[0], (values[1] / 2).exp()), normal(values[2], (values[3] / 2).exp())
    torch.testing.assert_close(found, torch.distributions.kl_divergence(one, other))
    assert found >= -1e-12
    assert gaussian_kl(values[0], values[1], values[0], values[1]) == 0
    torch.testing.assert_close(gaussian_nll(values[2], *values[:2]), -one.log_prob(values[2]))
