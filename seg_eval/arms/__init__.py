"""What stands in the missing channel."""

from seg_eval.arms.baselines import share_one_grid
from seg_eval.arms.build import ArmBuilder
from seg_eval.arms.completed import Completed, parse_completed
from seg_eval.arms.cross_fit import check_out_of_fold, out_of_fold
from seg_eval.arms.kinds import (
    ARM_KINDS,
    PLUMBING,
    RETRAINED_KINDS,
    SYNTHETIC,
    Arm,
    ArmKind,
    name_arms,
    parse_kinds,
)
from seg_eval.arms.synthesisers import (
    Program,
    StageFailedError,
    SynthesisRun,
    finished_runs,
    read_run,
    run_synth3d,
)

__all__ = [
    "ARM_KINDS",
    "ArmKind",
    "Arm",
    "ArmBuilder",
    "Completed",
    "PLUMBING",
    "Program",
    "RETRAINED_KINDS",
    "SYNTHETIC",
    "StageFailedError",
    "SynthesisRun",
    "check_out_of_fold",
    "finished_runs",
    "name_arms",
    "out_of_fold",
    "parse_completed",
    "parse_kinds",
    "read_run",
    "run_synth3d",
    "share_one_grid",
]
