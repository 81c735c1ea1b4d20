"""Generators that are told the step of a diffusion."""

import math

import pytest
import torch
from torch import nn

from synth3d.frameworks import FRAMEWORKS
from synth3d.models import GENERATORS, options_of
from synth3d.models.centred import Centred
from synth3d.models.options import ModelConfig
from synth3d.models.time_embedding import TimeEmbedding, TimeModulation, sinusoids
from synth3d.training.config import RunConfig, build_framework

SMALL = {"widths": (8, 16), "blocks": 1, "stages": 3, "groups": 2}


def make(name: str, dim: int = 2, time: bool = True) -> nn.Module:
    taken = {key: value for key, value in SMALL.items() if key in options_of(name)}
    return GENERATORS[name](2, 1, dim=dim, time_embedding=time, **taken)


def wake(net: nn.Module) -> nn.Module:
    """``net`` with modulations that are not zero."""
    for module in net.modules():
        if isinstance(module, TimeModulation):
            nn.init.normal_(module.weight, std=0.1)
    return net


def able() -> list[str]:
    return [name for name, made in GENERATORS.items() if "time" in made.offers]


def test_worked_example():
    """Step 3 at four features: frequencies 1 and 1/100."""
    expected = [math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03)]
    assert sinusoids(torch.tensor([3.0]), 4)[0].tolist() == pytest.approx(expected)
    assert sinusoids(torch.zeros(0)).shape == (0, 128)


def test_every_step_of_a_thousand_has_its_own_embedding():
    embedded = sinusoids(torch.arange(1000.0))
    distances = torch.cdist(embedded, embedded) + torch.eye(1000)
    assert distances.min() > 0.1


@pytest.mark.parametrize(
    ("name", "dim"), [(name, dim) for name in able() for dim in GENERATORS[name].dims]
)
def test_each_sample_is_told_its_own_time(name, dim):
    net, x = wake(make(name, dim)).eval(), torch.randn(1, 2, *[8] * dim).repeat_interleave(2, 0)
    times = torch.tensor([3.0, 700.0])
    together = net(x, time=times)
    assert not torch.allclose(together[0], together[1], atol=1e-4)
    apart = torch.cat([net(x[:1], time=t[None]) for t in times])
    assert torch.allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("name", able())
def test_untrained_the_time_has_no_effect_but_every_modulation_a_gradient(name):
    net, x = make(name), torch.randn(2, 2, 8, 8)
    early, late = (net.eval()(x, time=torch.full((2,), t)) for t in (0.0, 999.0))
    assert torch.equal(early, late)
    net.train()(torch.randn(2, 2, 8, 8), time=torch.tensor([5.0, 900.0])).square().mean().backward()
    told = [m for m in net.modules() if isinstance(m, TimeModulation)]
    assert len(told) == 3
    assert all(m.weight.grad.abs().max() > 0 and m.bias.grad.abs().max() > 0 for m in told)


@pytest.mark.parametrize("name", able())
def test_without_it_there_are_no_parameters_for_it(name):
    plain, timed = make(name, time=False), make(name)
    new = timed.state_dict().keys() - plain.state_dict().keys()
    assert plain.state_dict().keys() <= timed.state_dict().keys()
    assert new == {key for key in timed.state_dict() if "time." in key}
    assert not [key for key in plain.state_dict() if "time" in key]
    width = 4 * 8
    hand = (
        128 * width + width + width * width + width + sum(2 * c * (width + 1) for c in (8, 16, 8))
    )
    assert sum(timed.state_dict()[key].numel() for key in new) == hand


def test_modulation_is_a_factor_and_a_bias():
    layer = TimeModulation(3, 2)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x, e = torch.randn(2, 2, 4, 4), torch.randn(2, 3)
    gain, shift = (e @ layer.weight.T + layer.bias).chunk(2, 1)
    expected = x * (1 + gain[..., None, None]) + shift[..., None, None]
    assert torch.allclose(layer(x, e), expected, atol=1e-6)


def test_autocast_keeps_the_embedding_in_float32():
    net = wake(make("resunet"))
    times = torch.tensor([500.0, 501.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedded = net.time(times)
        y = net(torch.randn(2, 2, 8, 8), time=times)
    assert embedded.dtype == torch.float32
    assert y.dtype == torch.bfloat16
    assert torch.equal(embedded, net.time(times))


def test_a_time_that_does_not_fit_is_refused():
    x = torch.zeros(2, 2, 8, 8)
    with pytest.raises(ValueError, match="build it with time_embedding=True"):
        make("resunet", time=False)(x, time=torch.zeros(2))
    with pytest.raises(ValueError, match=r"expected a time \(B,\) = \(2,\).*got None"):
        make("resunet")(x)
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        make("resunet")(x, time=torch.zeros(3))


def test_centred_passes_the_time_on():
    net, x = Centred(wake(make("resunet"))), torch.rand(2, 2, 8, 8) + 0.01
    times = torch.tensor([3.0, 700.0])
    seen = (x - 0.5) * 4
    assert torch.allclose(net(x, time=times), 0.5 + net.generator(seen, time=times) / 4)


def test_a_framework_that_needs_time_gets_it(monkeypatch):
    model = ModelConfig(name="resunet", widths=(8, 16), blocks=1)
    config = RunConfig(model=model)
    assert build_framework(config, training=False).generator.time is None
    monkeypatch.setattr(FRAMEWORKS["pix2pix"], "needs", frozenset({"time"}))
    assert isinstance(build_framework(config, training=False).generator.time, TimeEmbedding)
