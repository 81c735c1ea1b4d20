"""The state of a run and one step of it; the loop around it is ``synth3d.training.loop``."""

import contextlib
import copy
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from synth3d.data import Batch, seed_of
from synth3d.errors import InputError
from synth3d.inference import memory_format
from synth3d.training.config import RunConfig, TrainConfig, build_framework
from synth3d.training.distributed import ALONE, Ranks
from synth3d.training.start import take_over

BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm


class GuardedAdam(torch.optim.Adam):
    """Adam in one call, that leaves everything as it is where ``found_inf`` holds 1.

    ``found_inf`` is how torch's own ``GradScaler`` tells a fused optimiser to skip a step: a float
    tensor on the device of the weights, of which the host never learns. None is no condition.
    """

    found_inf: Tensor | None = None

    def __init__(self, module: nn.Module, rate: float, betas: tuple[float, float]) -> None:
        super().__init__(module.parameters(), rate, betas, fused=True)


class Trainer:
    """The state of a run: a framework, an optimiser for each player, averaged weights, the step.

    It knows players and stages, no architecture: at every step the players of the stage that it
    has come to learn one after the other on the same batch, and all others are frozen. Everything
    in it is in :meth:`state`, so a run goes on from a checkpoint as if it had never stopped.

    A stage is a training of its own: learning rates warm up and fall in each, and an average warms
    up from where its player begins to learn. A kept player that a stage has done with becomes its
    average, which is what a finished run keeps, so what learns after it has seen no other.

    A step's batch is cut into as many shares as there are ``ranks`` times ``train.accumulate``:
    each process learns from its own, one after the other, and gradients and terms are averaged
    over all of them before anybody takes a step. So the weights stay the same in all processes,
    and are those that one process learns from the whole batch at once, but for rounding.

    Raises:
        InputError: As :func:`synth3d.training.config.build_framework`; or a batch would be shared
            that something normalises over.
        ValueError: The framework's stages do not fit its players.
    """

    def __init__(self, config: RunConfig, device: torch.device, ranks: Ranks = ALONE) -> None:
        torch.manual_seed(config.train.seed)
        self.config, self.device, self.step, self.ranks = config, device, 0, ranks
        self._shares = ranks.size * config.train.accumulate
        layout = memory_format(config.dim)
        self.framework = build_framework(config).to(device).to(memory_format=layout)
        take_over(self.framework, config)
        self.players, self.stages = self.framework.players(), tuple(self.framework.stages)
        self._check_stages()
        self._begins = self._first_steps()
        self._check_norms()
        self.averages = {
            name: copy.deepcopy(player.module).requires_grad_(False)
            for name, player in self.players.items()
            if player.kept
        }
        self.optimizers = {
            name: GuardedAdam(player.module, player.rate, config.train.betas)
            for name, player in self.players.items()
        }
        self._learnable = {
            name: [p for p in player.module.parameters() if p.requires_grad]
            for name, player in self.players.items()
        }
        self._stage = -1
        self._enter_stage()

    def _check_stages(self) -> None:
        named = {name for stage in self.stages for name in stage.players}
        if named != self.players.keys():
            raise ValueError(f"stages name {sorted(named)}, players are {sorted(self.players)}")
        if not math.isclose(sum(stage.share for stage in self.stages), 1):
            raise ValueError("the shares of the stages do not make 1")
        weights = [id(p) for player in self.players.values() for p in player.module.parameters()]
        if len(weights) != len(set(weights)):
            raise ValueError("two players share weights, so neither could be frozen alone")
        if any(self.players[stage.players[0]].loss is None for stage in self.stages):
            raise ValueError("the first player of a stage has no loss to learn by")

    def _check_norms(self) -> None:
        """Nothing may look at a whole batch where no process sees one."""
        for name, module in self.framework.named_modules():
            of_batch = isinstance(module, BATCH_NORMS)
            if (of_batch or getattr(module, "running_mean", None) is not None) and self._shares > 1:
                raise InputError(
                    f"{name} normalises over the batch, which {self._shares} shares of it cannot "
                    "do alike; use one process and train.accumulate=1"
                )

    def _first_steps(self) -> list[int]:
        """At which step each stage begins, and the one after the last."""
        begins, end = [0], 0.0
        for stage in self.stages[:-1]:
            end += stage.share
            begins.append(round(end * self.config.train.steps))
        return [*begins, self.config.train.steps]

    def _stage_of(self, step: int) -> int:
        """The number of the stage that ``step`` is in; the last one's after the end."""
        return max(index for index, begin in enumerate(self._begins[:-1]) if begin <= step)

    def _since(self, name: str, index: int) -> int:
        """At which step a player of a stage began to learn without a pause."""
        while index > 0 and name in self.stages[index - 1].players:
            index -= 1
        return self._begins[index]

    def _enter_stage(self) -> None:
        """Freeze the players that do not learn at this step, and thaw those that do."""
        index = self._stage_of(self.step)
        if index == self._stage:
            return
        self._stage = index
        for name, player in self.players.items():
            learns = name in self.stages[index].players
            player.module.train(learns)
            for parameter in self._learnable[name]:
                parameter.requires_grad_(learns)

    def advance(self, batch: Batch) -> dict[str, float]:
        """One step on ``batch``, the same in all processes; the weighted terms of all players.

        Terms are read once, at the end, since reading waits for a GPU; whether a player may learn
        is decided where its weights are.

        Raises:
            InputError: A loss is not finite; the weights of that player, of those after it and all
                averages are left as they were.
            ValueError: The samples cannot be shared evenly.
        """
        shares = [share.to(self.device) for share in self._own_shares(batch)]
        names: list[str] = []
        losses: list[Tensor] = []
        self._enter_stage()
        for team in self._teams():
            terms, means = self._backward(team, shares)
            if means is not None:
                names, losses = [*names, *terms], [*losses, means]
                self._descend(team, torch.cat(losses).isfinite().all())
        self.framework.settle(lambda sums: self.ranks.add_up([], sums))
        found = dict(zip(names, torch.cat(losses).tolist() if losses else [], strict=True))
        if not all(map(math.isfinite, found.values())):
            raise InputError(
                f"the loss is {found} at step {self.step}; lower train.learning_rate or use fp32"
            )
        self.step += 1
        self._update_averages()
        return found

    def _own_shares(self, batch: Batch) -> list[Batch]:
        """This process's part of a step's batch, one share for each pass through the networks."""
        if self._shares == 1:
            return [batch]
        shares = batch.shares(self._shares, self.framework.masks(batch, self.step))
        each = self.config.train.accumulate
        return shares[self.ranks.rank * each :][:each]

    def _teams(self) -> list[list[str]]:
        """The players that learn now: each that has a loss, and those that learn by it."""
        teams: list[list[str]] = []
        for name in self.stages[self._stage].players:
            if self.players[name].loss is None:
                teams[-1].append(name)
            else:
                teams.append([name])
        return teams

    def _backward(
        self, team: Sequence[str], shares: Sequence[Batch]
    ) -> tuple[list[str], Tensor | None]:
        """A team's gradients on the whole batch; its terms, by name, and None if it rests."""
        loss_of = self.players[team[0]].loss
        assert loss_of is not None
        for name in team:
            self.optimizers[name].zero_grad(set_to_none=True)
        names, means = [], None
        for share in shares:
            with self._own_randomness(share), self._autocast():
                terms = loss_of(share, self.step)
            if not terms:
                continue
            loss = torch.stack([term.float() for term in terms.values()]) / self._shares
            loss.sum().backward()
            names, means = [*terms], loss.detach() + (0 if means is None else means)
        if means is not None:
            self.ranks.add_up([p for name in team for p in self._learnable[name]], means)
        return names, means

    @contextlib.contextmanager
    def _own_randomness(self, share: Batch) -> Iterator[None]:
        """In the block torch's global generators follow from (seed, step, share) alone.

        What drops out at random then neither changes which patches are drawn after it, nor is it
        the same in all shares.
        """
        where = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(where):
            torch.manual_seed(seed_of(f"step/{self.config.train.seed}/{self.step}/{share.first}"))
            yield

    def _descend(self, team: Sequence[str], finite: Tensor) -> None:
        """One step of a team down its gradients; none unless ``finite``, a bool on the device."""
        train = self.config.train
        begin, end = self._begins[self._stage :][:2]
        factor = self.stages[self._stage].rate
        factor *= rate_factor(self.step - begin, end - begin, train)
        if train.clip_norm > 0:
            weights = [p for name in team for p in self.players[name].module.parameters()]
            nn.utils.clip_grad_norm_(weights, train.clip_norm)
        for name in team:
            optimizer = self.optimizers[name]
            for group in optimizer.param_groups:
                group["lr"] = self.players[name].rate * factor
            optimizer.found_inf = (~finite).float()
            optimizer.step()

    @torch.no_grad()
    def _update_averages(self) -> None:
        """Blend what has just learnt into its average; what is done with learning becomes that.

        So a player that is frozen and its average are the same.
        """
        now, after = self.stages[self._stage], self._stage_of(self.step)
        for name, average in self.averages.items():
            if name not in now.players:
                continue
            module, count = self.players[name].module, self.step - self._since(name, self._stage)
            decay = min(self.config.train.average, (1 + count) / (10 + count))
            means, values = tuple(average.parameters()), tuple(module.parameters())
            get_ema_multi_avg_fn(decay)(means, values, 0)  # one launch for all, or a few
            for mean, value in zip(average.buffers(), module.buffers(), strict=True):
                mean.copy_(value)
            if name not in self.stages[after].players:
                for mean, value in zip(means, values, strict=True):
                    value.copy_(mean)

    def _autocast(self) -> torch.autocast:
        enabled = self.config.train.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the framework has the averaged weights and synthesises."""
        self._swap_averages()
        self.framework.eval()
        try:
            with torch.inference_mode(), self._autocast():
                yield
        finally:
            self._swap_averages()
            self.framework.train()
            self._stage = -1
            self._enter_stage()

    def _swap_averages(self) -> None:
        for name, average in self.averages.items():
            module = self.players[name].module
            for mean, value in zip(average.parameters(), module.parameters(), strict=True):
                mean.data, value.data = value.data, mean.data

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, besides (seed, leg)."""
        return {
            "step": self.step,
            "framework": self.framework.state_dict(),
            "averages": {name: module.state_dict() for name, module in self.averages.items()},
            "optimizers": {name: one.state_dict() for name, one in self.optimizers.items()},
        }

    @property
    def state_bytes(self) -> int:
        """Of :meth:`state` once a step is made: Adam then keeps two numbers beside each learnt."""
        kept = [self.framework.state_dict(), *(one.state_dict() for one in self.averages.values())]
        held = [each for one in kept for each in one.values() if isinstance(each, Tensor)]
        modules = {id(player.module): player.module for player in self.players.values()}
        learnt = [p for module in modules.values() for p in module.parameters()]
        return sum(each.nbytes for each in held) + 2 * sum(p.nbytes for p in learnt)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`; an error of one kind or other if it is of another run."""
        step = state["step"]
        if type(step) is not int or not 0 <= step <= self.config.train.steps:
            raise ValueError(f"its step is {step!r}")
        self.step = step
        self.framework.load_state_dict(state["framework"])
        for name, module in self.averages.items():
            module.load_state_dict(state["averages"][name])
        for name, optimizer in self.optimizers.items():
            told = state["optimizers"][name]
            # Keys as literals are: a parameter that had no state has these, and a state with both
            # is the same when it is saved, but not to the byte.
            kept = {at: {sys.intern(key): each for key, each in one.items()}
                    for at, one in told["state"].items()}  # fmt: skip
            optimizer.load_state_dict({**told, "state": kept})


def rate_factor(step: int, steps: int, train: TrainConfig) -> float:  # pyright: ignore[reportInvalidTypeForm]
    """Learning rate over its configured value: linear warm-up, then constant or cosine to 0.

    ``step`` counts from the beginning of a stage, which has ``steps``.
    """
    if step < train.warmup:
        return (step + 1) / train.warmup
    if train.decay == "constant":
        return 1.0
    share = (step - train.warmup) / max(1, steps - train.warmup)
    return 0.5 * (1 + math.cos(math.pi * share))
