"""TSF-Seq2Seq (Han et al., MICCAI 2023): Seq2Seq from one to one, then the fusion of any subset.

First encoder and decoder learn to make one sequence from another, itself from itself, and back
again. Then the encoder is frozen, and fusion and decoder learn from all sources that are there, so
that both f̂ and f̂ + f_A become the target (equation 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth3d.data import Batch, Task
from synth3d.errors import InputError
from synth3d.frameworks.base import EITHER, Framework, Options, Player, Stage, counted
from synth3d.losses import load_vgg19, masked_mean, orthogonal_slices, spread, squared_distance
from synth3d.models import TSFSeq2Seq


@dataclass(frozen=True)
class TSFOptions(Options):
    """``tsf``: 10 L1 + 0.01 between VGG19 features, of the target made with f_A and without.

    ``pretrain`` is the share of the steps in which Seq2Seq learns, 1 for Seq2Seq alone; there the
    source made from itself counts as much as the target, and the way back ``cycle_weight``. In the
    rest rates begin anew, times ``fusion_rate``. ``distance`` is ``l1``, the paper's, or
    ``smooth_l1``, that of the reference code, which also has ``source_weight``: the source made
    from the fusion of all (mode ``any``). ``frozen`` keeps the encoder as Seq2Seq left it.
    ``perceptual_weights`` is the file of torchvision's VGG19; empty is where torch.hub keeps it. In
    3-D features are of ``perceptual_slices`` slices across each axis, at places drawn anew.
    """

    name = "tsf"
    pretrain: float = 10 / 13
    fusion_rate: float = 0.5
    l1_weight: float = 10.0
    cycle_weight: float = 10.0
    source_weight: float = 0.0
    distance: str = "l1"
    frozen: bool = True
    perceptual_weight: float = 0.01
    perceptual_weights: str = ""
    perceptual_slices: int = 1

    def __post_init__(self) -> None:
        self.check_weights("l1_weight", "cycle_weight", "source_weight", "perceptual_weight")
        self.check_weights("fusion_rate")
        self.check_choice("distance", ("l1", "smooth_l1"))
        self.check_counts("perceptual_slices")
        self.require(0 <= self.pretrain <= 1, "pretrain", "in [0, 1]")


class Drawn(NamedTuple):
    """What each sample of a batch learns at a step, on the device of the batch.

    ``source`` and ``target`` (B,) are numbers among the sources and the targets; ``counts``
    (B, 1, \\*S) is the brain of those samples that have both, ``learns`` (B,) bool, on the CPU,
    says which.
    """

    source: Tensor
    target: Tensor
    counts: Tensor
    learns: Tensor


class TSF(Framework):
    """Two stages of one training: Seq2Seq (encoder and decoder), then fusion (and decoder).

    A run of Seq2Seq alone (``pretrain`` 1) makes the mean of what each source gives by itself.
    """

    Options = TSFOptions
    needs: ClassVar[frozenset[str]] = frozenset({"explanation"})
    modes: ClassVar[frozenset[str]] = EITHER
    couples: ClassVar[bool] = True
    generator: TSFSeq2Seq

    def prepare(self) -> None:
        """VGG19, for training, if it counts."""
        o, features = self.options, None
        if o.source_weight > 0 and self.task.mode != "any":
            raise InputError(
                f"train.tsf.source_weight must be 0 in mode {self.task.mode}, whose sources are no "
                f"targets, got {o.source_weight}; use --target any"
            )
        if self.plan is not None and o.perceptual_weight > 0:
            path = o.perceptual_weights
            features = load_vgg19(Path(path).expanduser() if path else None)
        self._features = (features,)  # in a tuple, so that it is no part of this module

    @classmethod
    def centre(cls, generator: nn.Module, task: Task, options: Any) -> nn.Module:
        """As it is: TSF-Seq2Seq centres intensities by itself."""
        return generator

    def players(self) -> dict[str, Player]:
        """``decoder``, and ``encoder`` and ``fusion``, which learn by the same loss."""
        if self.plan is None:
            raise ValueError("this framework was built for synthesis: nothing of it learns")
        rate, parts, o = self.plan.rate, self.generator, self.options
        players = {"decoder": Player(parts.decoder, self.generator_loss, rate, kept=True)}
        if o.pretrain > 0 or not o.frozen:
            players["encoder"] = Player(parts.encoder, None, rate, kept=True)
        if o.pretrain < 1:
            players["fusion"] = Player(parts.fusion, None, rate, kept=True)
        return players

    @property
    def stages(self) -> Sequence[Stage]:
        """Seq2Seq and fusion, or the one that there is."""
        share, o = self.options.pretrain, self.options
        late = ("decoder", "fusion") if o.frozen else ("decoder", "fusion", "encoder")
        both = (
            Stage(("decoder", "encoder"), share),
            Stage(late, 1 - share, o.fusion_rate),
        )
        return tuple(stage for stage in both if stage.share > 0)

    def fuses(self, step: int) -> bool:
        """Whether ``step`` is of the second stage."""
        steps = self.plan.steps if self.plan else 1
        return self.options.pretrain < 1 and step >= round(self.options.pretrain * steps)

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Terms of the stage that ``step`` is in, the target's first."""
        drawn = self.drawn(batch, step)
        learn = self.fusion_loss if self.fuses(step) else self.seq2seq_loss
        return learn(batch, drawn, step)

    def seq2seq_loss(self, batch: Batch, drawn: Drawn, step: int) -> dict[str, Tensor]:
        """``target``, ``self``, ``cycle`` and ``perceptual``: from one source drawn to one target.

        One call of the decoder makes target and source, another the source from that target.
        """
        net, o = self.generator, self.options
        image, goal = _at(batch.sources, drawn.source), _at(batch.targets, drawn.target)
        features, shape, own = net.encode(image), image.shape[1:], self.slots(drawn.source)
        slots = torch.cat([drawn.target, own])
        made, same = net.decode(torch.cat([features, features]), slots, shape).chunk(2)
        pairs = [(made, goal), (same, image)]
        terms = {
            name: o.l1_weight * self.distance(*pair, batch, drawn)
            for name, pair in zip(("target", "self"), pairs, strict=True)
        }
        if o.cycle_weight > 0:
            # Background is 0 in whatever the encoder sees.
            shown = torch.where(batch.brain[:, 0], made, 0)
            back = net.decode(net.encode(shown), own, shape)
            terms["cycle"] = o.cycle_weight * self.distance(back, image, batch, drawn)
        terms |= self.perceptual(pairs, batch, drawn, step)
        return terms | self.by_coupling(made, goal, batch, drawn, step)

    def fusion_loss(self, batch: Batch, drawn: Drawn, step: int) -> dict[str, Tensor]:
        """``target``, ``plain``, ``source`` and ``perceptual``: from all sources to one target.

        All fused features go through the decoder at once (equation 5).
        """
        net, o, goal = self.generator, self.options, _at(batch.targets, drawn.target)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not o.frozen):
            features = net.features(batch.sources, batch.known[:, : batch.sources.shape[1]])
        mean, added = net.fusion(features, batch.present, drawn.target)
        parts = {"target": mean if added is None else mean + added}
        slots, goals = [drawn.target], [goal]
        if added is not None:
            parts["plain"] = mean
            slots, goals = [*slots, drawn.target], [*goals, goal]
        if o.source_weight > 0:
            alone, more = net.fusion(features, batch.present, drawn.source)
            parts["source"] = alone if more is None else alone + more
            slots = [*slots, drawn.source]
            goals = [*goals, _at(batch.sources, drawn.source)]
        made = net.decode(torch.cat([*parts.values()]), torch.cat(slots), goal.shape[1:])
        pairs = dict(zip(parts, zip(made.chunk(len(parts)), goals, strict=True), strict=True))
        weights = {"source": o.source_weight}
        terms = {
            name: weights.get(name, o.l1_weight) * self.distance(*pair, batch, drawn)
            for name, pair in pairs.items()
        }
        pairs.pop("source", None)
        terms |= self.perceptual([*pairs.values()], batch, drawn, step)
        return terms | self.by_coupling(*pairs["target"], batch, drawn, step)

    def by_coupling(
        self, made: Tensor, goal: Tensor, batch: Batch, drawn: Drawn, step: int
    ) -> dict[str, Tensor]:
        """Terms of the coupling, if there is one, of the target drawn, ``made`` (B, \\*S)."""
        if self.coupling is None:
            return {}
        alone = self.of_drawn(batch, drawn)
        whole = torch.where(spread(alone.wanted, batch.brain.ndim), made.float()[:, None], 0)
        error = self.distance(_at(whole, drawn.target), goal, batch, drawn)
        reference = self.options.l1_weight * error
        return self.coupling.terms(whole, alone, step, counted(alone), reference)

    def of_drawn(self, batch: Batch, drawn: Drawn) -> Batch:
        """``batch`` in which each sample that learns wants the target drawn for it alone."""
        which = F.one_hot(drawn.target, len(self.task.targets)).bool()
        learns = drawn.learns.to(which.device, non_blocking=True)
        return replace(batch, wanted=which & learns[:, None])

    def drawn(self, batch: Batch, step: int) -> Drawn:
        """One source and one target for each sample, out of what the batch shows and wants.

        Each sample draws for itself; the first one stands in where there is none.
        """
        known, n_sources = batch.known, batch.sources.shape[1]
        sides = known[:, :n_sources], known[:, n_sources:]
        learns = sides[0].any(1) & sides[1].any(1)
        picks = [
            [_pick(row, draws) for row in rows]
            for draws, *rows in zip(self.draws(batch, step), *sides, strict=True)
        ]
        device = batch.brain.device
        source, target = torch.tensor(picks).unbind(1)
        counts = batch.brain & spread(learns[:, None], batch.brain.ndim).to(device)
        source, target = (index.to(device, non_blocking=True) for index in (source, target))
        return Drawn(source, target, counts, learns)

    def masks(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The brain of samples that learn, and those samples, whose slices are compared."""
        drawn = self.drawn(batch, step)
        found = super().masks(self.of_drawn(batch, drawn), step)
        return found | {"voxels": drawn.counts, "pictures": drawn.learns[:, None]}

    def slots(self, source: Tensor) -> Tensor:
        """By which slots of the decoder sources (B,) are made from themselves."""
        return source if self.task.mode == "any" else source + len(self.task.targets)

    def distance(self, made: Tensor, goal: Tensor, batch: Batch, drawn: Drawn) -> Tensor:
        """Mean distance of images (B, \\*S) inside the brain of the samples that learn."""
        made, goal = made.float()[:, None], torch.where(drawn.counts, goal[:, None], 0)
        l1 = self.options.distance == "l1"
        error = (made - goal).abs() if l1 else F.smooth_l1_loss(made, goal, reduction="none")
        return masked_mean(error, drawn.counts) * batch.weight("voxels")

    def perceptual(
        self, pairs: Sequence[tuple[Tensor, Tensor]], batch: Batch, drawn: Drawn, step: int
    ) -> dict[str, Tensor]:
        """Term ``perceptual``, if there is one: VGG19's maps of pairs of images (B, \\*S).

        Images are brought from 0 … 2 to 0 … 1, and are background outside the brain.
        """
        (features,) = self._features
        if features is None:
            return {}
        features, inside = features.to(batch.brain.device), batch.brain[:, 0]
        here = drawn.learns.nonzero().flatten().to(inside.device, non_blocking=True)

        def pictures(images: Tensor) -> list[Tensor]:
            shown = torch.where(inside, images.float() / 2, 0).index_select(0, here)
            count = self.options.perceptual_slices
            return orthogonal_slices(shown, count, self.randomness(step))

        found = [squared_distance(features, *map(pictures, pair)) for pair in pairs]
        total = torch.stack(found).sum() * batch.weight("pictures")
        return {"perceptual": self.options.perceptual_weight * total}

    def take_over(self, trained: Framework) -> None:
        """Begin with the encoder and the decoder of ``trained``, another run's framework."""
        parts = trained.generator
        assert isinstance(parts, TSFSeq2Seq)
        self.generator.encoder.load_state_dict(parts.encoder.state_dict())
        self.generator.decoder.load_state_dict(parts.decoder.state_dict())

    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """From f̂ + f_A; of Seq2Seq alone the mean of what each source gives by itself."""
        if self.options.pretrain == 1:
            return self.generator.averaged(sources, present, wanted)
        return self.generator(sources, present, wanted)

    @property
    def used(self) -> tuple[nn.Module, ...]:
        """Of Seq2Seq alone encoder and decoder: its fusion has learnt nothing."""
        whole = self.generator
        return (whole.encoder, whole.decoder) if self.options.pretrain == 1 else (whole,)

    @property
    def explains(self) -> frozenset[str]:
        """``weights``, and ``tsem`` if there is attention; nothing of Seq2Seq alone."""
        if self.options.pretrain == 1:
            return frozenset()
        return frozenset({"weights", "tsem"} if self.generator.fusion.attends else {"weights"})

    def weights(self, present: Tensor, wanted: Tensor) -> Tensor:
        """ω (B, T, S), the weight of each source for each target (eq. 2); see the generator's."""
        self._refuse_seq2seq()
        return self.generator.weights(present, wanted)

    def explain(self, sources: Tensor, present: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """Maps (B, T, \\*S) by name: ``tsem``, |x_A − x|, what attention changed (eq. 6).

        Arguments as of :meth:`synthesize`; what is not wanted is 0.

        Raises:
            InputError: A run of Seq2Seq alone, in which nothing was fused, or one without
                attention, whose map would be 0 everywhere.
        """
        self._refuse_seq2seq()
        if "tsem" not in self.explains:
            raise InputError(
                "the fusion of this run has no attention (model.fusion=plain), and TSEM is what "
                "attention changed; explain a run with another model.fusion, or ask for weights"
            )
        attended, plain = self.generator.reconstructions(sources, present, wanted)
        return {"tsem": (attended - plain).abs()}

    def _refuse_seq2seq(self) -> None:
        if self.options.pretrain == 1:
            raise InputError(
                "a run of Seq2Seq alone (train.tsf.pretrain=1) fuses nothing that could be "
                "explained; go on from it with synth3d train --from RUN"
            )


def _at(images: Tensor, index: Tensor) -> Tensor:
    """Of images (B, C, \\*S) that of channel ``index`` (B,) each: (B, \\*S)."""
    return images[torch.arange(len(images), device=images.device), index]


def _pick(among: Tensor, draws: torch.Generator) -> int:
    """One of the True places of a row on the CPU, evenly; 0 if there is none."""
    places = among.nonzero().flatten()
    if not len(places):
        return 0
    return int(places[torch.randint(len(places), (), generator=draws)])
