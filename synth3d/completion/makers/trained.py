"""A trained run as a maker of one case's missing sequences."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from synth3d.cohort import (
    Case,
    Finding,
    Modality,
    Roles,
    findings,
    never_beside,
    ratio_disagrees,
    ratio_found,
)
from synth3d.completion.made import Made, Members, Pictures
from synth3d.completion.makers.base import Maker
from synth3d.completion.makers.scales import (
    deviation_in_scanner_units,
    fitted,
    in_scanner_units,
    storable_scale,
)
from synth3d.completion.makers.unlike import unlike_training
from synth3d.completion.receipts import MAPS
from synth3d.data import (
    Prepared,
    prepare_sources,
    ratio_on,
    read_sources,
)
from synth3d.errors import InputError
from synth3d.files import read_json, sha256
from synth3d.frameworks import DEVIATION, Diffusion
from synth3d.images import Scale, grid, value_limits
from synth3d.inference import (
    Mirror,
    OnTile,
    RouteRecorder,
    SynthesisOptions,
    memory_format,
    mirrors_of,
    synthesize_case,
)
from synth3d.machine import suited, tf32, tuned, use_device
from synth3d.models import GENERATORS
from synth3d.training import Run, RunConfig, runs_that_make, taught_by

EXPLAINED = frozenset({"explanation", "routing"})
"""What a generator may offer that explains what it makes."""


class RunMaker(Maker):
    """Makes what a trained run was trained for, with tiles of the size it was trained on."""

    def __init__(
        self,
        run: Run,
        overlap: float | None = None,
        precision: str | None = None,
        batch: int | None = None,
        device: str = "cpu",
    ) -> None:
        """Prepare the generator of a finished run; the rest as in :class:`CompleteRequest`."""
        config = run.config
        super().__init__(config, config.sources, config.targets)
        self.run, self.batch, self.device = run, batch, use_device(device)
        some_do = config.task.mode == "any" or run.framework.hides_sources
        self.needs_all = config.data.source_dropout == 0 and not some_do
        self.random = isinstance(run.framework, Diffusion)
        self.explains = run.framework.explains - {DEVIATION}
        self.uncertain = DEVIATION in run.framework.explains
        self.teachers = taught_by(run.folder)
        self.precision = precision or suited(config.train.precision, self.device)
        self.patch = tuple(config.data.patch)
        self.overlap = tuple(config.data.overlap)
        if overlap is not None:
            self.overlap = tuple(int(overlap * side) for side in self.patch)
        self.identity |= {
            "weights_sha256": run.weights_sha256,
            "scales_sha256": sha256(run.folder / "scales.json"),
            "overlap": list(self.overlap),
            "precision": self.precision,
        }
        if self.device.type == "cuda":
            self.identity["tf32"] = tf32(self.device)
        self._beside: dict[str, list[str]] = {}
        self.roles = Roles.read(run.folder / "roles.json")
        self.unnoticed = _unnoticed(self.roles or Roles(config.task.guides, {}), self.roles is None)
        self.trained_on = read_json(run.folder / "done.json")
        self.name = run.folder.resolve().name
        self.title = (
            f"run {self.name}: {config.model.name}, {config.words}, "
            f"{_tiles_in_words(config, self.patch, self.overlap)}, "
            f"{self.precision} on {self.device}"
        )
        run.framework.to(self.device).to(memory_format=memory_format(config.dim)).eval()

    @property
    def runs(self) -> "tuple[RunMaker, ...]":
        """Those of whose pictures the mean is taken: this one alone."""
        return (self,)

    def readable(self, case: Case, hidden: Sequence[Modality]) -> Case:
        """As :meth:`Maker.readable`; what is restored is read even where it is wanted."""
        gone: list[Modality] = [name for name in hidden if name not in self.config.task.poor]
        return super().readable(case, gone)

    def refuse_others(self, wanted: Sequence[Modality]) -> None:
        """Raise an InputError unless ``wanted`` are among ``targets``."""
        if unable := [name for name in wanted if name not in self.targets]:
            raise InputError(
                f"the run {self.run.folder} makes {'+'.join(self.targets)} and cannot make "
                f"{'+'.join(unable)}; {self._able(wanted)}"
            )

    def refuse_restoring(self, asked: Sequence[Modality]) -> None:
        """Raise an InputError unless ``asked`` are what the run restores."""
        poor = self.config.task.poor
        if {*asked} == {*poor}:
            return
        able = f"restores {poor[0]}, which has to be there" if poor else "restores nothing"
        if not asked:
            hint = f"say --restore {poor[0]}, or use a run that fills in what is missing"
        else:
            hint = f"train one with --degraded {asked[0]}=4,1,1 (how thick it is: z, y, x)"
            hint = f"leave --restore {'+'.join(asked)} away, or {hint}"
        raise InputError(f"the run {self.run.folder} makes {self.config.words} and {able}; {hint}")

    def refuse_unexplained(self, explain: bool, draws: int) -> None:
        """Raise an InputError if it can say nothing of what it makes, or has one draw only."""
        words = f"{self.config.model.name} with {self.config.train.framework}"
        if explain and not self.explains:
            able = [name for name, made in GENERATORS.items() if made.offers & EXPLAINED]
            hint = "; --draws 5 writes how far its pictures differ" if self.random else ""
            if self.config.model.name in able:
                hint = ", not of Seq2Seq alone (pretrain=1) nor with model.module=conv"
            raise InputError(
                f"the run {self.run.folder} ({words}) has nothing that explains what it makes; "
                f"--explain is for runs of {' or '.join(able)}{hint}"
            )
        if draws > 1 and not self.random:
            raise InputError(
                f"the run {self.run.folder} ({words}) makes the same picture of every seed; "
                "leave --draws out"
            )

    def refuse_certain(self, members: Members) -> None:
        """Raise an InputError if nothing tells how wrong its pictures may be."""
        if not members.uncertain or self.uncertain or members.draws > 1 or members.mirror:
            return
        more = "--draws 5, " if self.random else ""
        raise InputError(
            f"the run {self.run.folder} makes one picture and does not say how wrong it may be; "
            f"add {more}--mirror x or another --run, or train with --framework l1 --set "
            "train.l1.uncertain=true"
        )

    def refuse_mirror(self, mirror: str) -> None:
        """Raise an InputError if the ``mirror`` shows the network what it sees already."""
        if mirror == "x" and self.config.dim == 2 and self.config.data.plane == "sagittal":
            raise InputError(
                f"the run {self.run.folder} makes sagittal slices one by one, of which --mirror x "
                "changes nothing but the order; leave it out, or say --mirror xyz"
            )

    def _able(self, gap: Sequence[Modality]) -> str:
        """Which runs beside this one make all of ``gap``, in a clause."""
        names = "+".join(gap)
        if names not in self._beside:
            self._beside[names] = runs_that_make(gap, self.run.folder.parent)
        if runs := self._beside[names]:
            return f"{' and '.join(runs)} beside it can make {names}"
        return f"no run beside it can make {names}: train one with --target any, for every gap"

    def trouble(self, case: Case, wanted: Sequence[Modality]) -> list[str]:
        """As :meth:`Maker.trouble`."""
        task = self.config.task
        if gone := case.missing(task.poor):
            return [
                f"has no {', '.join(gone)}, which the run restores and cannot make from nothing"
            ]
        if task.poor and {*task.guides} and not {*task.guides} & {*case.images}:
            others = ", ".join(task.guides)
            return [f"has none of {others}, on whose grid {', '.join(task.poor)} is restored"]
        absent, able = ", ".join(case.missing(self.sources)), "+".join(self.targets)
        if trouble := super().trouble(case, wanted):
            return trouble
        gap: list[Modality] = [*case.missing(self.sources), *wanted]
        if absent and wanted and self.needs_all:
            return [f"lacks {absent}, which the run needs to make {able}; {self._able(gap)}"]
        if absent and not wanted:
            return [
                f"lacks {absent}, which the run cannot make; it makes {able}; {self._able(gap)}"
            ]
        return []

    def findings(self, case: Case) -> list[Finding]:
        """As :meth:`Maker.findings`: contradictions, and what the run was not trained for."""
        case = replace(case, label=None)
        have: list[Modality] = [name for name in self.sources if name in case.images]
        raw = read_sources(case, self.config.task, self.config.data)
        volumes = {name: volume.data for name, volume in raw.items()}
        poor = self.config.task.poor
        found = findings(volumes, raw[have[0]].spacing_mm, stripped=False, poor=poor)
        if any(one.contradiction for one in found):
            return found
        prepared = prepare_sources(case, raw, self.config.task, self.config.data)
        strange = unlike_training(self.trained_on, self.config, prepared)
        strange += self.run.prior.odd_ones({**prepared.scales})
        strange += [text for name in prepared.poor if (text := self._thickness(prepared, name)[1])]
        if self.roles is not None:
            strange += self.roles.exchanged({**prepared.volumes}, prepared.brain)
        strange += never_beside(self.run.prior.cases, have, case.missing(self.targets))
        return found + [Finding(False, text) for text in strange]

    def read(self, case: Case, wanted: Sequence[Modality]) -> Prepared:
        """As :meth:`Maker.read`."""
        case, task, data = replace(case, label=None), self.config.task, self.config.data
        return prepare_sources(case, read_sources(case, task, data), task, data)

    def _make(
        self,
        case: Case,
        wanted: Sequence[Modality],
        content: Prepared,
        members: Members,
        on_tile: OnTile | None,
        explain: bool,
    ) -> dict[Modality, Made]:
        """Each map is a pass over the tiles of its own, which neither seed nor mirror decides."""
        names = [name for name in MAPS if explain and name in self.explains]
        recorder = RouteRecorder(self.run.framework)
        heard = explain and "routing" in self.explains

        def told(done: int, tiles: int) -> None:
            if heard:
                recorder.on_tile(done, tiles)
            if on_tile is not None:
                on_tile(done, tiles)

        with recorder.listening() if heard else nullcontext():
            parts = self.pictures(case, wanted, content, members, told, len(names))
        done = len(parts[wanted[0]].volumes) + self._expects(members) if wanted else 0
        maps = {
            name: self.synthesize(
                content, on_tile=_of_pass(on_tile, done + k, done + len(names)), name=name
            )
            for k, name in enumerate(names)
        }
        made: dict[Modality, Made] = {}
        for target, one in parts.items():
            at = self.targets.index(target)
            told_of = {name: np.maximum(map_[at], 0) for name, map_ in maps.items()}
            fit = fitted([one], self.like(case, target))
            made[target] = replace(fit, maps=told_of, routing=recorder.groups)
        return made

    def pictures(
        self,
        case: Case,
        wanted: Sequence[Modality],
        content: Prepared,
        members: Members,
        on_tile: OnTile | None = None,
        more: int = 0,
    ) -> dict[Modality, Pictures]:
        """Every picture by itself, the case as it is first; absent sources are zeros.

        ``on_tile`` hears of ``more`` passes over the tiles that follow. The rest is as for
        :meth:`Maker.make`.
        """
        config, scales = self.config, {t: self._scale(case, t, content) for t in wanted}
        first = np.zeros(0)
        made: dict[Modality, list[np.ndarray]] = {target: [] for target in wanted}
        mirrors = mirrors_of(members.mirror, content.affine, config.task, config.data)
        passes = [(seed, mirror) for mirror in mirrors for seed in members.seeds]
        for done, (seed, mirror) in enumerate(passes):
            told = _of_pass(on_tile, done, len(passes) + self._expects(members) + more)
            network = self.synthesize(content, seed, told, mirror=mirror)
            first = network if done == 0 else first
            for target, volumes in made.items():
                own = network[self.targets.index(target)]
                volumes.append(in_scanner_units(own, content, scales[target][0]))
        expected: dict[Modality, np.ndarray] = {}
        if self._expects(members):  # a map of its own, of the case as it is
            told = _of_pass(on_tile, len(passes), len(passes) + 1 + more)
            errors = self.synthesize(content, on_tile=told, name=DEVIATION)
            for target in wanted:
                at = self.targets.index(target)
                picture, error = first[at], errors[at]
                expected[target] = deviation_in_scanner_units(
                    picture, error, content.brain, scales[target][0]
                )
        restored = {t: self._thickness(content, t)[0] for t in wanted if t in content.poor}
        return {
            t: Pictures(made[t], *scales[t], restored.get(t, {}), content.brain, expected.get(t))
            for t in wanted
        }

    def _scale(self, case: Case, target: Modality, content: Prepared) -> tuple[Scale, str]:
        """The way back of ``target``, and whence it is, as :class:`Made` has it."""
        if target in content.poor:
            return content.scales[target], "own"
        scale = self.run.prior.estimate(target, {**content.scales})
        limits = value_limits(self.like(case, target))
        return storable_scale(scale, list(content.scales.values()), limits)

    def _expects(self, members: Members) -> bool:
        """Whether it is asked for, and says, by how much it may be wrong: a pass more."""
        return members.uncertain and self.uncertain

    def synthesize(
        self,
        prepared: Prepared,
        seed: int = 0,
        on_tile: OnTile | None = None,
        name: str = "",
        mirror: Mirror = (),
    ) -> np.ndarray:
        """(T, D, H, W) in the network's scale: the targets, or the map ``name`` of each.

        With a ``mirror`` the network sees the case in it, and what it makes is mirrored back.

        Raises:
            InputError: The network gives NaN.
        """
        half = torch.autocast(self.device.type, torch.bfloat16)
        cast = half if self.precision == "bf16" else nullcontext()
        with tuned(self.device), torch.inference_mode(), cast:
            how = SynthesisOptions(
                self.patch, self.overlap, self.batch, seed=seed, on_tile=on_tile, map=name
            )
            data = self.config.data
            result = synthesize_case(self.run.framework, prepared, data, how, mirror)
        if not np.isfinite(result).all():
            hint = "; try --precision fp32" if self.precision != "fp32" else ""
            name = prepared.case.name
            raise InputError(f"the network gives NaN or infinity for case {name}{hint}")
        return result

    def _thickness(self, prepared: Prepared, name: Modality) -> tuple[dict[str, Any], str]:
        """How thick the slices of a poor sequence are, for the receipt; and what is strange."""
        asked = ratio_on(prepared.grid, self.config.task, self.config.data)
        own, scan = grid(prepared.case.images[name]), prepared.poor[name]
        found, by = ratio_found(own, prepared.grid, scan, prepared.brain)
        facts = {"ratio_asked": list(asked), "ratio_found": [round(edge, 2) for edge in found]}
        text = ""
        if ratio_disagrees(found, by, asked):
            here, there = ("x".join(f"{edge:.3g}" for edge in each) for each in (found, asked))
            text = f"{name} is {here} times as coarse (z, y, x) as the others by its {by}, and "
            text += f"the run was trained to restore {there}"
        return facts | {"found_by": by}, text


def _unnoticed(roles: Roles, is_old: bool) -> str:
    """That exchanged sequences are not noticed, where the run has not learnt what they look like.

    T1 and T1ce are told apart without that.
    """
    if not roles.silent:
        return ""
    why = "was trained by an older version" if is_old else "learnt from too few cases"
    but = ", other than T1 and T1ce," if {"t1n", "t1c"} <= {*roles.sources} else ""
    return f"exchanged sequences{but} cannot be noticed with this run: it {why}"


def _of_pass(on_tile: OnTile | None, done: int, passes: int) -> OnTile | None:
    """What one of so many ``passes`` over the tiles tells, when some are ``done``."""
    if on_tile is None:
        return None
    return lambda i, n: on_tile(done * n + i, passes * n)


def _tiles_in_words(config: RunConfig, patch: Sequence[int], overlap: Sequence[int]) -> str:
    if config.dim == 3:
        return f"tiles {patch} sharing {overlap} (z, y, x)"
    size = f" resampled to {config.data.slice_size}" if config.data.slice_size else ""
    return f"{config.data.plane} slices{size} in tiles {patch} sharing {overlap} (row, column)"
