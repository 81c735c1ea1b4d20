"""One case's missing sequences: in the network's scale, and from a trained run on the scanner's.

The way out: what the network sees of a case, tiles, blending, back to the case's own grid, inverse
scale, type of the file. Writes no file; :mod:`synth3d.completion.run` does.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from synth3d.cohort import Case, Modality
from synth3d.data import Prepared, prepare, spacing_seen
from synth3d.errors import InputError
from synth3d.files import read_json, sha256
from synth3d.images import Grid, Scale, value_limits
from synth3d.inference import OnTile, SynthesisOptions, memory_format, synthesize_case
from synth3d.machine import suited
from synth3d.training import Run, RunConfig

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


@dataclass(frozen=True, eq=False)
class Made:
    """One synthetic sequence of one case.

    Attributes:
        data: (D, H, W) float32 in scanner units, exactly 0 outside the brain.
        scale: What the network's 0 and 1 became.
        scale_from: ``training`` (the run's prior), ``siblings`` or ``real``.
    """

    data: np.ndarray
    scale: Scale
    scale_from: str


class Maker(Protocol):
    """Something that can make ``targets`` of a case from its ``sources``.

    Attributes:
        sources: Where the network looks, in channel order.
        targets: What it can make.
        needs_all: Whether every source must be there; else one is enough.
        common_grid: The source on whose grid the others are brought, or empty.
        synthetic: False for plumbing, whose pictures are real.
        identity: Plain values that decide the result, besides the case's own files.
        name: The run's name, or ``plumbing``.
        title: What it is, for one line of text.
    """

    sources: tuple[Modality, ...]
    targets: tuple[Modality, ...]
    needs_all: bool
    common_grid: str
    synthetic: bool
    identity: dict[str, Any]
    name: str
    title: str

    def make(
        self, case: Case, real: Case, wanted: Sequence[Modality], on_tile: OnTile | None
    ) -> dict[Modality, Made]:
        """The ``wanted`` sequences of ``case``.

        Args:
            case: With the files that may be looked at.
            real: The same case with all its files.
            wanted: Some of ``targets``.
            on_tile: Told (tiles done, tiles in all).

        Raises:
            InputError: A file of the case is bad, or the network gives NaN.
        """
        ...


def sibling(
    case: Case, target: Modality, sources: Sequence[Modality], common_grid: str = ""
) -> Modality:
    """The modality of ``case``, one of ``sources``, whose file's header ``target`` borrows.

    What is no source may lie on another grid, as T1 does beside PD and T2 in IXI. With a
    ``common_grid`` it is the sequence on whose grid the case was worked on.
    """
    if common_grid:
        have = [m for m in sources if m in case.images]
        return next((m for m in have if m == common_grid), have[0])
    return next(m for m in (*NEAREST[target], *sources) if m in sources and m in case.images)


def way_out(config: RunConfig) -> dict[str, Any]:
    """What of ``config`` decides a picture besides weights and tiles; empty for plain 3-D."""
    data = config.data
    facts: dict[str, Any] = {}
    if config.dim == 2:
        facts = {"plane": data.plane, "slice_size": list(data.slice_size)}
    if data.intensity != "median":
        facts["intensity"] = data.intensity
    if data.common_grid:
        facts["common_grid"] = data.common_grid
    return facts


class RunMaker:
    """Makes what a trained run was trained for, with tiles of the size it was trained on."""

    synthetic = True

    def __init__(
        self,
        run: Run,
        overlap: float | None = None,
        precision: str | None = None,
        batch: int = 2,
        device: str = "cpu",
    ) -> None:
        """Prepare the generator.

        Args:
            run: A finished run.
            overlap: Share of the patch that tiles share, in [0, 1); None is as in training.
            precision: ``fp32`` or ``bf16`` (autocast); None is as in training, but fp32 where
                ``device`` would emulate bf16.
            batch: Tiles per call; 1 is slow on a CPU in fp32.
            device: Where the generator runs.
        """
        config = run.config
        self.run, self.batch, self.device = run, batch, torch.device(device)
        self.sources, self.targets = config.sources, config.targets
        self.needs_all = config.data.source_dropout == 0 and not run.framework.hides_sources
        self.common_grid = config.data.common_grid
        self.precision = precision or suited(config.train.precision, self.device)
        self.patch = tuple(config.data.patch)
        self.overlap = tuple(config.data.overlap)
        if overlap is not None:
            self.overlap = tuple(int(overlap * side) for side in self.patch)
        self.identity = {
            "weights_sha256": run.weights_sha256,
            "scales_sha256": sha256(run.folder / "scales.json"),
            "patch": list(self.patch),
            "overlap": list(self.overlap),
            "precision": self.precision,
        } | way_out(config)
        self.trained_on = read_json(run.folder / "done.json")
        self.name = run.folder.resolve().name
        self.title = (
            f"run {self.name}: {config.model.name}, {'+'.join(self.sources)} -> "
            f"{'+'.join(self.targets)}, {_tiles_in_words(config, self.patch, self.overlap)}, "
            f"{self.precision} on {self.device}"
        )
        run.framework.to(self.device).to(memory_format=memory_format(config.dim)).eval()

    def make(
        self, case: Case, real: Case, wanted: Sequence[Modality], on_tile: OnTile | None
    ) -> dict[Modality, Made]:
        """As :meth:`Maker.make`; absent sources are zeros, as in training."""
        config = self.run.config
        prepared = prepare(replace(case, label=None), self.sources, (), config.data)
        self._warn_of_grid(case, prepared)
        half = torch.autocast(self.device.type, torch.bfloat16)
        with torch.inference_mode(), half if self.precision == "bf16" else nullcontext():
            how = SynthesisOptions(self.patch, self.overlap, self.batch, on_tile=on_tile)
            result = synthesize_case(self.run.framework, prepared, config.data, how)
        if not np.isfinite(result).all():
            hint = "; try --precision fp32" if self.precision != "fp32" else ""
            raise InputError(f"the network gives NaN or infinity for case {case.name}{hint}")
        channels = dict(zip(self.targets, result, strict=True))
        return {t: self._on_scanner_scale(case, prepared, t, channels[t]) for t in wanted}

    def _warn_of_grid(self, case: Case, prepared: Prepared) -> None:
        """Say aloud when a case lies otherwise, or is finer, than all that was trained on.

        Slices are turned alike whatever the file, so in 2-D only their voxels can be strange.
        """
        config = self.run.config
        orientation = Grid(prepared.brain.shape, prepared.affine).orientation
        known = self.trained_on.get("orientations")
        if known and config.dim == 3 and orientation not in known:
            print(
                f"warning: case {case.name} is oriented {orientation}, the run was trained on "
                f"{', '.join(known)}; reorient it first for a result to be trusted"
            )
        known = self.trained_on.get("spacings_mm")
        mm = spacing_seen(prepared, config.task, config.data)
        if known and not any(np.allclose(mm, other, rtol=0.2) for other in known):
            here = "×".join(f"{edge:.3g}" for edge in mm)
            there = ", ".join("×".join(f"{edge:.3g}" for edge in spacing) for spacing in known)
            axes = "(z, y, x)" if config.dim == 3 else "(row, column)"
            print(
                f"warning: case {case.name} has voxels of {here} mm {axes}, the run was trained "
                f"on {there} mm"
            )

    def _on_scanner_scale(
        self, case: Case, prepared: Prepared, target: Modality, network: np.ndarray
    ) -> Made:
        scale = self.run.prior.estimate(target, {**prepared.scales})
        lender = sibling(case, target, self.sources, self.common_grid)
        limits = value_limits(case.images[lender])
        scale, origin = storable_scale(scale, list(prepared.scales.values()), limits)
        data = scale.invert(network, prepared.brain)
        if not any(_reaches_below_zero(prepared, name) for name in prepared.scales):
            data = np.maximum(data, 0)
        if (peak := float(data.max())) > limits[1]:
            factor = limits[1] / peak
            scale = replace(scale, low=scale.low * factor, high=scale.high * factor)
            data = data * factor
        return Made(data, scale, origin)


def storable_scale(
    scale: Scale, siblings: Sequence[Scale], limits: tuple[float, float]
) -> tuple[Scale, str]:
    """``scale``, or the siblings' when a file with ``limits`` cannot hold it.

    A run trained on images in [0, 1] predicts a scale that an integer file would round away;
    one trained on 16-bit images predicts one that an 8-bit file would clamp.

    Args:
        scale: What the training cases suggest.
        siblings: The scales of the case's own sequences, at least one.
        limits: Smallest and largest value of the file; infinite ones hold anything.

    Returns:
        (scale, ``training`` or ``siblings``); the siblings' scale is their geometric mean.
    """
    integers = bool(np.isfinite(limits).all())
    if not integers or (scale.high - scale.low >= FEWEST_LEVELS and scale.high <= limits[1]):
        return scale, "training"
    high = float(np.exp(np.mean([np.log(max(each.high, 1e-6)) for each in siblings])))
    shares = [each.low / each.high if each.high > 0 else 0 for each in siblings]
    low = high * float(np.median(shares))
    return replace(scale, low=min(low, 0.5 * high), high=high), "siblings"


def _tiles_in_words(config: RunConfig, patch: Sequence[int], overlap: Sequence[int]) -> str:
    if config.dim == 3:
        return f"tiles {patch} sharing {overlap} (z, y, x)"
    size = f" resampled to {config.data.slice_size}" if config.data.slice_size else ""
    return f"{config.data.plane} slices{size} in tiles {patch} sharing {overlap} (row, column)"


def _reaches_below_zero(prepared: Prepared, name: Modality) -> bool:
    """Whether a source has clearly negative intensities, so that its siblings may as well."""
    scale, lowest = prepared.scales[name], float(prepared.volumes[name].min())
    return scale.low + lowest * (scale.high - scale.low) < -1e-3 * abs(scale.high)
