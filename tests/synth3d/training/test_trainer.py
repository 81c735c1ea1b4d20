"""One step: who learns, who is frozen, what is kept, what a checkpoint must hold."""

import copy
import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from synth3d.data.batch import Batch
from synth3d.data.options import DataConfig
from synth3d.errors import InputError
from synth3d.frameworks import FRAMEWORKS, Framework, Options, Player, Stage
from synth3d.frameworks.adversarial import Pix2PixOptions
from synth3d.models.options import ModelConfig
from synth3d.training import config as settings
from synth3d.training.config import RunConfig, TrainConfig, build_framework
from synth3d.training.run_folder import load_state, load_weights, save_state, save_weights
from synth3d.training.trainer import Trainer, rate_factor

CPU = torch.device("cpu")
TINY = RunConfig(
    dim=2,
    model=ModelConfig("resunet", (4, 8), blocks=1),
    data=DataConfig((8, 8), (0, 0)),
    train=TrainConfig(framework="l1", steps=8, average=0.5, learning_rate=1e-2),
)


@dataclasses.dataclass(frozen=True)
class TwoOptions(Options):
    """``two``: a network makes a draft, and then another one mends it."""

    name = "two"
    weight: float = 2.0

    def __post_init__(self) -> None:
        self.check_weights("weight")


class Pair(nn.Module):
    """A draft, in which a batch is counted, and what is added to it."""

    def __init__(self, draft: nn.Module) -> None:
        super().__init__()
        self.draft = nn.Sequential(draft, nn.BatchNorm2d(1))
        self.mend = nn.Conv2d(1, 1, 3, padding=1)


class TwoStages(Framework):
    """First the draft, then what mends it, beside a judge that is not kept."""

    Options = TwoOptions
    stages = (Stage(("draft",), 0.5), Stage(("mend", "judge"), 0.5))

    def __init__(self, generator, task, options, plan=None) -> None:
        super().__init__(Pair(generator), task, options, plan)
        self.judge = nn.Conv2d(1, 1, 1) if plan else None

    def players(self) -> dict[str, Player]:
        pair, rate = self.generator, self.plan.rate
        return {
            "judge": Player(self.judge, self.judge_loss, rate),
            "draft": Player(pair.draft, self.generator_loss, rate, kept=True),
            "mend": Player(pair.mend, self.mend_loss, 10 * rate, kept=True),
        }

    def generator_loss(self, batch: Batch, step: int):
        error = self.generator.draft(batch.sources) - batch.targets
        return {"draft": self.options.weight * error.abs().mean()}

    def mend_loss(self, batch: Batch, step: int):
        made = self.synthesize(batch.sources, batch.present, batch.wanted)
        return {"mend": (made - batch.targets).abs().mean()}

    def judge_loss(self, batch: Batch, step: int):
        return {"judge": self.judge(batch.targets).square().mean()} if step != 6 else {}

    def synthesize(self, sources, present, wanted, seed=0):
        draft = self.generator.draft(sources)
        return draft + self.generator.mend(draft)


@pytest.fixture
def two(monkeypatch) -> RunConfig:
    """The toy framework as any other gets in: a class, and its entry in FRAMEWORKS."""
    monkeypatch.setitem(FRAMEWORKS, "two", TwoStages)
    made = settings.with_tables(FRAMEWORKS)
    train = made(framework="two", steps=8, average=0.5, learning_rate=1e-2)
    return dataclasses.replace(TINY, train=train)


def batch_of(seed: int = 0) -> Batch:
    sources = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    masks = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    brain = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    return Batch(sources, sources.mean(1, keepdim=True), *masks, brain)


def digest(module: nn.Module) -> str:
    """Of weights and buffers."""
    state = module.state_dict()
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()


def test_a_player_that_does_not_learn_in_a_stage_is_frozen(two):
    trainer = Trainer(two, CPU)

    def now():
        return {name: digest(player.module) for name, player in trainer.players.items()}

    for step in range(8):
        before, terms = now(), trainer.advance(batch_of(step))
        moved = {name for name, value in now().items() if value != before[name]}
        learns = {"draft"} if step < 4 else {"mend", "judge"} if step != 6 else {"mend"}
        assert moved == learns
        assert set(terms) == learns
        with trainer.averaged():  # which asks all networks to evaluate
            pass


def test_what_is_kept_is_the_average_of_all_kept_players(two, tmp_path):
    trainer = Trainer(two, CPU)
    first = trainer.framework.synthesize(batch_of().sources, None, None)
    for step in range(8):
        trainer.advance(batch_of(step))
    assert trainer.averages.keys() == {"draft", "mend"}
    live = digest(trainer.framework.generator)
    with trainer.averaged():
        made = trainer.framework.synthesize(batch_of().sources, None, None)
        save_weights(tmp_path / "w.safetensors", trainer.framework.generator)
    assert digest(trainer.framework.generator) == live
    finished = build_framework(two, training=False).eval()
    load_weights(tmp_path / "w.safetensors", finished.generator)
    torch.testing.assert_close(finished.synthesize(batch_of().sources, None, None), made)
    assert not torch.allclose(made, first)


def test_what_is_done_with_learning_becomes_what_is_kept_of_it(two):
    """And stays that, to the bit; what begins to learn has an average that warms up from there."""
    trainer = Trainer(two, CPU)
    pair = trainer.framework.generator
    for step in range(3):
        trainer.advance(batch_of(step))
    average, start = trainer.averages["draft"], copy.deepcopy(pair.mend)
    before = [mean.clone() for mean in average.parameters()]
    assert digest(pair.draft) != digest(average)
    trainer.advance(batch_of(3))
    kept = digest(average)
    assert digest(pair.draft) == kept
    assert not any(map(torch.equal, before, average.parameters())), "its last step counts"
    for step in range(4, 8):
        trainer.advance(batch_of(step))
        assert digest(pair.draft) == digest(average) == kept
        if step == 4:
            for first, now, mean in zip(
                start.parameters(), pair.mend.parameters(),
                trainer.averages["mend"].parameters(), strict=True,
            ):  # fmt: skip
                torch.testing.assert_close(mean, now + (first - now) * 2 / 11)


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_a_checkpoint_goes_on_in_any_stage_bit_for_bit(two, stop, tmp_path):
    straight = Trainer(two, CPU)
    for step in range(stop):
        straight.advance(batch_of(step))
    save_state(tmp_path / "resume.pt", straight.state())
    resumed = Trainer(two, CPU)
    resumed.load(load_state(tmp_path / "resume.pt"))
    for step in range(stop, 8):
        assert straight.advance(batch_of(step)) == resumed.advance(batch_of(step))
    assert digest(straight.framework) == digest(resumed.framework)
    assert [digest(a) for a in straight.averages.values()] == [
        digest(a) for a in resumed.averages.values()
    ]


def by_one_loss(self) -> dict[str, Player]:
    pair, rate = self.generator, self.plan.rate
    return {
        "mend": Player(pair.mend, self.mend_loss, rate, kept=True),
        "draft": Player(pair.draft, None, 2 * rate, kept=True),
        "judge": Player(self.judge, self.judge_loss, rate),
    }


def test_players_that_share_a_loss_learn_as_one_with_the_rates_of_the_stage(two, monkeypatch):
    """Also under a common bound of their gradient."""
    monkeypatch.setattr(TwoStages, "players", by_one_loss)
    stages = Stage(("mend", "draft"), 0.5), Stage(("mend", "draft", "judge"), 0.5, rate=0.1)
    monkeypatch.setattr(TwoStages, "stages", stages)
    two = dataclasses.replace(two, train=dataclasses.replace(two.train, clip_norm=0.1))
    trainer, alone = Trainer(two, CPU), Trainer(two, CPU).framework
    pair = alone.generator
    groups = [{"params": [*pair.mend.parameters()], "lr": 1e-2},
              {"params": [*pair.draft.parameters()], "lr": 2e-2}]  # fmt: skip
    optimizer = torch.optim.Adam(groups, betas=two.train.betas)
    for step in range(8):
        terms = trainer.advance(batch_of(step))
        for group, rate in zip(optimizer.param_groups, (1e-2, 2e-2), strict=True):
            group["lr"] = rate * (0.1 if step >= 4 else 1)
        optimizer.zero_grad()
        loss = alone.mend_loss(batch_of(step), step)["mend"]
        loss.backward()
        nn.utils.clip_grad_norm_(pair.parameters(), 0.1)
        optimizer.step()
        assert terms["mend"] == pytest.approx(loss.item())
        assert terms.keys() == ({"mend"} if step in (0, 1, 2, 3, 6) else {"mend", "judge"})
    for one, other in zip(trainer.framework.generator.parameters(), pair.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def one_twice(self) -> dict[str, Player]:
    both = Player(self.generator.draft, self.generator_loss, 1.0)
    return {"draft": both, "mend": both, "judge": both}


def without_losses(self) -> dict[str, Player]:
    parts = {"draft": self.generator.draft, "mend": self.generator.mend, "judge": self.judge}
    return {name: Player(part, None, 1.0) for name, part in parts.items()}


@pytest.mark.parametrize(
    ("part", "value", "wrong"),
    [
        ("stages", (Stage(("draft",)),), "players are"),
        ("stages", (Stage(("draft", "mend", "judge"), 0.4),), "do not make 1"),
        ("players", one_twice, "share weights"),
        ("players", without_losses, "no loss to learn by"),
    ],
)
def test_stages_and_players_that_do_not_fit_are_refused(two, part, value, wrong, monkeypatch):
    monkeypatch.setattr(TwoStages, part, value)
    with pytest.raises(ValueError, match=wrong):
        Trainer(two, CPU)


def test_a_loss_that_is_not_finite_stops_the_run_with_a_sentence():
    trainer = Trainer(TINY, CPU)
    with torch.no_grad():
        next(trainer.framework.generator.parameters()).fill_(np.nan)
    with pytest.raises(InputError, match="the loss is .*nan.* at step 0"):
        trainer.advance(batch_of())


@pytest.mark.parametrize("spoilt", ["generator", "critic"])
def test_a_loss_that_is_not_finite_changes_neither_weights_nor_averages(spoilt, monkeypatch):
    """Of its player and of those after it; the optimiser's moments and steps neither."""
    options = Pix2PixOptions(critic_width=4, critic_layers=1)
    train = dataclasses.replace(TINY.train, framework="pix2pix", pix2pix=options)
    trainer = Trainer(dataclasses.replace(TINY, train=train), CPU)
    trainer.advance(batch_of())
    loss = trainer.players[spoilt].loss

    def broken(batch: Batch, step: int):
        return {name: term * np.inf for name, term in loss(batch, step).items()}

    player = dataclasses.replace(trainer.players[spoilt], loss=broken)
    monkeypatch.setitem(trainer.players, spoilt, player)
    kept = ["generator", "critic"] if spoilt == "generator" else ["critic"]

    def now():
        found = {name: digest(trainer.players[name].module) for name in kept}
        found |= {f"average {name}": digest(one) for name, one in trainer.averages.items()}
        moments = [trainer.optimizers[name].state_dict()["state"] for name in kept]
        return found, repr(moments), trainer.step

    before = now()
    with pytest.raises(InputError, match="the loss is .*inf.* at step 1"):
        trainer.advance(batch_of(1))
    assert now() == before


def test_a_step_reads_its_losses_at_once(two, monkeypatch):
    """On a GPU each reading waits for all its work. Two players learn in the second stage."""
    trainer, read = Trainer(two, CPU), []
    for name in ("item", "tolist", "cpu", "__bool__", "__float__", "__int__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda one, real=real, name=name: read.append(name) or real(one)
        )
    for step in range(6):
        batch = batch_of(step).to(CPU)
        read.clear()
        trainer.advance(batch)
        assert read == ["tolist"]


def test_rates_warm_up_and_fall():
    constant = TrainConfig(steps=100, warmup=10)
    assert rate_factor(0, 100, constant) == pytest.approx(0.1)
    assert rate_factor(50, 100, constant) == 1
    cosine = dataclasses.replace(constant, decay="cosine")
    assert rate_factor(10, 100, cosine) == 1
    assert rate_factor(55, 100, cosine) == pytest.approx(0.5)
    assert rate_factor(100, 100, cosine) == pytest.approx(0)


def test_rates_warm_up_and_fall_in_each_stage(two, monkeypatch):
    monkeypatch.setattr(
        TwoStages, "stages", (Stage(("draft",), 0.25), Stage(("mend", "judge"), 0.75))
    )
    how = dataclasses.replace(two.train, warmup=1, decay="cosine", steps=16)
    trainer, rates = Trainer(dataclasses.replace(two, train=how), CPU), []
    for step in range(16):
        trainer.advance(batch_of(step))
        name = "draft" if step < 4 else "mend"
        rates.append(trainer.optimizers[name].param_groups[0]["lr"] / trainer.players[name].rate)
    expected = [rate_factor(step, 4, how) for step in range(4)]
    expected += [rate_factor(step, 12, how) for step in range(12)]
    assert rates == pytest.approx(expected)
    assert rates[4] == 1
