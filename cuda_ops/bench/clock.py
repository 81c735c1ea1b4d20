"""Interleaved timing: every candidate once per round, in shuffled order, in one process.

A machine that is shared slows down and speeds up; candidates that are timed within the same
second feel the same weather, so their ratio is steadier than any of their times.
"""

import ctypes
import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

Call = Callable[[], object]
QUEUE_CYCLES = 20_000_000
"""For how many clock cycles the device sleeps, at first, while the host fills its queue (10 ms)."""
QUEUE_LENGTH = 50
"""Most calls in the queue; the driver's own holds about a thousand launches."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # glibc's malloc.h


class CpuClock:
    """CPU seconds of the whole process: what a neighbour steals does not count."""

    name = "process CPU seconds"

    def time(self, call: Call, repeats: int) -> float:
        """Seconds per call, averaged over ``repeats`` calls in a row."""
        start = time.process_time()
        for _ in range(repeats):
            call()
        return (time.process_time() - start) / repeats


class CudaClock:
    """Time between two events on the device's current stream.

    ``queued``, the calls wait behind a sleeping device first, so that launching them does not show.
    """

    def __init__(self, device: torch.device, queued: bool = False) -> None:
        self.device, self.queued = device, queued
        self.name = "CUDA events, queued" if queued else "CUDA events"

    def time(self, call: Call, repeats: int) -> float:
        """Seconds per call, averaged over ``repeats`` calls in a row (queued: at most 50).

        Raises:
            RuntimeError: The host cannot queue the calls before a long sleep is over.
        """
        if self.queued:
            repeats = min(repeats, QUEUE_LENGTH)
        for doubling in range(7):
            with torch.cuda.device(self.device):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda.synchronize()
                if self.queued:
                    torch.cuda._sleep(QUEUE_CYCLES << doubling)
                start.record()
                for _ in range(repeats):
                    call()
                end.record()
                in_time = not start.query()
                torch.cuda.synchronize()
            if in_time or not self.queued:
                return start.elapsed_time(end) / 1e3 / repeats
        raise RuntimeError("the calls wait for the device, so they cannot be queued up behind it")


Clock = CpuClock | CudaClock


def interleave(
    calls: Mapping[str, Call], clock: Clock, rounds: int, least: float = 0.05
) -> dict[str, list[float]]:
    """Time every call once per round, each round in another order.

    A quick call is repeated within its turn until the turn lasts about ``least`` seconds; how
    often is settled by a second warm-up call. A call slower than a second is warmed up once.
    Of each candidate comes the seconds of each round.
    """
    repeats = {}
    for name, call in calls.items():
        once = clock.time(call, 1)
        if once < 1:
            once = clock.time(call, 1)
        repeats[name] = max(1, min(1000, math.ceil(least / max(once, 1e-9))))
    shuffler = random.Random(0)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        shuffler.shuffle(order)
        for name in order:
            taken[name].append(clock.time(calls[name], repeats[name]))
    return taken


class Ratio(NamedTuple):
    """How a candidate's time compares with a baseline's, in the median round and the lowest.

    ``of_minima`` is the ratio of their fastest turns: for when a neighbour was loud.
    """

    median: float
    lowest: float
    of_minima: float


def compare(candidate: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """The ratio of two candidates of :func:`interleave`, round by round."""
    ratios = [one / two for one, two in zip(candidate, baseline, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), min(candidate) / min(baseline))


def summary(taken: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Median seconds of every candidate."""
    return {name: statistics.median(turns) for name, turns in taken.items()}


def keep_memory() -> bool:
    """Let freed memory stay with the process, so that page faults are no part of a time.

    Says whether the C library could be told; only glibc can.
    """
    return _told((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 256 << 20))


def give_back_memory() -> bool:
    """Let every freed block from 64 KiB leave the process, so that a peak is of what is in use."""
    return _told((M_MMAP_THRESHOLD, 64 << 10))


def _told(*wishes: tuple[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(key, value) for key, value in wishes])
