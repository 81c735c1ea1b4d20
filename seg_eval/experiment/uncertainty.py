"""How uncertain the channel of each case is, by the map that lies beside it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from seg_eval.analysis import tell_uncertainty
from seg_eval.arms import Arm
from seg_eval.experiment.folder import Experiment
from seg_eval.scoring import Score, region_masks
from synth3d.cohort import Case
from synth3d.images import read, read_label

TELLING = ("interval", "spread")
"""Maps that say how wrong a picture may be, the better one first."""


def told_uncertainty(experiment: Experiment, scores: Sequence[Score]) -> list[dict[str, Any]]:
    """:func:`seg_eval.analysis.tell_uncertainty` of each synthetic arm whose cases all have maps.

    Arms without maps, or whose folder is gone, say nothing and are left out. Replicates of a merged
    arm have maps of their own, and speak for themselves.
    """
    scores = [replace(row, arm=row.replicate or row.arm) for row in scores]
    found = []
    counted = {row.case for row in scores}
    cases = [case for case in experiment.plan.cohort.test if case.name in counted]
    for arm in experiment.plan.arms:
        if arm.about.group != "synthesis":
            continue
        sizes = {case.name: case_uncertainty(experiment, arm, case) for case in cases}
        known = {name: size for name, size in sizes.items() if size is not None}
        if known and len(known) == len(cases):
            found.append(tell_uncertainty(scores, arm.name, known))
    return found


def case_uncertainty(experiment: Experiment, arm: Arm, case: Case) -> float | None:
    """The mean of the map where the tumour was found, in shares of the picture's median; or None.

    Found by any seed's segmenter; all of the brain where none found any. Of several missing
    sequences the mean. Never 0: a map of zeros is as sure as single precision tells.
    """
    builder, plan = experiment.builder, experiment.plan
    brain, scheme = builder.brain(case), plan.cohort.schemes[case.name]
    tumour = np.zeros(brain.shape, bool)
    for seed in plan.seeds:
        labels = read_label(experiment.prediction(arm, case, seed)).data
        tumour |= region_masks(labels, scheme)["WT"]
    where = tumour & brain if (tumour & brain).any() else brain
    sizes = []
    for modality in plan.gaps.of(case):
        maps = builder.maps(arm, case, modality)
        name = next((one for one in TELLING if one in maps and maps[one].is_file()), None)
        if name is None:
            return None
        volume, picture = read(maps[name]).data, read(builder.path(arm, case, modality)).data
        if volume.shape != brain.shape:
            return None
        middle = max(abs(float(np.median(picture[brain]))), 1e-6)
        sizes.append(float(volume[where].mean()) / middle)
    return max(float(np.mean(sizes)), 1e-6)
