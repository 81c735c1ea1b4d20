"""A framework decides what a generator is fed, what its output means, and who learns by what loss.

A paper is a file here: its options, its losses, its way of sampling.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from synth3d.data import Batch, Task, seed_of
from synth3d.errors import InputError
from synth3d.frameworks.coupling import Coupling, CouplingOptions
from synth3d.losses import masked_mean, spread
from synth3d.models import Centred, routed
from synth3d.settings import require

EITHER = frozenset({"fixed", "any"})
"""The modes of a framework that learns whatever a batch wants from whatever it shows."""
MOST = 2**16
"""Of any count."""


class Options:
    """What a framework can be told: frozen dataclasses with a ``name``, that of their table.

    The defaults are those of the framework's own paper or reference code. Tables of frameworks
    that are not in use have no effect, so one recipe can serve several.
    """

    name = ""

    def require(self, claim: bool, field: str, rule: str) -> None:
        """Refuse the value of ``field``, by its dotted key, unless ``claim``."""
        require(claim, f"train.{self.name}.{field}", rule, getattr(self, field))

    def check_weights(self, *fields: str) -> None:
        """Weights are finite and not negative."""
        for field in fields:
            self.require(0 <= getattr(self, field) < math.inf, field, "finite and ≥ 0")

    def check_counts(self, *fields: str) -> None:
        """Counts are positive, and none makes a list without end."""
        for field in fields:
            self.require(getattr(self, field) >= 1, field, "at least 1")
            self.require(getattr(self, field) <= MOST, field, f"at most {MOST}")

    def check_choice(self, field: str, known: tuple[str, ...]) -> None:
        """One of a few names."""
        self.require(getattr(self, field) in known, field, f"one of {', '.join(known)}")


@dataclass(frozen=True)
class TrainingPlan:
    """What a framework may know of the training it is built for.

    ``seed`` is that of :meth:`Framework.randomness`; ``patch`` is what a batch holds, (z, y, x) or
    (row, column), or anything if it is empty; ``rate`` is the generator's learning rate;
    ``coupling`` are terms beside its own.
    """

    steps: int = 1
    seed: int = 0
    patch: tuple[int, ...] = ()
    rate: float = 1e-4
    critic_rate: float = 1e-4
    coupling: CouplingOptions = CouplingOptions()


@dataclass(frozen=True)
class Player:
    """A network that learns; no other player shares its weights.

    Attributes:
        module: Its weights.
        loss: (batch, step) → named, weighted, scalar terms; no terms: it rests at this step. None:
            it learns by the loss of the player before it in a stage, with it.
        rate: Its learning rate, before warm-up and decay.
        kept: Whether it is (part of) the framework's ``generator``: what a finished run keeps, as
            the average of its weights over the last steps.
    """

    module: nn.Module
    loss: Callable[[Batch, int], dict[str, Tensor]] | None
    rate: float
    kept: bool = False


@dataclass(frozen=True)
class Stage:
    """A part of a training, ``share`` of its steps; the shares of all stages make 1.

    ``players`` learn, in the order in which each step asks them; all others are frozen, buffers
    included, and those that are kept at the average of their weights. ``rate`` is a factor of their
    rates, which warm up and fall in each stage.
    """

    players: tuple[str, ...]
    share: float = 1.0
    rate: float = 1.0


class Framework(nn.Module, ABC):
    """A generator together with one way of training and sampling it, in 2-D and 3-D alike.

    Args:
        generator: Made for :meth:`channels`, and passed through :meth:`centre` if centred: all that
            makes volumes, and all that a finished run keeps.
        task: From which sequences which are made.
        options: An instance of ``Options``.
        plan: Of the training; None for synthesis alone: then there is neither a critic nor any
            other network beside the generator, and no file is read.

    Raises:
        InputError: Options that do not fit the task or the plan, or a missing file.

    Attributes:
        needs: What a generator must offer.
        modes: Of :class:`synth3d.data.Task`, those that it can learn.
        hides_sources: Whether training hides sources by itself, so that any one that is there
            is enough even without ``data.source_dropout``.
        couples: Whether its generator's loss has the terms of a coupling (:meth:`coupled`).
        validation_steps: How many sampling steps are enough while training, if there are any.
    """

    Options: ClassVar[type[Options]]
    needs: ClassVar[frozenset[str]] = frozenset()
    modes: ClassVar[frozenset[str]] = frozenset({"fixed"})
    hides_sources: ClassVar[bool] = False
    couples: ClassVar[bool] = False
    validation_steps: int | None = None

    def __init__(
        self, generator: nn.Module, task: Task, options: Any, plan: TrainingPlan | None = None
    ) -> None:
        super().__init__()
        self.generator, self.task, self.options, self.plan = generator, task, options, plan
        self.coupling: Coupling | None = None
        if plan is not None and plan.coupling.active:
            if not self.couples:
                raise InputError(
                    f"train.coupling has no effect under train.framework={options.name}; leave it "
                    "away, or use one that it is for, as l1, pix2pix, tsf or fgdl"
                )
            self.coupling = Coupling(plan.coupling, task, plan.patch)
        self.prepare()

    def prepare(self) -> None:
        """Make what it needs beside the generator: the end of every construction."""

    @staticmethod
    def channels(n_sources: int, n_targets: int) -> tuple[int, int]:
        """(in, out) channels asked of the generator."""
        return n_sources, n_targets

    @classmethod
    def channels_of(cls, task: Task, options: Any = None) -> tuple[int, int]:
        """:meth:`channels` for ``task``, and for ``options`` that add some."""
        return cls.channels(len(task.sources), len(task.targets))

    @classmethod
    def needs_of(cls, task: Task) -> frozenset[str]:
        """``needs``, for ``task``."""
        return cls.needs

    @classmethod
    def centre(cls, generator: nn.Module, task: Task, options: Any) -> nn.Module:
        """``generator`` for intensities around 0 (``model.centred``); it speaks images here."""
        return Centred(generator)

    @property
    def used(self) -> tuple[nn.Module, ...]:
        """The parts of the generator that :meth:`synthesize` uses; here all of it."""
        return (self.generator,)

    def players(self) -> dict[str, Player]:
        """The networks that learn, by name; here the generator alone. None without a plan."""
        if self.plan is None:
            raise ValueError("this framework was built for synthesis: nothing of it learns")
        rate = self.plan.rate
        return {"generator": Player(self.generator, self.generator_loss, rate, kept=True)}

    @property
    def stages(self) -> Sequence[Stage]:
        """Which players learn when; here all of them, in turn, at every step."""
        return (Stage(tuple(self.players())),)

    @abstractmethod
    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Named, weighted, scalar terms to be minimised by the generator.

        A batch may be a share of a larger one, and its terms are averaged over the shares. A mean
        over a mask stands there with ``batch.weight(NAME)``, and the mask in :meth:`masks`; a mean
        over all samples alike needs nothing. What is drawn at random for its samples comes from
        :meth:`draws`; what a player keeps for the next one lies under ``batch.first``.
        """

    def masks(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """What means run over at ``step``, (B, ...) bool, by name.

        Here ``voxels``, the brain of wanted targets, and those of a coupling.
        """
        inside = counted(batch)
        more = self.coupling.masks(batch, inside) if self.coupling else {}
        return {"voxels": inside} | more

    def coupled(
        self, terms: dict[str, Tensor], made: Tensor, batch: Batch, step: int
    ) -> dict[str, Tensor]:
        """``terms``, ``l1`` among them, and those of the coupling, if there is one.

        ``made`` (B, T, *) float32 is what they were taken of, with its gradient.
        """
        if self.coupling is None:
            return terms
        return terms | self.coupling.terms(made, batch, step, counted(batch), terms["l1"])

    def settle(self, add_up: Callable[[Tensor], object]) -> None:
        """After a step: agree on what each process has measured of its share of the batch.

        ``add_up`` puts in place of a tensor its sum over all processes.
        """
        if self.coupling is not None and self.coupling.options.balance:
            add_up(self.coupling.fresh)
            self.coupling.settle(self.coupling.fresh)

    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """(B, S, *) → (B, T, *) in the network's scale: here the generator's output as it is.

        Args:
            sources: (B, S, *); absent ones are 0.
            present: (B, S) bool.
            wanted: (B, T) bool; what is not wanted is free.
            seed: Decides all randomness, if there is any.
        """
        return self.generator(sources, present, wanted)

    @property
    def explains(self) -> frozenset[str]:
        """What it can say of what it made; here what its generator offers of itself.

        ``tsem``: a map of :meth:`explain`; ``weights``: of sources (:meth:`weights`); ``routing``:
        what steers the generator's kernels (:func:`synth3d.models.routed`).
        """
        return frozenset({"routing"}) if routed(self.generator) else frozenset()

    def explain(self, sources: Tensor, present: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """Maps (B, T, *) by name, not negative; here there are none. Arguments as above."""
        return {}

    def weights(self, present: Tensor, wanted: Tensor) -> Tensor:
        """(B, T, S), what each source counts for each target, where ``weights`` are explained."""
        raise NotImplementedError(f"{type(self).__name__} weighs no sources")

    @property
    def beside(self) -> dict[str, nn.Module]:
        """Networks by name that a finished run keeps for runs that begin from it; here none."""
        return {}

    def take_over(self, trained: "Framework") -> None:
        """Begin with what ``trained``, the framework of another run, has learnt in its first stage.

        What it keeps ``beside`` is filled already.
        """
        raise NotImplementedError(f"{type(self).__name__} has one stage: there is nothing to take")

    def remarks(self, losses: Sequence[Mapping[str, float]]) -> list[str]:
        """Sentences about a training that has ended, by the mean terms that its log has."""
        return []

    def held_back(self, sources: Tensor, targets: Tensor) -> Tensor | None:
        """Where a label of the training is moved as far as it may be, (B, T, \\*S) bool.

        None where labels are not moved. ``sources`` (B, S, \\*S), those that are not poor, and
        ``targets`` (B, T, \\*S) are as the training has them; it tells, and nothing is made of it.
        """
        return None

    def randomness(self, step: int, sample: int | None = None) -> torch.Generator:
        """The source of a step's random numbers, or of those of one ``sample`` of its batch.

        It follows from the plan's seed and the arguments alone, so however a batch is shared, each
        sample sees the same; it is on the CPU, so that every device draws the same, and no part of
        a checkpoint.
        """
        seed = self.plan.seed if self.plan else 0
        which = "" if sample is None else f"/{sample}"
        return torch.Generator().manual_seed(seed_of(f"framework/{seed}/{step}{which}"))

    def draws(self, batch: Batch, step: int) -> list[torch.Generator]:
        """:meth:`randomness` of each sample of ``batch``."""
        return [self.randomness(step, batch.first + b) for b in range(len(batch.sources))]


def counted(batch: Batch) -> Tensor:
    """(B, T, *) bool: the voxels that count in a loss, which are the brain of wanted targets."""
    return batch.brain & spread(batch.wanted, batch.brain.ndim)


def voxel_mean(values: Tensor, batch: Batch) -> Tensor:
    """The mean of ``values`` (B, T, *) over the wanted voxels of the brain; 0 if there are none.

    It has its weight already, where ``batch`` is a share.
    """
    return masked_mean(values, counted(batch)) * batch.weight("voxels")


def masked_l1(synthetic: Tensor, batch: Batch) -> Tensor:
    """Mean |synthetic − target|, as :func:`voxel_mean`."""
    return voxel_mean((synthetic - batch.targets).abs(), batch)
