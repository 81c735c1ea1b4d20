"""Synthesisers seen from outside: finding finished runs, training one, completing cases.

Between the stages only files travel, so the same code judges any other tool's volumes.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from synth3d.cohort import Case, Modality, Splits, digest_of_names, parse_modality
from synth3d.completion import Layout
from synth3d.errors import InputError
from synth3d.files import read_object
from synth3d.images import MIRRORS, PLANES, Grid, turn_to
from synth3d.runs import find_run, known_run
from synth3d.settings import parse

SPELLED = {
    "agi-net": "AGI-Net", "resunet": "ResUNet", "deform-resunet": "Deform-ResUNet",
    "arc-resunet": "ARC-ResUNet", "restormer": "Restormer", "pix2pix": "pix2pix", "pgan": "pGAN",
    "mmgan": "MM-GAN", "medsynth": "MedSynth", "iddpm": "iDDPM",
}  # fmt: skip
"""Architectures and frameworks that are not written in capitals alone."""


@dataclass(frozen=True)
class Teacher:
    """A segmenter that a run was coupled to: it would judge what it has taught.

    Attributes:
        weights_sha256: Of its export; ``checkpoint_sha256``, of nnU-Net's own file.
        seed: Of its training, and ``cases``, those it was trained on, if they are known, or only
            ``cases_sha256`` of their names, as receipts and exports have it.
        origin: The name of its model folder.
    """

    weights_sha256: str
    checkpoint_sha256: str
    seed: int | None = None
    cases: tuple[str, ...] | None = None
    cases_sha256: str | None = None
    origin: str = ""

    def learnt_from(self, names: Iterable[str]) -> bool:
        """Whether these and no others were its training cases, as far as it says."""
        known = self.cases_sha256 if self.cases is None else digest_of_names(self.cases)
        return known == digest_of_names(names)


def taught_words(teachers: Sequence[Teacher]) -> str:
    """By whom something was taught, for a reader; empty by nobody."""
    named = [
        each.origin + ("" if each.seed is None else f" (seed {each.seed})") for each in teachers
    ]
    return f"coupled to the segmenter {' and '.join(named)}" if named else ""


@dataclass(frozen=True)
class SynthesisRun:
    """A finished training run.

    Attributes:
        folder: Where it is; its name names the arm.
        targets: What it can make.
        data_folder: The cohort it was trained on, if it says so.
        splits: Who it learned from, was chosen on, and kept for testing.
        sources: What it needs for that; empty if it does not say. The same list as ``targets``
            where it makes whatever of it a case lacks.
        seen_before: Who the runs had seen from which it was begun (``synth3d train --from``).
        start: The run that it was begun from; empty for none.
        seq2seq: Whether it is the first stage of TSF-Seq2Seq alone, which fuses nothing.
        teachers: The segmenters that it was coupled to, or a run that it was begun from.
        explains: Whether ``synth3d complete --explain`` writes maps of what it makes.
        uncertain: Whether ``synth3d complete --uncertainty`` writes how wrong it expects to be.
        ratio: Of a run that restores its target from thick slices, which are a source, too: how
            much longer these voxels were in training, (z, y, x); empty for any other.
        profile: How those slices were made.
        plane: Of a run on slices, how these lie; then ``ratio`` is of (slice, row, column).
        others: Folders of further runs, with which its pictures are averaged.
        mirror: Of ``synth3d complete --mirror``; the pictures are means over mirror images, too.
        made_by: Its architecture and framework, as a reader knows them; empty where unknown.
    """

    folder: Path
    targets: tuple[Modality, ...]
    data_folder: Path | None
    weights_sha256: str
    splits: Splits
    sources: tuple[Modality, ...] = ()
    seen_before: tuple[str, ...] = ()
    start: str = ""
    seq2seq: bool = False
    teachers: tuple[Teacher, ...] = ()
    explains: bool = False
    uncertain: bool = False
    ratio: tuple[int, ...] = ()
    profile: str = ""
    plane: str = ""
    others: tuple[Path, ...] = ()
    mirror: str = ""
    made_by: str = ""

    @property
    def is_mean(self) -> bool:
        """Whether its pictures are means, over runs or over mirror images."""
        return bool(self.others or self.mirror)

    @property
    def flags(self) -> tuple[str, ...]:
        """How ``synth3d complete`` is told what makes the pictures."""
        runs = [word for run in (self.folder, *self.others) for word in ("--run", str(run))]
        return (*runs, *(("--mirror", self.mirror) if self.mirror else ()))

    @property
    def restores(self) -> bool:
        """Whether it looks at thick slices of what it makes."""
        return bool(self.ratio)

    @property
    def name(self) -> str:
        """The arm's name."""
        runs = "+".join(run.name for run in (self.folder, *self.others))
        return f"{runs}@{self.mirror}" if self.mirror else runs

    @property
    def how(self) -> str:
        """By what it was made, in few words: ``AGI-Net L1 coupled``; empty where unknown."""
        return " ".join(filter(None, (self.made_by, "coupled" if self.teachers else "")))

    @property
    def seen_cases(self) -> tuple[str, ...]:
        """Cases that its weights may remember: trained or chosen on, also before it was begun."""
        taught = (name for each in self.teachers for name in each.cases or ())
        return (*self.splits.train, *self.splits.val, *self.seen_before, *taught)

    @property
    def whose_split(self) -> str:
        """What its split is, for a reader of an error."""
        of = f", which was trained on {self.data_folder}" if self.data_folder else ""
        return f"the split of the run {self.name}{of},"

    @property
    def words(self) -> str:
        """What it makes of what."""
        if self.any_gap:
            return f"whatever a case lacks of {', '.join(self.targets)}"
        if self.restores:
            ratio = " × ".join(map(str, self.ratio))
            return f"{', '.join(self.targets)} of its thick slices ({ratio}) and the rest"
        of = f" from {', '.join(self.sources)}" if self.sources else ""
        return ", ".join(self.targets) + of

    def can_make(self, missing: Sequence[Modality]) -> bool:
        """Whether it makes all of ``missing`` from sequences that are not among them."""
        left = set(self.sources) - set(missing)
        enough = bool(left) if self.any_gap else len(left) == len(self.sources)
        return set(missing) <= set(self.targets) and enough

    def can_restore(self, modality: Modality) -> bool:
        """Whether it restores ``modality`` from thick slices, of whatever ratio."""
        return self.restores and self.targets == (modality,)

    def ratio_on(self, fine: Grid) -> tuple[int, ...]:
        """``ratio`` along the axes (z, y, x) of a case on the grid ``fine``."""
        if not (self.plane and self.ratio):
            return self.ratio
        axes = turn_to(self.plane, fine.affine).axes
        return tuple(self.ratio[axes.index(axis)] for axis in range(3))

    @property
    def any_gap(self) -> bool:
        """Whether it makes whatever a case lacks, of one list, from the rest of it."""
        return bool(self.sources) and self.sources == self.targets


def _uncertain(config: Mapping[str, Any]) -> bool:
    """Whether a run of this configuration says how wrong it may be."""
    train = config.get("train", {})
    return train.get("framework") == "l1" and train.get("l1", {}).get("uncertain") is True


def read_mean(given: Path, work: Path = Path("work")) -> SynthesisRun:
    """The run ``given``; of ``A+B`` the mean of two or more, of ``A@x`` over mirrors.

    Each is a folder, the name of a run in ``work/runs``, or ``latest``. A mean may remember what
    any of its runs may, and has the teachers of all. A folder that is there is a run, whatever its
    name.

    Raises:
        InputError: As :func:`read_run`; or the runs do not make the same of the same.
    """

    def is_run(text: str) -> bool:
        return Path(text).is_dir() or (work / "runs" / text).is_dir()

    if is_run(str(given)) or not {*str(given)} & {*"+@"}:
        return read_run(find_run(given, work))
    text, _, mirror = str(given).rpartition("@")
    if mirror not in MIRRORS:
        text, mirror = str(given), ""
    parts = [text] if is_run(text) else text.split("+")
    first, *others = runs = [read_run(find_run(part, work)) for part in parts]
    for run in others:
        mine, theirs = ((each.targets, each.sources, each.ratio) for each in (run, first))
        if mine != theirs:
            raise InputError(
                f"--run {given}: {run.folder} makes {run.words} and {first.folder} {first.words}; "
                "average runs that make the same of the same"
            )
    weights = [run.weights_sha256 for run in runs]
    return replace(
        first,
        weights_sha256=hashlib.sha256("+".join([*weights, mirror]).encode()).hexdigest(),
        seen_before=tuple(
            dict.fromkeys([*first.seen_before, *(n for run in others for n in run.seen_cases)])
        ),
        teachers=tuple(dict.fromkeys(teacher for run in runs for teacher in run.teachers)),
        start=next((run.start for run in runs if run.start), ""),
        explains=False,
        uncertain=False,  # of a mean there is a spread, unasked
        others=tuple(run.folder for run in others),
        mirror=mirror,
    )


def read_run(folder: Path) -> SynthesisRun:
    """What a finished run says about itself (``done.json``, ``cohort.json``, ``config.json``)."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a run folder: it has no config.json")
    if not (folder / "done.json").is_file():
        raise InputError(
            f"the run {folder} is not finished ({known_run(folder).words}); synth3d train "
            f"--continue {folder} goes on with it"
        )
    done, cohort = read_object(folder / "done.json"), read_object(folder / "cohort.json")
    config = read_object(folder / "config.json")
    train = config.get("train", {})
    names = tuple[str, ...]
    try:
        start = parse(str, train.get("start", ""), "start")
        fuses = train.get("framework") == "tsf"
        seq2seq = fuses and train.get("tsf", {}).get("pretrain") == 1
        data = parse(str | None, done.get("data_folder"), "data_folder")
        sides = [parse(names, cohort[side], side) for side in ("train", "val", "test")]
        named = parse(names, done["targets"], "targets")
        targets: tuple[Modality, ...] = tuple(parse_modality(one) for one in named)
        ratio, profile = _thick_slices(config.get("degrade", {}), targets)
        return SynthesisRun(
            folder=folder.resolve(),
            targets=targets,
            data_folder=Path(data) if data else None,
            weights_sha256=parse(str, done["weights_sha256"], "weights_sha256"),
            splits=Splits(*sides),
            sources=tuple(
                parse_modality(one) for one in parse(names, done.get("sources", ()), "sources")
            ),
            seen_before=_seen_before(cohort, start),
            start=start,
            teachers=parse(tuple[Teacher, ...], cohort.get("coupled", ()), "coupled"),
            seq2seq=seq2seq,
            explains=fuses and not seq2seq and config.get("model", {}).get("fusion") != "plain",
            uncertain=_uncertain(config),
            ratio=ratio,
            profile=profile,
            plane=_plane(config),
            made_by=_made_by(config),
        )
    except (InputError, KeyError, AttributeError) as error:
        raise InputError(
            f"the run {folder} is damaged (config.json, done.json or cohort.json): {error}"
        ) from error


def _made_by(config: Mapping[str, Any]) -> str:
    """``AGI-Net L1``."""
    names = config.get("model", {}).get("name", ""), config.get("train", {}).get("framework", "")
    return " ".join(dict.fromkeys(SPELLED.get(n, n.upper()) for n in map(str, names) if n))


def _plane(config: Mapping[str, Any]) -> str:
    """Of a run on slices; empty for one on volumes."""
    if config.get("dim", 3) == 3:
        return ""
    plane = parse(str, config.get("data", {}).get("plane", "axial"), "data.plane")
    if plane not in PLANES:
        raise InputError(f"data.plane is {plane!r}, none of {', '.join(PLANES)}")
    return plane


def _thick_slices(degrade: Any, targets: Sequence[Modality]) -> tuple[tuple[int, ...], str]:
    """Ratio and profile of a run that restores; what is degraded and no target is no question."""
    source = parse(str, degrade.get("source", ""), "degrade.source")
    if not source or parse_modality(source) not in targets:
        return (), ""
    ratio = parse(tuple[int, int, int], degrade.get("ratio"), "degrade.ratio")
    return ratio, parse(str, degrade.get("profile", "kspace"), "degrade.profile")


def _seen_before(cohort: Mapping[str, Any], start: str) -> tuple[str, ...]:
    """As ``cohort.json`` notes it; of a run that has no such note, its start is asked."""
    if start and "seen_before" not in cohort:
        return read_run(Path(start)).seen_cases
    sides = parse(dict[str, tuple[str, ...]], cohort.get("seen_before", {}), "seen_before")
    return tuple(name for side in sides.values() for name in side)


def threads_begun(run: Path, threads: int) -> int:
    """With how many threads a killed training of the folder ``run`` goes on: as it was begun."""
    if not (begun := run / "config.json").is_file():
        return threads
    train = read_object(begun, "train")["train"]
    return train.get("threads", threads) if isinstance(train, dict) else threads


def finished_runs(
    work: Path, data: Path, fits: Callable[[SynthesisRun], bool]
) -> list[SynthesisRun]:
    """Finished runs under ``work/runs`` on the cohort that fit, the best suited first.

    Those for just some sequences come before those for any gap, in both the newest first. One
    of Seq2Seq alone, the first stage of a training, has to be asked for by name, and so has one
    that a segmenter has taught, which may not judge it.
    """
    done = sorted((work / "runs").glob("*/done.json"), key=lambda p: p.stat().st_mtime)
    runs = []
    for path in reversed(done):
        try:
            run = read_run(path.parent)
        except InputError:
            continue  # somebody's damaged folder is no reason not to use another run
        same = run.data_folder is not None and run.data_folder.resolve() == data.resolve()
        if same and fits(run) and not run.seq2seq and not run.teachers:
            runs.append(run)
    return sorted(runs, key=lambda run: run.any_gap)


def completed_file(out: Path, case: Case, missing: Sequence[Modality], modality: Modality) -> Path:
    """Where ``synth3d complete --out OUT`` writes ``modality``, one of ``missing``, of ``case``.

    It names files as the cohort calls them, whether the real ones are there or not.
    """
    visible = {name: path for name, path in case.images.items() if name not in missing}
    return Layout(out, "brats").image(replace(case, images=visible), modality)


def completion(
    by: Sequence[str],
    data: Path,
    out: Path,
    missing: Sequence[Modality],
    cases: Sequence[str],
    threads: int = 1,
    how: str = "fill",
) -> list[str]:
    """Arguments of ``synth3d`` that write ``missing`` for ``cases`` into ``out``.

    ``by`` are :attr:`SynthesisRun.flags`, or ``--plumbing``, which sends the real file through the
    export path as a check. ``how`` is ``fill``, ``explain`` or ``uncertain``, which also write maps
    of what was made, or ``restore``. What is to be restored is there, with thick slices.
    """
    command = ["complete", *by, "--data", str(data), "--out", str(out)]
    command += ["--no-previews"]  # the report has pictures of its own
    flag = "--restore" if how == "restore" else "--missing"
    named = [word for modality in missing for word in (flag, modality)]
    maps = {"explain": ["--explain", "maps"], "uncertain": ["--uncertainty"]}
    command += maps.get(how, [])
    return [*command, "--threads", str(threads), *named, "--cases", *cases]
