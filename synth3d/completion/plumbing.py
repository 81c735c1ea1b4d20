"""The way out without a network: what the export alone costs.

Plumbing sends the *real* target through the same way out (scale, mask, turn, tiles, blending,
inverse scale, type of the file) with a network that returns its input. What it changes is what the
export costs, whatever is synthesised. Writes no file; :mod:`synth3d.completion.run` does.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from synth3d.cohort import MODALITIES, Case, Modality
from synth3d.completion.makers import Made, way_out
from synth3d.data import Prepared, fit_scale, read_on_one_grid, restore, seen
from synth3d.errors import InputError
from synth3d.images import Volume, foreground
from synth3d.inference import OnTile, sliding_window
from synth3d.training import RunConfig


class PlumbingMaker:
    """Makes the real target of a case, having sent it through the whole way out."""

    synthetic = False
    needs_all = False

    def __init__(self, missing: Sequence[Modality], config: RunConfig) -> None:
        """Take ``missing`` as what is missing; ``config`` says what the way out is like."""
        self.targets: tuple[Modality, ...] = tuple(missing)
        self.sources: tuple[Modality, ...] = tuple(m for m in MODALITIES if m not in self.targets)
        self.config, data = config, config.data
        self.common_grid = data.common_grid
        self.identity: dict[str, Any] = {
            "patch": list(data.patch),
            "overlap": list(data.overlap),
            "plumbing": True,
        } | way_out(config)
        self.name = "plumbing"
        self.title = f"plumbing: the real {'+'.join(self.targets)} through the way out"

    def make(
        self, case: Case, real: Case, wanted: Sequence[Modality], on_tile: OnTile | None
    ) -> dict[Modality, Made]:
        """As :meth:`Maker.make`: the brain is that of ``case``, the picture that of ``real``."""
        if absent := real.missing(wanted):
            raise InputError(f"case {real.name} has no real {'/'.join(absent)} to send through")
        known = [name for name in self.sources if name in case.images]
        raw = read_on_one_grid(
            replace(real, label=None), [*known, *wanted], self.config.data.common_grid
        )
        brain = np.logical_or.reduce([foreground(raw[name].data) for name in known])
        return {
            target: self._through(real, raw[target], target, brain, on_tile) for target in wanted
        }

    def _through(
        self,
        real: Case,
        volume: Volume,
        target: Modality,
        brain: np.ndarray,
        on_tile: OnTile | None,
    ) -> Made:
        data = self.config.data
        scale = fit_scale(volume.data, brain, data.intensity)
        network = {target: scale.apply(volume.data, brain)}
        prepared = Prepared(real, network, {target: scale}, brain, None, volume.affine)
        view = seen(prepared, self.config.task, data)
        result = sliding_window(
            lambda tiles: tiles,
            torch.from_numpy(view.sources([target])),
            data.patch,
            data.overlap,
            active=torch.from_numpy(np.ascontiguousarray(view.brain)),
            on_tile=on_tile,
        )
        back = restore(result.numpy(), prepared, self.config.task, data)[0]
        return Made(scale.invert(back, brain), scale, "real")
