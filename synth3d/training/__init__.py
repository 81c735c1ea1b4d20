"""A run: its request, its configuration, its loop, its folder."""

from synth3d.training.config import (
    SHARED_KEYS,
    RunConfig,
    TrainConfig,
    build_framework,
    settle,
    unusual,
)
from synth3d.training.distributed import ALONE, Ranks, joined, ranks_here
from synth3d.training.forecast import (
    Cost,
    cost_of,
    random_batch,
    recipe_facts,
    recipe_table,
    shipped_recipes,
)
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
    "Cost",
    "Ranks",
    "Run",
    "RunConfig",
    "TaughtBy",
    "TrainConfig",
    "TrainRequest",
    "Trainer",
    "begun",
    "build_framework",
    "cost_of",
    "default_recipe",
    "find_cohort",
    "joined",
    "load_run",
    "random_batch",
    "ranks_here",
    "read_config",
    "read_done",
    "read_log",
    "read_recipe",
    "recipe_facts",
    "recipe_names",
    "recipe_table",
    "resolve",
    "runs_that_make",
    "save_state",
    "seen_before",
    "settle",
    "shipped_recipes",
    "taught_by",
    "train_run",
    "unusual",
    "weights_file",
]
