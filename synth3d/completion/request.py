"""What ``synth3d complete`` is asked for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synth3d.cohort import ALL_MODALITIES, Modality, parse_modality, parse_scheme
from synth3d.completion.made import Members
from synth3d.completion.receipts import Layout
from synth3d.errors import InputError
from synth3d.images import MIRRORS
from synth3d.runs import find_run, names_in

CALIBRATION = "calibration.json"
"""How far a run's intervals reach, in its folder, of whose seal it is no part."""

FORMATS, PRECISIONS, EXPLAIN = ("brats", "nnunet", "bids"), ("fp32", "bf16"), ("", "all", "maps")


@dataclass(frozen=True)
class CompleteRequest:
    """What ``synth3d complete`` is asked for; the fields are its flags, which ``--help`` explains.

    Attributes:
        data: Cohort that :func:`synth3d.find_cases` reads, a folder or table; never written to.
        out: Folder of the completed cohort, outside ``data``.
        run: A finished run, or several, of whose pictures the mean is taken; may be None for
            plumbing. Each is a folder, the name of a run in ``work/runs``, or ``latest``.
        missing: Sequences to treat as missing even where they are there; these are hidden
            from the network, and the real files are not taken over.
        restore: Sequences that are there with thick slices: each is read and replaced by what the
            run, which must be trained to, restores.
        explain: Write beside what is made what explains it, as far as the run can: ``all``, which
            True means as well, or ``maps`` alone, without looking at other cases for what each
            source is worth; empty, or False, for neither.
        draws: Pictures of a diffusion that are averaged; of several the spread is written, too.
        mirror: Mirror images of the case that are averaged, mirrored back: ``x`` with left and
            right swapped, as in training, or ``xyz``, all eight; empty for none. The spread over
            draws, mirror images and runs is written, too.
        uncertainty: Write beside what is made how wrong it may be, in scanner units: the spread of
            all pictures and, of runs that say so, of the errors that they expect; and the
            half-width of the interval of 90 %, where the file of ``synth3d calibrate`` that it
            names is for these pictures. ``run``, which True means as well, names
            ``calibration.json`` in the folder of the first run, which need not be there; empty, or
            False, for neither.
        link: The files that are there are hard links to the input instead of copies of it; whoever
            changes one then changes the other.
        read_only: Nobody may write to the files that are taken over; with ``link`` these are the
            input's own.
        cases: Names of the cases to complete; None is all.
        batch: Tiles per call of the network; None is what suits the device.
        labels: The label scheme of all cases, a key of ``synth3d.cohort.SCHEMES``; None lets each
            case tell.
        workers: Processes of this machine that work on cases side by side.
        dask: Address of a Dask scheduler whose workers do it instead; they see the same folders.
        part: ``3/20``: of the cases in the order of their names the third and every twentieth after
            it, so that 20 jobs of an array share a cohort.
        retry_failed: Try again what failed before with the same files and the same run.
        previews: Draw a picture of each case that is made, and the page ``index.html`` of all.
        threads: CPU threads of each worker; None is all cores, shared among the workers, or what a
            Dask worker has.
        work: Where runs are kept, in its folder ``runs``.

    Raises:
        InputError: A value that no cohort can be completed with.
    """

    data: Path
    out: Path
    run: str | Path | Sequence[str | Path] | None = None
    format: str = "brats"
    missing: tuple[str, ...] = ()
    restore: tuple[str, ...] = ()
    cases: tuple[str, ...] | None = None
    explain: str | bool = ""
    draws: int = 1
    mirror: str = ""
    uncertainty: str | Path | bool = ""
    link: bool = False
    read_only: bool = False
    labels: str | None = None
    overwrite: bool = False
    dry_run: bool = False
    plumbing: bool = False
    unchecked: bool = False
    overlap: float | None = None
    precision: str | None = None
    batch: int | None = None
    seed: int = 0
    workers: int = 1
    dask: str | None = None
    part: str | None = None
    retry_failed: bool = False
    previews: bool = True
    threads: int | None = None
    device: str = "auto"
    work: Path = Path("work")

    def __post_init__(self) -> None:
        for name, kind in (("data", Path), ("out", Path), ("cases", tuple)):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else kind(value))
        given = (self.run,) if isinstance(self.run, str | Path) else self.run or ()
        object.__setattr__(self, "run", tuple(find_run(run, Path(self.work)) for run in given))
        object.__setattr__(self, "mirror", self.mirror or "")
        told = "run" if self.uncertainty is True else str(self.uncertainty or "")
        object.__setattr__(self, "uncertainty", told)
        for name in ("missing", "restore"):
            object.__setattr__(self, name, tuple(getattr(self, name) or ()))
        object.__setattr__(self, "explain", "all" if self.explain is True else self.explain or "")
        object.__setattr__(self, "labels", parse_scheme(self.labels).name if self.labels else None)
        self._check_values()
        self.share  # noqa: B018  (it refuses what it cannot read)
        if self.plumbing and not self.hidden:
            raise InputError("--plumbing needs --missing: which real sequence is sent through")
        if both := {*self.hidden} & {*self.restored}:
            raise InputError(
                f"{'+'.join(sorted(both))} cannot be both missing and restored; leave --missing or "
                "--restore away"
            )
        if self.restored and (self.plumbing or self.explain):
            raise InputError("--restore goes with neither --plumbing nor --explain")
        if self.plumbing and self.format == "bids":
            raise InputError("--format bids names what is synthetic, and --plumbing makes nothing")
        self._check_averages()
        if not self.runs and not self.plumbing:
            raise InputError(f"completing needs a run (--run): {names_in(Path(self.work))}")
        if self.reads(self.out):
            raise InputError(
                f"the output folder {self.out} lies in the input folder {self.data}, which is only "
                "read; choose another"
            )

    def _check_averages(self) -> None:
        """Refuse to explain, or to average, what cannot be."""
        if self.plumbing and (self.explain or self.draws > 1 or self.mirror or self.uncertainty):
            raise InputError(
                "--plumbing makes nothing that --explain, --draws, --mirror or --uncertainty could "
                "tell of"
            )
        if self.plumbing and len(self.runs) > 1:
            raise InputError("--plumbing goes the way out of one run; name one --run")
        if self.explain and (self.mirror or len(self.runs) > 1):
            raise InputError(
                "--explain tells of one picture by one run, not of a mean; leave --mirror and all "
                "but one --run out"
            )

    def _check_values(self) -> None:
        """Refuse what no flag can be."""
        for name in ("batch", "workers", "threads", "draws"):
            if (value := getattr(self, name)) is not None and not 1 <= value <= 4096:
                raise InputError(f"--{name} must be at least 1 and at most 4096, got {value}")
        choices = (("format", FORMATS), ("precision", PRECISIONS), ("explain", EXPLAIN))
        for name, known in (*choices, ("mirror", ("", *MIRRORS))):
            if (value := getattr(self, name)) not in known and (name, value) != ("precision", None):
                raise InputError(f"unknown {name} {value!r}; known are {' and '.join(known)}")
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise InputError(f"overlap is a share of the tile in [0, 1), got {self.overlap}")

    @property
    def runs(self) -> tuple[Path, ...]:
        """``run`` as folders, in the order given."""
        return self.run  # type: ignore[return-value]

    @property
    def members(self) -> Members:
        """Of which pictures of a run the mean is taken."""
        return Members(self.seed, self.draws, self.mirror, bool(self.uncertainty))

    @property
    def calibration(self) -> Path | None:
        """The file by which intervals are told; None where there is none, or none is asked for."""
        if self.uncertainty == "run":
            path = self.runs[0] / CALIBRATION
            return path if path.is_file() else None
        return Path(str(self.uncertainty)) if self.uncertainty else None

    @property
    def hidden(self) -> tuple[Modality, ...]:
        """``missing`` under our names and in our order."""
        return _ordered(self.missing)

    @property
    def restored(self) -> tuple[Modality, ...]:
        """``restore`` likewise."""
        return _ordered(self.restore)

    def reads(self, path: Path) -> bool:
        """Whether ``path`` lies in the input folder, which is only read.

        A BIDS dataset keeps its derivatives inside, where no case is looked for.
        """
        path, data = path.resolve(), self.data.resolve()
        if not path.is_relative_to(data):
            return False
        parts = path.relative_to(data).parts
        return not (self.format == "bids" and parts[:1] == ("derivatives",) and len(parts) > 1)

    @property
    def share(self) -> slice:
        """Which of the cases, in the order of their names, are this ``part``."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.part or "1/1", re.ASCII)
        number, parts = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= parts:
            raise InputError(f"--part wants K/N with K from 1 to N, as in 3/20, got {self.part!r}")
        return slice(number - 1, None, parts)

    @property
    def layout(self) -> Layout:
        """Where the files go."""
        return Layout(self.out, self.format)


def _ordered(names: Sequence[str]) -> tuple[Modality, ...]:
    named = [parse_modality(name) for name in names]
    return tuple(modality for modality in ALL_MODALITIES if modality in named)
