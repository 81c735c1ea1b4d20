"""What stands in the missing channel; the table of kinds is loaded at once, the rest when used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seg_eval.arms.kinds import (
    ARM_KINDS,
    Arm,
    ArmKind,
    floor_of,
    help_on_arms,
    kinds_with,
    name_arms,
    parse_kinds,
    split_words,
)

if TYPE_CHECKING:
    from seg_eval.arms.baselines import share_one_grid
    from seg_eval.arms.build import ArmBuilder
    from seg_eval.arms.completed import Completed, parse_completed
    from seg_eval.arms.cross_fit import CrossFit, check_out_of_fold, deal_patients, out_of_fold
    from seg_eval.arms.gaps import RANDOM, Gaps, draw_gaps
    from seg_eval.arms.poor import Degradation, PoorScans, Resample, parse_degraded
    from seg_eval.arms.program import Program, StageFailedError, forecast_of, run_synth3d
    from seg_eval.arms.replicates import grouped, read_replicates, settings_of
    from seg_eval.arms.synthesisers import (
        SynthesisRun,
        Teacher,
        finished_runs,
        read_mean,
        read_run,
        threads_begun,
    )

__all__ = [
    "ARM_KINDS", "Arm", "ArmBuilder", "ArmKind", "Completed", "CrossFit", "Degradation", "Gaps",
    "PoorScans", "Program", "RANDOM", "Resample", "StageFailedError", "SynthesisRun", "Teacher",
    "check_out_of_fold", "deal_patients", "draw_gaps", "finished_runs", "floor_of", "forecast_of",
    "grouped", "help_on_arms", "kinds_with", "name_arms", "out_of_fold", "parse_completed",
    "parse_degraded", "parse_kinds", "read_mean", "read_replicates", "read_run", "run_synth3d",
    "settings_of", "share_one_grid", "split_words", "threads_begun",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What the files of this folder have, loaded when used: ``seg_eval --help`` is instant."""
    files = ("gaps", "program", "synthesisers", "replicates", "completed", "baselines", "poor")
    for file in (*files, "cross_fit", "build"):
        if name in __all__ and hasattr(found := import_module(f"seg_eval.arms.{file}"), name):
            return getattr(found, name)
    raise AttributeError(name)
