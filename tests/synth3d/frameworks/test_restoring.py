"""FGDL restores a poor sequence: synthesis and its labels first, then a branch beside both."""

import dataclasses
import hashlib

import pytest
import torch
from torch import nn

from synth3d.errors import InputError
from synth3d.losses import squared_at_scales
from synth3d.models import GENERATORS
from synth3d.training.config import build_framework
from synth3d.training.run_folder import load_state, load_weights, save_state, save_weights
from synth3d.training.trainer import Trainer

CPU = torch.device("cpu")
RATIO = (1, 2, 2)
FIRST = {"generator", "registration", "critic", "plain_critic"}
TERMS = {"l1", "similarity", "adversarial", "matching"}


@pytest.fixture(scope="module")
def make(make_config):
    """(dim, train, options) → the trainer of a restoring."""

    def made(dim=2, ratio=RATIO, train=(), model=(), **options) -> Trainer:
        how = {"steps": 6, "learning_rate": 1e-3, "average": 0.5} | dict(train)
        config = make_config("fgdl", dim, 16, dict(model), how, ratio=ratio, **options)
        return Trainer(config, CPU)

    return made


@pytest.fixture(scope="module")
def poor_batch(make_batch):
    return make_batch(ratio=RATIO)


def digest(module: nn.Module) -> str:
    state = module.state_dict()
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()


def test_what_learnt_first_is_frozen_while_the_branch_learns(make, poor_batch):
    """Weights and buffers; and what is kept of the synthesis is what the branch learnt beside."""
    trainer = make()

    def now():
        return {name: digest(player.module) for name, player in trainer.players.items()}

    for step in range(6):
        before, terms = now(), trainer.advance(poor_batch)
        moved = {name for name, value in now().items() if value != before[name]}
        if step < 3:
            assert moved == FIRST
            assert terms.keys() == TERMS | {
                "smoothness", "folded", "capped", "realism", "critic", "plain_critic"
            }  # fmt: skip
        else:
            assert moved == {"branch", "branch_critic"}
            assert terms.keys() == TERMS | {"distinction", "critic"}
        with trainer.averaged():
            pass
    assert digest(trainer.averages["generator"]) == digest(trainer.framework.synthesis)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_branch_that_adds_begins_with_the_sequence_as_it_is_shown(dim, make, make_batch):
    ratio = {2: (1, 2, 4), 3: (1, 1, 4)}[dim]
    batch, how = make_batch(dim, ratio=ratio), {"model": {"widths": (4, 6, 8)}}
    trainer, drawn = (make(dim, ratio, residual=residual, **how) for residual in (True, False))
    shown, args = batch.sources[:, -1:], (batch.sources, batch.present, batch.wanted)
    assert torch.equal(trainer.framework.generator(*args), shown)
    assert not torch.equal(drawn.framework.generator(*args), shown)
    for _ in range(4):  # the fourth is the branch's first
        trainer.advance(batch)
    assert not torch.equal(trainer.framework.generator(*args), shown)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_synthesis_never_sees_the_poor_sequence_and_the_branch_its_means(dim, make, make_batch):
    """Of blocks of the ratio; and nothing of it steers how labels are moved."""
    ratio = {2: (1, 2, 4), 3: (1, 1, 4)}[dim]
    fgdl = make(dim, ratio, model={"widths": (4, 6, 8)}).framework
    batch = make_batch(dim, ratio=ratio)
    nn.init.normal_(fgdl.correction.registration.out.weight, std=0.3)
    args = batch.present, batch.wanted
    rough, made, maps = fgdl.generator.parts(batch.sources, *args)
    assert made.shape == rough.shape == batch.targets.shape
    assert len(maps) == 3
    waves = torch.zeros_like(batch.sources)
    waves[:, -1, ..., ::4], waves[:, -1, ..., 1::4] = 0.5, -0.5  # no mean over any block
    again = fgdl.generator.parts(batch.sources + waves, *args)
    torch.testing.assert_close(again[1], made, atol=1e-5, rtol=1e-4)
    more = torch.zeros_like(batch.sources)
    more[:, -1] = 0.1
    brighter = fgdl.generator.parts(batch.sources + more, *args)
    assert torch.equal(brighter[0], rough)
    assert not torch.allclose(brighter[1], made)
    other = dataclasses.replace(batch, sources=batch.sources + more)
    assert torch.equal(fgdl.corrected(other)[1], fgdl.corrected(batch)[1])
    assert torch.equal(fgdl.synthesize(batch.sources, *args), made)


def test_maps_of_distinction_learn_what_the_synthesis_leaves_over(make, poor_batch):
    for kind, of in (("signed", lambda x: x), ("abs", torch.abs)):
        fgdl = make(train={"steps": 2}, distinction=kind, distinction_weight=3.0).framework
        terms = fgdl.generator_loss(poor_batch, 1)
        rough, _, maps = fgdl.generator.parts(
            poor_batch.sources, poor_batch.present, poor_batch.wanted
        )
        label, inside = fgdl.corrected(poor_batch)[0].targets, poor_batch.brain
        goal, expected = of((label - rough) * inside), 0.0
        for one, step in zip(maps, (2, 1), strict=True):
            there, counts = (x[..., ::step, ::step] for x in (goal, inside))
            each = [(m - g)[c].square().mean() for m, g, c in zip(one, there, counts, strict=True)]
            expected += sum(each) / 2
        torch.testing.assert_close(terms["distinction"], 3.0 * expected)
    assert "distinction" not in make(distinction="none").framework.generator_loss(poor_batch, 5)


def test_squares_at_scales_by_hand():
    """4 and 1 at full size, of which the first counts; 4 at half size; nothing where nothing is."""
    goal = torch.tensor([[[[2.0, 1.0]]], [[[5.0, 5.0]]]])
    inside = torch.tensor([[[[True, False]]], [[[False, False]]]])
    maps = [torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1, 2)]
    assert squared_at_scales(maps, goal, inside).tolist() == [8, 0]


def test_only_training_asks_how_labels_move(make, poor_batch):
    trainer, asked = make(), []
    fgdl = trainer.framework
    fgdl.correction.registration.register_forward_hook(lambda *_: asked.append(1))
    with trainer.averaged():
        fgdl.synthesize(poor_batch.sources, poor_batch.present, poor_batch.wanted)
    assert not asked
    for count in range(1, 5):
        trainer.advance(poor_batch)
        assert len(asked) == count


def test_nothing_of_the_first_stage_has_a_gradient_in_the_second(make, poor_batch):
    fgdl = make().framework
    for weight in fgdl.parameters():
        weight.requires_grad_(True)
    sum(fgdl.generator_loss(poor_batch, 3).values()).backward()
    for name, player in fgdl.players().items():
        found = [weight.grad is not None for weight in player.module.parameters()]
        assert any(found) == (name in ("branch", "branch_critic")), name


def test_validation_looks_at_the_synthesis_until_the_branch_learns(make, poor_batch):
    """However a training came to its step: what is asked follows from its last one."""
    trainer = make()
    args = poor_batch.sources, poor_batch.present, poor_batch.wanted
    for step in range(6):
        trainer.advance(poor_batch)
        with trainer.averaged():
            made = trainer.framework.synthesize(*args)
            rough, restored, _ = trainer.framework.generator.parts(*args)
        assert torch.equal(made, rough if step < 3 else restored)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_checkpoint_goes_on_in_either_stage_bit_for_bit(stop, make, poor_batch, tmp_path):
    """With critics that rest at some steps."""
    straight = make(critic_every=2, adversarial_start=1)
    for _ in range(stop):
        straight.advance(poor_batch)
    save_state(tmp_path / "resume.pt", straight.state())
    resumed = make(critic_every=2, adversarial_start=1)
    resumed.load(load_state(tmp_path / "resume.pt"))
    for _ in range(stop, 6):
        assert straight.advance(poor_batch) == resumed.advance(poor_batch)
    for name, state in straight.state()["averages"].items():
        other = resumed.state()["averages"][name]
        assert all(torch.equal(state[key], other[key]) for key in state)
    assert digest(straight.framework) == digest(resumed.framework)


def test_a_finished_run_makes_what_the_training_ended_with(make, poor_batch, tmp_path):
    trainer = make()
    for _ in range(6):
        trainer.advance(poor_batch)
    args = poor_batch.sources, poor_batch.present, poor_batch.wanted
    with trainer.averaged():
        made = trainer.framework.synthesize(*args)
        save_weights(tmp_path / "w.safetensors", trainer.framework.generator)
    finished = build_framework(trainer.config, training=False).eval()
    assert {key.split(".")[0] for key in finished.state_dict()} == {"generator"}
    load_weights(tmp_path / "w.safetensors", finished.generator)
    torch.testing.assert_close(finished.synthesize(*args), made)


@pytest.mark.parametrize("generator", [n for n, g in GENERATORS.items() if "pyramid" in g.offers])
def test_the_branch_learns_beside_any_generator(generator, make, poor_batch):
    """Its first term, asked before and after 20 of its steps."""
    train = {"steps": 40, "learning_rate": 3e-3, "average": 0.0}
    model = {"name": generator, "widths": (4, 8)}
    trainer = make(2, RATIO, train, model, adversarial_weight=0.0, pretrain=0.5)
    trainer.step = 20
    before = trainer.framework.generator_loss(poor_batch, 20)["l1"].item()
    for _ in range(20):
        trainer.advance(poor_batch)
    assert trainer.framework.generator_loss(poor_batch, 40)["l1"].item() < 0.6 * before


def test_what_cannot_be_restored_is_refused_with_a_sentence(make, make_config, monkeypatch):
    with pytest.raises(
        InputError, match=r"ratio \(8, 8\) needs features of 4 levels, and there are 2"
    ):
        make(ratio=(1, 8, 8))
    config = make_config("fgdl", ratio=RATIO)
    for sources, targets in ((("t2f",), ("t2f",)), (config.sources, ("t2f", "t1c"))):
        other = dataclasses.replace(config, sources=sources, targets=targets)
        with pytest.raises(InputError, match="fgdl restores one sequence by others"):
            build_framework(other)
    still = dataclasses.replace(config.degrade, ratio=(1, 1, 1), noise=0.1)
    with pytest.raises(InputError, match="leaves t2f as fine as it is, with degrade.noise alone"):
        build_framework(dataclasses.replace(config, degrade=still))
    monkeypatch.setattr(GENERATORS["resunet"], "offers", frozenset())
    with pytest.raises(InputError, match=r"fgdl needs \['pyramid'\] of resunet; able: "):
        build_framework(config)
    assert build_framework(make_config("fgdl")), "what is only synthesised needs none"


@pytest.mark.parametrize("without", [{"modulate": False}, {"align": "none"}, {"align": "warp"}])
def test_parts_of_the_branch_can_be_left_out(without, make, poor_batch):
    """Each by itself leaves a branch that learns, with fewer weights, or others."""
    whole, part = make().framework, make(**without).framework
    counts = [sum(p.numel() for p in each.generator.branch.parameters()) for each in (whole, part)]
    assert counts[1] < counts[0]
    part.requires_grad_(True)
    sum(part.generator_loss(poor_batch, 5).values()).backward()
    assert all(p.grad is not None for p in part.generator.branch.parameters())
