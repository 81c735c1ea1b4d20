"""A case as the network is fed: prepared, drawn as patches or slices, batched."""

from synth3d.data.batch import Batch
from synth3d.data.feeding import check_workers
from synth3d.data.misalign import misalign
from synth3d.data.options import DataConfig, MisalignConfig
from synth3d.data.patches import Stream, to_subject
from synth3d.data.prepared import (
    Prepared,
    fit_scale,
    prepare,
    prepare_read,
    read_on_one_grid,
    refuse_headers,
)
from synth3d.data.roles import Roles
from synth3d.data.slices import restore, seen, spacing_seen
from synth3d.data.task import Task, seed_of

__all__ = [
    "Batch",
    "DataConfig",
    "MisalignConfig",
    "Prepared",
    "Roles",
    "Stream",
    "Task",
    "check_workers",
    "fit_scale",
    "misalign",
    "prepare",
    "prepare_read",
    "read_on_one_grid",
    "refuse_headers",
    "restore",
    "seed_of",
    "seen",
    "spacing_seen",
    "to_subject",
]
