"""MedSynth: the residual, the gradient difference, the critic of whole patches."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from synth3d.data.batch import Batch
from synth3d.frameworks.medsynth import gradient_difference
from synth3d.models.critics import ScalarCritic
from synth3d.training.config import build_framework


@pytest.fixture(scope="module")
def medsynth(make_config):
    """(dim, centred, options) → it around a ResUNet."""

    def make(dim=2, centred=False, **options):
        model = {"centred": centred}
        return build_framework(make_config("medsynth", dim, 8, model, **options))

    return make


def one_row(values: list[float], brain: list[int]) -> Batch:
    target = torch.tensor(values)[None, None, None]
    mask = torch.tensor(brain, dtype=torch.bool)[None, None, None]
    yes = torch.ones(1, 1, dtype=torch.bool)
    return Batch(target, target, yes, yes, mask)


def test_worked_example_of_the_gradient_difference():
    """|∂| of the target: 1, 2, 4; of the synthesis: 3, 0, 4: (4 + 4 + 0) / 3 with p = 2."""
    batch = one_row([0.0, 1, 3, 7], [1, 1, 1, 1])
    made = torch.tensor([0.0, -3, -3, 1])[None, None, None]
    assert gradient_difference(made, batch, 2.0).item() == pytest.approx(8 / 3)
    assert gradient_difference(made, batch, 1.0).item() == pytest.approx(4 / 3)
    masked = one_row([0.0, 1, 3, 7], [1, 1, 0, 1])
    assert gradient_difference(made, masked, 2.0).item() == pytest.approx(4)


@pytest.mark.parametrize("dim", [2, 3])
def test_gradients_do_not_see_an_offset_or_a_sign(dim, make_batch):
    batch = make_batch(dim, 8)
    for same in (batch.targets + 3, 1 - batch.targets):
        assert gradient_difference(same, batch, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert gradient_difference(2 * batch.targets, batch, 2.0) > 0.01
    unwanted = replace(batch, wanted=~batch.wanted)
    assert gradient_difference(2 * batch.targets, unwanted, 2.0) == 0


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(
    ("residual", "expected"), [("first", [1, 0]), ("t2w", [1, 1]), ("T1", [0, 0])]
)
def test_a_silent_generator_returns_its_residual_source(
    residual, expected, centred, medsynth, make_batch
):
    """The first source that is there, sample by sample; or the one of that name."""
    cell, batch = medsynth(residual=residual, centred=centred), make_batch(side=8)
    for p in cell.generator.parameters():
        nn.init.zeros_(p)
    present = torch.tensor([[False, True], [True, True]])
    made = cell.synthesize(batch.sources, present, batch.wanted)
    assert torch.equal(made[:, 0], batch.sources[range(2), expected])


def test_without_a_residual_the_generator_speaks_for_itself(medsynth, make_batch):
    cell, batch = medsynth(residual="none"), make_batch(side=8)
    expected = cell.generator(batch.sources)
    made = cell.synthesize(batch.sources, batch.present, batch.wanted)
    assert torch.equal(made, expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_critic_gives_any_patch_one_score_and_can_learn_a_level(dim):
    """Which an instance normalisation would wash out before the average."""
    torch.manual_seed(0)
    critic = ScalarCritic(1, dim, width=4, layers=2)
    for side in (4, 9):
        assert critic(torch.zeros(3, 1, *[side] * dim)).shape == (3, 1)
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    real, fake = (torch.full((4, 1, *[8] * dim), level) for level in (0.6, 0.4))
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    with pytest.raises(ValueError, match="sides of at least 4"):
        critic(torch.zeros(1, 1, *[3] * dim))
    with pytest.raises(ValueError, match="must be positive"):
        ScalarCritic(1, dim, width=0)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_the_loss_is_the_sum_of_its_printed_terms(distance, medsynth, make_batch):
    cell, batch = medsynth(distance=distance), make_batch(side=8)
    terms = cell.generator_loss(batch, 0)
    made = cell.synthesize(batch.sources, batch.present, batch.wanted)
    error = (made - batch.targets)[batch.brain]
    pixel = error.abs() if distance == "l1" else error.square()
    torch.testing.assert_close(terms[distance], pixel.mean())
    expected = 0.05 * gradient_difference(made, batch, 2.0)
    torch.testing.assert_close(terms["gradient"], expected)
    fake, real = (cell.critic(x * batch.brain) for x in (made, batch.targets))
    assert fake.shape == (2, 1)
    torch.testing.assert_close(terms["adversarial"], 0.05 * F.softplus(-fake).mean())
    expected = 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())
    torch.testing.assert_close(cell.critic_loss(batch, 0)["critic"], expected)
