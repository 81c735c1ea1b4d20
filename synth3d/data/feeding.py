"""What the processes that draw patches need of the machine, asked before any case is read."""

from dataclasses import fields
from math import prod

from synth3d.data.batch import Batch
from synth3d.data.options import DataConfig
from synth3d.data.task import Task
from synth3d.limits import check_descriptors, check_shared_memory, check_temporary_folder

AHEAD = 2
"""Batches that torch lets each worker draw ahead."""
FEEDS = 2
"""Sets of workers at once: those of a leg, and at its end those of the next."""
FILES_OF_A_WORKER = 16
"""Pipes and sockets to a worker."""


def check_workers(task: Task, data: DataConfig) -> None:
    """Make sure that ``data.workers`` can hand on their batches.

    Raises:
        InputError: Shared memory, open files or a temporary folder do not suffice.
    """
    if data.workers == 0:
        return
    batches = FEEDS * AHEAD * data.workers + 1
    voxels = data.batch * prod(data.patch)
    images = 4 * (len(task.sources) + len(task.targets)) + 3  # float32, and masks of a byte
    doing = f"drawing patches of {'×'.join(map(str, data.patch))} with data.workers={data.workers}"
    check_temporary_folder()
    files = len(fields(Batch)) * batches + FEEDS * data.workers * FILES_OF_A_WORKER
    check_descriptors(files)
    check_shared_memory(batches * voxels * images, doing)
