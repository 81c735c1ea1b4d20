"""Who a training would see, told before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from synth3d.cohort import Case, Modality, Splits, readings_of
from synth3d.data import thick_cases
from synth3d.images import grid
from synth3d.training.config import RunConfig
from synth3d.training.loop import cases_read, left_out, used_of


@dataclass(frozen=True)
class CasesAhead:
    """Who a training would see.

    Attributes:
        learnt: How many it learns from, ``validated`` how many it is chosen by, and ``test`` how
            many it never sees.
        left_out: Reason → names of cases of the split that are not used for it.
        bytes_prepared: The most that they take on disk once they are prepared.
        phantoms: How many of them are to be made first; then nothing else is known.
    """

    learnt: int = 0
    validated: int = 0
    test: int = 0
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    bytes_prepared: int = 0
    phantoms: int = 0


def cases_ahead(config: RunConfig, cases: Sequence[Case], splits: Splits) -> CasesAhead:
    """Who would be learnt from; headers and labels are judged as a training does.

    Raises:
        InputError: As :func:`synth3d.training.loop.cases_read`.
    """
    learn, check = cases_read(config, cases, splits, aloud=False)
    readings_of([*learn, *check], config.data.labels or None)
    used = used_of(cases, splits)
    thick = thick_cases(used, config.task, config.data, voxels=False)
    names: set[Modality] = {*config.sources, *config.targets}
    sizes = [
        max(prod(grid(case.images[name]).shape_zyx) for name in names & case.images.keys())
        for case in [*learn, *check]
    ]
    counts = len(learn), len(check), len(splits.test)
    return CasesAhead(*counts, left_out(config, used, thick), sum(sizes) * _bytes_a_voxel(config))


def phantoms_ahead(config: RunConfig, count: int, side: int) -> CasesAhead:
    """So many simulated brains that are to be made first, of ``side``³ voxels."""
    return CasesAhead(bytes_prepared=_bytes_a_voxel(config) * count * side**3, phantoms=count)


def _bytes_a_voxel(config: RunConfig) -> int:
    """Of a prepared case on disk: two of each sequence, and one for the masks."""
    return 2 * len({*config.sources, *config.targets}) + 1
