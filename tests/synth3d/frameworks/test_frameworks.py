"""What all frameworks share, L1 and pix2pix."""

import pytest
import torch
import torch.nn.functional as F

from synth3d.config.frameworks import FRAMEWORK_OPTIONS, MMGanOptions, PGanOptions, Pix2PixOptions
from synth3d.config.run import DataConfig, ModelConfig, RunConfig, TrainConfig
from synth3d.data.batch import Batch
from synth3d.errors import InputError
from synth3d.frameworks import FRAMEWORKS
from synth3d.frameworks.base import masked_l1
from synth3d.frameworks.build import build, build_generator, pick
from synth3d.settings import parse, read_recipe, to_plain


def make_batch(side: int = 16) -> Batch:
    draw = torch.Generator().manual_seed(0)
    sources = torch.rand(2, 3, side, side, side, generator=draw)
    targets = 0.6 * sources[:, :1] + 0.3 * sources[:, 2:] ** 2
    present, wanted = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    brain = torch.ones(2, 1, side, side, side, dtype=torch.bool)
    brain[..., :2] = False
    return Batch(sources, targets * brain, present, wanted, brain)


def make_config(generator: str, framework: str, **train) -> RunConfig:
    small = {"critic_width": 4, "critic_layers": 2}
    critic = small if hasattr(FRAMEWORK_OPTIONS.get(framework), "critic_width") else {}
    train.setdefault("pgan", PGanOptions(perceptual_weight=0))
    return RunConfig(
        data=DataConfig(patch=(16, 16, 16), overlap=(8, 8, 8)),
        model=ModelConfig(name=generator, widths=(4, 8), groups=2, blocks=1, stages=2),
        train=TrainConfig(framework=framework, **critic, **train),
    )


def test_every_framework_has_its_options_and_the_other_way_round():
    assert FRAMEWORKS.keys() == FRAMEWORK_OPTIONS.keys()
    assert FRAMEWORKS.keys() <= TrainConfig.__dataclass_fields__.keys()


def test_the_name_alone_gives_the_papers_weights():
    def weights(name: str) -> dict:
        options = parse(RunConfig, {"train": {"framework": name}}).train.options
        return {k: v for k, v in vars(options).items() if k.endswith("weight")}

    assert weights("l1") == {"l1_weight": 100}
    assert weights("pix2pix") == {"l1_weight": 100, "adversarial_weight": 1}
    assert weights("pgan") == {
        "l1_weight": 100, "adversarial_weight": 1, "perceptual_weight": 100
    }  # fmt: skip
    assert weights("mmgan") == {"l1_weight": 0.9, "adversarial_weight": 0.1}
    assert weights("medsynth") == {
        "pixel_weight": 1, "gradient_weight": 0.05, "adversarial_weight": 0.05
    }  # fmt: skip
    assert weights("iddpm") == {"vlb_weight": 0.001}
    ddpm = TrainConfig(framework="ddpm").options
    assert (ddpm.diffusion_steps, ddpm.sampling_steps) == (1000, 0)


def test_a_recipe_for_one_framework_leaves_the_others_at_their_papers():
    recipe = read_recipe("phantom")
    recipe["train"]["framework"] = "mmgan"
    assert parse(RunConfig, recipe).train.options == MMGanOptions()


def test_a_value_given_overrides_the_default_from_either_place():
    flat = parse(RunConfig, {"train": {"framework": "mmgan", "l1_weight": 3}})
    table = parse(RunConfig, {"train": {"framework": "mmgan", "mmgan": {"l1_weight": 3}}})
    assert flat.train.options == table.train.options == MMGanOptions(l1_weight=3.0)
    assert parse(RunConfig, to_plain(flat)) == flat
    both = TrainConfig(l1_weight=1.0, pix2pix=Pix2PixOptions(l1_weight=2.0, critic_width=5))
    assert (both.options.l1_weight, both.options.critic_width) == (1, 5)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"framework": "gan"}, "unknown framework 'gan'; known: .*mmgan"),
        ({"framework": "l1", "critic_width": 4}, "train.critic_width: l1 has no such option"),
        ({"framework": "ddpm", "l1_weight": 1.0}, "train.l1_weight: ddpm has no such option"),
        ({"pgan": {"vlb_weight": 1}}, r"config.train.pgan: unknown key\(s\) \['vlb_weight'\]"),
        ({"pgan": {"perceptual_weight": -1}}, "train.pgan.perceptual_weight must be finite"),
        ({"pgan": {"perceptual_slices": 0}}, "train.pgan.perceptual_slices must be at least 1"),
        (
            {"l1": {"l1_weight": float("nan")}},
            "train.l1.l1_weight: expected a finite number, got nan",
        ),
        ({"mmgan": {"imputation": "ones"}}, "train.mmgan.imputation must be one of zeros, noise"),
        ({"mmgan": {"missing": "all"}}, "train.mmgan.missing must be one of any, targets"),
        ({"mmgan": {"curriculum": 2}}, r"train.mmgan.curriculum must be in \[0, 1\]"),
        ({"medsynth": {"distance": "l3"}}, "train.medsynth.distance must be one of l1, l2"),
        ({"ddpm": {"sampling_steps": 2000}}, r"from 0 \(all\) to diffusion_steps \(1000\)"),
        ({"ddpm": {"variance": "big"}}, "train.ddpm.variance must be one of posterior, beta"),
        ({"iddpm": {"clip": [1, 0]}}, "train.iddpm.clip must be a lower and a higher number"),
        ({"pix2pix": {"adversarial_loss": "x"}}, "adversarial_loss must be one of lsgan, bce"),
    ],
)
def test_options_that_no_framework_can_have_are_refused_with_their_place(train, message):
    with pytest.raises(InputError, match=message):
        parse(RunConfig, {"train": train})


@pytest.mark.parametrize("name", sorted(FRAMEWORKS))
def test_for_synthesis_alone_only_the_generator_has_weights(name):
    cell = build(make_config("resunet", name), training=False)
    assert cell.critic is None
    assert all(key.startswith("generator.") for key in cell.state_dict())
    made = build_generator(make_config("resunet", name)).state_dict()
    cell.generator.load_state_dict(made, strict=True)


def test_a_critic_cannot_be_asked_where_there_is_none():
    cell = build(make_config("resunet", "pix2pix"), training=False)
    with pytest.raises(ValueError, match="built for synthesis and has no critic"):
        cell.generator_loss(make_batch(), 0)


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
    batch = make_batch()
    cell = build(make_config("resunet", "pix2pix", adversarial_start=5))
    assert set(cell.generator_loss(batch, 4)) == {"l1"}
    assert cell.critic_loss(batch, 4) == {}
    assert set(cell.generator_loss(batch, 5)) == {"l1", "adversarial"}
    assert set(cell.critic_loss(batch, 5)) == {"critic"}


def test_pix2pix_is_the_sum_of_its_printed_terms():
    cell, batch = build(make_config("resunet", "pix2pix", adversarial_weight=0.25)), make_batch()
    terms = cell.generator_loss(batch, 0)
    made = cell.generator(batch.sources)
    fake = cell.critic(torch.cat([batch.sources, made * batch.brain], 1))
    real = cell.critic(torch.cat([batch.sources, batch.targets], 1))
    difference = (made - batch.targets)[batch.brain].abs().mean()
    torch.testing.assert_close(terms["l1"], 100 * difference)
    torch.testing.assert_close(terms["adversarial"], 0.25 * (fake - 1).square().mean())
    expected = 0.5 * ((real - 1).square().mean() + fake.square().mean())
    torch.testing.assert_close(cell.critic_loss(batch, 0)["critic"], expected)


def test_pix2pix_with_cross_entropy_is_the_original_gan():
    config = make_config("resunet", "pix2pix", pix2pix=Pix2PixOptions(adversarial_loss="bce"))
    cell, batch = build(config), make_batch()
    terms = cell.generator_loss(batch, 0)
    made = cell.generator(batch.sources)
    fake = cell.critic(torch.cat([batch.sources, made * batch.brain], 1))
    torch.testing.assert_close(terms["adversarial"], F.softplus(-fake).mean())


def test_what_is_not_wanted_is_not_judged():
    cell, batch = build(make_config("resunet", "pix2pix")), make_batch()
    unwanted = Batch(batch.sources, batch.targets, batch.present, ~batch.wanted, batch.brain)
    wild = Batch(batch.sources, batch.targets + 7, batch.present, ~batch.wanted, batch.brain)
    found = [
        sum(cell.generator_loss(b, 0).values()) + cell.critic_loss(b, 0)["critic"]
        for b in (unwanted, wild)
    ]
    assert torch.equal(*found)


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


@pytest.mark.parametrize("name", sorted(FRAMEWORKS))
def test_a_batch_in_which_nothing_counts_gives_a_finite_loss_and_gradient(name):
    cell, batch = build(make_config("resunet", name)), make_batch()
    empty = Batch(
        batch.sources * 0, batch.targets * 0, batch.present, ~batch.wanted, batch.brain & False
    )
    terms = cell.generator_loss(empty, 0)
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    gradients = [p.grad for p in cell.generator.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)


def test_randomness_follows_from_seed_and_step_alone():
    first = build(make_config("resunet", "ddpm"), training=False)
    again = build(make_config("resunet", "ddpm"), training=False)
    other = build(make_config("resunet", "ddpm", seed=1), training=False)
    first.randomness(2)  # what was drawn before does not matter
    a, b = (cell.randomness(3).initial_seed() for cell in (first, again))
    assert a == b
    assert len({a, first.randomness(4).initial_seed(), other.randomness(3).initial_seed()}) == 3


def test_unknown_names_and_parts_that_do_not_fit_are_told():
    with pytest.raises(InputError, match="unknown model 'nope'; known: .*agi-net"):
        build_generator(make_config("nope", "l1"))
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
