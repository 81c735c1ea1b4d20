"""The real sequence sent through everything but a network: what the way out costs by itself."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from synth3d.cohort import MODALITIES, Case, Modality
from synth3d.completion.made import Made, Members
from synth3d.completion.makers.base import Maker
from synth3d.data import Prepared, fit_scale, read_on_one_grid, restore, seen
from synth3d.images import Volume, foreground
from synth3d.inference import OnTile, Tiling, sliding_window
from synth3d.training import RunConfig


class PlumbingMaker(Maker):
    """Sends the *real* target through the export with a network that returns its input.

    Scale, mask, turn, tiles, blending, inverse scale, type of the file: what this changes is what
    the export costs, whatever is synthesised.
    """

    def __init__(self, missing: Sequence[Modality], config: RunConfig) -> None:
        """Take ``missing`` as what is missing; ``config`` says what the export is like."""
        super().__init__(config, tuple(m for m in MODALITIES if m not in missing), tuple(missing))
        self.identity["plumbing"] = True
        self.title = f"plumbing: the real {'+'.join(missing)} through the way out"

    def readable(self, case: Case, hidden: Sequence[Modality]) -> Case:
        """As :meth:`Maker.readable`: all of it, since the real picture is what is sent through."""
        return case

    def trouble(self, case: Case, wanted: Sequence[Modality]) -> list[str]:
        """As :meth:`Maker.trouble`."""
        gone = ", ".join(case.missing(wanted))
        lost = [f"has no real {gone} to send through"] if gone else []
        return super().trouble(case, wanted) + lost

    def read(self, case: Case, wanted: Sequence[Modality]) -> dict[Modality, Volume]:
        """As :meth:`Maker.read`."""
        known: list[Modality] = [name for name in self.sources if name in case.images]
        grid = self.config.data.common_grid
        return read_on_one_grid(replace(case, label=None), [*known, *wanted], grid)

    def _make(
        self,
        case: Case,
        wanted: Sequence[Modality],
        content: dict[Modality, Volume],
        members: Members,
        on_tile: OnTile | None,
        explain: bool,
    ) -> dict[Modality, Made]:
        """The brain is that of the sources."""
        known = [foreground(content[name].data) for name in self.sources if name in content]
        brain = np.logical_or.reduce(known)
        return {t: self._through(case, content[t], t, brain, on_tile) for t in wanted}

    def _through(
        self,
        case: Case,
        volume: Volume,
        target: Modality,
        brain: np.ndarray,
        on_tile: OnTile | None,
    ) -> Made:
        data = self.config.data
        scale = fit_scale(volume.data, brain, data.intensity)
        network: dict[Modality, np.ndarray] = {target: scale.apply(volume.data, brain)}
        prepared = Prepared(case, network, {target: scale}, brain, None, volume.affine)
        view = seen(prepared, self.config.task, data)
        result = sliding_window(
            lambda tiles: tiles,
            torch.from_numpy(view.stack([target])),
            Tiling(data.patch, data.overlap, on_tile=on_tile),
            torch.from_numpy(np.ascontiguousarray(view.brain)),
        )
        back = restore(result.numpy(), prepared, self.config.task, data)[0]
        like = self.like(case, target)
        return Made(scale.invert(back, brain), like, scale, "real", synthetic=False)
