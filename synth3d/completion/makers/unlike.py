"""In what a case is unlike all that a run was trained on, by what the run remembers of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from synth3d.cohort import NOT_STRIPPED, skull_left
from synth3d.data import Prepared, spacing_seen
from synth3d.images import Grid
from synth3d.training import RunConfig


def unlike_training(
    trained_on: Mapping[str, Any], config: RunConfig, prepared: Prepared
) -> list[str]:
    """A clause for each thing in which a case differs from all training cases.

    Args:
        trained_on: What the run says of itself, as its ``done.json`` has it.
        config: How the run sees a case; in 2-D slices are turned alike whatever the file, so that
            only their voxels can be strange.
        prepared: The case, on its own grid.
    """
    return [
        *_strange_grid(trained_on, config, prepared),
        *_strange_head(trained_on, prepared),
    ]


def _strange_grid(
    trained_on: Mapping[str, Any], config: RunConfig, prepared: Prepared
) -> list[str]:
    found = []
    orientation = Grid(prepared.brain.shape, prepared.affine).orientation
    known = trained_on.get("orientations")
    if known and config.dim == 3 and orientation not in known:
        found.append(
            f"is oriented {orientation}, the run was trained on {', '.join(known)}; reorient "
            "it first for a result to be trusted"
        )
    known = trained_on.get("spacings_mm")
    mm = spacing_seen(prepared.grid, config.task, config.data)
    if known and not any(np.allclose(mm, other, rtol=0.2) for other in known):
        here = "×".join(f"{edge:.3g}" for edge in mm)
        there = ", ".join("×".join(f"{edge:.3g}" for edge in spacing) for spacing in known)
        axes = "(z, y, x)" if config.dim == 3 else "(row, column)"
        found.append(f"has voxels of {here} mm {axes}, the run was trained on {there} mm")
    return found


def _strange_head(trained_on: Mapping[str, Any], prepared: Prepared) -> list[str]:
    """That the skull was left on, unless the run learnt from heads with theirs.

    A run of before does not say what it learnt from, nor does it keep anything that would tell.
    """
    known = trained_on.get("with_skulls")
    if known or not (why := skull_left(prepared.brain, prepared.grid.spacing_mm)):
        return []
    unless = "" if known is False else ", unless the run learnt from heads with their skulls"
    return [f"{NOT_STRIPPED}: {why}; strip it first{unless}"]
