"""A run: its request, its configuration, its loop, its folder."""

from synth3d.training.config import SHARED_KEYS, RunConfig, TrainConfig, build_framework
from synth3d.training.distributed import ALONE, Ranks, joined, ranks_here
from synth3d.training.recipes import read_recipe, recipe_names
from synth3d.training.request import TrainRequest, default_recipe, find_cohort, resolve, train_run
from synth3d.training.run_folder import (
    Run,
    load_run,
    read_config,
    read_done,
    read_log,
    runs_that_make,
    save_state,
    weights_file,
)
from synth3d.training.start import TaughtBy, begun, seen_before, taught_by
from synth3d.training.trainer import Trainer

__all__ = [
    "ALONE",
    "SHARED_KEYS",
    "Ranks",
    "Run",
    "RunConfig",
    "TaughtBy",
    "TrainConfig",
    "TrainRequest",
    "Trainer",
    "begun",
    "build_framework",
    "default_recipe",
    "find_cohort",
    "joined",
    "load_run",
    "ranks_here",
    "read_config",
    "read_done",
    "read_log",
    "read_recipe",
    "recipe_names",
    "resolve",
    "runs_that_make",
    "save_state",
    "seen_before",
    "taught_by",
    "train_run",
    "weights_file",
]
