"""What a terminal is told of a completed cohort beside its counts, line by line."""

import re
from collections.abc import Sequence

from synth3d.cohort import Modality, listed
from synth3d.completion.plan import Job
from synth3d.completion.receipts import Layout
from synth3d.completion.request import CompleteRequest
from synth3d.completion.state import no_more_expected

MOST_PATHS = 3
"""So many new files are named, or kinds of them."""


def remarks_on(request: CompleteRequest, jobs: Sequence[Job], notes: Sequence[str]) -> list[str]:
    """Which gaps are left, ``notes``, and what the files are that were not made: a line each."""
    known: set[Modality] = {m for job in jobs for m in (*job.case.images, *job.make)}
    gaps: dict[str, list[str]] = {}
    for job in jobs:
        if left := job.lacking(known):
            gaps.setdefault("+".join(left), []).append(job.case.name)
    lines = [f"still missing: {names} in {listed(cases)}" for names, cases in sorted(gaps.items())]
    lines += notes
    if not request.layout.holds_acquired:
        return lines
    what = "copies of the input's files"
    if request.link:
        what = "hard links where the disk has them: who changes one in place changes the input"
    return [*lines, f"acquired files: {what}{', read-only' * request.read_only}"]


def made_from_less(jobs: Sequence[Job], sources: Sequence[Modality]) -> list[str]:
    """Which cases lack some of ``sources`` beside what is made of the others; a line a gap."""
    found: dict[tuple[str, str], list[str]] = {}
    for job in jobs:
        absent = [name for name in job.readable.missing(sources) if name not in job.make]
        if job.make and absent:
            found.setdefault(("+".join(job.make), "+".join(absent)), []).append(job.case.name)
    return [
        f"note: {made} made without {absent}, which would have told more, in {listed(cases)}"
        for (made, absent), cases in sorted(found.items())
    ]


def others_there(request: CompleteRequest, names: Sequence[str]) -> list[str]:
    """Which cases ``request.out`` holds beside ``names``, all that the input has; a line or none.

    Where only some were asked for, the others are not looked for.
    """
    if request.cases is not None or not (gone := no_more_expected(request.out, names)):
        return []
    there = f"{len(gone)} case{'s' * (len(gone) != 1)} that {request.data} does not have"
    return [f"note: {request.out} holds {there} (any more), left as before: {listed(gone)}"]


def new_files(jobs: Sequence[Job], layout: Layout) -> list[str]:
    """Where what was made now of ``jobs`` is: a path a line, or what more of them are called.

    ``CASE`` stands for the name of a case; in BIDS ``*`` for what tells participants apart.
    """
    made = [(job, path) for job in jobs for path in job.outputs(layout)[1].values()]
    if len(made) <= MOST_PATHS:
        return [f"new: {path}" for _, path in made]
    kinds = [*dict.fromkeys(_kind_of(job, path.relative_to(layout.out).as_posix(), layout)
                            for job, path in made)]  # fmt: skip
    more = f" and {len(kinds) - MOST_PATHS} other names" if len(kinds) > MOST_PATHS else ""
    told = ", ".join(str(layout.out / kind) for kind in kinds[:MOST_PATHS])
    return [f"new: {len(made)} files, {told}{more}"]


def _kind_of(job: Job, name: str, layout: Layout) -> str:
    """``name``, of a file of ``job``, without what is the case's own."""
    if layout.format == "bids":
        return re.sub(r"(sub|ses)-[^/_]+", r"\1-*", name)
    return name.replace(job.case.name, "CASE")
