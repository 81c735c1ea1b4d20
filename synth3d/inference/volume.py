"""A framework over a whole volume: one pass of tiles, or one for every step of a diffusion.

A diffusion that ran tile by tile to its end would make another image in each tile, and blending
them would blur what they disagree about. So the tiles' predictions are blended at every step, over
one noisy volume, and the step is made on the volume (MultiDiffusion, Bar-Tal et al. 2023).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from synth3d.frameworks import Diffusion, Framework
from synth3d.inference.tiles import OnTile, sliding_window


@dataclass(frozen=True)
class SynthesisOptions:
    """How a volume is made.

    Attributes:
        patch: Tile size as in training: (z, y, x), or (y, x) of a 2-D framework.
        overlap: Voxels that neighbouring tiles share at the least, as many numbers.
        batch: Tiles per call of the generator.
        steps: Sampling steps of a diffusion; None is what its options say.
        seed: Decides all randomness of a diffusion.
        on_tile: Told (tiles done, tiles in all), over all steps.
    """

    patch: tuple[int, ...]
    overlap: tuple[int, ...]
    batch: int = 2
    steps: int | None = None
    seed: int = 0
    on_tile: OnTile | None = None


@torch.no_grad()
def synthesize_volume(
    framework: Framework,
    sources: Tensor,
    present: Tensor,
    wanted: Tensor,
    options: SynthesisOptions,
    active: Tensor | None = None,
) -> Tensor:
    """All targets of one volume.

    The same arguments give the same volume, up to rounding whatever the batch: random numbers are
    drawn on the CPU for the whole volume from the seed, never for tiles.

    Args:
        framework: In evaluation mode; tiles go to the device of its generator, in the memory
            format of its weights.
        sources: (S, D, H, W) float32 in the network's scale, absent ones 0, on any device. With a
            2-D framework axis D is that of the slices.
        present: (S,) bool.
        wanted: (T,) bool; what is not wanted is free.
        options: Tiles, steps and seed.
        active: (D, H, W) bool, where a result is wanted; 0 elsewhere. None is everywhere. A
            diffusion should be given all of the brain: what is not active stays blank at all
            its steps.

    Returns:
        (T, D, H, W) float32 in the network's scale, on the device of ``sources``.

    Raises:
        ValueError: Shapes, patch, overlap or batch do not fit.
    """
    if present.shape != sources.shape[:1] or wanted.ndim != 1:
        raise ValueError(
            f"present and wanted are (S,) = ({len(sources)},) and (T,), got "
            f"{tuple(present.shape)} and {tuple(wanted.shape)}"
        )
    window = _Window(framework, options, active)
    masks = [mask.to(window.device).expand(options.batch, -1) for mask in (present, wanted)]
    if not isinstance(framework, Diffusion):
        return window.over(
            lambda tiles: framework.synthesize(tiles, *masks, options.seed), sources, len(wanted)
        )
    n_sources, times = len(sources), framework.times(options.steps)
    outputs = framework.channels(n_sources, len(wanted))[1]
    draws = torch.Generator().manual_seed(options.seed)
    home, sources = sources.device, sources.to(window.device)  # it is passed over many times
    state = framework.start(sources.shape[1:], draws).to(window.device)
    for index, time in enumerate(times):

        def predict(tiles: Tensor, time: int = time) -> Tensor:
            return framework.predict(tiles[:, :n_sources], tiles[:, n_sources:], time, *masks)

        window.passes = (index, len(times))
        prediction = window.over(predict, torch.cat([sources, state]), outputs)
        state = window.inside(framework.step(state, prediction, index, draws, options.steps))
    return window.inside(framework.finish(state)).to(home)


class _Window:
    """One way of cutting a volume into tiles, for as many passes as it takes."""

    def __init__(
        self, framework: Framework, options: SynthesisOptions, active: Tensor | None
    ) -> None:
        self.options, self.active, self.passes = options, active, (0, 1)
        weights = next(framework.generator.parameters(), torch.zeros(()))
        self.device, self.layout = weights.device, _memory_format(framework, len(options.patch))

    def over(
        self, network: Callable[[Tensor], Tensor], volume: Tensor, out_channels: int
    ) -> Tensor:
        """``network`` on the tiles of ``volume`` (C, D, H, W), blended: (out_channels, D, H, W)."""

        def on_tiles(tiles: Tensor) -> Tensor:
            tiles = tiles.to(self.device).contiguous(memory_format=self.layout)
            return network(tiles).float().to(volume.device)

        options = self.options
        return sliding_window(
            on_tiles,
            volume,
            options.patch,
            options.overlap,
            options.batch,
            None if self.active is None else self.active.to(volume.device),
            out_channels,
            options.on_tile and self._report,
        )

    def inside(self, volume: Tensor) -> Tensor:
        """``volume`` with 0 where nothing is active."""
        if self.active is None:
            return volume
        return torch.where(self.active.to(volume.device), volume, 0)

    def _report(self, done: int, tiles: int) -> None:
        index, passes = self.passes
        assert self.options.on_tile is not None
        self.options.on_tile(index * tiles + done, passes * tiles)


def _memory_format(framework: Framework, dim: int) -> torch.memory_format:
    """Channels last if the generator's weights are laid out so, else the ordinary one."""
    last = torch.channels_last if dim == 2 else torch.channels_last_3d
    kernels = [p for p in framework.generator.parameters() if p.ndim == dim + 2]
    laid = (p.is_contiguous(memory_format=last) and not p.is_contiguous() for p in kernels)
    return last if any(laid) else torch.contiguous_format
