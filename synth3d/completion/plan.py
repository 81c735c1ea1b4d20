"""What completing a cohort will do, case by case, and everything that stands in the way.

Looks at headers and hashes, never at voxels, and writes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from filecmp import cmp
from pathlib import Path
from typing import Any

from synth3d.cohort import ALL_MODALITIES, MODALITIES, Case, Modality
from synth3d.completion.makers import Maker
from synth3d.completion.receipts import Layout, case_identity, is_done
from synth3d.errors import InputError
from synth3d.files import progress
from synth3d.images import check_same_grid


@dataclass(frozen=True)
class Job:
    """What is to be done for one case.

    Attributes:
        case: With the files that may be looked at; these are linked unchanged.
        real: The same case with all its files (``--missing`` hides some).
        make: Sequences to be made; none when nothing is missing.
        identity: What decides the result, for the receipt.
        done: Whether a valid receipt is there already.
    """

    case: Case
    real: Case
    make: tuple[Modality, ...]
    identity: dict[str, Any]
    done: bool

    @property
    def text(self) -> str:
        """One line of the plan."""
        if self.done:
            return f"{self.case.name}: done already"
        if not self.make:
            return f"{self.case.name}: nothing is missing; link its files"
        return f"{self.case.name}: make {'+'.join(self.make)} from {'+'.join(self.case.images)}"


def plan(
    cases: Sequence[Case],
    maker: Maker,
    layout: Layout,
    hidden: Sequence[Modality] = (),
    overwrite: bool = False,
) -> list[Job]:
    """A job for each case; headers and hashes are read, voxels are not.

    Raises:
        InputError: Some cases cannot be completed; the sentence names all of them and why.
    """
    jobs, problems = [], []
    for real in progress(cases, "looking at the cases", unit="case"):
        visible = {m: path for m, path in real.images.items() if m not in hidden}
        case = replace(real, images=visible)
        make: tuple[Modality, ...] = tuple(m for m in maker.targets if m not in visible)
        trouble = _trouble(case, real, make, maker, layout)
        if not trouble:
            job = _job(case, real, make, maker, layout)
            trouble = [] if job.done or overwrite else _in_the_way(job, layout)
            jobs.append(job)
        problems += [f"case {case.name}: {text}" for text in trouble]
    if problems:
        head = f"{len(problems)} problems: " if len(problems) > 1 else ""
        raise InputError(head + "; ".join(problems))
    return jobs


def _job(case: Case, real: Case, make: tuple[Modality, ...], maker: Maker, layout: Layout) -> Job:
    seen = case if maker.synthetic else real
    identity = case_identity(seen, make, maker.identity)
    return Job(case, real, make, identity, is_done(layout, case, identity))


def _trouble(
    case: Case, real: Case, make: Sequence[Modality], maker: Maker, layout: Layout
) -> list[str]:
    """Why ``case`` cannot be completed, a sentence each; empty when it can."""
    trouble = []
    absent = case.missing(maker.sources)
    able = "+".join(maker.targets)
    if make and len(absent) == len(maker.sources):
        trouble.append(f"has none of the sequences {', '.join(maker.sources)} that the run needs")
    elif absent and maker.needs_all and make:
        trouble.append(f"lacks {', '.join(absent)}, which the run needs to make {able}")
    elif absent and not make and maker.synthetic:
        trouble.append(f"lacks {', '.join(absent)}, which the run cannot make; it makes {able}")
    if not maker.synthetic and (gone := real.missing(make)):
        trouble.append(f"has no real {', '.join(gone)} to send through")
    if layout.format == "nnunet" and (gone := set(case.missing()) - set(make)):
        trouble.append(f"nnU-Net needs all of {', '.join(MODALITIES)}; {sorted(gone)} stay missing")
    used = {*maker.sources, *make, *(MODALITIES if layout.format == "nnunet" else ())}
    try:
        paths = [p for m, p in (case if maker.synthetic else real).images.items() if m in used]
        for group in [[path] for path in paths] if maker.common_grid else [paths]:
            if group:
                check_same_grid(group)
    except InputError as error:
        trouble.append(str(error))
    return trouble


def refuse_to_write_input(layout: Layout, cases: Sequence[Case], data: Path) -> None:
    """Stop when a case's folder in OUT is in the input: DATA is a case folder, OUT its parent.

    Raises:
        InputError: It is.
    """
    for case in cases:
        folder = layout.receipt(case).parent
        if folder.resolve().is_relative_to(data.resolve()):
            raise InputError(
                f"case {case.name} would be written to {folder}, which is in the input folder "
                f"{data} and only read; choose another --out"
            )


def outputs(job: Job, layout: Layout) -> tuple[dict[Path, Path], dict[Modality, Path]]:
    """({where a real file goes: the file}, {sequence: where it is written})."""
    places = MODALITIES if layout.format == "nnunet" else ALL_MODALITIES
    kept: list[Modality] = [m for m in places if m in job.case.images]
    links = {layout.image(job.case, m): job.case.images[m] for m in kept}
    if job.case.label is not None and (label := layout.label(job.case)) is not None:
        links[label] = job.case.label
    return links, {m: layout.image(job.case, m) for m in job.make}


def _in_the_way(job: Job, layout: Layout) -> list[str]:
    """Files in the output folder that would be replaced and are not an interrupted run's."""
    if layout.marker(job.case).exists():
        return []
    links, made = outputs(job, layout)
    taken = [path for path in made.values() if path.exists()]
    taken += [path for path, file in links.items() if path.exists() and not _same(path, file)]
    return [f"{path} is already there; --overwrite replaces it" for path in taken]


def _same(path: Path, other: Path) -> bool:
    return path.samefile(other) or cmp(path, other, shallow=False)
