"""All stages of an experiment up to its scores; each leaves files, and none is done twice."""

from dataclasses import asdict, replace
from typing import Any

from seg_eval.arms import Arm
from seg_eval.experiment.folder import Experiment
from seg_eval.experiment.pins import pin_case_files, pin_segmenters, refuse_teachers
from seg_eval.experiment.predict import missing_predictions, predict, train_segmenters
from seg_eval.records import read_image_scores, read_scores, timed
from seg_eval.scoring import Score, channel_scores, region_masks, score_case
from synth3d.console import Steps
from synth3d.files import progress, write_json
from synth3d.images import read, read_label

Rows = list[dict[str, Any]]


def scores_of(experiment: Experiment, steps: Steps) -> tuple[list[Score], Rows]:
    """Do whatever is not yet done; the score rows and the image-score rows of what is judged."""
    plan, folder = experiment.plan, experiment.folder
    if experiment.fills_in:
        made = sum(arm.has_files for arm in plan.arms)
        verb = "restoring" if plan.degraded else "filling in"
        steps.begin(f"{verb} {' and '.join(plan.missing)} in {made} ways")
    files = pin_case_files(experiment)
    for arm in plan.arms:
        if not experiment.builder.is_finished(arm):
            with timed(folder, f"arm {arm.name}"):
                experiment.builder.build(arm)
    models = train_segmenters(experiment, files, steps)
    refuse_teachers(plan, models)
    pin_segmenters(experiment, models)
    steps.begin(f"segmenting {len(plan.cohort.test)} cases in {len(plan.arms)} arms")
    for key, todo in missing_predictions(experiment).items():
        with timed(folder, "predictions"):
            predict(experiment, key, models[key], todo)
    steps.begin("scoring and writing the report")
    for arm in plan.arms:
        for seed in plan.seeds:
            path = experiment.score_file(arm, seed)
            if not path.is_file():
                with timed(folder, f"scores {arm.name}"):
                    write_json(path, score_arm(experiment, arm, seed))
        path = experiment.image_file(arm)
        if arm.has_own_files and not path.is_file():
            with timed(folder, f"image scores {arm.name}"):
                write_json(path, score_images(experiment, arm))
    return _all_rows(experiment)


def _all_rows(experiment: Experiment) -> tuple[list[Score], Rows]:
    """Of what is judged; rows of a merged arm name the replicate that they are of."""
    plan = experiment.plan
    rows: list[Score] = []
    images: Rows = []
    lacking = {case.name: plan.gaps.of(case) for case in plan.cohort.test}
    for name, arm in [(name, arm) for name, arms in plan.groups.items() for arm in arms]:
        merged = {} if arm.name == name else {"arm": name, "replicate": arm.name}
        for seed in plan.seeds:
            found = read_scores(experiment.score_file(arm, seed), arm.name, seed, plan.tested)
            rows += [replace(row, **merged) for row in found]
        if arm.has_own_files:
            path = experiment.image_file(arm)
            scored = read_image_scores(path, arm.name, plan.tested, lacking)
            images += [row | merged for row in scored]
    return rows, images


def score_arm(experiment: Experiment, arm: Arm, seed: int) -> Rows:
    """Scores of an arm's predictions by the segmenter of one seed: every region of every case."""
    cases, schemes = experiment.plan.cohort.test, experiment.plan.cohort.schemes
    rows: Rows = []
    for case in progress(cases, desc=f"scoring {arm.name}, seed {seed}", unit="case"):
        label, scheme = read_label(case.label), schemes[case.name]
        truth = region_masks(label.data, scheme)
        found = region_masks(read_label(experiment.prediction(arm, case, seed)).data, scheme)
        about, tolerance = (case.name, case.patient, arm.name, seed), experiment.plan.nsd_tolerance
        scores = score_case(about, truth, found, label.spacing_mm, tolerance)
        rows += map(asdict, scores)
    return rows


def score_images(experiment: Experiment, arm: Arm) -> Rows:
    """Scores of an arm's channels against the real ones: every sequence of every case."""
    plan, builder = experiment.plan, experiment.builder
    rows: Rows = []
    for case in progress(plan.cohort.test, desc=f"images of {arm.name}", unit="case"):
        brain = builder.brain(case)
        tumour = region_masks(read_label(case.label).data, plan.cohort.schemes[case.name])["WT"]
        for modality in plan.gaps.of(case):
            real, made = read(case.images[modality]), read(builder.path(arm, case, modality))
            scores = channel_scores(real.data, made.data, brain, tumour)
            about = {"case": case.name, "patient": case.patient, "arm": arm.name}
            rows.append({**about, "modality": modality, **scores})
    return rows
