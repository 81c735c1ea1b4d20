"""What a user asks of `seg_eval run`: sequences, cohort, arms, segmenters, statistics."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path

from nnunet_plans.presets import PRESETS
from seg_eval.arms import (
    ARM_KINDS,
    RANDOM,
    Degradation,
    parse_degraded,
    parse_kinds,
    split_words,
)
from seg_eval.scoring import EMPTY_RULES, REGIONS, TOLERANCE_MM
from synth3d.cohort import (
    MODALITIES,
    Modality,
    are_simulated,
    find_cases,
    parse_modality,
    parse_scheme,
)
from synth3d.console import nearest
from synth3d.errors import InputError
from synth3d.files import LONGEST_STEM, fault_of, sha256
from synth3d.settings import parse_assignment

PHANTOM_PRESET, CPU_PRESET, GPU_PRESET = "cpu-mini", "cpu-small", "standard"
"""Of the segmenter, unless another is said: by the data and the device."""
DEFAULT_FOR = {PHANTOM_PRESET: "phantoms", CPU_PRESET: "a CPU", GPU_PRESET: "a GPU"}
"""Where a preset is taken that is not named."""
TEACHER_SEED = 1000
"""Of the segmenter that teaches and never judges, unless another is said."""
FARTHEST_MM = 100.0
"""Of surfaces that may be said to agree: beyond it all of a head does."""
SEEDS = 2**32
"""NumPy's generators, which nnU-Net and scikit-learn draw from, know no more seeds."""


@dataclass(frozen=True)
class RunRequest:
    """The flags of `seg_eval run`, one attribute each; what makes no sense cannot be one.

    Attributes:
        missing: ``flair``; ``flair,t1ce`` for both at once; ``all`` for each of the four in turn;
            ``random`` for one experiment in which each test case lacks one, drawn by ``seed``.
        degraded: ``flair=1,1,4`` instead: the sequence is there, with voxels so much longer along
            (z, y, x).
        profile: How its thick slices are made, ``kspace`` or ``slices``.
        data: Cohort folder; None takes phantoms in ``work``.
        splits: JSON with train, val and test; None takes the run's own.
        labels: Label scheme of all cases, a key of ``synth3d.cohort.SCHEMES``; None lets each tell.
        run: Finished runs of ``synth3d``, folders or names in ``work/runs``; without any, the
            newest that fits, or a new one.
        replicates: By name of an arm those of ``run`` that it merges: trainings of one recipe that
            differ in their seed alone.
        completed: ``FOLDER`` or ``NAME=FOLDER`` of files that any other tool made.
        recipe: For a synthesiser that has to be trained first.
        coupled: Seed of a segmenter that is trained to teach a synthesiser, which the others judge
            beside ``run``; True takes ``TEACHER_SEED``, None is without.
        settings: ``key=value`` for the training of that synthesiser, as ``synth3d train --set``, or
            of those of ``cross_validate``.
        cross_validate: Cut the cohort into so many folds by patient, drawn by ``seed``; train and
            judge an experiment for each, and put them into one certificate.
        work: Where everything is kept.
        name: Folder under ``work/eval``; None takes the missing sequences and the cohort.
        arms: Kinds of arm or groups of them, see :data:`seg_eval.arms.ARM_KINDS`.
        preset: Of the segmenters; None takes cpu-mini for phantoms, else nnU-Net's own, standard,
            on a GPU, and cpu-small on a CPU.
        transfer: Of further segmenters, of another architecture, that judge the same arms.
        segmenter: An nnU-Net v2 model folder as the frozen segmenter; None trains one.
        trust: Checkpoints may be unpickled that this user did not train on this machine.
        empty: Rule for regions that a case does not have, ``brats`` or ``skip``.
        seed: Of voxel draws, and of the segmenter without ``seeds``.
        seeds: ``0,1,2``: segmenters of each kind are trained with these; None takes ``seed``.
        margin: Mean Dice below full that still counts as no worse.
        regions: Those that are judged, ``WT,TC``; all others are exploratory.
        nsd_tolerance: How far surfaces may be apart and still agree in NSD, in mm.
        folds: Of the out-of-fold synthesis that a retrained segmenter learns from.
        workers: Folds of it that are done side by side, with a share of the threads each.
        threads: CPU threads; None takes all cores.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        dry_run: Say what would be done, and do nothing.

    Raises:
        InputError: One of them has no sense.
    """

    missing: str | None = None
    data: Path | None = None
    splits: Path | None = None
    labels: str | None = None
    run: tuple[Path, ...] = ()
    completed: tuple[str, ...] = ()
    recipe: str | None = None
    work: Path = Path("work")
    name: str | None = None
    arms: tuple[str, ...] = ("default",)
    preset: str | None = None
    segmenter: Path | None = None
    trust: bool = False
    empty: str = "brats"
    seed: int = 0
    seeds: str | None = None
    margin: float = 0.02
    nsd_tolerance: float = TOLERANCE_MM
    regions: tuple[str, ...] = REGIONS
    folds: int = 3
    workers: int = 1
    threads: int | None = None
    device: str = "auto"
    dry_run: bool = False
    degraded: str | None = None
    profile: str = "kspace"
    transfer: str | None = None
    coupled: int | None = None
    settings: tuple[str, ...] = ()
    cross_validate: int | None = None
    replicates: Mapping[str, tuple[Path, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        self._take_strings()
        self._check_question()
        if self.device not in ("auto", "cpu"):
            _ = self.chosen_device  # refused before anything is done, and in a dry run
        if self.labels is not None:
            parse_scheme(self.labels)
        several = len(self.segmenter_seeds) > 1
        _ = self.kinds
        self._check_presets()
        self._check_counts()
        self._check_coupled(several)
        self._check_random()
        self._check_folds()
        if not 0 <= self.margin < 1:
            raise InputError(f"--margin is a Dice difference in [0, 1), got {self.margin}")
        if not 0 < self.nsd_tolerance <= FARTHEST_MM:
            raise InputError(
                f"--nsd-tolerance is a distance above 0 and up to {FARTHEST_MM:g} mm, got "
                f"{self.nsd_tolerance:g}"
            )
        if self.empty not in EMPTY_RULES:
            raise InputError(f"--empty is {' or '.join(EMPTY_RULES)}, got {self.empty!r}")
        if self.name is not None and (fault := fault_of(self.name, LONGEST_STEM)):
            raise InputError(f"--name wants a plain folder name; {self.name!r:.120} {fault}")
        if self.data is not None and self.work.resolve().is_relative_to(self.data.resolve()):
            raise InputError(
                f"--work {self.work} lies in the cohort folder {self.data}, where its files would "
                "be taken for cases; choose a folder outside"
            )
        if self.segmenter is not None and several:
            raise InputError("--segmenter is one model; --seeds are for segmenters trained here")
        if self.segmenter is not None and not self.segmenter.is_dir():
            raise InputError(f"--segmenter: no folder {self.segmenter}")

    def _check_random(self) -> None:
        """What learns for one gap, or by one, has no sense where each case has another."""
        if not self.is_random:
            return
        if self.coupled is not None:
            raise InputError(
                "--coupled teaches one gap; with --missing random name runs with --run"
            )
        learns = ("without_missing", "learns_from_synthesis")
        kinds = [k for k in self.kinds if any(getattr(ARM_KINDS[k], name) for name in learns)]
        if kinds:
            raise InputError(
                f"the arm(s) {', '.join(kinds)} train a segmenter for one gap, and with --missing "
                "random each case lacks another sequence; leave them out"
            )

    def _check_folds(self) -> None:
        """What was trained or split before has seen patients of other folds."""
        if self.cross_validate is None:
            return
        if self.cross_validate < 2:
            raise InputError(f"--cross-validate wants 2 folds or more, got {self.cross_validate}")
        if self.run:
            raise InputError(
                "--cross-validate trains a synthesiser for each fold, and a run of --run has seen "
                "patients of other folds; leave --run out, or judge the run by its own split "
                "without --cross-validate"
            )
        if self.splits is not None:
            raise InputError(
                "--cross-validate draws its own splits; leave --splits out, or run each of your "
                "splits by itself and put them together with seg_eval pool"
            )
        if len(self.wanted) > 1:
            raise InputError(
                "--cross-validate is of one question; with --missing all give one sequence at a "
                "time"
            )

    @property
    def is_random(self) -> bool:
        """Whether each test case lacks another sequence."""
        return self.missing is not None and self.missing.strip().lower() == RANDOM

    def made_together(self, missing: tuple[Modality, ...]) -> list[tuple[Modality, ...]]:
        """What a synthesiser of an experiment on ``missing`` has to make of one case, or another.

        All of it at once; where gaps are drawn, each by itself.
        """
        return [(name,) for name in missing] if self.is_random else [missing]

    def _check_question(self) -> None:
        if (self.missing is None) == (self.degraded is None):
            given = "neither is given" if self.missing is None else "both are given"
            raise InputError(f"of --missing and --degraded {given}; expected exactly one of them")
        if self.degraded is None and self.profile != "kspace":
            raise InputError("--profile says how --degraded makes thick slices; give it with that")
        _ = self.wanted

    def _check_presets(self) -> None:
        for preset in filter(None, (self.segmenter_preset, self.transfer)):
            if preset not in PRESETS:
                known = ", ".join(PRESETS)
                raise InputError(
                    f"unknown preset {preset!r}{nearest(preset, PRESETS)}; known: {known}; "
                    "--preset list tells of each"
                )
        if self.segmenter is None and self.transfer == self.segmenter_preset:
            raise InputError(
                f"--transfer asks for judges of another preset than {self.transfer}, which judges "
                "anyway; give another one, as cpu-mini-resenc, or leave it out"
            )

    def _check_coupled(self, several: bool) -> None:
        for one in self.settings:
            parse_assignment(one)
        if self.coupled is None:
            if self.settings and self.cross_validate is None:
                raise InputError(
                    "--set is for the synthesiser that --coupled or --cross-validate trains; give "
                    "one of them, too, or train with synth3d train --set and name the run with "
                    "--run"
                )
            return
        if not 0 <= self.coupled < SEEDS:
            said = f"a whole number from 0 to {SEEDS - 1}, got {self.coupled}"
            raise InputError(f"--coupled takes the seed of its teacher, {said}")
        if self.segmenter is None and self.coupled in self.segmenter_seeds:
            flag = "--seeds" if several or self.seeds else "--seed"
            raise InputError(
                f"the segmenter of seed {self.coupled} would teach the coupled run and judge it; "
                f"leave that seed out of {flag}, or give the teacher another one, as in --coupled "
                f"{max(self.segmenter_seeds) + 1}"
            )

    def _check_counts(self) -> None:
        for name, value in (("threads", self.thread_count), ("workers", self.workers)):
            if not 1 <= value <= 4096:
                raise InputError(f"--{name} must be at least 1 and at most 4096, got {value}")

    def _take_strings(self) -> None:
        """From Python, paths may be strings, and one of several need be in no tuple."""
        if isinstance(self.coupled, bool):
            object.__setattr__(self, "coupled", TEACHER_SEED if self.coupled else None)
        for name in ("data", "splits", "work", "segmenter"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(value))
        runs = (self.run,) if isinstance(self.run, str | Path) else self.run
        merged = {name: tuple(map(Path, each)) for name, each in self.replicates.items()}
        object.__setattr__(self, "replicates", merged)
        named = [Path(run) for run in runs]
        named += [run for each in merged.values() for run in each if run not in named]
        object.__setattr__(self, "run", tuple(named))
        for name in ("completed", "arms", "settings"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, (value,))
        words = (self.regions,) if isinstance(self.regions, str) else self.regions
        object.__setattr__(self, "regions", parse_regions(words))

    @property
    def wanted(self) -> list[tuple[Modality, ...]]:
        """The missing sequences of each experiment, or the one that is degraded."""
        if (how := self.degradation) is not None:
            return [(how.modality,)]
        return parse_missing(self.missing or "")

    @property
    def degradation(self) -> Degradation | None:
        """What ``degraded`` and ``profile`` ask for; None where a sequence is missing."""
        return None if self.degraded is None else parse_degraded(self.degraded, self.profile)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of arm in their fixed order; whoever names a synthesiser wants its arm."""
        named = ("synthetic",) if self.run or self.completed else ()
        return parse_kinds((*self.arms, *named), self.degraded is not None)

    @property
    def cohort(self) -> Path:
        """The cohort's folder, where phantoms may have to be made first."""
        return self.data or self.work / "phantom"

    @cached_property
    def is_simulated(self) -> bool:
        """Whether all cases are built-in phantoms; False of a cohort that cannot be read."""
        if self.data is None:
            return True
        with suppress(InputError):  # said where the cohort is used
            return are_simulated(case.name for case in find_cases(self.data))
        return False

    @property
    def segmenter_preset(self) -> str:
        """A name in :data:`nnunet_plans.presets.PRESETS`."""
        if self.preset is not None or self.is_simulated:
            return self.preset or PHANTOM_PRESET
        return GPU_PRESET if self.chosen_device.startswith("cuda") else CPU_PRESET

    @cached_property
    def chosen_device(self) -> str:
        """``device``, where ``auto`` is the GPU if there is one that works."""
        from synth3d.machine import pick_device

        return pick_device(self.device)

    @property
    def held_recipes(self) -> list[str]:
        """What is in the recipe of a run to be trained: a file's hash, also of a shipped one.

        Unnamed on a GPU it is one of two, by that GPU's memory, and both count. What is no recipe
        is left to ``synth3d train`` to refuse.
        """
        usual = ("gpu", "gpu-8gb") if self.chosen_device.startswith("cuda") else ("cpu",)
        names = (self.recipe,) if self.recipe else usual if self.data else ("phantom",)
        shipped = resources.files("synth3d") / "training" / "recipes"
        found = []
        for name in names:
            with resources.as_file(shipped / f"{name}.toml") as path:
                file = Path(name) if Path(name).is_file() else path
                found.append(sha256(file) if file.is_file() else name)
        return found

    @property
    def segmenter_seeds(self) -> tuple[int, ...]:
        """One segmenter of each kind is trained for each of them."""
        return parse_seeds(self.seeds, self.seed)

    @property
    def thread_count(self) -> int:
        """For everything that computes."""
        return os.cpu_count() or 1 if self.threads is None else self.threads


def parse_missing(text: str) -> list[tuple[Modality, ...]]:
    """What ``--missing`` asks for: one set of sequences per experiment, in their usual order."""
    if text.strip().lower() == "all":
        return [(name,) for name in MODALITIES]
    if text.strip().lower() == RANDOM:
        return [MODALITIES]
    named = {parse_modality(word) for word in split_words([text])}
    if foreign := sorted(named - set(MODALITIES)):
        raise InputError(
            f"the segmenter sees {', '.join(MODALITIES)}; it cannot miss {', '.join(foreign)}"
        )
    if not named or named == set(MODALITIES):
        raise InputError(f"--missing {text}: expected one to three sequences, all, or random")
    return [tuple(name for name in MODALITIES if name in named)]


def parse_regions(words: Iterable[str]) -> tuple[str, ...]:
    """Tumour regions from ``--regions WT,ET``, in their usual order."""
    named = split_words(words)
    if not named or not {*named} <= {*REGIONS}:
        raise InputError(
            f"--regions names those to be judged, of {', '.join(REGIONS)}, as in WT,TC; got "
            f"{', '.join(named) or 'none'}"
        )
    return tuple(name for name in REGIONS if name in named)


def parse_seeds(text: str | None, seed: int) -> tuple[int, ...]:
    """Seeds of the segmenters from ``--seeds 0,1,2``; without it the one ``seed``."""
    if not 0 <= seed < SEEDS:
        raise InputError(f"--seed must be a whole number from 0 to {SEEDS - 1}, got {seed}")
    if text is None:
        return (seed,)
    seeds: tuple[int, ...] = ()
    with suppress(ValueError):
        seeds = tuple(map(int, split_words([text])))
    if not seeds or min(seeds) < 0 or max(seeds) >= SEEDS or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds wants different whole numbers as in 0,1,2, got {text!r}")
    return seeds
