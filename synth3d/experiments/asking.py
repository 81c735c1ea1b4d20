"""How a finished run is asked for a case: with which sequences, and by which of its ways.

A run for any gap can be asked in many ways, so one training serves many cells of a table.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from synth3d.cohort import Modality
from synth3d.data import Prepared, degrade, misalign, seed_of, shown
from synth3d.errors import InputError
from synth3d.frameworks import TSF, Framework
from synth3d.inference import Mirror, mirrors_of, synthesize_case
from synth3d.machine import tuned
from synth3d.scoring import CONVENTIONS, decibels
from synth3d.settings import require
from synth3d.training import Run, RunConfig

MIRRORED = {"mirrored": "x", "reflected": "xyz"}
"""Ways that average over mirror images of the case, and which these are."""
WAYS = ("whole", "plain", "averaged", "interpolated", *MIRRORED)
PERCENTILE = 99.0
"""Of TSEM, above which the paper's table 2 looks."""


@dataclass(frozen=True)
class Question:
    """How a run is asked.

    Attributes:
        inputs: How many sequences of each case are shown to a run for any gap; 0 shows a run of
            fixed targets all its sources.
        way: ``whole``: as the run makes images; ``plain``: as TSF-Seq2Seq does without f_A;
            ``averaged``: the mean of what each input gives by itself; ``interpolated``: not at
            all, what is there of the sequence that a run restores is the answer; ``mirrored`` and
            ``reflected``: the mean over left and right swapped, or over all eight mirror images, as
            ``synth3d complete --mirror x`` or ``xyz``, of a run of fixed targets.
        apart: Whether PSNR is also taken where TSEM is above its 99th percentile, and below.

    Raises:
        InputError: There is no such way.
    """

    inputs: int = 0
    way: str = "whole"
    apart: bool = False

    def __post_init__(self) -> None:
        require(self.way in WAYS, "way", f"one of {', '.join(WAYS)}", self.way)
        require(self.inputs >= 0, "inputs", "0 or more", self.inputs)


@dataclass(frozen=True)
class Answer:
    """What a run made of a case, in the network's scale.

    ``made`` (D, H, W) by target is 0 outside ``brain`` (D, H, W) bool; so is ``tsem``, which is
    empty where nobody asked for it.
    """

    made: dict[Modality, np.ndarray]
    brain: np.ndarray
    tsem: dict[Modality, np.ndarray]


class WithoutAttention(TSF):
    """A generator of TSF-Seq2Seq, asked for the images from f̂ alone."""

    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """As its base's, without f_A."""
        return self.generator.reconstructions(sources, present, wanted)[1]


class Asker:
    """Asks one run, case by case; what several cells ask is made once a case.

    Args:
        run: Its framework on its device and ready to synthesise.
        device: That device.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self.run, self.device, self.plain = run, device, None
        framework = run.framework
        if isinstance(framework, TSF) and framework.options.pretrain < 1:
            plain = WithoutAttention(framework.generator, framework.task, framework.options)
            self.plain = plain.eval()

    def open(self, prepared: Prepared, number: int) -> None:
        """Go on to case ``number`` of those that are scored, from 0."""
        self.prepared, self.number = prepared, number
        self.known: dict[tuple[Framework, tuple[Modality, ...]], tuple[np.ndarray, np.ndarray]] = {}

    def answer(self, question: Question, config: RunConfig) -> Answer | None:
        """What the run makes of the open case; None where that has too few sequences.

        ``config`` is the run's, of which ``degrade`` and ``misalign`` count, for a run of fixed
        targets.

        Raises:
            InputError: The run cannot be asked like this, or gives what is not finite.
        """
        self._check(question)
        run, prepared = self.run.config, self.prepared
        if not question.inputs:
            poor = degrade(prepared, run.task, run.data, config.degrade)
            moved = misalign(poor, run.task, run.data, config.misalign)
            made = dict(moved.poor)
            if question.way != "interpolated":
                axes = MIRRORED.get(question.way, "")
                mirrors = mirrors_of(axes, moved.affine, run.task, run.data)
                some = [self._synthesize(self.run.framework, moved, each) for each in mirrors]
                made |= zip(run.targets, np.stack(some).mean(0, np.float32), strict=True)
            for name in run.task.poor:  # from the poor scan's scale to that of the real one
                scanner = moved.scales[name].invert(made[name], prepared.brain)
                made[name] = prepared.scales[name].apply(scanner, prepared.brain)
            return Answer(made, prepared.brain, {})
        has: list[Modality] = [name for name in run.sources if name in prepared.volumes]
        if question.inputs >= len(has):
            return None
        given = combination(has, question.inputs, self.number)
        wanted: list[Modality] = [name for name in has if name not in given]
        where = [run.targets.index(name) for name in wanted]
        framework = self.run.framework
        if question.way == "averaged":
            made, brain = self._averaged(framework, given)
        else:
            made, brain = self._from(self._plain if question.way == "plain" else framework, given)
        maps: dict[Modality, np.ndarray] = {}
        if question.apart:
            tsem = np.abs(made - self._from(self._plain, given)[0])
            maps = dict(zip(wanted, tsem[where], strict=True))
        return Answer(dict(zip(wanted, made[where], strict=True)), brain, maps)

    def _check(self, question: Question) -> None:
        mode, way = self.run.config.mode, question.way
        if (mode == "any") != bool(question.inputs):
            raise InputError(
                f"{self.run.folder}: a run of mode {mode} cannot be asked with "
                f"{question.inputs or 'all'} inputs"
            )
        if (way == "plain" or question.apart) and self.plain is None:
            raise InputError(f"{self.run.folder} fuses nothing that could be left out: no f_A")
        if way in MIRRORED and mode == "any":
            raise InputError(f"{self.run.folder}: {way} is for runs of fixed targets")
        if way == "interpolated" and not self.run.config.task.poor:
            raise InputError(f"{self.run.folder} restores no sequence that could be interpolated")

    @property
    def _plain(self) -> Framework:
        assert self.plain is not None
        return self.plain

    def _averaged(
        self, framework: Framework, given: Sequence[Modality]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The mean, where a voxel lies in several heads over those; and where in any."""
        single = [self._from(framework, (name,)) for name in given]
        total = np.sum([made for made, _ in single], axis=0)
        count = np.sum([brain for _, brain in single], axis=0)
        return total / np.maximum(count, 1).astype(np.float32), count > 0

    def _from(
        self, framework: Framework, given: tuple[Modality, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """All channels (T, D, H, W) from the sequences ``given`` alone, and their brain."""
        if (framework, given) not in self.known:
            view = shown(self.prepared, given)
            self.known[framework, given] = self._synthesize(framework, view), view.brain
        return self.known[framework, given]

    def _synthesize(
        self, framework: Framework, prepared: Prepared, mirror: Mirror = ()
    ) -> np.ndarray:
        """All targets (T, D, H, W) in the network's scale, of the case seen in a mirror."""
        config, kind = self.run.config, self.device.type
        half = config.train.precision == "bf16"
        autocast = torch.autocast(kind, torch.bfloat16) if half else nullcontext()
        with tuned(self.device), torch.inference_mode(), autocast:
            made = synthesize_case(framework, prepared, config.data, mirror=mirror)
        if not np.isfinite(made).all():
            raise InputError(f"the network gives NaN or infinity for case {prepared.case.name}")
        return made


def combination(has: Sequence[Modality], inputs: int, number: int) -> tuple[Modality, ...]:
    """Which ``inputs`` of the sequences ``has`` are shown of case ``number``.

    All combinations of that many take turns, in one order for all runs; ``inputs`` is less than
    there are sequences, and more than 0.
    """
    every = list(combinations(has, inputs))
    draws = torch.Generator().manual_seed(seed_of(f"combinations/{inputs}"))
    order = torch.randperm(len(every), generator=draws)
    return every[int(order[number % len(every)])]


def psnr_apart(
    real: np.ndarray, synthetic: np.ndarray, brain: np.ndarray, tsem: np.ndarray, convention: str
) -> dict[str, float | None]:
    """``psnr_above`` and ``psnr_below`` the 99th percentile of TSEM, under a convention.

    The percentile is of the convention's own region of the case (its box, or the brain in it), and
    so are the voxels; None where there are none. Squared errors are averaged over all of them, also
    where the convention's own PSNR is one of slices.

    Args:
        real: (D, H, W) in scanner units, axial slices along the first axis.
        synthetic: The same shape and units.
        brain: (D, H, W) bool.
        tsem: (D, H, W), not negative.
        convention: The name of one that has a PSNR.
    """
    rule = CONVENTIONS[convention]
    ends, box = [rule.ends(real, brain)] * 2, rule.box(brain)
    if rule.own_scale:
        ends[1] = rule.ends(synthetic, brain)
    pair = zip((real, synthetic), ends, strict=True)
    x, y = (rule.apply(volume, each, brain)[box] for volume, each in pair)
    inside = brain[box] if rule.region == "brain" else np.ones(x.shape, bool)
    errors, changed = (y - x)[inside] ** 2, tsem[box][inside]
    above = changed > np.percentile(changed, PERCENTILE) if changed.size else np.zeros(0, bool)
    return {
        f"psnr_{side}@{convention}": decibels(float(errors[part].mean()), rule.data_range)
        if part.any()
        else None
        for side, part in (("above", above), ("below", ~above))
    }
