"""Several processes that are one training: who they are, how they add up, how they end together.

Each has all weights and learns from its part of every batch; the first one alone writes. They are
started by ``torchrun`` or by anything else that sets ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``,
``MASTER_ADDR`` and ``MASTER_PORT``. Numbers travel over NCCL between GPUs and over gloo between
CPUs; what is agreed on besides always goes over gloo.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from synth3d.errors import InputError
from synth3d.training.watch import Watch

T = TypeVar("T")

BUCKET = 2**23
"""Numbers that travel in one piece: 32 MiB of float32."""
JOIN = timedelta(minutes=10)
"""For how long the first processes wait for the last one to start."""
WAIT = timedelta(days=7)
"""For how long one waits for another that is alive, as :mod:`synth3d.training.watch` sees to."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, seen from one of them; alone, all it does is nothing.

    Attributes:
        rank: This process's number, from 0.
        size: How many they are.
        local: This process's number on its machine, from 0.
        local_size: How many are on this machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reads the request, writes and talks."""
        return self.rank == 0

    def once(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the first process, in all of them; no other one calls it."""
        if self.size == 1:
            return make()
        found: list[Any] = [make() if self.first else None]
        with _in_touch():
            dist.broadcast_object_list(found, device=torch.device("cpu"))
        return found[0]

    def gather(self, value: T) -> list[T]:
        """The ``value`` of each process, in their order, in all of them."""
        found: list[Any] = [value if rank == self.rank else None for rank in range(self.size)]
        for rank in range(self.size) if self.size > 1 else ():
            one = [found[rank]]
            with _in_touch():  # torch's own gathering takes the GPU for objects, where there is one
                dist.broadcast_object_list(one, src=rank, device=torch.device("cpu"))
            found[rank] = one[0]
        return found

    def any(self, said: bool) -> bool:
        """Whether any process says so."""
        if self.size == 1:
            return said
        count = torch.tensor(float(said), device="cpu")
        with _in_touch():
            dist.all_reduce(count)
        return count.item() > 0

    def add_up(self, parameters: Sequence[nn.Parameter], more: Tensor) -> None:
        """In place, the sum over all processes of gradients, and of the tensor ``more``.

        A weight that this process's part of the batch does not reach has a gradient of zeros.
        """
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        tensors = [more, *(p.grad for p in parameters if p.grad is not None)]
        with torch.no_grad(), _in_touch():
            sent = [(bucket, *_send(bucket)) for bucket in _buckets(tensors)]
            for bucket, flat, work in sent:
                work.wait()
                parts = flat.split([tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def check_alike(self, module: nn.Module) -> None:
        """Refuse to go on where the weights of the processes are not the same.

        Raises:
            InputError: They differ.
        """
        if self.size == 1:
            return
        mine = [float(p.detach().double().sum()) for p in module.parameters()]
        if any(other != mine for other in self.gather(mine)):
            raise InputError(
                "the processes of this training no longer have the same weights, which is a fault "
                "of a machine or of this program; the last checkpoint is from before"
            )


ALONE = Ranks()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """``tensors`` in order, in groups of one type and of at most ``BUCKET`` numbers, or one."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        held = sum(each.numel() for each in bucket)
        if bucket and (held + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    yield bucket


def _send(bucket: Sequence[Tensor]) -> tuple[Tensor, Any]:
    """A bucket as one row of numbers, and its sum, under way."""
    flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
    return flat, dist.all_reduce(flat, async_op=True)


@contextlib.contextmanager
def _in_touch() -> Iterator[None]:
    """A connection that breaks is one sentence about who was at its other end."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo knows no other
        raise InputError(
            "another process of this training has ended, so all do; the same command goes on from "
            "the last checkpoint"
        ) from error


def ranks_here() -> Ranks:
    """Who this process is, by its environment; nothing is said to others yet.

    Raises:
        InputError: The variables are incomplete or contradict each other.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    lacking = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
               if not os.environ.get(name)]  # fmt: skip
    if lacking:
        raise InputError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, so several processes are one training, but "
            f"{', '.join(lacking)} is not set; start them with torchrun, or unset WORLD_SIZE"
        )
    size = _number("WORLD_SIZE", "1")
    found = Ranks(
        _number("RANK"), size, _number("LOCAL_RANK"), _number("LOCAL_WORLD_SIZE", str(size))
    )
    if not found.rank < found.size or not found.local < found.local_size <= found.size:
        raise InputError(
            f"RANK {found.rank} of WORLD_SIZE {found.size}, LOCAL_RANK {found.local} of "
            f"LOCAL_WORLD_SIZE {found.local_size}: a rank must be below its number of processes"
        )
    return found


def _number(name: str, default: str = "") -> int:
    text = os.environ.get(name, default)
    if not text.isascii() or not text.isdigit():
        raise InputError(f"{name} must be a whole number from 0, got {text!r}; use torchrun")
    return int(text)


def own_device(device: str, ranks: Ranks) -> str:
    """The device of this process: of several on one machine, each has a GPU of its own.

    Raises:
        InputError: There are fewer GPUs than processes, or one was named for all of them.
    """
    if ranks.size == 1 or not device.startswith("cuda"):
        return device
    if device != "cuda":
        raise InputError(
            f"--device {device} is one GPU and {ranks.size} processes train; give --device cuda, "
            "and choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    if ranks.local_size > (here := torch.cuda.device_count()):
        raise InputError(
            f"{ranks.local_size} processes on this machine, which has {here} GPU(s); give torchrun "
            f"--nproc-per-node {here}"
        )
    return f"cuda:{ranks.local}"


@contextlib.contextmanager
def joined(ranks: Ranks, device: str) -> Iterator[None]:
    """In the block the processes can talk; they leave it together, or end together.

    Only the first one prints. Where one fails or is killed, the others end within 30 seconds, and
    the first to notice says so, if the one that failed could not.

    Raises:
        InputError: The others cannot be reached.
    """
    if ranks.size == 1:
        yield
        return
    store = _meet(ranks)
    watch = Watch(lambda: _store(ranks, serve=False), ranks.rank, ranks.size)
    # A machine that cannot resolve its own name would else not find itself.
    if ranks.local_size == ranks.size and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    on_gpu = device.startswith("cuda")
    try:
        with _silent(not ranks.first):
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                store=store,
                rank=ranks.rank,
                world_size=ranks.size,
                timeout=WAIT,
            )
            watch.begin()
            yield
            ranks.any(False)  # all have come to the end
            watch.end()
            ranks.any(False)  # nobody watches any more
        dist.destroy_process_group()
    except BaseException as error:
        told = watch.fail()
        if not on_gpu and dist.is_initialized():  # NCCL would wait for those that are gone
            dist.destroy_process_group()
        if told:
            raise
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from None


def _meet(ranks: Ranks) -> Any:
    """The store, once all have come."""
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store = _store(ranks, serve=ranks.first)
        store.set(f"here/{ranks.rank}", "")
        store.wait([f"here/{rank}" for rank in range(ranks.size)], JOIN)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"process {ranks.rank} of {ranks.size} did not find all others at {where} (MASTER_ADDR "
            f"and MASTER_PORT) within {JOIN.seconds // 60} minutes: start them all, on nodes that "
            "reach each other, or choose a free port"
        ) from error
    return store


def _store(ranks: Ranks, serve: bool) -> Any:
    """A connection to what torchrun, or else the first process, serves; of this attempt alone."""
    serve = serve and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    host, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT")
    attempt = f"synth3d/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    # Both are documented, though torch does not say so to type checkers.
    store = dist.TCPStore(host, port, None, serve, JOIN, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    return dist.PrefixStore(attempt, store)  # pyright: ignore[reportPrivateImportUsage]


@contextlib.contextmanager
def _silent(quiet: bool) -> Iterator[None]:
    """Nothing that Python prints in the block is seen, if ``quiet``."""
    with contextlib.ExitStack() as stack:
        if quiet:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield
