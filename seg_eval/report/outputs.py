"""What an experiment leaves for its reader: tables, summary, report, page and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seg_eval.analysis import spoken, summarise
from seg_eval.arms import Arm, Completed, SynthesisRun, kinds_with
from seg_eval.experiment import Experiment, Plan
from seg_eval.records import GUARD, Pin, read_times
from seg_eval.report.markdown import render, write_image_scores, write_scores
from seg_eval.report.page import write_page
from seg_eval.report.pictures import Panel, draw_dice, draw_panel, draw_scatter, error_and_loss
from seg_eval.report.volumes import ArmVolumes, CaseVolumes
from seg_eval.scoring import Score, counted, region_masks
from seg_eval.segmenter import BEST, FINAL
from synth3d.cohort import Case, Modality
from synth3d.errors import InputError
from synth3d.files import sha256, write_json, write_text
from synth3d.images import Scale, read, read_label
from synth3d.settings import read_as

OUTPUTS = (
    "report.html",
    "report.md",
    "results.csv",
    "image_scores.csv",
    "summary.json",
    "dice.png",
    "slices.png",
    "scatter.png",
)
"""The files of a finished experiment, in reading order."""

LIBRARIES = ("torch", "nnunetv2", "scikit-learn", "numpy", "nibabel", "torchio")


def write_outputs(
    experiment: Experiment, scores: Sequence[Score], images: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write all of them into the experiment's folder.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        InputError: The folder cannot be written, or no score counts.
    """
    plan, folder = experiment.plan, experiment.folder
    if not counted(list(scores), plan.empty):
        raise InputError(
            "no test case has a tumour, so the rule --empty skip leaves nothing to judge; choose "
            "--empty brats or other test cases"
        )
    write_scores(folder / "results.csv", scores)
    write_image_scores(folder / "image_scores.csv", images)
    summary = summarise(
        scores, images, plan.arms, plan.empty, plan.seed, margin=plan.margin, missing=plan.missing
    )
    summary["warnings"] += _warnings(plan)
    times = read_times(folder)
    summary |= {
        "config": plan.describe(),
        "notes": {arm.name: experiment.builder.note(arm) for arm in plan.arms},
        "seconds": times.seconds,
        "peak_memory_mb": times.peak_memory_mb,
        "versions": _versions(),
        "hashes": _hashes(experiment),
        "commands": experiment.commands(),
    }
    shown = chosen_cases(counted(list(scores), plan.empty), plan.arms, plan.cohort.test)
    summary["cases"] = [
        {"case": case.name, "patient": case.patient, "role": role} for role, case in shown.items()
    ]
    volumes = [
        case_volumes(experiment, case, role, modality)
        for role, case in shown.items()
        for modality in plan.missing
    ]
    view = next(view for view in volumes if view.role == "median")
    summary["pictures"] = _draw(experiment, scores, images, summary, view)
    write_text(folder / "report.md", render(summary))
    write_page(folder, summary, list(scores), list(images), volumes)
    write_json(folder / "summary.json", summary)
    return summary


def chosen_cases(
    scores: Sequence[Score], arms: Sequence[Arm], cases: Sequence[Case]
) -> dict[str, Case]:
    """Whom to look at: where the first synthetic arm does worst, middling and best; no cherry.

    A case's figure is its Dice, a mean over regions and seeds, for the first synthetic arm;
    without one, what it loses when the sequence is blanked (most lost is worst). With fewer
    than three cases, some roles are left out.
    """
    synthetic = [arm.name for arm in arms if arm.about.is_synthesis]

    def mean(arm: str, case: Case) -> float:
        found = [row.dice for row in scores if row.arm == arm and row.case == case.name]
        return float(np.mean(found)) if found else np.nan

    scored = [case for case in cases if np.isfinite(mean("full", case))]
    if synthetic:
        figures = [mean(synthetic[0], case) for case in scored]
    else:
        figures = [mean("zero", case) - mean("full", case) for case in scored]
    order = [scored[i] for i in np.argsort(figures, kind="stable")]
    roles = {"worst": order[0], "best": order[-1], "median": order[len(order) // 2]}
    # With one or two cases the median keeps its picture and the others would repeat it.
    named: dict[str, Case] = {}
    for role in ("median", "worst", "best"):
        if roles[role] not in named.values():
            named[role] = roles[role]
    return {role: named[role] for role in ("worst", "median", "best") if role in named}


def case_volumes(experiment: Experiment, case: Case, role: str, modality: Modality) -> CaseVolumes:
    """A test case as the page shows it: one missing channel and all predictions of one seed."""
    plan, builder = experiment.plan, experiment.builder
    assert case.label is not None  # the cohort's check has seen to it
    scheme = plan.cohort.scheme
    image = read(case.images[modality])
    brain = builder.brain(case)
    arms = {}
    for arm in plan.arms:
        made = builder.read(arm, case)[modality]
        seen = None if made is None else Scale.fit(made, brain).apply(made, brain)
        labels = read_label(experiment.prediction(arm, case, plan.seeds[0])).data
        arms[arm.name] = ArmVolumes(seen, region_masks(labels, scheme))
    return CaseVolumes(
        case=case.name,
        patient=case.patient,
        role=role,
        modality=modality,
        real=Scale.fit(image.data, brain).apply(image.data, brain),
        arms=arms,
        truth=region_masks(read_label(case.label).data, scheme),
        affine=image.affine,
        spacing_mm=image.spacing_mm,
    )


def _draw(
    experiment: Experiment,
    scores: Sequence[Score],
    images: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    view: CaseVolumes,
) -> list[str]:
    """The PNG figures, one of them of the case ``view``; names of the files."""
    plan, folder = experiment.plan, experiment.folder
    names = [arm.name for arm in plan.arms]
    missing = spoken(plan.missing)
    title = f"Dice without {missing}: each dot is one of {len(plan.cohort.test)} test cases"
    used = counted(list(scores), plan.empty)
    draw_dice(used, names, list(summary["regions"]), title, folder / "dice.png")
    kinds = {arm.name: arm.kind for arm in plan.arms}
    panels = [
        Panel(name, np.zeros_like(view.real) if seen.channel is None else seen.channel, seen.masks)
        for name, seen in view.arms.items()
        if kinds[name] not in kinds_with("is_check")
    ]
    title = f"{view.case} without {missing} (the median case)"
    path = folder / "slices.png"
    draw_panel(view.real, view.truth, panels, view.affine, title, path)
    filled = [arm.name for arm in plan.arms if arm.has_files and not arm.of]
    made = [name for name in filled if kinds[name] not in kinds_with("is_check")]
    defined = [row for row in used if summary["regions"][row.region]["gap_defined"]]
    points = error_and_loss(defined, images, made)
    if points:
        title = f"Error of the filled-in {missing} against the Dice lost, by case"
        draw_scatter(points, title, folder / "scatter.png")
    return [name for name in OUTPUTS if name.endswith(".png") and (folder / name).is_file()]


def _warnings(plan: Plan) -> list[str]:
    """What a reader has to know that the figures do not say."""
    found = [plan.cohort.scheme.warning] if plan.cohort.scheme.warning else []
    kinds = {arm.kind for arm in plan.arms}
    if absent := [kind for kind in kinds_with("own_segmenter") if kind not in kinds]:
        found.append(
            f"not run: {', '.join(absent)}; whether training a segmenter for the missing sequence "
            "would do better than filling it in is open (--arms all)"
        )
    if plan.foreign is not None:
        found.append(
            f"whether the segmenter {plan.foreign.name} was trained on test cases cannot be told "
            "from its files; if it was, every figure here is too good"
        )
        if kinds & set(kinds_with("own_segmenter")):
            found.append(
                f"the honest rivals were trained here with the preset {plan.preset}, the frozen "
                "segmenter elsewhere: they differ in more than their input"
            )
    other = [arm for arm in plan.arms if arm.about.is_synthesis]
    if unknown := [arm.name for arm in other if not isinstance(arm.source, SynthesisRun)]:
        found.append(
            f"what {', '.join(unknown)} learned from is not known here; if test cases were among "
            "it, its figures are too good"
        )
    if taught := [arm.of for arm in plan.arms if isinstance(arm.source, Completed) and arm.of]:
        found.append(
            f"retrained learned from the files of {taught[0]}; if these are of a network that "
            "had seen the same training cases, it met better images in training than in the test"
        )
    return found


def _hashes(experiment: Experiment) -> dict[str, str]:
    """SHA-256 of whatever was learned: synthesisers and segmenters."""
    found: dict[str, str] = {}
    for arm in experiment.plan.arms:
        if isinstance(arm.source, SynthesisRun):
            found[f"synthesiser {arm.source.name}"] = arm.source.weights_sha256
    models = read_as(dict[str, Pin], experiment.folder / "segmenters.json", GUARD)
    for name in (f"{kind}-seed{seed}" for kind, seed in experiment.segmenters()):
        folder = Path(models[name].model)
        final, best = (folder.glob(f"fold_*/{file}") for file in (FINAL, BEST))
        for path in sorted(final) or sorted(best):
            found[f"segmenter {name} {path.parent.name}"] = sha256(path)
    return found


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
