"""What an experiment leaves for its reader: tables, summary, report and pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seg_eval.arms import PLUMBING, Arm
from seg_eval.experiment import Experiment
from seg_eval.pictures import Panel, draw_dice, draw_panel
from seg_eval.regions import region_masks
from seg_eval.report import COMMON_NAMES, render, write_image_scores, write_scores
from seg_eval.scores import Score, counted
from seg_eval.summary import summarise, tabulate
from synth3d.cases import Case
from synth3d.files import read_json, write_json, write_text
from synth3d.intensity import Scale, foreground
from synth3d.volumes import read, read_label

OUTPUTS = (
    "results.csv",
    "image_scores.csv",
    "summary.json",
    "report.md",
    "dice.png",
    "slices.png",
)
"""The files of a finished experiment, in reading order."""

LIBRARIES = ("torch", "nnunetv2", "scikit-learn", "numpy", "nibabel")


def write_outputs(
    experiment: Experiment, scores: Sequence[Score], images: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write all of them into the experiment's folder.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        InputError: The folder cannot be written.
    """
    plan, folder = experiment.plan, experiment.folder
    write_scores(folder / "results.csv", scores)
    write_image_scores(folder / "image_scores.csv", images)
    summary = summarise(scores, images, plan.arms, plan.empty, plan.seed)
    if plan.cohort.scheme.warning:
        summary["warnings"].append(plan.cohort.scheme.warning)
    summary |= {
        "config": plan.describe(),
        "notes": {arm.name: experiment.builder.note(arm) for arm in plan.arms},
        "seconds": read_json(folder / "times.json"),
        "versions": _versions(),
    }
    used = counted(list(scores), plan.empty)
    names, regions = [arm.name for arm in plan.arms], list(summary["regions"])
    bars = folder / "dice.png"
    missing = COMMON_NAMES[plan.missing]
    title = f"Dice without {missing}: each dot is one of {len(plan.cohort.test)} test cases"
    draw_dice(used, names, regions, title, bars)
    slices = folder / "slices.png"
    case = typical_case(used, plan.arms, plan.cohort.test)
    _draw_slices(experiment, case, slices)
    summary["pictures"] = [str(bars), str(slices)]
    write_text(folder / "report.md", render(summary))
    write_json(folder / "summary.json", summary)
    return summary


def typical_case(scores: Sequence[Score], arms: Sequence[Arm], cases: Sequence[Case]) -> Case:
    """The test case whose loss of Dice (mean over regions) is the median one; no cherry."""
    regions = sorted({row.region for row in scores})
    table = tabulate(scores, arms, regions)
    loss = np.subtract(table.columns["full"], table.columns["zero"])
    middle = table.cases[int(np.argsort(loss, kind="stable")[len(loss) // 2])]
    return next(case for case in cases if case.name == middle)


def _draw_slices(experiment: Experiment, case: Case, path: Path) -> None:
    plan, builder = experiment.plan, experiment.builder
    assert case.label is not None  # the cohort's check has seen to it
    scheme = plan.cohort.scheme
    image = read(case.images[plan.missing])
    brain = np.any([foreground(read(case.images[n]).data) for n in builder.sources], axis=0)
    real = Scale.fit(image.data, brain).apply(image.data, brain)
    panels = []
    for arm in plan.arms:
        if arm.kind == PLUMBING:
            continue
        content = builder.read(arm, case)
        seen = np.zeros_like(real)
        if content is not None:
            seen = Scale.fit(content, brain).apply(content, brain)
        labels = read_label(experiment.prediction(arm, case)).data
        panels.append(Panel(arm.name, seen, region_masks(labels, scheme)))
    truth = region_masks(read_label(case.label).data, scheme)
    title = f"{case.name} without {COMMON_NAMES[plan.missing]} (the case of median loss)"
    draw_panel(real, truth, panels, image.affine, title, path)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
