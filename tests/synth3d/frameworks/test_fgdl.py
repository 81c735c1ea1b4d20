"""FGDL's label correction moves what is learnt from, and nothing else; its critics compare."""

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
BATCHED = ("sources", "targets", "present", "wanted", "brain", "label")
TOLD = {"smoothness", "folded", "capped"}
TERMS = {"l1", "similarity", "adversarial", "matching", "realism", *TOLD}


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
    assert make(training=False).correction is None
    assert make(correct=False).correction is None
    assert make(correct=False).generator_loss(make_batch(), 0).keys() == TERMS - TOLD - {"realism"}
    fgdl, batch, asked = make(), make_batch(), []
    fgdl.correction.registration.register_forward_hook(lambda *_: asked.append(1))
    fgdl.eval().synthesize(batch.sources, batch.present, batch.wanted)
    assert not asked
    fgdl.generator_loss(batch, 0)
    assert asked == [1]
    kept = [name for name, player in fgdl.players().items() if player.kept]
    assert kept == ["generator"]


def test_it_finds_by_how_much_labels_are_off(make):
    """With a generator that is right the label is what moves, back by the shift."""
    fgdl = make(smoothness_weight=0.1, registration_width=8, adversarial_weight=0.0)
    fgdl.generator, shift = Known(), (2, -1)
    batch = blobs(32, shift)
    learns = torch.optim.Adam(fgdl.correction.registration.parameters(), 3e-3)
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
    nn.init.normal_(fgdl.correction.registration.out.weight, std=0.5)
    corrected, moved = fgdl.corrected(batch)
    tumour = label > 0
    assert torch.equal(moved.abs().amax(1, keepdim=True)[tumour], torch.zeros(int(tumour.sum())))
    torch.testing.assert_close(corrected.targets[tumour], batch.targets[tumour])
    assert moved.abs().mean() > 0.1


def test_each_target_is_moved_by_itself_and_none_that_is_not_wanted(make_batch):
    task = replace(_task(), targets=("t2f", "t1c"))
    plan = TrainingPlan(2, patch=(16, 16))
    small = FGDLOptions(
        registration_width=4, critic_width=4, critic_layers=2, perceptual_weight=0.0
    )
    fgdl = build(task, ModelConfig("resunet", (4, 8), 1), "fgdl", small, plan)
    nn.init.normal_(fgdl.correction.registration.out.weight, std=0.5)
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


def test_all_players_learn_at_a_step(make_config, make_batch):
    trainer, batch = Trainer(make_config("fgdl", train={"learning_rate": 1e-3}), CPU), make_batch()
    before = {n: [p.clone() for p in m.module.parameters()] for n, m in trainer.players.items()}
    trainer.advance(batch)
    assert before.keys() == {"generator", "registration", "critic", "plain_critic"}
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


def likelihood(scores, others, label: float):
    """−log of the probability that scores (1, 1, ...) are ``label``, against the others' mean."""
    apart = scores - others.mean()
    return nn.functional.softplus(-apart if label else apart).mean()


def test_the_terms_of_the_critics_are_the_papers(make, make_batch):
    """At a batch of one and one target, D∞ being what the synthesis leaves of the moved label."""
    fgdl, two = make(adversarial_weight=0.3, matching_weight=2.0), make_batch()
    batch = replace(two, **{n: getattr(two, n)[:1] for n in BATCHED})
    nn.init.normal_(fgdl.correction.registration.out.weight, std=0.3)
    terms = fgdl.generator_loss(batch, 0)
    made = fgdl.generator(batch.sources) * batch.brain
    label = fgdl.corrected(batch)[0].targets * batch.brain
    critic, plain = (fgdl.judges[name].critic for name in ("critic", "plain_critic"))
    fake, real = (critic(image, label - made) for image in (made, label))
    moved, lying = plain(label), plain(batch.targets * batch.brain)
    expected = sum(likelihood(f, r, 1.0) for f, r in zip(fake, real, strict=True))
    torch.testing.assert_close(terms["adversarial"], 0.3 * expected)
    torch.testing.assert_close(terms["realism"], 0.3 * likelihood(moved, lying, 1.0))
    pairs = zip(critic.features(made), critic.features(label), strict=True)
    apart = torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()
    torch.testing.assert_close(terms["matching"], 2.0 * apart)
    found = [player.loss(batch, 0) for name, player in fgdl.players().items() if "critic" in name]
    told = sum(likelihood(r, f, 1.0) + likelihood(f, r, 0.0)
               for f, r in zip(fake, real, strict=True))  # fmt: skip
    torch.testing.assert_close(found[0]["critic"], told / 2)
    told = likelihood(lying, moved, 1.0) + likelihood(moved, lying, 0.0)
    torch.testing.assert_close(found[1]["plain_critic"], told / 2)


def reached(fgdl: FGDL) -> set[str]:
    """Who has a gradient; it is taken away."""
    found = set()
    for name, player in fgdl.players().items():
        for weight in player.module.parameters():
            if weight.grad is not None and weight.grad.abs().max() > 0:
                found.add(name)
            weight.grad = None
    return found


def test_what_learns_by_which_term(make, make_batch):
    """The critic's D∞ and its label are only shown; labels are moved by the plain critic's word."""
    fgdl, batch, conditions = make(), make_batch(), []
    nn.init.normal_(fgdl.correction.registration.out.weight, std=0.3)
    critic = fgdl.judges["critic"].critic
    critic.embedding.register_forward_pre_hook(lambda _, x: conditions.append(x[0]))
    terms = fgdl.generator_loss(batch, 0)
    assert conditions
    assert not any(each.requires_grad for each in conditions)
    learns = {}
    for name in TERMS - {"folded", "capped"}:
        terms[name].backward(retain_graph=True)
        learns[name] = reached(fgdl)
    both = {"generator", "registration"}
    assert learns == {
        "l1": both, "similarity": both, "smoothness": {"registration"},
        "adversarial": {"generator", "critic"}, "matching": {"generator", "critic"},
        "realism": {"registration", "plain_critic"},
    }  # fmt: skip
    for name in ("critic", "plain_critic"):
        fgdl.players()[name].loss(batch, 0)[name].backward()
        assert reached(fgdl) == {name}
        assert fgdl.players()[name].loss(batch, 0) == {}, "it is told once what was made"


def test_critics_rest_before_their_start_and_between_their_steps(make_config, make_batch):
    options = {"adversarial_start": 2, "critic_every": 3}
    trainer, batch = Trainer(make_config("fgdl", **options), CPU), make_batch()
    critics = {"critic", "plain_critic"}

    def now():
        state = {name: trainer.players[name].module for name in critics}
        return {n: torch.cat([p.flatten() for p in m.parameters()]) for n, m in state.items()}

    for step in range(9):
        before = now()
        terms = trainer.advance(batch)
        learns = step in (2, 5, 8)
        assert ("adversarial" in terms) == (step >= 2)
        assert critics & terms.keys() == (critics if learns else set())
        assert {n for n, v in now().items() if not torch.equal(v, before[n])} == (
            critics if learns else set()
        )


def test_norms_of_kernels_move_on_once_a_step_however_often_a_critic_is_asked(make, make_batch):
    fgdl, batch = make(), make_batch()
    norms = fgdl.judges["critic"].state_dict

    def moved(step):
        before = {name: value.clone() for name, value in norms().items() if "left" in name}
        fgdl.generator_loss(batch, step)
        return any(not torch.equal(value, norms()[name]) for name, value in before.items())

    assert [moved(step) for step in (0, 0, 1, 1)] == [True, False, True, False]


@pytest.mark.parametrize("dim", [2, 3])
def test_lpips_teaches_where_its_weights_are_and_is_refused_where_not(
    dim, make, make_batch, alexnet, tmp_path
):
    options = {"perceptual_weight": 0.8, "adversarial_weight": 0.0}
    with pytest.raises(InputError, match=r"no .*gone.pth.*train.fgdl.perceptual_weight=0"):
        make(dim, perceptual_weights=str(tmp_path / "gone.pth"), **options)
    assert make(dim, False, perceptual_weights=str(tmp_path / "gone.pth"), **options)
    fgdl, batch = make(dim, perceptual_weights=str(alexnet), **options), make_batch(dim)
    assert not any("net" in name for name in fgdl.state_dict() if "generator" not in name)
    found = [fgdl.generator_loss(batch, step)["perceptual"] for step in (4, 5, 4)]
    assert found[0] == found[2]
    assert (found[0] != found[1]) == (dim == 3), "slices are drawn anew"
    found[0].backward()
    assert reached(fgdl) == {"generator", "registration"}
    same = fgdl.perceptual(*[fgdl.pictures(batch.targets, batch)[:, 0]] * 2, 0)
    assert same.tolist() == [0, 0]


def test_displacements_as_long_as_they_may_be_are_told(make, make_batch):
    fgdl, batch = make(cap=2.0), make_batch()
    assert fgdl.generator_loss(batch, 0)["capped"] == 0
    with torch.no_grad():
        fgdl.correction.registration.out.bias.copy_(torch.tensor([0.1, 100.0]))
    found = fgdl.generator_loss(batch, 0)["capped"]
    assert found == 1
    assert not found.requires_grad
    assert fgdl.held_back(batch.sources, batch.targets).all()
    assert make(correct=False).held_back(batch.sources, batch.targets) is None
    log = [{"l1": 1.0, "capped": 0.5}] * 3 + [{"l1": 1.0}] + [{"capped": 0.0}] * 8
    assert fgdl.remarks(log) == [], "what was so in the beginning is over"
    (told,) = fgdl.remarks([*log, {"capped": 0.25}])
    assert "train.fgdl.cap lets them, 2 voxels, at up to 25.00%" in told


def test_critics_that_do_not_fit_into_a_patch_are_refused(make):
    with pytest.raises(InputError, match="too small for critics of 5 layers, which need 33; lower"):
        make(critic_layers=5)
    assert not make(critic_layers=5, adversarial_weight=0.0).judges
