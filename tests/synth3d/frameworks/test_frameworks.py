"""What all frameworks share, L1 and pix2pix."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from synth3d.errors import InputError
from synth3d.frameworks import FRAMEWORKS
from synth3d.frameworks.adversarial import Pix2PixOptions
from synth3d.frameworks.base import masked_l1
from synth3d.frameworks.mmgan import MMGanOptions
from synth3d.settings import parse, to_plain
from synth3d.training.config import RunConfig, TrainConfig, build_framework
from synth3d.training.recipes import read_recipe

EVERY = pytest.mark.parametrize("name", sorted(FRAMEWORKS))


@pytest.fixture
def pix2pix(make_config):
    """A pix2pix around ResUNet; keywords are its options."""
    return lambda **options: build_framework(make_config("pix2pix", 3, **options))


def test_every_framework_has_a_table_of_its_name_in_the_configuration():
    assert {name: made.Options.name for name, made in FRAMEWORKS.items()} == {
        name: name for name in FRAMEWORKS
    }
    assert FRAMEWORKS.keys() <= TrainConfig.__dataclass_fields__.keys()


def test_the_name_alone_gives_the_papers_weights():
    def weights(name: str) -> dict:
        options = parse(RunConfig, {"train": {"framework": name}}).train.options
        return {k: v for k, v in vars(options).items() if k.endswith("weight")}

    assert weights("l1") == {"l1_weight": 100, "scale_weight": 10}
    assert weights("pix2pix") == {"l1_weight": 100, "adversarial_weight": 1}
    assert weights("pgan") == {
        "l1_weight": 100, "adversarial_weight": 1, "perceptual_weight": 100
    }  # fmt: skip
    assert weights("mmgan") == {"l1_weight": 0.9, "adversarial_weight": 0.1}
    assert weights("medsynth") == {
        "pixel_weight": 1, "gradient_weight": 0.05, "adversarial_weight": 0.05
    }  # fmt: skip
    assert weights("iddpm") == {"vlb_weight": 0.001}
    assert weights("tsf") == {
        "l1_weight": 10, "cycle_weight": 10, "source_weight": 0, "perceptual_weight": 0.01
    }  # fmt: skip
    assert weights("fgdl") == {
        "l1_weight": 1, "similarity_weight": 1, "perceptual_weight": 0.8, "smoothness_weight": 1,
        "adversarial_weight": 0.01, "matching_weight": 10, "distinction_weight": 10,
    }  # fmt: skip
    fgdl = TrainConfig(framework="fgdl").options
    assert (fgdl.critic_every, fgdl.adversarial_start, fgdl.pretrain) == (6, 0, 0.5)
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
    ("train", "key"),
    [
        ({"framework": "gan"}, "train.framework: unknown framework 'gan'; known: .*mmgan"),
        ({"framework": "l1", "critic_width": 4}, "train.critic_width: l1 has no such option"),
        ({"framework": "ddpm", "l1_weight": 1.0}, "train.l1_weight: ddpm has no such option"),
        ({"pgan": {"vlb_weight": 1}}, r"config.train.pgan: unknown key\(s\) \['vlb_weight'\]"),
        ({"pgan": {"perceptual_weight": -1}}, "train.pgan.perceptual_weight must be finite"),
        ({"pgan": {"perceptual_slices": 0}}, "train.pgan.perceptual_slices must be at least 1"),
        ({"l1": {"l1_weight": float("nan")}}, "train.l1.l1_weight: .* finite number, got nan"),
        ({"mmgan": {"imputation": "ones"}}, "train.mmgan.imputation must be one of zeros, noise"),
        ({"mmgan": {"missing": "all"}}, "train.mmgan.missing must be one of any, targets"),
        ({"mmgan": {"curriculum": 2}}, r"train.mmgan.curriculum must be in \[0, 1\]"),
        ({"medsynth": {"distance": "l3"}}, "train.medsynth.distance must be one of l1, l2"),
        ({"ddpm": {"sampling_steps": 2000}}, r"train.ddpm.sampling_steps must be .*\(1000\)"),
        ({"ddpm": {"variance": "big"}}, "train.ddpm.variance must be one of posterior, beta"),
        ({"iddpm": {"clip": [1, 0]}}, "train.iddpm.clip must be"),
        ({"fgdl": {"pretrain": 1}}, r"train.fgdl.pretrain must be in \[0, 1\)"),
        ({"fgdl": {"critic_layers": 1}}, "train.fgdl.critic_layers must be 2 to 16"),
        ({"fgdl": {"critic_every": 0}}, "train.fgdl.critic_every must be at least 1"),
        ({"fgdl": {"distinction": "sign"}}, "train.fgdl.distinction must be one of signed, abs"),
        ({"fgdl": {"align": "dcn"}}, "train.fgdl.align must be one of auto, deformable, warp"),
        ({"tsf": {"pretrain": 1.5}}, r"train.tsf.pretrain must be in \[0, 1\]"),
        ({"tsf": {"distance": "l2"}}, "train.tsf.distance must be one of l1, smooth_l1"),
        ({"pix2pix": {"adversarial_loss": "x"}}, "train.pix2pix.adversarial_loss must be one of"),
    ],
)
def test_options_that_no_framework_can_have_are_refused_with_their_place(train, key):
    with pytest.raises(InputError, match=key):
        parse(RunConfig, {"train": train})


@EVERY
def test_for_synthesis_alone_only_the_generator_has_weights_and_nothing_learns(name, make_config):
    config = make_config(name)
    cell = build_framework(config, training=False)
    assert all(key.startswith("generator.") for key in cell.state_dict())
    trained = build_framework(config).generator.state_dict()
    cell.generator.load_state_dict(trained, strict=True)
    with pytest.raises(ValueError, match="built for synthesis"):
        cell.players()


@EVERY
def test_what_is_in_the_generator_is_kept_and_a_critic_is_not(name, make_config):
    cell = build_framework(make_config(name))
    players, lasting = cell.players(), {id(p) for p in cell.generator.parameters()}
    assert ("critic" in players) == (hasattr(cell, "judge") or name == "fgdl")
    for one in players.values():
        assert {id(p) in lasting for p in one.module.parameters()} == {one.kept}
    taught = {id(p) for one in players.values() if one.kept for p in one.module.parameters()}
    assert taught == lasting


def test_the_critic_rests_until_it_is_called(pix2pix, make_batch):
    cell, batch = pix2pix(adversarial_start=5), make_batch(3)
    assert set(cell.generator_loss(batch, 4)) == {"l1"}
    assert cell.critic_loss(batch, 4) == {}
    assert set(cell.generator_loss(batch, 5)) == {"l1", "adversarial"}
    assert set(cell.critic_loss(batch, 5)) == {"critic"}


@pytest.mark.parametrize("kind", ["lsgan", "bce"])
def test_pix2pix_is_the_sum_of_its_printed_terms(kind, pix2pix, make_batch):
    cell, batch = pix2pix(adversarial_weight=0.25, adversarial_loss=kind), make_batch(3)
    terms = cell.generator_loss(batch, 0)
    made = cell.generator(batch.sources)
    fake = cell.critic(torch.cat([batch.sources, made * batch.brain], 1))
    real = cell.critic(torch.cat([batch.sources, batch.targets], 1))
    torch.testing.assert_close(terms["l1"], 100 * (made - batch.targets)[batch.brain].abs().mean())
    if kind == "lsgan":
        fools, tells = (fake - 1).square().mean(), (real - 1).square().mean() + fake.square().mean()
    else:
        fools, tells = F.softplus(-fake).mean(), F.softplus(-real).mean() + F.softplus(fake).mean()
    torch.testing.assert_close(terms["adversarial"], 0.25 * fools)
    found = cell.critic_loss(batch, 0)["critic"]
    torch.testing.assert_close(found, 0.5 * tells)
    found.backward()
    assert all(p.grad is None for p in cell.generator.parameters())  # it leaves it alone


def test_what_is_not_wanted_is_not_judged(pix2pix, make_batch):
    cell, batch = pix2pix(), make_batch(3)
    unwanted = replace(batch, wanted=~batch.wanted)
    found = [
        sum(cell.generator_loss(b, 0).values()) + cell.critic_loss(b, 0)["critic"]
        for b in (unwanted, replace(unwanted, targets=batch.targets + 7))
    ]
    assert torch.equal(*found)


def test_l1_counts_wanted_voxels_of_the_brain_only(make_batch):
    batch = make_batch(3, 4)
    wrong = batch.targets + 2.0
    assert masked_l1(wrong, batch).item() == pytest.approx(2)
    outside = torch.where(batch.brain, batch.targets, batch.targets + 9)
    assert masked_l1(outside, batch).item() == 0
    half = replace(batch, wanted=torch.tensor([[True], [False]]))
    wrong[1] += 100
    assert masked_l1(wrong, half).item() == pytest.approx(2)
    assert masked_l1(wrong, replace(batch, wanted=~batch.wanted)).item() == 0


@EVERY
def test_a_batch_in_which_nothing_counts_gives_a_finite_loss_and_gradient(
    name, make_config, make_batch
):
    cell, batch = build_framework(make_config(name)), make_batch()
    empty = replace(batch, sources=batch.sources * 0, targets=batch.targets * 0,
                    wanted=~batch.wanted, brain=batch.brain & False)  # fmt: skip
    terms = cell.generator_loss(empty, 0)
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    gradients = [p.grad for p in cell.generator.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)


def test_randomness_follows_from_seed_and_step_alone(make_config):
    first, again = (build_framework(make_config("ddpm")) for _ in range(2))
    other = build_framework(make_config("ddpm", train={"seed": 1}))
    first.randomness(2)  # what was drawn before does not matter
    a, b = (cell.randomness(3).initial_seed() for cell in (first, again))
    assert a == b
    assert len({a, first.randomness(4).initial_seed(), other.randomness(3).initial_seed()}) == 3


def test_unknown_names_and_parts_that_do_not_fit_are_told(make_config):
    for change, named in (
        ({"model": {"name": "nope"}}, "unknown model 'nope'; known: .*agi-net"),
        ({"model": {"name": "agi-net", "groups": 3}}, "agi-net cannot be built: .*groups"),
        ({"side": 8, "critic_layers": 3}, "too small for a critic of 3 layers, which needs 24"),
    ):
        with pytest.raises(InputError, match=named):
            build_framework(make_config("pix2pix", 3, **change))
    with pytest.raises(InputError, match="medsynth.residual must be first, none or one of"):
        build_framework(make_config("medsynth", residual="pd"))


def test_an_almost_empty_patch_gives_the_critic_finite_gradients_in_bf16(pix2pix, make_batch):
    torch.manual_seed(0)
    cell, batch = pix2pix(), make_batch(3, 32)
    speck = torch.zeros_like(batch.brain)
    speck[..., 0, 0, 3:5] = True
    empty = replace(
        batch, sources=batch.sources * speck, targets=batch.targets * speck, brain=speck
    )
    with torch.autocast("cpu", torch.bfloat16):
        terms = cell.generator_loss(empty, 0)
        critic = cell.critic_loss(empty, 0)["critic"]
    assert terms["adversarial"].dtype == torch.float32
    (sum(terms.values()) + critic).backward()
    gradients = [p.grad for p in cell.parameters() if p.grad is not None]
    assert len(gradients) > 8
    assert all(g.isfinite().all() for g in gradients)
