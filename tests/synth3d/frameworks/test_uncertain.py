"""``l1`` that says how wrong it may be: the likelihood by hand, what learns by it, and its map."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from synth3d.data.batch import Batch
from synth3d.errors import InputError
from synth3d.frameworks.base import masked_l1
from synth3d.frameworks.reconstruction import DEVIATION, LOG_SCALES, bounded, laplace_nll
from synth3d.inference import SynthesisOptions, synthesize_volume
from synth3d.training.config import build_framework
from synth3d.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def uncertain(make_config):
    def make(dim=2, **options):
        train = {"steps": 200, "learning_rate": 1e-2, "betas": (0.9, 0.999), **options}
        return Trainer(make_config("l1", dim, 8, {"centred": True}, train, uncertain=True), CPU)

    return make


def test_the_likelihood_by_hand():
    """−ln of exp(−|e| / b) / 2b at e = 3, b = 2 is ln 4 + 3/2."""
    found = laplace_nll(torch.tensor([3.0]), torch.tensor([2.0]).log())
    assert found.item() == pytest.approx(math.log(4) + 1.5)


def test_the_likelihood_is_that_of_a_density_with_its_best_scale_at_the_error():
    errors = torch.linspace(0, 60, 60_001, dtype=torch.float64)
    mass = 2 * torch.trapezoid((-laplace_nll(errors, torch.tensor(0.7))).exp(), errors)
    assert mass.item() == pytest.approx(1, abs=1e-6)
    logs = torch.linspace(-3, 3, 601, dtype=torch.float64)
    at = logs[laplace_nll(torch.tensor(0.5, dtype=torch.float64), logs).argmin()]
    assert at.item() == pytest.approx(math.log(0.5), abs=0.01)


def test_its_slope_is_right_in_error_and_scale():
    draws = torch.Generator().manual_seed(0)
    error = torch.rand(20, generator=draws, dtype=torch.float64).requires_grad_()
    raw = torch.rand(20, generator=draws, dtype=torch.float64).mul(4).requires_grad_()
    assert gradcheck(lambda e, r: laplace_nll(e, bounded(r)), (error, raw))


def test_the_scale_is_bounded_and_never_stuck():
    low, high = LOG_SCALES
    raw = torch.tensor([-1e4, -3.0, 0.5, 4.0, 1e4], requires_grad=True)
    logs = bounded(raw)
    assert logs[2].item() == pytest.approx((low + high) / 2)
    assert (logs - (low + high) / 2).abs().max() <= (high - low) / 2 + 1e-5
    laplace_nll(torch.full((5,), 0.01), logs).sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert (raw.grad[1:4] != 0).all()


def test_the_picture_learns_by_l1_alone(uncertain, make_batch):
    """The likelihood takes the error for given: its slope in the picture is 0."""
    cell, batch = uncertain().framework, make_batch(side=8)
    made, log_scale = cell._asked(batch.sources, batch.present, batch.wanted)
    for each in (made, log_scale):
        each.retain_grad()
    cell._asked = lambda *given: (made, log_scale)
    terms = cell.generator_loss(batch, 0)
    assert terms["l1"].item() == pytest.approx(100 * masked_l1(made, batch).item())
    terms["scale"].backward()
    assert made.grad is None
    inside = batch.brain.expand_as(log_scale)
    assert (log_scale.grad[inside] != 0).all()
    assert not log_scale.grad[~inside].any()


def test_it_learns_where_it_is_wrong(uncertain):
    """What is bright has noise of b = 0.2, which no network can know: so it says there."""
    trainer, noise = uncertain(), np.random.default_rng(0)
    masks = torch.ones(8, 2, dtype=torch.bool), torch.ones(8, 1, dtype=torch.bool)
    everywhere = torch.ones(8, 1, 8, 8, dtype=torch.bool)
    draws = torch.Generator().manual_seed(0)
    for _ in range(150):
        sources = 0.6 * torch.rand(8, 2, 8, 8, generator=draws) + 0.1
        sources[..., :4] += 1
        wrong = torch.from_numpy(noise.laplace(0, 0.2, (8, 1, 8, 8))).float()
        targets = sources[:, :1] + wrong * (sources[:, :1] > 1)
        trainer.advance(Batch(sources, targets, *masks, everywhere))
    with torch.inference_mode():
        found = trainer.framework.eval().explain(sources, *masks)[DEVIATION]
    dark, bright = found[..., 5:].mean().item(), found[..., :3].mean().item()
    assert bright == pytest.approx(math.sqrt(2) * 0.2, rel=0.3)
    assert dark < bright / 3


@pytest.mark.parametrize("dim", [2, 3])
def test_the_picture_and_its_map_are_volumes(dim, uncertain, make_batch):
    trainer, batch = uncertain(dim), make_batch(dim, 8)
    trainer.advance(batch)
    cell = trainer.framework.eval()
    assert DEVIATION in cell.explains
    sources = batch.sources[0].reshape(2, -1, 8, 8)
    given = cell, sources, batch.present[0], batch.wanted[0]
    how = {"patch": (8,) * dim, "overlap": (4,) * dim}
    picture = synthesize_volume(*given, SynthesisOptions(**how))
    deviation = synthesize_volume(*given, SynthesisOptions(**how, map=DEVIATION))
    assert picture.shape == deviation.shape == (1, *sources.shape[1:])
    low, high = (math.sqrt(2) * math.exp(edge) for edge in LOG_SCALES)
    assert low <= deviation.min() <= deviation.max() <= high


def test_it_is_safe_in_bf16(uncertain, make_batch):
    """Losses are float32 and finite, and near those in full precision."""
    batch = make_batch(side=8)
    half, whole = uncertain(precision="bf16"), uncertain()
    terms = [trainer.advance(batch) for trainer in (half, whole)]
    for name in ("l1", "scale"):
        assert math.isfinite(terms[0][name])
        assert terms[0][name] == pytest.approx(terms[1][name], rel=0.05, abs=0.5)


def test_without_it_nothing_is_said(make_config, make_batch):
    cell, batch = build_framework(make_config("l1")), make_batch()
    assert DEVIATION not in cell.explains
    assert cell.explain(batch.sources, batch.present, batch.wanted) == {}
    assert {*cell.generator_loss(batch, 0)} == {"l1"}


def test_a_weight_that_cannot_be_is_refused(make_config):
    with pytest.raises(InputError, match="train.l1.scale_weight must be finite and ≥ 0, got -1"):
        make_config("l1", uncertain=True, scale_weight=-1.0)
