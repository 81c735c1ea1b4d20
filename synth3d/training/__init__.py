"""A run: its request, its loop, its folder."""

from synth3d.config import RunConfig
from synth3d.training.request import (
    TrainRequest,
    default_recipe,
    find_cohort,
    resolve,
    train_command,
)
from synth3d.training.run_folder import Run, load_run, read_config, read_done, read_log
from synth3d.training.trainer import Trainer

__all__ = [
    "Run",
    "RunConfig",
    "TrainRequest",
    "Trainer",
    "default_recipe",
    "find_cohort",
    "load_run",
    "read_config",
    "read_done",
    "read_log",
    "resolve",
    "train_command",
]
