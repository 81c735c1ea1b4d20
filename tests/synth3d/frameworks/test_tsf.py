"""TSF-Seq2Seq's two stages: who learns what from what, and what explains a result."""

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from synth3d.data.batch import Batch
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.frameworks import build
from synth3d.frameworks.base import TrainingPlan
from synth3d.frameworks.tsf import TSF, TSFOptions
from synth3d.losses import load_vgg19, squared_distance
from synth3d.models.options import ModelConfig
from synth3d.training.config import build_framework
from synth3d.training.run_folder import load_state, save_state
from synth3d.training.trainer import Trainer

CPU = torch.device("cpu")
NAMES = ("t1n", "t1c", "t2w")
SEQ2SEQ, FUSION = {"target", "self", "cycle"}, {"target", "plain"}


def any_batch(dim: int = 2, side: int = 16, seed: int = 0) -> Batch:
    """Four samples of three sequences that follow from each other, each with another gap."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand(4, 1, *[side // 4] * dim, generator=draws)
    smooth = "bilinear" if dim == 2 else "trilinear"
    u = nn.functional.interpolate(coarse, scale_factor=4, mode=smooth)
    brain = torch.ones_like(u, dtype=torch.bool)
    brain[..., :3] = False
    everything = torch.cat([0.2 + 0.6 * u, 0.9 - 0.6 * u, 0.3 + u**2], 1) * brain
    present = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 1, 0]], dtype=torch.bool)
    wanted = torch.tensor([[0, 1, 1], [0, 0, 1], [1, 0, 0], [1, 0, 1]], dtype=torch.bool)

    def only(mask: torch.Tensor) -> torch.Tensor:
        return everything * mask.view(*mask.shape, *[1] * dim)

    return Batch(only(present), only(wanted), present, wanted, brain)


def any_tsf(dim: int = 2, steps: int = 10, model=(), **options) -> TSF:
    """For mode ``any``; without VGG19 unless asked for."""
    torch.manual_seed(0)
    size = {"name": "tsf", "widths": (8, 16), "blocks": 1, "banks": 2, "fusion_banks": 2}
    options = {"perceptual_weight": 0.0, "pretrain": 0.5} | options
    task, plan = Task(dim, NAMES, NAMES, "any"), TrainingPlan(steps, rate=1e-3)
    made = build(task, ModelConfig(**size | dict(model)), "tsf", TSFOptions(**options), plan)
    assert isinstance(made, TSF)
    return made


def digest(module: nn.Module) -> str:
    state = b"".join(v.detach().numpy().tobytes() for v in module.state_dict().values())
    return hashlib.sha256(state).hexdigest()


def parts(trainer: Trainer) -> dict[str, str]:
    """Hashes of what learns."""
    net = trainer.framework.generator
    return {name: digest(getattr(net, name)) for name in ("encoder", "decoder", "fusion")}


@pytest.fixture(scope="module")
def config(make_config):
    """(options) → ten steps of a small one, fixed from T1 and T2 to FLAIR."""

    def make(**options):
        options = {"pretrain": 0.5, "perceptual_weight": 0.0} | options
        train = {"steps": 10, "learning_rate": 1e-3, "average": 0.5}
        return make_config("tsf", train=train, **options)

    return make


@pytest.mark.parametrize("frozen", [True, False])
def test_the_encoder_keeps_its_hash_while_fusion_learns(config, make_batch, frozen):
    trainer, batch = Trainer(config(frozen=frozen), CPU), make_batch()
    start = parts(trainer)
    for _ in range(5):
        assert trainer.advance(batch).keys() == SEQ2SEQ
    middle = parts(trainer)
    assert middle["fusion"] == start["fusion"]
    assert middle["encoder"] != start["encoder"]
    assert middle["decoder"] != start["decoder"]
    for _ in range(5):
        assert trainer.advance(batch).keys() == FUSION
    end = parts(trainer)
    assert (end["encoder"] == middle["encoder"]) == frozen
    assert end["decoder"] != middle["decoder"]
    assert end["fusion"] != middle["fusion"]
    rates = [o.param_groups[0]["lr"] for o in trainer.optimizers.values()]
    assert set(rates) == {5e-4} if not frozen else {5e-4, 1e-3}


@pytest.mark.parametrize("killed", [3, 5, 8])
def test_it_goes_on_to_the_bit_from_either_stage(config, make_batch, tmp_path, killed):
    straight, batch = Trainer(config(), CPU), make_batch()
    for step in range(10):
        if step == killed:
            save_state(tmp_path / "resume.pt", straight.state())
        straight.advance(batch)
    resumed = Trainer(config(), CPU)
    resumed.load(load_state(tmp_path / "resume.pt"))
    while resumed.step < 10:
        resumed.advance(batch)
    torch.testing.assert_close(resumed.state(), straight.state(), rtol=0, atol=0)


def test_either_way_into_the_fusion_teaches_at_the_same_rates(config, make_batch):
    """After Seq2Seq in one training, and alone, as --from does."""
    whole = config(pretrain=0.6)
    whole = replace(whole, train=replace(whole.train, warmup=2, decay="cosine"))
    alone = config(pretrain=0.0)
    alone = replace(alone, train=replace(alone.train, warmup=2, decay="cosine", steps=4))
    rates = []
    for one in (whole, alone):
        trainer, found = Trainer(one, CPU), []
        for _ in range(one.train.steps):
            trainer.advance(make_batch())
            found.append({p: o.param_groups[0]["lr"] for p, o in trainer.optimizers.items()})
        rates.append([{p: lr[p] for p in ("decoder", "fusion")} for lr in found[-4:]])
    assert rates[0] == rates[1]
    assert [lr["fusion"] for lr in rates[0][:2]] == [2.5e-4, 5e-4]


@pytest.mark.parametrize(("pretrain", "parts"), [(0.5, 3), (1.0, 2)])
def test_what_synthesis_uses_is_what_a_picture_follows_from(pretrain, parts):
    tsf, batch = any_tsf(pretrain=pretrain), any_batch()
    tsf.synthesize(batch.sources, batch.present, batch.wanted).sum().backward()
    used = {id(p) for part in tsf.used for p in part.parameters()}
    assert used == {id(p) for p in tsf.parameters() if p.grad is not None}
    net = tsf.generator
    chosen = [net.encoder, net.decoder, net.fusion][:parts]
    assert used == {id(p) for part in chosen for p in part.parameters()}


@pytest.mark.parametrize("pretrain", [0.0, 1.0])
def test_either_stage_can_be_all_of_it(config, make_batch, pretrain):
    trainer, batch = Trainer(config(pretrain=pretrain), CPU), make_batch()
    start = parts(trainer)
    for _ in range(2):
        assert trainer.advance(batch).keys() == (SEQ2SEQ if pretrain else FUSION)
    idle = "fusion" if pretrain else "encoder"
    assert {name for name, hashed in parts(trainer).items() if hashed == start[name]} == {idle}


@pytest.mark.parametrize("step", [0, 9])
@pytest.mark.parametrize("dim", [2, 3])
def test_absent_and_unwanted_voxels_never_matter_to_a_bit(dim, step):
    tsf, batch, found = any_tsf(dim), any_batch(dim, 8), []
    for fill in (0.0, 3.0, math.nan):
        shape = (4, 3, *[1] * dim)
        sources = torch.where(batch.present.view(shape), batch.sources, fill)
        targets = torch.where(batch.wanted.view(shape), batch.targets, fill)
        terms = tsf.generator_loss(replace(batch, sources=sources, targets=targets), step)
        grads = torch.autograd.grad(sum(terms.values()), [*tsf.parameters()], allow_unused=True)
        found.append([*terms.values(), *(g for g in grads if g is not None)])
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))


@pytest.mark.parametrize("kind", ["full", "plain"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_step_of_fusion_calls_the_decoder_once(kind, weight):
    tsf, batch = any_tsf(model={"fusion": kind}, source_weight=weight), any_batch()
    seen = []
    tsf.generator.decoder.register_forward_hook(lambda m, i, o: seen.append(len(i[0])))
    terms = tsf.generator_loss(batch, 9)
    expected = {"target"} | ({"plain"} if kind == "full" else set())
    assert terms.keys() == expected | ({"source"} if weight else set())
    assert seen == [4 * len(terms)]


def test_what_is_drawn_is_there_and_every_pair_is():
    tsf, batch = any_tsf(), any_batch()
    pairs = [set() for _ in range(4)]
    for step in range(60):
        drawn = tsf.drawn(batch, step)
        for b, pair in enumerate(zip(drawn.source.tolist(), drawn.target.tolist(), strict=True)):
            pairs[b].add(pair)
    for b, seen in enumerate(pairs):
        there = torch.cartesian_prod(
            batch.present[b].nonzero()[:, 0], batch.wanted[b].nonzero()[:, 0]
        )
        assert seen == {tuple(pair) for pair in there.tolist()}


def test_a_sample_that_wants_nothing_teaches_nothing():
    tsf, batch = any_tsf(), any_batch()
    wanted = batch.wanted.clone()
    wanted[2] = False
    idle = replace(batch, wanted=wanted)
    keep = torch.tensor([0, 1, 3])
    fewer = Batch(*(getattr(idle, name)[keep] for name in
                    ("sources", "targets", "present", "wanted", "brain")))  # fmt: skip
    for step in (0, 9):
        whole = tsf.generator_loss(idle, step)
        tsf.draws = lambda batch, step: [tsf.randomness(step, b) for b in keep.tolist()]
        for one, other in zip(
            whole.values(), tsf.generator_loss(fewer, step).values(), strict=True
        ):
            torch.testing.assert_close(one, other)
        del tsf.draws


@pytest.mark.parametrize("distance", ["l1", "smooth_l1"])
def test_the_losses_are_the_papers(distance):
    """Equation 5 without features: 10 times the mean distance of both reconstructions."""
    tsf, batch = any_tsf(distance=distance), any_batch()

    def mean_distance(made: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        error = (made - goal)[batch.brain[:, 0]].abs()
        if distance == "smooth_l1":
            error = torch.where(error < 1, 0.5 * error**2, error - 0.5)
        return error.mean()

    terms, drawn = tsf.generator_loss(batch, 9), tsf.drawn(batch, 9)
    b = torch.arange(4)
    both = tsf.generator.reconstructions(batch.sources, batch.present, batch.wanted)
    for term, made in zip((terms["target"], terms["plain"]), both, strict=True):
        goal = batch.targets[b, drawn.target]
        torch.testing.assert_close(term, 10 * mean_distance(made[b, drawn.target], goal))
    terms, drawn = tsf.generator_loss(batch, 0), tsf.drawn(batch, 0)
    source = batch.sources[b, drawn.source]
    made = tsf.generator.decode(tsf.generator.encode(source), drawn.target, (16, 16))
    again = tsf.generator.encode(made * batch.brain[:, 0])
    back = tsf.generator.decode(again, drawn.source, (16, 16))
    torch.testing.assert_close(terms["cycle"], 10 * mean_distance(back, source))


@pytest.mark.parametrize("dim", [2, 3])
def test_vgg19_compares_what_lies_in_the_brain(dim, vgg19):
    tsf, batch = any_tsf(dim, perceptual_weight=0.5, perceptual_weights=str(vgg19)), any_batch(dim)
    for step, pairs in ((0, 2), (9, 2)):
        terms = tsf.generator_loss(batch, step)
        assert [*terms][-1] == "perceptual"
        assert terms["perceptual"].isfinite()
        assert pairs == 2
    (maps,) = tsf._features
    assert {key.split(".")[0] for key in tsf.state_dict()} == {"generator"}
    if dim == 2:
        drawn, b = tsf.drawn(batch, 9), torch.arange(4)
        both = tsf.generator.reconstructions(batch.sources, batch.present, batch.wanted)
        shown = [(x[b, drawn.target] * batch.brain[:, 0]) / 2 for x in (*both, batch.targets)]
        expected = sum(squared_distance(maps, [x], [shown[2]]) for x in shown[:2])
        torch.testing.assert_close(terms["perceptual"], 0.5 * expected)
    before = digest(load_vgg19(vgg19))
    sum(terms.values()).backward()
    assert digest(maps) == before
    assert all(p.grad is None for p in maps.parameters())


def test_the_file_is_asked_for_only_where_it_counts(tmp_path):
    gone = {"perceptual_weights": str(tmp_path / "gone.pth"), "perceptual_weight": 0.01}
    with pytest.raises(InputError) as caught:
        any_tsf(**gone)
    for part in ("gone.pth are not there", "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
                 "train.tsf.perceptual_weights", "train.tsf.perceptual_weight=0"):  # fmt: skip
        assert part in str(caught.value)
    any_tsf(**gone | {"perceptual_weight": 0.0})
    task = Task(2, NAMES, NAMES, "any")
    build(task, ModelConfig("tsf", (4, 8), blocks=1), "tsf", TSFOptions(**gone))


def test_it_is_explained():
    tsf, batch = any_tsf(), any_batch()
    nn.init.normal_(tsf.generator.fusion.conv.bank, std=0.3)
    given = batch.sources, batch.present, batch.wanted
    ((name, tsem),) = tsf.explain(*given).items()
    assert name == "tsem"
    attended, plain = tsf.generator.reconstructions(*given)
    torch.testing.assert_close(tsf.synthesize(*given), attended)
    assert torch.equal(tsem, (attended - plain).abs())
    assert (tsem[batch.wanted] > 0).any()
    assert (tsem[~batch.wanted] == 0).all()
    assert torch.equal(tsf.weights(*given[1:]), tsf.generator.weights(*given[1:]))


def test_without_attention_there_is_no_map_and_it_is_said():
    tsf, batch = any_tsf(model={"fusion": "plain"}), any_batch()
    assert tsf.explains == {"weights"}
    with pytest.raises(InputError, match=r"no attention \(model.fusion=plain\)"):
        tsf.explain(batch.sources, batch.present, batch.wanted)


def test_seq2seq_alone_makes_the_mean_of_what_each_source_gives():
    tsf, batch = any_tsf(pretrain=1.0), any_batch()
    made = tsf.synthesize(batch.sources, batch.present, batch.wanted)
    one = torch.eye(3, dtype=torch.bool)
    for b, target in batch.wanted.nonzero().tolist():
        each = [
            tsf.synthesize(batch.sources[[b]], one[[source]], one[[target]])[0, target]
            for source in batch.present[b].nonzero()[:, 0].tolist()
        ]
        torch.testing.assert_close(made[b, target], torch.stack(each).mean(0))
    for ask in (lambda: tsf.weights(batch.present, batch.wanted),
                lambda: tsf.explain(batch.sources, batch.present, batch.wanted)):  # fmt: skip
        with pytest.raises(InputError, match="a run of Seq2Seq alone"):
            ask()


def test_it_learns_every_gap_in_two_stages():
    """From each subset every other sequence; fusion is better than the constant by far."""
    tsf = any_tsf(steps=160, pretrain=0.6)
    parts = tsf.generator
    early = torch.optim.Adam([*parts.encoder.parameters(), *parts.decoder.parameters()], 4e-3)
    late = torch.optim.Adam([*parts.fusion.parameters(), *parts.decoder.parameters()], 2e-3)
    for step in range(160):
        optimizer = late if tsf.fuses(step) else early
        optimizer.zero_grad()
        sum(tsf.generator_loss(any_batch(seed=step % 4), step).values()).backward()
        optimizer.step()
    batch = any_batch()
    inside = batch.brain & batch.wanted[..., None, None]
    made = tsf.eval().synthesize(batch.sources, batch.present, batch.wanted)
    error = (made - batch.targets)[inside].abs().mean()
    constant = (batch.targets[inside] - batch.targets[inside].mean()).abs().mean()
    assert error < 0.6 * constant


def test_sources_that_are_no_targets_have_slots_of_their_own_and_no_third_term(config):
    tsf = build_framework(config())
    assert tsf.slots(torch.tensor([0, 1])).tolist() == [1, 2]
    assert any_tsf().slots(torch.tensor([0, 1])).tolist() == [0, 1]
    with pytest.raises(InputError, match=r"source_weight must be 0 in mode fixed"):
        build_framework(config(source_weight=1.0))
