"""What completing a cohort would do, and what it takes: ``synth3d complete --dry-run``."""

import json
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from synth3d.completion.loading import maker_of
from synth3d.completion.plan import Job
from synth3d.completion.request import CompleteRequest
from synth3d.console import answer, duration, event, gigabytes, named
from synth3d.images import grid
from synth3d.machine import free_bytes

FLOAT = 4
"""Bytes of a voxel that is made."""
MOST_LINES = 4
"""Of kinds of gaps that a terminal is told of by themselves."""
MOST_REMARKS = 2
"""Of what else a terminal is told: gaps that are left, and what the acquired files become."""


class _Enough(Exception):  # noqa: N818
    """Two calls of the network are timed; the rest of the case is not made."""


@dataclass(frozen=True)
class Timed:
    """Two calls of the network for one case.

    Attributes:
        seconds: Of the whole case, without reading and writing it.
        memory_bytes: The most that they had, of the GPU or of the process.
    """

    seconds: float
    memory_bytes: int


def tell_plan(
    request: CompleteRequest, identity: str, jobs: Sequence[Job], remarks: Sequence[str]
) -> None:
    """Say what would be done, with ``remarks``: an event for machines, else a few lines.

    Raises:
        InputError: The first case that is to be made has a bad file.
    """
    plan = completion_plan(request, identity, jobs) | {"remarks": [*remarks]}
    event("plan", **plan)
    answer(plan_in_words(plan))


def completion_plan(request: CompleteRequest, identity: str, jobs: Sequence[Job]) -> dict[str, Any]:
    """All of it as plain values, the event ``plan`` of docs/events.md."""
    ahead = [job for job in jobs if not job.done]
    making = [job for job in ahead if job.make]
    timed = _timed(request, identity, making[0]) if making else None
    seconds = timed.seconds * len(making) / request.workers if timed else 0.0
    return {
        "title": maker_of(request, identity).title,
        "out": str(request.out),
        "format": request.format,
        "jobs": [
            {"case": job.case.name, "make": [*job.make], "from": [*job.readable.images],
             "done": job.done, "suspicions": [*job.suspicions]}
            for job in jobs
        ],
        "to_make": len(making),
        "done": sum(job.done and bool(job.make) for job in jobs),
        "whole": sum(not job.make for job in jobs),
        "seconds": seconds,
        "memory_bytes": timed.memory_bytes * request.workers if timed else 0,
        "disk_bytes": sum(_bytes_written(job, request) for job in ahead),
        "free_bytes": free_bytes(request.out),
        "settings": json.loads(json.dumps(asdict(request), default=str)),
    }  # fmt: skip


def plan_in_words(plan: dict[str, Any]) -> str:
    """The plan for a terminal, below a line that says by what: at most 15 lines with it."""
    kinds: dict[str, list[str]] = {}
    for job in plan["jobs"]:
        if job["make"] and not job["done"]:
            told = f"make {'+'.join(job['make'])} from {'+'.join(job['from'])}"
            kinds.setdefault(told, []).append(job["case"])
    lines = []
    for told, names in [*kinds.items()][:MOST_LINES]:
        count = f"{len(names)} case{'s' if len(names) > 1 else ''}"
        lines.append(f"{told}: {count} ({named(names)})")
    if more := sum(len(names) for names in [*kinds.values()][MOST_LINES:]):
        lines.append(f"other gaps: {more} cases")
    doubted = [job["case"] for job in plan["jobs"] if job["suspicions"]]
    lines += [f"left as they are: {plan['done']} are done, {plan['whole']} lack nothing"]
    lines += [f"doubtful, see the warnings: {named(doubted)}"] if doubted else []
    lines += plan["remarks"][:MOST_REMARKS]
    lines += [
        f"memory:  about {gigabytes(plan['memory_bytes'])}",
        f"disk:    up to {gigabytes(plan['disk_bytes'])}, {gigabytes(plan['free_bytes'])} are free",
        f"time:    about {duration(plan['seconds'])} (two timed calls of the network, "
        "without reading and writing)",
        f"goes to: {plan['out']}",
        "nothing was done; --json prints all cases and settings",
    ]
    return "\n".join(lines)


def _timed(request: CompleteRequest, identity: str, job: Job) -> Timed:
    """Begin to make a case, and stop after the second call of the network."""
    maker, calls = maker_of(request, identity), [(time.perf_counter(), 0.0)]

    def on_tile(done: int, total: int) -> None:
        calls.append((time.perf_counter(), done / total))
        if len(calls) > 2:
            raise _Enough

    try:
        maker.make(job.readable, job.make, request.members, on_tile=on_tile)
    except _Enough:
        (before, done), (now, more) = calls[1:]
        seconds = (now - before) / (more - done)
    else:  # it was made at once
        seconds = time.perf_counter() - calls[0][0]
    return Timed(seconds, _memory(str(request.device)))


def _memory(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(torch.device(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _bytes_written(job: Job, request: CompleteRequest) -> int:
    """At most: what is made as it is before it is compressed, and copies of what is there."""
    links, made = job.outputs(request.layout)
    copied = 0 if request.link else sum(path.stat().st_size for path in links.values())
    like = next(iter(job.readable.images.values()))
    maps = len(job.explanations(request.layout))
    spread = int(bool(request.uncertainty) or request.draws > 1 or bool(request.mirror))
    pictures = len(made) * (1 + spread) + maps
    return copied + pictures * FLOAT * prod(grid(like).shape_zyx)
