"""The segmenters of an experiment, and what they see in each arm of each test case."""

from pathlib import Path

import numpy as np

from seg_eval.arms import ARM_KINDS, Arm, CrossFit, out_of_fold
from seg_eval.cohort import LabelledCase
from seg_eval.experiment.ahead import seconds_ahead
from seg_eval.experiment.folder import Experiment, Key
from seg_eval.records import CaseMarks, digest, timed
from seg_eval.scoring import from_brats_2023
from seg_eval.segmenter import Training
from synth3d.cohort import MODALITIES
from synth3d.console import Steps
from synth3d.errors import InputError
from synth3d.files import progress
from synth3d.images import read, write_like

Todo = list[tuple[LabelledCase, list[Arm]]]
"""Test cases with the arms that a segmenter has not seen yet."""


def train_segmenters(experiment: Experiment, files: CaseMarks, steps: Steps) -> dict[Key, Path]:
    """The model folder of each segmenter, trained now if it is not there."""
    return {key: _model(experiment, key, files, steps) for key in experiment.segmenters()}


def _model(experiment: Experiment, key: Key, files: CaseMarks, steps: Steps) -> Path:
    (name, seed), plan = key, experiment.plan
    if plan.foreign is not None and plan.is_foreign(name):
        return plan.foreign
    kind = ARM_KINDS.get(name)
    known = (plan.cohort, experiment.models, plan.preset, seed, plan.threads)
    told = "" if kind is None else f", {name}"
    task = Training(*known, kind, plan.missing)
    steps.begin(
        f"training the segmenter ({plan.preset}{told}, seed {seed})",
        lambda: seconds_ahead(task, plan, experiment.engines),
    )
    replace = {}
    if kind is not None and kind.learns_from_synthesis:
        with timed(experiment.folder, "out-of-fold synthesis"):
            replace = dict(out_of_fold(_cross_fit(experiment, name, files)))
    task = Training(*known, kind, plan.missing, replace)
    with timed(experiment.folder, f"segmenter {name}"):
        return experiment.engines.train_segmenter(task)


def _cross_fit(experiment: Experiment, segmenter: str, files: CaseMarks) -> CrossFit:
    """Of the arm that ``segmenter`` looks at, in a folder named by all that it depends on."""
    plan = experiment.plan
    arm = next(arm for arm in plan.arms if arm.segmenter == segmenter)
    origin = plan.describe()["arms"][arm.name]
    images = [case.images[name] for case in plan.cohort.train for name in MODALITIES]
    contents = [files[str(path.absolute())][2] for path in images]
    about = [origin, plan.missing, contents]
    about += [plan.degraded.describe()] if plan.degraded else []
    folder = experiment.models / "out-of-fold" / digest(*about)[:12]
    return CrossFit(
        arm,
        plan.cohort,
        plan.missing,
        plan.folds,
        folder,
        experiment.engines.synth3d,
        max(1, plan.threads // plan.workers),
        plan.workers,
        experiment.note_command,
        experiment.poor,
    )


def missing_predictions(experiment: Experiment) -> dict[Key, Todo]:
    """Per segmenter and test case, the arms that it has not seen yet."""
    todo: dict[Key, Todo] = {}
    for kind, seed in experiment.segmenters():
        seen = [arm for arm in experiment.plan.arms if arm.segmenter == kind]
        for case in experiment.plan.cohort.test:
            arms = [a for a in seen if not experiment.prediction(a, case, seed).is_file()]
            if arms:
                todo.setdefault((kind, seed), []).append((case, arms))
    return todo


def predict(experiment: Experiment, key: Key, model: Path, todo: Todo) -> None:
    """Write the predictions of one segmenter, each in the labels of its case."""
    (kind, seed), plan, engines = key, experiment.plan, experiment.engines
    load = engines.open_segmenter if plan.is_foreign(kind) else engines.load_segmenter
    segment = load(model, plan.threads)
    steps = sum(len(arms) for _, arms in todo)
    bar = progress(range(steps), desc=f"segmenting ({kind}, seed {seed})", unit="volume")
    for case, arms in todo:
        spacing = read(case.images[MODALITIES[0]]).spacing_mm
        real = {name: read(case.images[name]).data for name in MODALITIES}
        for arm in arms:
            next(bar)
            channels = {
                name: np.zeros_like(real[name]) if volume is None else volume
                for name, volume in (real | experiment.builder.read(arm, case)).items()
            }
            try:
                labels = segment(channels, spacing)
            except InputError as error:
                raise InputError(f"arm {arm.name}, case {case.name}: {error}") from error
            labels = from_brats_2023(labels, plan.cohort.schemes[case.name])
            path, mark = experiment.prediction(arm, case, seed), f"PREDICTION arm {arm.name}"
            write_like(case.label, labels, path, description=f"{mark} by seg_eval")
    list(bar)
