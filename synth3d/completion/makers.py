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

from synth3d.cohort import Case, Finding, Modality, findings
from synth3d.completion.plan import Made
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
    SynthesisOptions,
    memory_format,
    synthesize_case,
)
from synth3d.machine import suited, tf32, tuned, use_device
from synth3d.training import Run, RunConfig, read_config

FEWEST_LEVELS = 64
"""An integer file whose brain would span fewer grey levels than this takes its siblings' scale."""

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
        identity: Plain values that decide the result, besides the case's own files and the seed.
        name: The run's name, or ``plumbing``.
        title: What it is, for one line of text.
    """

    random = False
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
    ) -> dict[Modality, Made]:
        """The ``wanted`` sequences of ``case``, some of ``targets``.

        Args:
            case: As :meth:`readable` gives it, without :meth:`trouble`.
            wanted: What is made.
            seed: Decides all randomness; the same seed gives the same picture.
            draws: How many pictures are averaged, of seeds that follow from ``seed``.
            on_tile: Told (tiles done, tiles in all).
            content: What :meth:`read` gave for the case and ``wanted``; None reads it now.

        Raises:
            InputError: A file of the case is bad, the network gives NaN, or several draws were
                asked of a maker without randomness.
        """
        if draws > 1 and not self.random:
            raise InputError(f"{self.name} makes the same picture of every seed: one draw is all")
        more = np.random.SeedSequence(seed).generate_state(draws - 1)
        content = self.read(case, wanted) if content is None else content
        return self._make(case, wanted, content, [seed, *map(int, more)], on_tile)

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
    ) -> dict[Modality, Made]:
        """Absent sources are zeros, as in training."""
        prepared = content
        siblings = list(prepared.scales.values())
        scales: dict[Modality, tuple[Scale, str]] = {}
        for target in wanted:
            scale = self.run.prior.estimate(target, {**prepared.scales})
            scales[target] = storable_scale(scale, siblings, value_limits(self.like(case, target)))
        pictures = []
        for done, seed in enumerate(seeds):
            told = on_tile and (lambda i, n, k=done: on_tile(k * n + i, len(seeds) * n))
            network = self._synthesize(prepared, seed, told)
            pictures.append(dict(zip(self.targets, network, strict=True)))
        made: dict[Modality, Made] = {}
        for target, (scale, origin) in scales.items():
            volumes = [_in_scanner_units(drawn[target], prepared, scale) for drawn in pictures]
            like = self.like(case, target)
            made[target] = _fitted(np.stack(volumes).astype(np.float64), like, scale, origin)
        return made

    def _synthesize(self, prepared: Prepared, seed: int, on_tile: OnTile | None) -> np.ndarray:
        """(T, D, H, W) in the network's scale."""
        half = torch.autocast(self.device.type, torch.bfloat16)
        cast = half if self.precision == "bf16" else nullcontext()
        with tuned(self.device), torch.inference_mode(), cast:
            how = SynthesisOptions(self.patch, self.overlap, self.batch, seed=seed, on_tile=on_tile)
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


def _fitted(volumes: np.ndarray, like: Path, scale: Scale, origin: str) -> Made:
    """The mean of ``volumes`` (draws, D, H, W), darker where ``like``'s type would clamp it."""
    data, most = volumes.mean(0).astype(np.float32), value_limits(like)[1]
    spread = volumes.std(0, ddof=1).astype(np.float32) if len(volumes) > 1 else None
    zero = scale.background
    if (peak := float(data.max())) > most:
        factor = (most - zero) / (peak - zero)
        low, high = (zero + (end - zero) * factor for end in (scale.low, scale.high))
        scale = replace(scale, low=low, high=high)
        data, spread = zero + (data - zero) * factor, None if spread is None else spread * factor
    return Made(data, like, scale, origin, spread=spread)


def _in_scanner_units(network: np.ndarray, prepared: Prepared, scale: Scale) -> np.ndarray:
    """(D, H, W) float32; darker than the background only where a source is."""
    data = scale.invert(network, prepared.brain)
    if any(_reaches_below_background(prepared, name) for name in prepared.scales):
        return data
    return np.maximum(data, np.float32(scale.background))


def storable_scale(
    scale: Scale, siblings: Sequence[Scale], limits: tuple[float, float]
) -> tuple[Scale, str]:
    """``scale``, or the siblings' when a file with ``limits`` cannot hold it.

    A run trained on images in [0, 1] predicts a scale that an integer file would round away;
    one trained on 16-bit images predicts one that an 8-bit file would clamp.

    The siblings are the case's own sequences, at least one, and their scale is the geometric mean.
    Infinite limits hold anything. Beside the scale stands ``training`` or ``siblings``.
    """
    integers = bool(np.isfinite(limits).all())
    if not integers or (scale.width >= FEWEST_LEVELS and scale.high <= limits[1]):
        return scale, "training"
    zero = scale.background
    over = [max(each.high - each.background, 1e-6) for each in siblings]
    high = float(np.exp(np.mean(np.log(over))))
    shares = [(s.low - s.background) / o for s, o in zip(siblings, over, strict=True)]
    low = high * float(np.median(shares))
    return replace(scale, low=zero + min(low, 0.5 * high), high=zero + high), "siblings"


def _tiles_in_words(config: RunConfig, patch: Sequence[int], overlap: Sequence[int]) -> str:
    if config.dim == 3:
        return f"tiles {patch} sharing {overlap} (z, y, x)"
    size = f" resampled to {config.data.slice_size}" if config.data.slice_size else ""
    return f"{config.data.plane} slices{size} in tiles {patch} sharing {overlap} (row, column)"


def _reaches_below_background(prepared: Prepared, name: Modality) -> bool:
    """Whether a source is clearly darker than its background, so that its siblings may as well."""
    scale, lowest = prepared.scales[name], float(prepared.volumes[name].min())
    darkest = scale.low + lowest * scale.width - scale.background
    return darkest < -1e-3 * abs(scale.high - scale.background)
