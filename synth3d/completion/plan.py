"""What completing a cohort will do, case by case, and everything that stands in the way.

Looks at headers, hashes and the voxels of what is still to be made, and writes nothing.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from filecmp import cmp
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth3d.cohort import ALL_MODALITIES, MODALITIES, Case, Modality, portable_codes
from synth3d.completion.calibration import calibration_of
from synth3d.completion.loading import maker_of
from synth3d.completion.receipts import (
    MAPS,
    TABLES,
    Layout,
    case_identity,
    explanations,
    is_done,
    unexplained,
)
from synth3d.completion.request import CompleteRequest
from synth3d.completion.workers import why_lost, work_through
from synth3d.errors import InputError
from synth3d.files import progress, read_json
from synth3d.images import check_same_grid

if TYPE_CHECKING:
    from synth3d.completion.makers import Maker

MOST_TOLD = 10
"""So many problems are told, and how many others there are."""


@dataclass(frozen=True)
class Job:
    """What is to be done for one case, or is done: a valid receipt is there already.

    Attributes:
        case: With the files that are taken over unchanged.
        readable: The same case with the files that the maker may read.
        hidden: Sequences that are there and count as missing.
        restored: Poor sequences that are there, to be read and replaced.
        make: Sequences to be made, restored ones among them; none when nothing is missing.
        identity: What decides the result, for the receipt.
        suspicions: What the voxels say against the case, for the receipt.
        recoded: Integer of the label → integer to write, where it is not copied as it is: what it
            means would be lost with the table or dataset.json that says it.
    """

    case: Case
    readable: Case
    hidden: tuple[Modality, ...]
    make: tuple[Modality, ...]
    identity: dict[str, Any]
    done: bool
    suspicions: tuple[str, ...] = ()
    recoded: Mapping[int, int] | None = None
    restored: tuple[Modality, ...] = ()

    @property
    def text(self) -> str:
        """One line of the plan."""
        if self.done:
            return f"{self.case.name}: done already"
        if not self.make:
            return f"{self.case.name}: nothing is missing"
        verb = "restore" if self.restored else "make"
        return f"{self.case.name}: {verb} {'+'.join(self.make)} from {'+'.join(self.case.images)}"

    def lacking(self, known: Collection[Modality]) -> tuple[Modality, ...]:
        """What of the sequences ``known`` in a cohort the case will still lack."""
        return tuple(m for m in ALL_MODALITIES if m in known and m not in
                     (*self.case.images, *self.make))  # fmt: skip

    def outputs(self, layout: Layout) -> tuple[dict[Path, Path], dict[Modality, Path]]:
        """({where a real file goes: the file}, {sequence: where it is written})."""
        images = self.case.images
        places = layout.places if layout.holds_acquired else ()
        links = {layout.image(self.case, m): images[m] for m in places if m in images}
        label = layout.label(self.case)
        if self.case.label is not None and label is not None and self.recoded is None:
            links[label] = self.case.label
        return links, {m: layout.image(self.case, m) for m in self.make}

    def explanations(self, layout: Layout) -> list[Path]:
        """Where what explains it is written."""
        return explanations(layout, self.case, self.identity)

    def written_label(self, layout: Layout) -> Path | None:
        """Where the label is written in other integers; None where it is linked or has no place."""
        return None if self.recoded is None else layout.label(self.case)


def plan_case(real: Case, maker: "Maker", request: CompleteRequest) -> Job | list[str]:
    """The job of a case, or a clause for everything that stands in its way; nothing is written."""
    layout, hidden = request.layout, request.hidden
    # No seed in a receipt means 0: so were all of those written that know of none.
    how = maker.identity | ({"seed": request.seed} if maker.random and request.seed else {})
    how |= {"draws": request.draws} if request.draws > 1 else {}
    how |= {"mirror": request.mirror} if request.mirror else {}
    told = calibration_of(request)
    if request.uncertainty:
        how |= {"uncertainty": told[1] if told else "spread"}
    taken = (*hidden, *request.restored)
    visible = {m: path for m, path in real.images.items() if m not in taken}
    case, readable = replace(real, images=visible), maker.readable(real, hidden)
    make: tuple[Modality, ...] = tuple(m for m in maker.targets if m not in visible)
    trouble = maker.trouble(readable, make) + _headers(case, readable, make, maker, layout)
    if layout.format == "nnunet" and (gone := sorted({*case.missing()} - {*make})):
        trouble.append(f"nnU-Net needs all of {', '.join(MODALITIES)}; {gone} stay missing")
    if told:
        trouble += told[0].trouble([m for m in maker.sources if m in readable.images], make)
    codes: Mapping[int, int] | None = None
    try:
        codes = portable_codes(case, request.labels) if layout.label(case) else None
    except InputError as error:
        trouble.append(str(error))
    if layout.format == "bids" and real.naming != "bids":
        trouble.append(f"is named as {real.naming}; a BIDS derivative needs a BIDS dataset")
    if trouble:
        return trouble
    identity = case_identity(readable, make, how)
    if codes is not None:
        identity |= {"label": {str(old): new for old, new in codes.items()}}
    beside = [name for name in (*MAPS, *TABLES) if name in maker.explains]
    if request.explain and make and beside:
        identity |= {"explained": beside}
    there: tuple[Modality, ...] = tuple(m for m in real.images if m in hidden)
    done = is_done(layout, case, identity)
    trouble, suspicions = _looked_at(readable, make, done, maker, request)
    job = Job(case, readable, there, make, identity, done, suspicions, codes, request.restored)
    trouble += [] if done or request.overwrite else in_the_way(job, layout)
    return trouble or job


def plan(
    request: CompleteRequest, identity: str, cases: Sequence[Case], pool: Executor
) -> list[Job]:
    """A job for each case, in their order; all is read that will be, and nothing is written.

    Raises:
        InputError: Some cases cannot be completed; the sentence names all of them and why.
    """
    found: dict[str, Job | list[str]] = {}
    steps = work_through(pool, functools.partial(look_at, request, identity), cases)
    for case, future in progress(steps, "looking at the cases", len(cases), unit="case"):
        lost = why_lost(future.exception())
        found[case.name] = [lost] if lost else future.result()
    jobs = [job for case in cases if isinstance(job := found[case.name], Job)]
    problems = [
        f"case {case.name}: {text}"
        for case in cases
        if isinstance(texts := found[case.name], list)
        for text in texts
    ]
    if problems:
        head = f"{len(problems)} problems: " if len(problems) > 1 else ""
        more = f"; and {len(problems) - MOST_TOLD} more" if len(problems) > MOST_TOLD else ""
        raise InputError(f"{head}{'; '.join(problems[:MOST_TOLD])}{more}")
    return jobs


def look_at(request: CompleteRequest, identity: str, case: Case) -> Job | list[str]:
    """As :func:`plan_case`, for the maker of this identity; a unit of work of an executor."""
    return plan_case(case, maker_of(request, identity), request)


def _looked_at(
    case: Case, make: Sequence[Modality], done: bool, maker: "Maker", request: CompleteRequest
) -> tuple[list[str], tuple[str, ...]]:
    """What the voxels of ``case`` forbid, and what they let suspect; a receipt knows the latter."""
    if done:
        known = read_json(request.layout.receipt(case)).get("suspicions", [])
        return [], tuple(str(text) for text in (known if isinstance(known, list) else ()))
    if not make:
        return [], ()
    try:
        found = maker.findings(case)
    except InputError as error:
        return [str(error)], ()
    refused = [one.text for one in found if one.contradiction and not request.unchecked]
    hint = "; --unchecked completes the case all the same"
    return [text + hint for text in refused], tuple(one.text for one in found)


def _headers(
    case: Case, readable: Case, make: Sequence[Modality], maker: "Maker", layout: Layout
) -> list[str]:
    """A clause for all that headers say against the files that are read or taken over.

    Sequences that the run neither sees nor makes may each have a grid of its own.
    """
    together = {*maker.sources, *maker.targets, *make}
    together |= {*MODALITIES} if layout.format == "nnunet" else set()
    task = maker.config.task
    together -= {*task.poor} if task.guides else set()  # a poor one may have a grid of its own
    files = {**readable.images, **(case.images if layout.holds_acquired else {})}
    paths = [path for name, path in files.items() if name in together]
    if case.label is not None and layout.label(case) is not None:
        paths.append(case.label)
    trouble = grid_trouble([path for name, path in files.items() if name not in together], True)
    return trouble + grid_trouble(paths, bool(maker.config.data.common_grid))


def grid_trouble(paths: Sequence[Path], each_its_own: bool = False) -> list[str]:
    """A clause for each header that is bad, or if ``paths`` must share a grid and do not."""
    found = []
    for group in [[path] for path in paths] if each_its_own or not paths else [paths]:
        try:
            check_same_grid(group)
        except InputError as error:
            found.append(str(error))
    return found


def in_the_way(job: Job, layout: Layout) -> list[str]:
    """A clause for each file that would be replaced and is not an interrupted run's.

    Another process may begin or finish this very job meanwhile: what it writes is not in the way.
    """
    links, made = job.outputs(layout)
    written = [*made.values(), job.written_label(layout), *job.explanations(layout)]
    taken = [path for path in written if path is not None and path.exists()]
    for path, file in links.items():
        if path.exists() and not (path.samefile(file) or cmp(path, file, shallow=False)):
            taken.append(path)
    if taken and layout.marker(job.case).exists():
        return []
    # What is explained later is made once more, and the same.
    if taken and is_done(layout, job.case, unexplained(job.identity)):
        taken = [path for path in job.explanations(layout) if path.exists()]
        taken = [] if is_done(layout, job.case, job.identity) else taken
    return [f"{path} is already there; --overwrite replaces it" for path in taken]
