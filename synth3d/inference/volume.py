"""A framework over a whole volume: one pass of tiles, or one for every step of a diffusion.

A diffusion that ran tile by tile to its end would make another image in each tile, and blending
them would blur what they disagree about. So the tiles' predictions are blended at every step, over
one noisy volume, and the step is made on the volume (MultiDiffusion, Bar-Tal et al. 2023).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from synth3d.errors import lacks_memory
from synth3d.frameworks import Diffusion, Framework
from synth3d.inference.tiles import Tiling, sliding_window, tiles_per_call


@dataclass(frozen=True)
class SynthesisOptions(Tiling):
    """How a volume is made: in tiles of the size of training, at least two a call on a CPU.

    A diffusion takes so many ``steps`` (None: what its options say), of all of which ``on_tile``
    is told; ``seed`` decides all its randomness. With the name of a ``map`` of
    :meth:`synth3d.frameworks.Framework.explain` that is made in the place of the targets.
    """

    steps: int | None = None
    seed: int = 0
    map: str = ""


@torch.no_grad()
def synthesize_volume(
    framework: Framework,
    sources: Tensor,
    present: Tensor,
    wanted: Tensor,
    options: SynthesisOptions,
    active: Tensor | None = None,
) -> Tensor:
    """All targets of one volume, (T, D, H, W) float32 in the network's scale, where sources are.

    Volumes are kept and blended on the device of the generator, and the result goes home once. If
    that device has not the memory, all is done again with the volumes at home and, unless told how
    many, two tiles a call; if it has not enough even then, its error is raised.

    The same arguments give the same volume, up to rounding whatever the batch: random numbers are
    drawn on the CPU for the whole volume from the seed, never for tiles.

    Args:
        framework: In evaluation mode; tiles have the memory format of its weights.
        sources: (S, D, H, W) float32 in the network's scale, absent ones 0, on any device. With a
            2-D framework axis D is that of the slices.
        present: (S,) bool.
        wanted: (T,) bool; what is not wanted is free.
        options: Tiles, steps and seed.
        active: (D, H, W) bool, where a result is wanted; None is everywhere. A diffusion should be
            given all of the brain: what is not active stays blank at all its steps.
    """
    home, device = sources.device, _weights(framework).device
    try:
        made = _made_on(device, framework, sources, present, wanted, options, active)
    except RuntimeError as error:  # cuDNN and cuBLAS have not torch's class for it
        if home == device or not lacks_memory(error):
            raise
        made = None
    if made is None:  # no longer in the handler, which would keep what was allocated alive
        torch.cuda.empty_cache()
        frugal = replace(options, batch=options.batch or 2)
        made = _made_on(home, framework, sources, present, wanted, frugal, active)
    return made.to(home)


def _made_on(
    place: torch.device,
    framework: Framework,
    sources: Tensor,
    present: Tensor,
    wanted: Tensor,
    options: SynthesisOptions,
    active: Tensor | None,
) -> Tensor:
    """:func:`synthesize_volume` with all volumes on ``place``, where the result is, too."""
    device, layout = _weights(framework).device, _memory_format(framework, len(options.patch))
    batch, sources = tiles_per_call(options.batch, device), sources.to(place)
    active = None if active is None else active.cpu()
    masks = [mask.to(device).expand(batch, -1) for mask in (present, wanted)]

    def over(
        network: Callable[[Tensor], Tensor], volume: Tensor, channels: int, at: int = 0, of: int = 1
    ) -> Tensor:
        """``network`` on the tiles of ``volume``, blended: pass ``at`` of so many."""

        def on_tiles(tiles: Tensor) -> Tensor:
            made = network(tiles.to(device).contiguous(memory_format=layout))
            return made.float().to(volume.device)

        def report(done: int, tiles: int) -> None:
            if options.on_tile is not None:
                options.on_tile(at * tiles + done, of * tiles)

        tiling = Tiling(options.patch, options.overlap, batch, report)
        return sliding_window(on_tiles, volume, tiling, active, channels)

    if options.map:
        return over(lambda x: framework.explain(x, *masks)[options.map], sources, len(wanted))
    if not isinstance(framework, Diffusion):
        make = partial(framework.synthesize, present=masks[0], wanted=masks[1], seed=options.seed)
        return over(make, sources, len(wanted))
    n_sources, times = len(sources), framework.times(options.steps)
    outputs = framework.channels(n_sources, len(wanted))[1]
    draws = torch.Generator().manual_seed(options.seed)
    inside = (torch.ones((), dtype=torch.bool) if active is None else active).to(place)
    state = framework.start(sources.shape[1:], draws).to(place)
    for index, time in enumerate(times):

        def predict(tiles: Tensor, time: int = time) -> Tensor:
            return framework.predict(tiles[:, :n_sources], tiles[:, n_sources:], time, *masks)

        prediction = over(predict, torch.cat([sources, state]), outputs, index, len(times))
        state = framework.step(state, prediction, index, draws, options.steps)
        state = torch.where(inside, state, 0)
    return torch.where(inside, framework.finish(state), 0)


def _weights(framework: Framework) -> Tensor:
    """One of the generator's weights, which says where it is; a generator may have none."""
    return next(framework.generator.parameters(), torch.zeros(()))


def _memory_format(framework: Framework, dim: int) -> torch.memory_format:
    """Channels last if the generator's weights are laid out so, else the ordinary one."""
    last = torch.channels_last if dim == 2 else torch.channels_last_3d
    kernels = [p for p in framework.generator.parameters() if p.ndim == dim + 2]
    laid = (p.is_contiguous(memory_format=last) and not p.is_contiguous() for p in kernels)
    return last if any(laid) else torch.contiguous_format
