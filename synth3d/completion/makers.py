"""One case's missing sequences in scanner units: what a maker is, and a trained run as one.

Writes no file; :mod:`synth3d.completion.run` does.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synth3d.cohort import Case, Finding, Modality, findings, never_beside
from synth3d.completion.plan import Made
from synth3d.completion.receipts import MAPS
from synth3d.completion.scales import fitted, in_scanner_units, storable_scale
from synth3d.data import (
    Prepared,
    Roles,
    prepare,
    prepare_read,
    read_on_one_grid,
    spacing_seen,
)
from synth3d.errors import InputError
from synth3d.files import read_json, sha256
from synth3d.frameworks import Diffusion
from synth3d.images import Grid, Scale, value_limits
from synth3d.inference import (
    OnTile,
    RouteRecorder,
    SynthesisOptions,
    memory_format,
    synthesize_case,
)
from synth3d.machine import suited, tf32, tuned, use_device
from synth3d.models import GENERATORS
from synth3d.training import Run, RunConfig, read_config

EXPLAINED = frozenset({"explanation", "routing"})
"""What a generator may offer that explains what it makes."""

NEAREST: dict[Modality, tuple[Modality, ...]] = {
    "t1n": ("t1c", "t2w", "t2f"),
    "t1c": ("t1n", "t2w", "t2f"),
    "t2w": ("t2f", "pd", "t1n"),
    "t2f": ("t2w", "t1n", "t1c"),
    "pd": ("t2w", "t1n"),
}
"""Which sibling lends a synthetic sequence its header, best first."""


class Maker:
    """Something that can make ``targets`` of a case from its ``sources``.

    Attributes:
        config: How the run it stands for sees a case.
        sources: Where the network looks, in channel order.
        targets: What it can make.
        random: Whether another seed gives another picture.
        explains: What it can say of what it makes, as a framework's ``explains``.
        identity: Plain values that decide the result, besides the case's own files and the seed.
        name: The run's name, or ``plumbing``.
        title: What it is, for one line of text.
    """

    random = False
    explains: frozenset[str] = frozenset()
    name = "plumbing"
    identity: dict[str, Any]
    title: str

    def __init__(
        self, config: RunConfig, sources: tuple[Modality, ...], targets: tuple[Modality, ...]
    ) -> None:
        """Take what is common to all makers."""
        self.config, self.sources, self.targets = config, sources, targets
        data = config.data
        self.identity = {"patch": list(data.patch), "overlap": list(data.overlap)}
        if config.dim == 2:
            self.identity |= {"plane": data.plane, "slice_size": list(data.slice_size)}
        if data.intensity != "median":
            self.identity["intensity"] = data.intensity
        if data.common_grid:
            self.identity["common_grid"] = data.common_grid

    def readable(self, case: Case, hidden: Sequence[Modality]) -> Case:
        """``case`` with the files that may be read when ``hidden`` count as missing."""
        return replace(case, images={m: p for m, p in case.images.items() if m not in hidden})

    def trouble(self, case: Case, wanted: Sequence[Modality]) -> list[str]:
        """Why ``wanted`` cannot be made of the readable ``case``, a clause each; empty if it can.

        Nothing wanted may be trouble too: a source is gone that this maker cannot make.
        """
        if wanted and len(case.missing(self.sources)) == len(self.sources):
            return [f"has none of the sequences {', '.join(self.sources)} that the run needs"]
        return []

    def findings(self, case: Case) -> list[Finding]:
        """What the voxels of the readable ``case`` say against it; nothing is said of a real one.

        Raises:
            InputError: A file of the case is bad.
        """
        return []

    def make(
        self,
        case: Case,
        wanted: Sequence[Modality],
        *,
        seed: int = 0,
        draws: int = 1,
        on_tile: OnTile | None = None,
        content: Any = None,
        explain: bool = False,
    ) -> dict[Modality, Made]:
        """The ``wanted`` sequences of ``case``, some of ``targets``.

        Args:
            case: As :meth:`readable` gives it, without :meth:`trouble`.
            wanted: What is made.
            seed: Decides all randomness; the same seed gives the same picture.
            draws: How many pictures are averaged, of seeds that follow from ``seed``.
            on_tile: Told (tiles done, tiles in all).
            content: What :meth:`read` gave for the case and ``wanted``; None reads it now.
            explain: Whether to say of it what it can; the pictures are the same to the bit.

        Raises:
            InputError: A file of the case is bad, the network gives NaN, or several draws were
                asked of a maker without randomness.
        """
        if draws > 1 and not self.random:
            raise InputError(f"{self.name} makes the same picture of every seed: one draw is all")
        more = np.random.SeedSequence(seed).generate_state(draws - 1)
        content = self.read(case, wanted) if content is None else content
        return self._make(case, wanted, content, [seed, *map(int, more)], on_tile, explain)

    def read(self, case: Case, wanted: Sequence[Modality]) -> Any:
        """All that :meth:`make` needs of the files of ``case``; a thread of its own may read it.

        Raises:
            InputError: A file of the case is bad.
        """
        raise NotImplementedError

    def _make(
        self,
        case: Case,
        wanted: Sequence[Modality],
        content: Any,
        seeds: list[int],
        on_tile: OnTile | None,
        explain: bool,
    ) -> dict[Modality, Made]:
        raise NotImplementedError

    def like(self, case: Case, target: Modality) -> Path:
        """The file, of a source, whose header and type ``target`` borrows.

        What is no source may lie on another grid, as T1 does beside PD and T2 in IXI. With a
        common grid it is the sequence on whose grid the case was worked on.
        """
        have: list[Modality] = [m for m in self.sources if m in case.images]
        common = self.config.data.common_grid
        first: list[Modality] = [m for m in have if m == common] if common else [*NEAREST[target]]
        return next(case.images[m] for m in (*first, *have) if m in have)


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
        self.explains = run.framework.explains
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

    def refuse_others(self, wanted: Sequence[Modality]) -> None:
        """Raise an InputError unless ``wanted`` are among ``targets``."""
        if unable := [name for name in wanted if name not in self.targets]:
            raise InputError(
                f"the run {self.run.folder} makes {'+'.join(self.targets)} and cannot make "
                f"{'+'.join(unable)}; {self._able(wanted)}"
            )

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
        raw = read_on_one_grid(case, have, self.config.data.common_grid)
        volumes = {name: volume.data for name, volume in raw.items()}
        found = findings(volumes, raw[have[0]].spacing_mm, stripped=False)
        if any(one.contradiction for one in found):
            return found
        prepared = prepare_read(case, raw, self.sources, self.config.data, self.config.mode)
        strange = self._strange_grid(prepared) + self.run.prior.odd_ones({**prepared.scales})
        if self.roles is not None:
            strange += self.roles.exchanged({**prepared.volumes}, prepared.brain)
        strange += never_beside(self.run.prior.cases, have, case.missing(self.targets))
        return found + [Finding(False, text) for text in strange]

    def read(self, case: Case, wanted: Sequence[Modality]) -> Prepared:
        """As :meth:`Maker.read`."""
        case = replace(case, label=None)
        return prepare(case, self.sources, (), self.config.data, self.config.mode)

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


def runs_that_make(gap: Sequence[Modality], folder: Path) -> list[str]:
    """Names of the finished runs in ``folder`` that make all of ``gap`` of a case without them."""
    able = []
    for path in sorted(folder.glob("*/done.json")):
        try:
            task = read_config(path.parent).task
        except InputError:
            continue  # another version's, or damaged: no run to be recommended
        left = {*task.sources} - {*gap}
        if {*gap} <= {*task.targets} and (left == {*task.sources} or (left and task.mode == "any")):
            able.append(path.parent.name)
    return able


def _tiles_in_words(config: RunConfig, patch: Sequence[int], overlap: Sequence[int]) -> str:
    if config.dim == 3:
        return f"tiles {patch} sharing {overlap} (z, y, x)"
    size = f" resampled to {config.data.slice_size}" if config.data.slice_size else ""
    return f"{config.data.plane} slices{size} in tiles {patch} sharing {overlap} (row, column)"
