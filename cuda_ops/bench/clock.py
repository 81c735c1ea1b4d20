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
from typing import Any, NamedTuple, Protocol

import torch

Call = Callable[[], object]
QUEUE_CYCLES = 20_000_000
"""For how many clock cycles the device sleeps, at first, while the host fills its queue (10 ms)."""
QUEUE_LENGTH = 50
"""Most calls in the queue; the driver's own holds about a thousand launches."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # glibc's malloc.h


class Taken(NamedTuple):
    """Seconds of one call."""

    clock: float
    wall: float


class Clock(Protocol):
    """What measures; ``name`` says what its seconds are."""

    name: str

    def time(self, call: Call, repeats: int) -> Taken:
        """Seconds per call, averaged over ``repeats`` calls in a row."""
        ...


class CpuClock:
    """CPU seconds of the whole process: what a neighbour steals does not count."""

    name = "process CPU seconds"

    def time(self, call: Call, repeats: int) -> Taken:
        """Seconds per call, averaged over ``repeats`` calls in a row."""
        wall, clock = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            call()
        clock, wall = time.process_time() - clock, time.perf_counter() - wall
        return Taken(clock / repeats, wall / repeats)


class CudaClock:
    """Time between two events on the device's current stream.

    Args:
        device: Whose stream.
        queued: Whether the calls are queued up behind a sleeping device first, so that the time
            of launching them does not show: for the speed of a kernel rather than of its use.
    """

    def __init__(self, device: torch.device, queued: bool = False) -> None:
        self.device, self.queued = device, queued
        self.name = "CUDA events, queued" if queued else "CUDA events"

    def time(self, call: Call, repeats: int) -> Taken:
        """Seconds per call, averaged over ``repeats`` calls in a row (queued: at most 50).

        Raises:
            RuntimeError: The host cannot queue the calls before a long sleep is over.
        """
        if not self.queued:
            return self._time(call, repeats, 0)[0]
        for doubling in range(7):
            cycles = QUEUE_CYCLES << doubling
            taken, in_time = self._time(call, min(repeats, QUEUE_LENGTH), cycles)
            if in_time:
                return taken
        raise RuntimeError("the calls wait for the device, so they cannot be queued up behind it")

    def _time(self, call: Call, repeats: int, cycles: int) -> tuple[Taken, bool]:
        """The time, and whether all calls were queued before the device woke up."""
        with torch.cuda.device(self.device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            wall = time.perf_counter()
            if cycles:
                torch.cuda._sleep(cycles)
            start.record()
            for _ in range(repeats):
                call()
            end.record()
            in_time = not start.query()
            torch.cuda.synchronize()
            wall = time.perf_counter() - wall
        return Taken(start.elapsed_time(end) / 1e3 / repeats, wall / repeats), in_time


def interleave(
    calls: Mapping[str, Call], clock: Clock, rounds: int, seed: int = 0, least: float = 0.05
) -> dict[str, list[Taken]]:
    """Time every call once per round, each round in another order.

    A quick call is repeated within its turn until the turn lasts about ``least`` seconds; how
    often is settled by a second warm-up call. A call slower than a second is warmed up once.

    Args:
        calls: Candidates by name.
        clock: What measures.
        rounds: At least 1.
        seed: Of the shuffling.
        least: Seconds.

    Returns:
        For each candidate its times, one per round, in the order of the rounds.
    """
    repeats = {}
    for name, call in calls.items():
        once = clock.time(call, 1).clock
        if once < 1:
            once = clock.time(call, 1).clock
        repeats[name] = max(1, min(1000, math.ceil(least / max(once, 1e-9))))
    shuffler = random.Random(seed)
    taken: dict[str, list[Taken]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        shuffler.shuffle(order)
        for name in order:
            taken[name].append(clock.time(calls[name], repeats[name]))
    return taken


class Ratio(NamedTuple):
    """How a candidate's time compares with a baseline's."""

    median: float
    """Of the rounds' ratios."""
    lowest: float
    """Of the rounds' ratios."""
    of_minima: float
    """Of the candidate's and the baseline's fastest turn: for when a neighbour was loud."""


def compare(candidate: Sequence[Taken], baseline: Sequence[Taken]) -> Ratio:
    """The ratio of two candidates of :func:`interleave`, round by round."""
    ratios = [one.clock / two.clock for one, two in zip(candidate, baseline, strict=True)]
    least = [min(turn.clock for turn in turns) for turns in (candidate, baseline)]
    return Ratio(statistics.median(ratios), min(ratios), least[0] / least[1])


def summary(taken: Mapping[str, Sequence[Taken]]) -> dict[str, dict[str, Any]]:
    """Median seconds of every candidate, by the clock and on the wall."""
    return {
        name: {
            "clock": statistics.median(turn.clock for turn in turns),
            "wall": statistics.median(turn.wall for turn in turns),
        }
        for name, turns in taken.items()
    }


def keep_memory() -> bool:
    """Let freed memory stay with the process, so that page faults are no part of a time.

    Returns:
        Whether the C library could be told; only glibc can.
    """
    return _told((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 256 << 20))


def give_back_memory() -> bool:
    """Let every freed block from 64 KiB leave the process, so that a peak is of what is in use.

    Returns:
        As :func:`keep_memory`.
    """
    return _told((M_MMAP_THRESHOLD, 64 << 10))


def _told(*wishes: tuple[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(key, value) for key, value in wishes])
