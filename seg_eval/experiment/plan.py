"""What an experiment is, worked out from a request, and which folder may hold it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seg_eval.arms import (
    ARM_KINDS,
    RANDOM,
    Arm,
    Completed,
    Degradation,
    Gaps,
    SynthesisRun,
    check_out_of_fold,
    draw_gaps,
    grouped,
    name_arms,
    read_replicates,
    share_one_grid,
    split_words,
)
from seg_eval.cohort import Cohort, load_cohort, refuse_leak
from seg_eval.experiment.request import RunRequest
from seg_eval.records import read_config
from seg_eval.scoring import REGIONS
from seg_eval.segmenter import read_model_folder, refuse_unfit, refuse_untrusted
from synth3d.cohort import Modality
from synth3d.errors import InputError
from synth3d.files import place, plain


@dataclass(frozen=True)
class Plan:
    """What an experiment is.

    Attributes:
        missing: The sequences that are taken away, all at once; or the one that is degraded.
        arms: What takes their place; ``full`` and the floor among them.
        preset, seeds, seed, threads, empty, margin, nsd_tolerance, folds, workers: As in
            :class:`RunRequest`.
        foreign: A model folder that takes the frozen segmenter's place; None trains one.
        degraded: The thick slices of what is not missing but degraded.
        replicates: By name of a merged arm those of ``arms`` that are its trainings.
        regions: Those that are judged, of :data:`REGIONS`; all others are exploratory.
        drawn: Test case → the one of ``missing`` that it lacks; empty where all lack all of them.
    """

    missing: tuple[Modality, ...]
    cohort: Cohort
    arms: tuple[Arm, ...]
    preset: str
    seeds: tuple[int, ...]
    seed: int
    threads: int
    empty: str
    margin: float
    nsd_tolerance: float
    folds: int = 3
    foreign: Path | None = None
    workers: int = 1
    degraded: Degradation | None = None
    replicates: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    drawn: Mapping[str, Modality] = field(default_factory=dict, hash=False)
    regions: tuple[str, ...] = REGIONS

    @property
    def groups(self) -> dict[str, tuple[Arm, ...]]:
        """By name of what is judged the arms that are made for it, several if it is merged."""
        return grouped(self.arms, self.replicates)

    @property
    def judged(self) -> tuple[Arm, ...]:
        """What scores and reports speak of: the arms, replicates merged."""
        return tuple(replace(arms[0], name=name) for name, arms in self.groups.items())

    @property
    def gaps(self) -> Gaps:
        """What each test case lacks."""
        some = {*self.drawn.values()} or self.missing
        return Gaps(tuple(name for name in self.missing if name in some), self.drawn)

    @property
    def asked(self) -> tuple[str, ...]:
        """``missing``, or, where gaps are drawn, one of the four."""
        return (ONE_EACH,) if self.drawn else self.missing

    @property
    def stem(self) -> str:
        """The sequences as part of a file name, ``t1c-t2f`` or ``t2f-1x1x4``."""
        if self.drawn:
            return f"{RANDOM}-{self.seed}"
        return self.degraded.stem if self.degraded else "-".join(self.missing)

    @property
    def tested(self) -> dict[str, str]:
        """The patient of each test case."""
        return {case.name: case.patient for case in self.cohort.test}

    @property
    def centres(self) -> dict[str, str]:
        """Where each test case was acquired, if a table says so of all of them; else empty."""
        told = {case.name: case.centre for case in self.cohort.test if case.centre}
        return told if len(told) == len(self.cohort.test) else {}

    def is_foreign(self, segmenter: str) -> bool:
        """Whether that kind of segmenter is one that the user brought."""
        return segmenter == "frozen" and self.foreign is not None

    def describe(self) -> dict[str, Any]:
        """Plain values for ``config.json``; equal values mean the same experiment."""
        merged = {name: list(arms) for name, arms in self.replicates.items()}
        return {
            "missing": list(self.asked),
            **({"drawn": dict(self.drawn)} if self.drawn else {}),
            "degraded": self.degraded.describe() if self.degraded else None,
            "data": str(self.cohort.folder.resolve()),
            "train": [case.name for case in self.cohort.train],
            "test": [case.name for case in self.cohort.test],
            "labels": self.cohort.labels,
            "preset": self.preset,
            "segmenter": str(self.foreign) if self.foreign else None,
            "seeds": list(self.seeds),
            "seed": self.seed,
            "threads": self.threads,
            "empty": self.empty,
            "margin": self.margin,
            "regions": list(self.regions),
            "nsd_tolerance_mm": self.nsd_tolerance,
            "primary": next((a.name for a in self.judged if a.about.group == "synthesis"), None),
            "arms": {arm.name: self._origin(arm) for arm in self.arms},
            **({"replicates": merged} if merged else {}),
        }

    def _origin(self, arm: Arm) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": arm.kind}
        learns, source = arm.about.learns_from_synthesis, arm.source
        if isinstance(source, SynthesisRun):
            found |= {"folds": self.folds} if learns else {}
            found |= {"mean_of": list(source.flags)} if source.is_mean else {}
            return found | {"run": str(source.folder), "weights_sha256": source.weights_sha256}
        if isinstance(source, Completed):
            cases = (*self.cohort.test, *(self.cohort.train if learns else ()))
            files = source.identity(cases, self.gaps)
            return found | {"completed": str(source.folder), "files_sha256": files}
        return found


def make_plan(
    request: RunRequest, missing: tuple[Modality, ...], sources: Sequence[SynthesisRun | Completed]
) -> Plan:
    """One experiment of ``request``, with everything checked that can be before any work.

    There are no ``sources`` yet where a synthesiser has still to be trained.
    """
    runs = [source for source in sources if isinstance(source, SynthesisRun)]
    of_run, whose = (runs[0].splits, runs[0].whose_split) if runs else (None, "")
    cohort = load_cohort(request.cohort, request.splits, of_run, request.labels, whose)
    gaps = draw_gaps(cohort.test, request.seed) if request.is_random else Gaps(missing)
    for source in sources:
        if isinstance(source, SynthesisRun):
            where = f"the cases that the run {source.name} was trained on"
            refuse_leak(cohort, source.seen_cases, where)
        else:
            source.require(cohort.test, gaps)
    foreign = request.segmenter and request.segmenter.resolve()
    if foreign is not None:
        model = read_model_folder(foreign)
        refuse_untrusted(model, request.trust, request.work)
        refuse_unfit(foreign, model.channels, missing, request.degraded is not None)
    if (degraded := request.degradation) is not None:
        degraded.check_fits([*cohort.train, *cohort.test])
    vain = _vain_kinds(request, cohort, missing)
    kinds = [kind for kind in request.kinds if kind not in vain]
    arms = tuple(name_arms(kinds, sources, degraded is not None))
    for arm in arms:
        if arm.about.learns_from_synthesis:
            check_out_of_fold(arm, cohort, missing, request.folds)
    return Plan(
        missing=missing,
        drawn=gaps.drawn,
        cohort=cohort,
        arms=arms,
        preset=request.segmenter_preset,
        seeds=request.segmenter_seeds,
        seed=request.seed,
        threads=request.thread_count,
        empty=request.empty,
        margin=request.margin,
        nsd_tolerance=request.nsd_tolerance,
        folds=request.folds,
        foreign=foreign,
        workers=request.workers,
        degraded=degraded,
        regions=request.regions,
        replicates=read_replicates(request.replicates, arms, request.work) if sources else {},
    )


def _vain_kinds(request: RunRequest, cohort: Cohort, missing: Sequence[Modality]) -> list[str]:
    """Kinds of arm that nobody asked for by name and that would mean nothing in this cohort."""
    named = {*split_words(request.arms)}
    vain = [kind for kind in request.kinds if ARM_KINDS[kind].needs_one_grid and kind not in named]
    one = not vain or share_one_grid([*cohort.train, *cohort.test], missing[0])
    return [] if one else vain


ONE_EACH = "one sequence"
"""How what is missing is called where each case lacks another."""

PINNED = (
    "missing", "drawn", "degraded", "data", "train", "test", "labels", "preset", "segmenter",
    "seed", "margin", "regions", "nsd_tolerance_mm",
)  # fmt: skip
"""Keys of a description that must stay as they are; arms and seeds may come and go."""


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What keeps two descriptions from sharing a folder, one phrase each; [] when nothing.

    The rule for empty regions and the threads may change, and there may be no old one; an arm of
    one name must stay the same thing, and the synthetic arm that the question is about, once there
    is one, must stay the first, or be merged with its replicates into the first.
    """
    if not old:
        return []
    old = {"regions": list(REGIONS)} | old  # before they could be chosen all were judged
    changed = [key for key in PINNED if old.get(key) != new.get(key)]
    first = new["primary"]
    if None not in (old.get("primary"), first):
        merged = new.get("replicates", {}).get(first, ())
        changed += ["primary"] if old["primary"] not in (first, *merged) else []
    before, arms = old["arms"], new["arms"]
    others = [name for name in sorted(arms.keys() & before) if arms[name] != before[name]]
    return [
        *(f"{key} is {_short(new.get(key))}, was {_short(old.get(key))}" for key in changed),
        *(f"arm {name} comes from other weights, files or folds than before" for name in others),
    ]


def remembered(folder: Path, described: dict[str, Any]) -> dict[str, Any]:
    """``described`` with the arms that ``folder`` holds from before, so none changes unseen.

    The synthetic arm that the question is about stays, too, when a call leaves all of them out.
    """
    before = read_config(folder)
    primary = before.get("primary") or described["primary"]
    arms = before.get("arms", {}) | described["arms"]
    return described | {"arms": arms, "primary": primary}


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"a list of {len(value)} cases"
    if isinstance(value, dict) and "ratio" in value:
        return f"{', '.join(map(str, value['ratio']))} by {value['profile']}"
    return ", ".join(map(str, value)) if isinstance(value, list | dict) else repr(value)


def choose_folder(parent: Path, name: str | None, plan: Plan) -> Path:
    """The folder in ``parent`` that holds the experiment already, or a free one.

    Without a ``name`` it is ``<missing>-<cohort>`` or ``<degraded>-<ratio>-<cohort>``, with a
    number if need be.
    """
    described = plan.describe()
    folder = place(parent, name or f"{plan.stem}-{plain(plan.cohort.folder.resolve().name)}")
    stem = folder
    number = 1
    while found := differences(read_config(folder), described):
        if name is not None:
            raise InputError(
                f"{folder} holds another experiment ({'; '.join(found)}); give another --name"
            )
        number += 1
        folder = stem.with_name(f"{stem.name}-{number}")
    return folder
