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
    findings,
    never_beside,
    ratio_disagrees,
    ratio_found,
)
from synth3d.completion.made import Made
from synth3d.completion.makers.base import Maker
from synth3d.completion.makers.scales import fitted, in_scanner_units, storable_scale
from synth3d.completion.receipts import MAPS
from synth3d.data import (
    Prepared,
    Roles,
    prepare_sources,
    ratio_on,
    read_sources,
    spacing_seen,
)
from synth3d.errors import InputError
from synth3d.files import read_json, sha256
from synth3d.frameworks import Diffusion
from synth3d.images import Grid, Scale, grid, value_limits
from synth3d.inference import (
    OnTile,
    RouteRecorder,
    SynthesisOptions,
    memory_format,
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
        self.explains, self.teachers = run.framework.explains, taught_by(run.folder)
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
        self.trained_on = read_json(run.folder / "done.json")
        self.name = run.folder.resolve().name
        self.title = (
            f"run {self.name}: {config.model.name}, {config.words}, "
            f"{_tiles_in_words(config, self.patch, self.overlap)}, "
            f"{self.precision} on {self.device}"
        )
        run.framework.to(self.device).to(memory_format=memory_format(config.dim)).eval()

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
        strange = self._strange_grid(prepared) + self.run.prior.odd_ones({**prepared.scales})
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
        seeds: list[int],
        on_tile: OnTile | None,
        explain: bool,
    ) -> dict[Modality, Made]:
        """Absent sources are zeros, as in training. Each map is a pass over the tiles of its own.

        The seed decides no map.
        """
        prepared = content
        siblings = list(prepared.scales.values())
        scales: dict[Modality, tuple[Scale, str]] = {}
        for target in wanted:
            if target in prepared.poor:
                scales[target] = prepared.scales[target], "own"
                continue
            scale = self.run.prior.estimate(target, {**prepared.scales})
            scales[target] = storable_scale(scale, siblings, value_limits(self.like(case, target)))
        names = [name for name in MAPS if explain and name in self.explains]
        recorder = RouteRecorder(self.run.framework)
        heard = explain and "routing" in self.explains
        pictures: list[dict[Modality, np.ndarray]] = []
        for done, (seed, name) in enumerate([*((s, "") for s in seeds), *((0, n) for n in names)]):

            def told(i: int, n: int, k: int = done, name: str = name) -> None:
                if heard and not name:
                    recorder.on_tile(k * n + i, len(seeds) * n)
                if on_tile is not None:
                    on_tile(k * n + i, (len(seeds) + len(names)) * n)

            with recorder.listening() if heard and not name else nullcontext():
                network = self.synthesize(prepared, seed, told, name)
            pictures.append(dict(zip(self.targets, network, strict=True)))
        drawn, maps = pictures[: len(seeds)], dict(zip(names, pictures[len(seeds) :], strict=True))
        made: dict[Modality, Made] = {}
        for target, (scale, origin) in scales.items():
            volumes = [in_scanner_units(each[target], prepared, scale) for each in drawn]
            like = self.like(case, target)
            one = fitted(np.stack(volumes).astype(np.float64), like, scale, origin)
            if target in prepared.poor:
                one = replace(one, restored=self._thickness(prepared, target)[0])
            told_of = {name: np.maximum(map_[target], 0) for name, map_ in maps.items()}
            made[target] = replace(one, maps=told_of, routing=recorder.groups)
        return made

    def synthesize(
        self, prepared: Prepared, seed: int = 0, on_tile: OnTile | None = None, name: str = ""
    ) -> np.ndarray:
        """(T, D, H, W) in the network's scale: the targets, or the map ``name`` of each.

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
            result = synthesize_case(self.run.framework, prepared, data, how)
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

    def _strange_grid(self, prepared: Prepared) -> list[str]:
        """In what a case lies otherwise, or is finer, than all that was trained on.

        Slices are turned alike whatever the file, so in 2-D only their voxels can be strange.
        """
        config, found = self.config, []
        orientation = Grid(prepared.brain.shape, prepared.affine).orientation
        known = self.trained_on.get("orientations")
        if known and config.dim == 3 and orientation not in known:
            found.append(
                f"is oriented {orientation}, the run was trained on {', '.join(known)}; reorient "
                "it first for a result to be trusted"
            )
        known = self.trained_on.get("spacings_mm")
        mm = spacing_seen(prepared.grid, config.task, config.data)
        if known and not any(np.allclose(mm, other, rtol=0.2) for other in known):
            here = "×".join(f"{edge:.3g}" for edge in mm)
            there = ", ".join("×".join(f"{edge:.3g}" for edge in spacing) for spacing in known)
            axes = "(z, y, x)" if config.dim == 3 else "(row, column)"
            found.append(f"has voxels of {here} mm {axes}, the run was trained on {there} mm")
        return found


def _tiles_in_words(config: RunConfig, patch: Sequence[int], overlap: Sequence[int]) -> str:
    if config.dim == 3:
        return f"tiles {patch} sharing {overlap} (z, y, x)"
    size = f" resampled to {config.data.slice_size}" if config.data.slice_size else ""
    return f"{config.data.plane} slices{size} in tiles {patch} sharing {overlap} (row, column)"
