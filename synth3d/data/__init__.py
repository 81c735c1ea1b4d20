"""A case as the network is fed: prepared, drawn as patches or slices, batched."""

from synth3d.data.batch import Batch, head_of, only, varied
from synth3d.data.cache import LIMIT_GB, Hashes, Packed, Store, hashes_of, pack
from synth3d.data.degrade import degrade, thick_cases
from synth3d.data.feeding import check_workers
from synth3d.data.misalign import lengths, misalign, motion_seed, moved
from synth3d.data.options import DataConfig, DegradeConfig, MisalignConfig
from synth3d.data.patches import Stream
from synth3d.data.prepared import (
    Prepared,
    fit_scale,
    prepare,
    prepare_read,
    prepare_sources,
    read_on_one_grid,
    read_sources,
    refuse_headers,
    shown,
)
from synth3d.data.shelf import CaseError, Checked, Facts, Shelf, fill, refuse_contradictions
from synth3d.data.slices import ratio_on, restore, seen, spacing_seen
from synth3d.data.task import Task, seed_of, shown_of

__all__ = [
    "Batch",
    "CaseError",
    "Checked",
    "DataConfig",
    "DegradeConfig",
    "Facts",
    "Hashes",
    "LIMIT_GB",
    "MisalignConfig",
    "Packed",
    "Prepared",
    "Shelf",
    "Store",
    "Stream",
    "Task",
    "check_workers",
    "degrade",
    "fill",
    "fit_scale",
    "hashes_of",
    "head_of",
    "lengths",
    "misalign",
    "motion_seed",
    "moved",
    "only",
    "pack",
    "prepare",
    "prepare_read",
    "prepare_sources",
    "ratio_on",
    "read_on_one_grid",
    "read_sources",
    "refuse_contradictions",
    "refuse_headers",
    "restore",
    "seed_of",
    "seen",
    "shown",
    "shown_of",
    "spacing_seen",
    "thick_cases",
    "varied",
]
