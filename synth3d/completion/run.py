"""Write the sequences that cases lack, and a receipt for each: ``synth3d complete``.

All cases are looked at before anything is written, and everything wrong with them is told at
once. A case is one unit of work that any process may do: what was finished is recognised by its
receipt and skipped, what was interrupted is done again, and what another process holds is left to
it, unless that ends without having done it. The input folder is only read.
"""

import functools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, process
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from synth3d.cohort import Modality, find_cases, is_table, untold_patients
from synth3d.completion.ahead import tell_plan
from synth3d.completion.calibration import calibration_of
from synth3d.completion.case import Begun
from synth3d.completion.derivative import write_description
from synth3d.completion.explained import contributions_in_the_way, write_contributions
from synth3d.completion.gallery import draw_missing_preview, write_index
from synth3d.completion.loading import forget_makers, maker_of
from synth3d.completion.plan import Job, plan
from synth3d.completion.receipts import Layout, refuse_mixture, write_dataset_json
from synth3d.completion.remarks import made_from_less, new_files, others_there, remarks_on
from synth3d.completion.request import CompleteRequest
from synth3d.completion.state import (
    expect,
    failure_of,
    forget_failure,
    note_failure,
)
from synth3d.completion.workers import (
    HeldElsewhere,
    InThisProcess,
    in_stages,
    open_executor,
    why_lost,
    work_through,
)
from synth3d.completion.writing import write_case
from synth3d.console import conclude
from synth3d.errors import InputError
from synth3d.files import progress, protect
from synth3d.limits import check_descriptors
from synth3d.machine import pick_device

UNCALIBRATED = (
    "note: no calibration.json in the run's folder: what is written is a spread, no interval; "
    "synth3d calibrate makes one of cases that the run has not learnt from"
)
FILES_OF_A_WORKER = 8
"""Files and pipes that a process keeps open for each of its workers."""


@dataclass(frozen=True)
class Completed:
    """What was done for one case.

    Attributes:
        case: Its name.
        state: ``made`` now, ``done`` before, ``whole`` (nothing was missing, now or before),
            ``theirs`` (another process did it meanwhile), or ``planned`` by a dry run.
        made: The sequences that are not acquired.
        paths: The file of every sequence in the output folder.
        receipt: What proves it.
    """

    case: str
    state: str
    made: tuple[Modality, ...]
    paths: Mapping[Modality, Path]
    receipt: Path


def complete_cohort(request: CompleteRequest, executor: Executor | None = None) -> list[Completed]:
    """Complete the cases under ``request.data`` into ``request.out``; a record for each, by name.

    Several processes may work on one output folder; each case is made once. The cases are looked
    at and made by ``executor``, or as ``request.workers`` and ``request.dask`` say.

    Raises:
        InputError: The run, the cases or ``out`` cannot be used. Trouble that shows only in the
            voxels of a case (the network gives NaN), or a worker that was ended twice at it, is
            told at the end, when the others are done.
    """
    threads = request.threads
    if threads is None and request.workers > 1:
        threads = max(1, (os.cpu_count() or 1) // request.workers)
    request = replace(request, device=pick_device(request.device), threads=threads)
    check_descriptors(FILES_OF_A_WORKER * request.workers)
    layout = request.layout
    own = (
        open_executor(request.workers, request.dask) if executor is None else nullcontext(executor)
    )
    try:
        with own as pool:
            jobs, names, maker, notes = _plan(request, pool)
            if request.dry_run:
                tell_plan(request, maker, jobs, remarks_on(request, jobs, notes))
                return [_completed(job, "planned", layout) for job in jobs]
            _write_about(request, jobs, names)
            states = _work_and_show(request, maker, jobs, pool)
            if request.explain == "all":
                write_contributions(request, maker)
    except process.BrokenProcessPool as error:
        raise InputError(
            "a worker process was ended from outside, as where memory gives out; the same command "
            "goes on where it stopped"
        ) from error
    finally:
        forget_makers()
    counts = Counter(states.values())
    theirs = f", {counts['theirs']} by another process" if counts["theirs"] else ""
    done = {state: counts[state] for state in ("made", "done", "whole", "theirs")}
    conclude(path=layout.out, cases=len(jobs), **done)
    print(
        f"{len(jobs)} case{'s' * (len(jobs) != 1)} in {layout.out}: {counts['made']} completed "
        f"now, {counts['done']} done before, {counts['whole']} lacked nothing{theirs}"
    )
    made = [job for job in jobs if states[job.case.name] == "made"]
    for line in [*new_files(made, layout), *remarks_on(request, jobs, notes)]:
        print(line)
    return [_completed(job, states[job.case.name], layout) for job in jobs]


def _plan(request: CompleteRequest, pool: Executor) -> tuple[list[Job], list[str], str, list[str]]:
    """The jobs, the names of all parts' cases, and the identity of the maker, as JSON.

    And, in lines, what is made without all that the maker knows, and what else lies there.
    """
    refuse_mixture(request.layout)
    maker = maker_of(request)
    print(maker.title)
    cases = find_cases(request.data, request.cases)
    names, patients = [case.name for case in cases], {c.name: c.patient for c in cases}
    cases = cases[request.share]
    files = [path for c in cases for path in (*c.images.values(), c.label) if path]
    inputs = {path.resolve().parent for path in files}
    for case in cases:
        image = request.layout.image(case, request.layout.places[0])
        for folder in {request.layout.receipt(case).parent, image.parent}:
            there = folder.resolve()
            if there in inputs or request.reads(folder):
                raise InputError(
                    f"case {case.name} would be written to {folder}, which is in the input folder "
                    f"{there if is_table(request.data) else request.data} and only read; choose "
                    "another --out"
                )
    identity = json.dumps(maker.identity)
    if told := calibration_of(request):
        told[0].refuse_others(maker, request.members)
    elif request.uncertainty:
        print(UNCALIBRATED, file=sys.stderr)
    table = request.explain == "all" and not request.overwrite
    if table and (taken := contributions_in_the_way(request)):
        raise InputError(f"{taken} is already there; --overwrite replaces it")
    jobs = plan(request, identity, cases, pool)
    about = [untold_patients(patients), maker.unnoticed if any(j.make for j in jobs) else ""]
    for note in filter(None, about):
        print(f"note: {note}", file=sys.stderr)
    for job in jobs:
        for text in job.suspicions:
            print(f"warning: case {job.case.name}: {text}")
    notes = [*made_from_less(jobs, maker.sources), *others_there(request, names)]
    return jobs, names, identity, notes


def _write_about(request: CompleteRequest, jobs: Sequence[Job], names: Sequence[str]) -> None:
    """What the folder says of itself, first what can be refused, and which cases are expected."""
    layout = request.layout
    write_dataset_json(layout, [job.case for job in jobs], request.overwrite)
    if layout.format == "bids":
        names_of_runs = " and ".join(path.resolve().name for path in request.runs)
        write_description(layout, request.data, f"run {names_of_runs}")
    expect(request.out, names)


def _completed(job: Job, state: str, layout: Layout) -> Completed:
    acquired = job.case.images if layout.holds_acquired else ()
    there: list[Modality] = [m for m in (*acquired, *job.make) if m in layout.places]
    paths: dict[Modality, Path] = {m: layout.image(job.case, m) for m in there}
    return Completed(job.case.name, state, job.make, paths, layout.receipt(job.case))


def _work_and_show(
    request: CompleteRequest, identity: str, jobs: Sequence[Job], pool: Executor
) -> dict[str, str]:
    """As :func:`_work`; then the page that shows all cases, also where some were bad.

    That the page cannot be written, as on a full disk, is no more than a warning: cases matter.
    """
    try:
        return _work(request, identity, jobs, pool)
    finally:
        try:
            page = write_index(request.layout) if request.previews else None
        except InputError as error:
            print(f"warning: the page of all cases is not written: {error}", file=sys.stderr)
            page = None
        if page:
            print(f"to look at: {page}")


def _work(
    request: CompleteRequest, identity: str, jobs: Sequence[Job], pool: Executor
) -> dict[str, str]:
    """Do all jobs that are not done: case name → state; bad cases are told at the end."""
    states, todo, failed = {}, [], []
    for job in jobs:
        if job.done:
            states[job.case.name] = "done" if job.make else "whole"
            request.layout.marker(job.case).unlink(missing_ok=True)
            for path in job.outputs(request.layout)[0] if request.read_only else ():
                protect(path)
            forget_failure(request.out, job.case.name)
            if request.previews:
                draw_missing_preview(job, request.layout, request.plumbing)
        elif fault := "" if request.retry_failed else failure_of(request.out, job):
            failed.append(f"case {job.case.name} failed before, --retry-failed tries it: {fault}")
        else:
            todo.append(job)
    steps = _outcomes(request, identity, todo, pool)
    if len(todo) > 1:
        steps = progress(steps, "completing", len(todo), unit="case")
    try:
        for job, state, fault in steps:
            states[job.case.name] = state
            failed += [f"case {job.case.name}: {fault}"] if fault else []
    except InputError as error:  # the folder takes no more
        done = sum(state != "failed" for state in states.values())
        told = "; ".join([str(error), *failed])
        raise InputError(
            f"{told}; {done} of {len(jobs)} cases are done, and the same command goes on"
        ) from error
    if failed:
        few = f"{len(failed)} of {len(jobs)} cases could not be completed"
        raise InputError(f"{few}: {'; '.join(failed)}")
    return states


def _outcomes(
    request: CompleteRequest, identity: str, jobs: Sequence[Job], pool: Executor
) -> Iterator[tuple[Job, str, str]]:
    """Each of ``jobs`` with its state and its fault, as they end."""
    alone, left = len(jobs) == 1, list(jobs)
    if isinstance(pool, InThisProcess) and not alone:
        left = []
        outcomes = zip(jobs, complete_in_turn(request, identity, jobs), strict=True)
        for job, (state, fault) in outcomes:
            if state == "held":
                left.append(job)
            else:
                yield job, state, fault
    unit = functools.partial(complete_case, request, identity, alone)
    for job, future in work_through(pool, unit, left, on_held=_once_of_held()):
        if lost := why_lost(future.exception()):
            note_failure(request.out, job, lost)
            yield job, "failed", lost
        else:
            yield job, *future.result()


def _once_of_held() -> Callable[[list[Job]], None]:
    """Says, once, that nothing is left but what other processes have."""
    told: list[str] = []

    def say(held: list[Job]) -> None:
        if not told:
            told.extend(job.case.name for job in held)
            print(f"waiting for another process: {', '.join(told)}")

    return say


def complete_case(
    request: CompleteRequest, identity: str, alone: bool, job: Job
) -> tuple[str, str]:
    """Do one job; the unit of work of an executor, which may be repeated and may be cut off.

    Args:
        request: With a device and a number of threads of its own.
        identity: The maker's, as JSON: the run must still be the one that was planned with.
        alone: Whether there is no other case, so that the tiles are shown.
        job: Of this case.

    Returns:
        (state, why it failed or nothing).

    Raises:
        HeldElsewhere: Another process has the case.
        InputError: The run has changed, or the output folder cannot be written.
    """
    begun = Begun(request, job)
    with begun.claim:
        begun.read(identity)
        if begun.held:
            raise HeldElsewhere(job.case.name)
        begun.make(_tile_progress() if alone else None)
        return _write(begun)


def complete_in_turn(
    request: CompleteRequest, identity: str, jobs: Sequence[Job]
) -> Iterator[tuple[str, str]]:
    """As :func:`complete_case` for one job after the other, in this process; an outcome for each.

    The state of one that another process has is ``held``.
    While the network has a case, the next is read and the last is written, in a thread each.
    """
    maker_of(request, identity)  # loaded in this thread, whose device it sets

    def read(job: Job) -> Begun:
        begun = Begun(request, job)
        try:
            begun.read(identity)
        except BaseException:
            begun.claim.close()
            raise
        return begun

    def write(begun: Begun) -> tuple[str, str]:
        with begun.claim:
            return _write(begun)

    return in_stages(jobs, read, Begun.make, write, drop=lambda begun: begun.claim.close())


def _write(begun: Begun) -> tuple[str, str]:
    """State and fault of a case that was read and made; it is written unless they are known."""
    if begun.outcome is not None:
        return begun.outcome
    write_case(begun.job, begun.made, begun.maker, begun.request, begun.seconds)
    forget_failure(begun.request.out, begun.job.case.name)
    return "made" if begun.made else "whole", ""


def _tile_progress() -> Callable[[int, int], None]:
    """Shows the tiles of a single case."""
    bar, shown = None, 0

    def on_tile(done: int, total: int) -> None:
        nonlocal bar, shown
        bar = progress(range(total), "synthesising", unit="tile") if bar is None else bar
        for _ in range(shown, done + (done == total)):  # one step more ends the bar
            next(bar, None)
        shown = done

    return on_tile
