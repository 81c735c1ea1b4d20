import pytest
import torch

from synth3d.batch import Batch
from synth3d.build import build, build_generator, pick
from synth3d.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from synth3d.files import InputError
from synth3d.frameworks import FRAMEWORKS
from synth3d.frameworks.base import masked_l1
from synth3d.models import GENERATORS


def make_batch(side: int = 16) -> Batch:
    draw = torch.Generator().manual_seed(0)
    sources = torch.rand(2, 3, side, side, side, generator=draw)
    targets = 0.6 * sources[:, :1] + 0.3 * sources[:, 2:] ** 2
    present, wanted = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    brain = torch.ones(2, 1, side, side, side, dtype=torch.bool)
    brain[..., :2] = False
    return Batch(sources, targets * brain, present, wanted, brain)


def make_config(generator: str, framework: str) -> RunConfig:
    return RunConfig(
        data=DataConfig(patch=(16, 16, 16), overlap=(8, 8, 8)),
        model=ModelConfig(name=generator, widths=(4, 8), groups=2, blocks=1, stages=2),
        train=TrainConfig(framework=framework, critic_width=4, critic_layers=2),
    )


CELLS = [
    (g, f) for g in GENERATORS for f in FRAMEWORKS if FRAMEWORKS[f].needs <= GENERATORS[g].offers
]


@pytest.mark.parametrize(("generator", "framework"), CELLS)
def test_every_cell_learns_and_synthesises(generator, framework):
    torch.manual_seed(0)
    cell, batch = build(make_config(generator, framework)), make_batch()
    optimizer = torch.optim.Adam(cell.generator.parameters(), 5e-3)
    history = []
    for step in range(25):
        terms = cell.generator_loss(batch, step)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        gradients = [p.grad for p in cell.generator.parameters() if p.grad is not None]
        assert all(g.isfinite().all() for g in gradients)
        optimizer.step()
        history.append(terms["l1"].item())
        critic = cell.critic_loss(batch, step)
        assert bool(critic) == (cell.critic is not None)
    assert history[-1] < 0.5 * history[0]
    out = cell.synthesize(batch.sources, batch.present, batch.wanted)
    assert out.shape == batch.targets.shape
    assert out.isfinite().all()


def test_the_critic_learns_to_tell_real_from_synthetic():
    torch.manual_seed(0)
    cell, batch = build(make_config("resunet", "pix2pix")), make_batch()
    optimizer = torch.optim.Adam(cell.critic.parameters(), 2e-3)
    history = []
    for step in range(20):
        cell.generator_loss(batch, step)
        loss = cell.critic_loss(batch, step)["critic"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]


def test_the_critics_loss_leaves_the_generator_alone():
    cell, batch = build(make_config("resunet", "pix2pix")), make_batch()
    cell.generator_loss(batch, 0)
    cell.critic_loss(batch, 0)["critic"].backward()
    assert all(p.grad is None for p in cell.generator.parameters())


def test_the_critic_rests_until_it_is_called():
    cell, batch = build(make_config("resunet", "pix2pix")), make_batch()
    cell.adversarial_start = 5
    assert set(cell.generator_loss(batch, 4)) == {"l1"}
    assert cell.critic_loss(batch, 4) == {}
    assert set(cell.generator_loss(batch, 5)) == {"l1", "adversarial"}
    assert set(cell.critic_loss(batch, 5)) == {"critic"}


def test_l1_counts_wanted_voxels_of_the_brain_only():
    batch = make_batch(4)
    wrong = batch.targets + 2.0
    assert masked_l1(wrong, batch).item() == pytest.approx(2)
    outside = torch.where(batch.brain, batch.targets, batch.targets + 9)
    assert masked_l1(outside, batch).item() == 0
    half = Batch(batch.sources, batch.targets, batch.present,
                 torch.tensor([[True], [False]]), batch.brain)  # fmt: skip
    wrong[1] += 100
    assert masked_l1(wrong, half).item() == pytest.approx(2)
    none = Batch(batch.sources, batch.targets, batch.present, ~batch.wanted, batch.brain)
    assert masked_l1(wrong, none).item() == 0


def test_unknown_names_and_parts_that_do_not_fit_are_told():
    with pytest.raises(InputError, match="unknown model 'nope'; known: .*agi-net"):
        build_generator(make_config("nope", "l1"))
    with pytest.raises(InputError, match="unknown framework 'gan'"):
        build_generator(make_config("resunet", "gan"))
    with pytest.raises(InputError, match="agi-net cannot be built: .*groups"):
        build_generator(RunConfig(model=ModelConfig(widths=(4, 8), groups=3, stages=2)))
    small = RunConfig(data=DataConfig(patch=(8, 8, 8), overlap=(0, 0, 0)))
    with pytest.raises(InputError, match="too small for a critic of 3 layers"):
        build(small)
    with pytest.raises(InputError, match="unknown fruit 'pear'; known: \\['apple'\\]"):
        pick({"apple": 1}, "pear", "fruit")


def test_an_almost_empty_patch_gives_the_critic_finite_gradients_in_bf16():
    torch.manual_seed(0)
    cell, batch = build(make_config("resunet", "pix2pix")), make_batch(32)
    speck = torch.zeros_like(batch.brain)
    speck[..., 0, 0, :2] = True
    empty = Batch(batch.sources * speck, batch.targets * speck, batch.present, batch.wanted, speck)
    with torch.autocast("cpu", torch.bfloat16):
        terms = cell.generator_loss(empty, 0)
        critic = cell.critic_loss(empty, 0)["critic"]
    assert terms["adversarial"].dtype == torch.float32
    (sum(terms.values()) + critic).backward()
    gradients = [p.grad for p in cell.parameters() if p.grad is not None]
    assert len(gradients) > 8
    assert all(g.isfinite().all() for g in gradients)
