"""One case's missing sequences on the scanner's scale: from a trained run, or as plumbing.

Plumbing sends the *real* target through the same way out (scale, mask, tiles, blending, inverse
scale, type of the file) with a network that returns its input. What it changes is what the
export costs, whatever is synthesised. Writes no file; :mod:`synth3d.complete` does.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from synth3d.cases import MODALITIES, Case, Modality
from synth3d.checkpoint import Run
from synth3d.data import Prepared, prepare
from synth3d.files import InputError, read_json, sha256
from synth3d.grids import Grid
from synth3d.infer import sliding_window
from synth3d.intensity import Scale, foreground
from synth3d.volumes import read, value_limits

FEWEST_LEVELS = 64
"""An integer file whose brain would span fewer grey levels than this takes its siblings' scale."""

OnTile = Callable[[int, int], None]

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
        synthetic: False for plumbing, whose pictures are real.
        identity: Plain values that decide the result, besides the case's own files.
        name: The run's name, or ``plumbing``.
        title: What it is, for one line of text.
    """

    sources: tuple[Modality, ...]
    targets: tuple[Modality, ...]
    needs_all: bool
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


def sibling(case: Case, target: Modality, sources: Sequence[Modality]) -> Modality:
    """The modality of ``case``, one of ``sources``, whose file's header ``target`` borrows.

    What is no source may lie on another grid, as T1 does beside PD and T2 in IXI.
    """
    return next(m for m in (*NEAREST[target], *sources) if m in sources and m in case.images)


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
            precision: ``fp32`` or ``bf16`` (autocast); None is as in training.
            batch: Tiles per call; 1 is slow on a CPU in fp32.
            device: Where the generator runs.
        """
        config = run.config
        self.run, self.batch, self.device = run, batch, torch.device(device)
        self.sources, self.targets = config.sources, config.targets
        self.needs_all = config.data.source_dropout == 0
        self.precision = precision or config.train.precision
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
        }
        self.trained_on = read_json(run.folder / "done.json")
        self.name = run.folder.resolve().name
        self.title = (
            f"run {self.name}: {config.model.name}, {'+'.join(self.sources)} -> "
            f"{'+'.join(self.targets)}, tiles {self.patch} sharing {self.overlap} (z, y, x), "
            f"{self.precision} on {self.device}"
        )
        run.generator.to(self.device).to(memory_format=torch.channels_last_3d)

    def make(
        self, case: Case, real: Case, wanted: Sequence[Modality], on_tile: OnTile | None
    ) -> dict[Modality, Made]:
        """As :meth:`Maker.make`; absent sources are zeros, as in training."""
        prepared = prepare(replace(case, label=None), self.sources, ())
        self._warn_of_grid(case, prepared)
        network = self._network(torch.tensor([m in prepared.volumes for m in self.sources]))
        with torch.inference_mode():
            result = sliding_window(
                network,
                torch.from_numpy(prepared.sources(self.sources)),
                self.patch,
                self.overlap,
                self.batch,
                torch.from_numpy(prepared.brain),
                len(self.targets),
                on_tile,
            ).numpy()
        if not np.isfinite(result).all():
            hint = "; try --precision fp32" if self.precision != "fp32" else ""
            raise InputError(f"the network gives NaN or infinity for case {case.name}{hint}")
        channels = dict(zip(self.targets, result, strict=True))
        return {t: self._on_scanner_scale(case, prepared, t, channels[t]) for t in wanted}

    def _warn_of_grid(self, case: Case, prepared: Prepared) -> None:
        """Say aloud when a case lies otherwise, or is finer, than all that was trained on."""
        grid = Grid(prepared.brain.shape, prepared.affine)
        known = self.trained_on.get("orientations")
        if known and grid.orientation not in known:
            print(
                f"warning: case {case.name} is oriented {grid.orientation}, the run was trained on "
                f"{', '.join(known)}; reorient it first for a result to be trusted"
            )
        known = self.trained_on.get("spacings_mm")
        if known and not any(np.allclose(grid.spacing_mm, mm, rtol=0.2) for mm in known):
            here = "×".join(f"{mm:.3g}" for mm in grid.spacing_mm)
            there = ", ".join("×".join(f"{mm:.3g}" for mm in spacing) for spacing in known)
            print(
                f"warning: case {case.name} has voxels of {here} mm (z, y, x), the run was trained "
                f"on {there} mm"
            )

    def _network(self, present: Tensor) -> Callable[[Tensor], Tensor]:
        generate = self.run.network(present)
        half = self.precision == "bf16"

        def network(tiles: Tensor) -> Tensor:
            tiles = tiles.to(self.device, memory_format=torch.channels_last_3d)
            autocast = torch.autocast(self.device.type, torch.bfloat16)
            with autocast if half else nullcontext():
                return generate(tiles).float().cpu()

        return network

    def _on_scanner_scale(
        self, case: Case, prepared: Prepared, target: Modality, network: np.ndarray
    ) -> Made:
        scale = self.run.prior.estimate(target, {**prepared.scales})
        limits = value_limits(case.images[sibling(case, target, self.sources)])
        scale, origin = storable_scale(scale, list(prepared.scales.values()), limits)
        data = scale.invert(network, prepared.brain)
        if not any(_reaches_below_zero(prepared, name) for name in prepared.scales):
            data = np.maximum(data, 0)
        if (peak := float(data.max())) > limits[1]:
            factor = limits[1] / peak
            scale, data = Scale(scale.low * factor, scale.high * factor), data * factor
        return Made(data, scale, origin)


class PlumbingMaker:
    """Makes the real target of a case, having sent it through the whole way out."""

    synthetic = False
    needs_all = False

    def __init__(
        self, missing: Sequence[Modality], patch: Sequence[int], overlap: Sequence[int]
    ) -> None:
        """Take ``missing`` as what is missing; ``patch`` and ``overlap`` are (z, y, x) voxels."""
        self.targets: tuple[Modality, ...] = tuple(missing)
        self.sources: tuple[Modality, ...] = tuple(m for m in MODALITIES if m not in self.targets)
        self.patch, self.overlap = tuple(patch), tuple(overlap)
        self.identity = {"patch": list(patch), "overlap": list(overlap), "plumbing": True}
        self.name = "plumbing"
        self.title = f"plumbing: the real {'+'.join(self.targets)} through the way out"

    def make(
        self, case: Case, real: Case, wanted: Sequence[Modality], on_tile: OnTile | None
    ) -> dict[Modality, Made]:
        """As :meth:`Maker.make`: the brain is that of ``case``, the picture that of ``real``."""
        if absent := real.missing(wanted):
            raise InputError(f"case {real.name} has no real {'/'.join(absent)} to send through")
        seen = [read(path).data for name, path in case.images.items() if name in self.sources]
        brain = np.logical_or.reduce([foreground(volume) for volume in seen])
        return {target: self._through(real, target, brain, on_tile) for target in wanted}

    def _through(
        self, real: Case, target: Modality, brain: np.ndarray, on_tile: OnTile | None
    ) -> Made:
        volume = read(real.images[target]).data
        scale = Scale.fit(volume, brain & foreground(volume))
        network = sliding_window(
            lambda tiles: tiles,
            torch.from_numpy(scale.apply(volume, brain))[None],
            self.patch,
            self.overlap,
            active=torch.from_numpy(brain),
            on_tile=on_tile,
        )
        return Made(scale.invert(network[0].numpy(), brain), scale, "real")


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
    return Scale(min(low, 0.5 * high), high), "siblings"


def _reaches_below_zero(prepared: Prepared, name: Modality) -> bool:
    """Whether a source has clearly negative intensities, so that its siblings may as well."""
    scale, lowest = prepared.scales[name], float(prepared.volumes[name].min())
    return scale.low + lowest * (scale.high - scale.low) < -1e-3 * abs(scale.high)
