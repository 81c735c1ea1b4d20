"""One experiment in its folder, from what a user asks to its scores."""

from seg_eval.experiment.ahead import (
    INCOMPLETE,
    SMALL,
    arms_in_words,
    experiment_plan,
    plan_in_words,
    preset_facts,
    presets_in_words,
    steps_left,
    steps_of,
    time_in_words,
    trainings_ahead,
    unused_in_words,
)
from seg_eval.experiment.choice import Choice, arms_ahead, choose, train_synthesiser, training_of
from seg_eval.experiment.coupled import teacher_of, teaching_split, train_coupled
from seg_eval.experiment.engines import Engines, real_engines
from seg_eval.experiment.folder import Experiment, find_experiment
from seg_eval.experiment.pins import expected, refuse_teachers
from seg_eval.experiment.plan import Plan, choose_folder, make_plan, remembered
from seg_eval.experiment.request import RunRequest
from seg_eval.experiment.score import scores_of
from seg_eval.experiment.transfer import TRANSFER, transfer_of
from seg_eval.experiment.uncertainty import told_uncertainty

__all__ = [
    "INCOMPLETE", "SMALL", "TRANSFER", "Choice", "Engines", "Experiment", "Plan", "RunRequest",
    "arms_ahead", "arms_in_words", "choose", "choose_folder", "expected", "experiment_plan",
    "find_experiment", "make_plan", "plan_in_words", "preset_facts", "presets_in_words",
    "real_engines", "refuse_teachers", "remembered", "scores_of", "steps_left", "steps_of",
    "teacher_of", "teaching_split", "time_in_words", "told_uncertainty", "train_coupled",
    "train_synthesiser", "training_of", "trainings_ahead", "transfer_of", "unused_in_words",
]  # fmt: skip
