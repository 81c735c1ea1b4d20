"""Processes that draw batches: what they need of the machine, and how they hand them on."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from math import prod
from typing import Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from synth3d.data.batch import Batch
from synth3d.data.options import DataConfig
from synth3d.data.task import Task, seed_of
from synth3d.errors import InputError
from synth3d.limits import check_descriptors, check_shared_memory, check_temporary_folder

WORKERS = "fork" if sys.platform == "linux" else None
"""How worker processes start: subjects are shared and not sent, and a worker is our own child. From
Python 3.14 on Linux's default is a server that starts them and lives on when we are killed."""
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


class Drawn(Protocol):
    """Batches that can be drawn from torch's global generator."""

    @property
    def data(self) -> DataConfig:
        """How, and by how many workers."""
        ...

    @property
    def pinned(self) -> bool:
        """Whether they are to lie in page-locked memory."""
        ...

    def draw(self, seed: int) -> Iterator[Batch]:
        """Without end."""
        ...


def drawn_by_workers(stream: Drawn, seed: int) -> Iterator[Batch]:
    """What ``stream`` draws in ``data.workers`` processes, in turn; they begin when this returns.

    Torch's global generator stays as it is; the workers end with the iterator.
    """
    loader = DataLoader(
        _Worker(stream, seed),
        batch_size=None,
        num_workers=stream.data.workers,
        multiprocessing_context=WORKERS,
        worker_init_fn=partial(_die_with, os.getpid()),
        generator=torch.Generator().manual_seed(seed),
        pin_memory=stream.pinned,  # here, by a thread; workers never touch the GPU
    )
    return map(_or_raised, loader)


@dataclass(frozen=True)
class _Worker(IterableDataset):
    """What a worker process draws."""

    stream: Drawn
    seed: int

    def __iter__(self) -> Iterator[Batch | InputError]:
        worker, seed = get_worker_info(), self.seed
        if worker is not None and worker.id > 0:
            seed = seed_of(f"{seed}/worker {worker.id}")
        torch.manual_seed(seed)
        try:
            for batch in self.stream.draw(seed):
                yield batch if worker is None else batch.share_memory()
        except InputError as error:  # torch would wrap it into a traceback
            yield error


def _or_raised(drawn: Batch | InputError) -> Batch:
    """What a worker drew, or why it could not."""
    if isinstance(drawn, InputError):
        raise drawn
    return drawn


def _die_with(parent: int, worker: int) -> None:
    """End this worker the moment the process ``parent`` is killed, and at no other signal.

    A scheduler's warning goes to all processes of a job, and is for the one that can save. A worker
    has inherited the lock on the run folder; one that outlives its parent by seconds would keep the
    same command from going on.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # not Linux: torch's watchdog ends it
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was killed before we could ask
        os._exit(1)
