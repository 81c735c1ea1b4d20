"""``--transfer``: the same arms, seen once more by segmenters of another architecture.

What pleases the segmenters of one architecture may please no other. So those of another preset are
trained on the same cases with the same seeds, and judge the very same files.
"""

from dataclasses import replace

from seg_eval.experiment.folder import Experiment
from seg_eval.experiment.plan import differences
from seg_eval.records import read_config
from synth3d.errors import InputError
from synth3d.files import place

TRANSFER = "transfer"
"""Folder, in that of an experiment, of those whose judges are of other presets."""


def transfer_of(experiment: Experiment, preset: str) -> Experiment:
    """``experiment`` with judges of ``preset``, in a folder inside it; nothing is written.

    Arms with a segmenter of their own are left out: they would be other arms.

    Raises:
        InputError: The folder holds another experiment.
    """
    plan = experiment.plan
    arms = tuple(arm for arm in plan.arms if not arm.about.own_segmenter)
    plan = replace(plan, preset=preset, foreign=None, arms=arms)
    folder = place(experiment.folder, TRANSFER, preset)
    if found := differences(read_config(folder), plan.describe()):
        raise InputError(
            f"{folder} holds another experiment ({'; '.join(found)}); give another --name"
        )
    return Experiment(plan, folder, experiment.models, experiment.engines, experiment.folder)
