"""One experiment: missing sequences, a cohort, arms, frozen segmenters, scores.

The stages run in order and leave files; what is there is not made again, so a killed
experiment goes on where it was. The folder remembers what it is about (``config.json``) and
refuses to become another experiment.
"""

import resource
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from seg_eval.arms import Arm, ArmBuilder, Program, out_of_fold
from seg_eval.experiment.plan import Plan
from seg_eval.records import (
    GUARD,
    CaseMarks,
    Pin,
    Times,
    digest,
    marks,
    read_image_scores,
    read_scores,
    read_times,
)
from seg_eval.scoring import Score, channel_scores, from_brats_2023, region_masks, score_case
from seg_eval.segmenter import Training
from synth3d.cohort import MODALITIES, Case
from synth3d.errors import InputError
from synth3d.files import progress, sha256, write_json
from synth3d.images import read, read_label, write_like
from synth3d.settings import read_as


class Segmenter(Protocol):
    """A frozen segmenter."""

    def predict(
        self, channels: Mapping[str, np.ndarray], spacing_mm: tuple[float, float, float]
    ) -> np.ndarray:
        """(D, H, W) float32 by modality, more than it takes if need be, to (D, H, W) labels.

        Labels are in BraTS 2023 coding.
        """
        ...


@dataclass(frozen=True)
class Engines:
    """The heavy machines, given from outside so that tests can replace them.

    Attributes:
        synth3d: Runs the ``synth3d`` program.
        train_segmenter: Gives the model folder of a training; goes on with what is there, and
            returns at once when it is finished.
        load_segmenter: (model folder, threads) to a segmenter that was trained here.
        open_segmenter: (model folder, threads) to a segmenter that the user brought.
    """

    synth3d: Program
    train_segmenter: Callable[[Training], Path]
    load_segmenter: Callable[[Path, int], Segmenter]
    open_segmenter: Callable[[Path, int], Segmenter]


COMMANDS = "commands.json"
CASE_FILES = "case_files.json"
"""Marks of all files of the cases, beside the experiment's ``config.json``."""

Key = tuple[str, int]
"""Kind of segmenter and seed."""


class Experiment:
    """A plan in its folder; :meth:`score` does whatever is not yet done."""

    def __init__(self, plan: Plan, folder: Path, models: Path, engines: Engines) -> None:
        """Set up without touching the disk.

        Args:
            plan: What to do.
            folder: Where it is written.
            models: Where the cohort's segmenters are, or will be.
            engines: What does the heavy work.
        """
        self.plan, self.folder, self.models, self.engines = plan, folder, models, engines
        self.builder = ArmBuilder(
            folder / "arms", plan.cohort, plan.missing, self._synth3d, plan.seed, plan.threads
        )

    def note_command(self, words: str) -> None:
        """Remember a command that the experiment was made with, in ``commands.json``."""
        known = self.commands()
        if words not in known:
            write_json(self.folder / COMMANDS, [*known, words])

    def commands(self) -> list[str]:
        """All that were remembered, the first one first."""
        path = self.folder / COMMANDS
        return list(read_as(tuple[str, ...], path)) if path.is_file() else []

    def _synth3d(self, arguments: Sequence[str]) -> None:
        self.note_command(shlex.join(["synth3d", *arguments]))
        self.engines.synth3d(arguments)

    def score(self) -> tuple[list[Score], list[dict[str, Any]]]:
        """Do whatever is not yet done; the score rows and the image-score rows of all arms.

        Raises:
            InputError: A file is missing or bad, or the folder cannot be written.
            StageFailedError: A program that was called failed.
        """
        plan = self.plan
        self._pin_case_files()
        for arm in plan.arms:
            if not self.builder.is_finished(arm):
                with self._timed(f"arm {arm.name}"):
                    self.builder.build(arm)
        models = {key: self._model(*key) for key in self.segmenters()}
        self._pin(models)
        for key, todo in self.missing_predictions().items():
            with self._timed("predictions"):
                self._predict(key, models[key], todo)
        for arm in plan.arms:
            for seed in plan.seeds:
                if not self.score_file(arm, seed).is_file():
                    with self._timed(f"scores {arm.name}"):
                        self._score_arm(arm, seed)
            if self._has_image_scores(arm) and not self.image_file(arm).is_file():
                with self._timed(f"image scores {arm.name}"):
                    self._score_images(arm)
        rows = [
            row
            for arm in plan.arms
            for seed in plan.seeds
            for row in read_scores(self.score_file(arm, seed), arm.name, seed, self.plan.tested)
        ]
        return rows, [row for arm in plan.arms for row in self._read_image_scores(arm)]

    def segmenters(self) -> list[Key]:
        """Kind and seed of each segmenter that looks at an arm."""
        kinds = dict.fromkeys(arm.segmenter for arm in self.plan.arms)
        return [(kind, seed) for kind in kinds for seed in self.plan.seeds]

    def _model(self, kind: str, seed: int) -> Path:
        """The model folder of one segmenter, trained now if it is not there."""
        plan = self.plan
        if kind == "frozen" and plan.foreign is not None:
            return plan.foreign
        replace = {}
        if kind == "retrained":
            with self._timed("out-of-fold synthesis"):
                replace = dict(self._out_of_fold())
        missing = plan.missing if kind in ("specialist", "retrained") else ()
        with self._timed(f"segmenter {kind}"):
            return self.engines.train_segmenter(
                Training(
                    plan.cohort,
                    self.models,
                    plan.preset,
                    seed,
                    plan.threads,
                    kind,
                    missing,
                    replace,
                )
            )

    def _out_of_fold(self) -> Mapping[str, Any]:
        plan = self.plan
        arm = next(arm for arm in plan.arms if arm.segmenter == "retrained")
        origin = plan.describe()["arms"][arm.name]
        known = read_as(CaseMarks, self.folder / CASE_FILES, GUARD)
        contents = [
            known[str(case.images[name].absolute())][2]
            for case in plan.cohort.train
            for name in MODALITIES
        ]
        key = digest(origin, plan.missing, contents)[:12]
        folder = self.models / "out-of-fold" / key
        program, threads = self._synth3d, plan.threads
        return out_of_fold(arm, plan.cohort, plan.missing, folder, program, threads, plan.folds)

    def _pin(self, models: Mapping[Key, Path]) -> None:
        """Remember which segmenters these are, and refuse others: predictions are theirs."""
        pin = self.folder / "segmenters.json"
        before = read_as(dict[str, Pin], pin, GUARD) if pin.is_file() else {}
        now: dict[str, Pin] = {}
        for (kind, seed), model in models.items():
            receipt = model / "model.json"
            if kind == "frozen" and self.plan.foreign is not None:
                said = [model / "dataset.json", model / "plans.json"]
                files = [*sorted(model.glob("fold_*/*.pth")), *filter(Path.is_file, said)]
                mark: str | None = digest({str(p.relative_to(model)): sha256(p) for p in files})
            else:
                mark = sha256(receipt) if receipt.is_file() else None
            now[f"{kind}-seed{seed}"] = Pin(str(model), mark)
        for name in now.keys() & before.keys():
            if before[name].receipt != now[name].receipt:
                raise InputError(
                    f"the segmenter {now[name].model} was trained anew since {self.folder} was "
                    "begun; give another --name or remove that folder"
                )
        if before | now != before:
            write_json(pin, {name: asdict(entry) for name, entry in (before | now).items()})

    def _pin_case_files(self) -> None:
        """Remember the cases' files, and refuse changed ones: finished arms saw the old."""
        pin = self.folder / CASE_FILES
        before = read_as(CaseMarks, pin, GUARD) if pin.is_file() else {}
        paths = {
            path.absolute(): case.name
            for case in (*self.plan.cohort.train, *self.plan.cohort.test)
            for path in (*(case.images[name] for name in MODALITIES), case.label)
            if path is not None
        }
        now = marks(paths, before)
        changed = {
            name
            for path, name in paths.items()
            if str(path) in before and before[str(path)][2] != now[str(path)][2]
        }
        if changed:
            raise InputError(
                f"files of {', '.join(sorted(changed))} changed since {self.folder} was begun; "
                "give another --name or remove that folder"
            )
        if now != {path: list(mark) for path, mark in before.items()}:
            write_json(pin, now)

    def prediction(self, arm: Arm, case: Case, seed: int) -> Path:
        """The predicted labels of ``case`` for ``arm``, in the cohort's own scheme."""
        return self.folder / "predictions" / arm.name / f"seed{seed}" / f"{case.name}.nii.gz"

    def score_file(self, arm: Arm, seed: int) -> Path:
        """All scores of ``arm`` under the segmenter of one seed."""
        return self.folder / "scores" / arm.name / f"seed{seed}.json"

    def image_file(self, arm: Arm) -> Path:
        """The image scores of ``arm``."""
        return self.folder / "scores" / arm.name / "images.json"

    def _has_image_scores(self, arm: Arm) -> bool:
        return arm.has_files and not arm.of

    def missing_predictions(self) -> dict[Key, list[tuple[Case, list[Arm]]]]:
        """Per segmenter and test case, the arms that it has not seen yet."""
        todo: dict[Key, list[tuple[Case, list[Arm]]]] = {}
        for kind, seed in self.segmenters():
            for case in self.plan.cohort.test:
                arms = [
                    arm
                    for arm in self.plan.arms
                    if arm.segmenter == kind and not self.prediction(arm, case, seed).is_file()
                ]
                if arms:
                    todo.setdefault((kind, seed), []).append((case, arms))
        return todo

    def _predict(self, key: Key, model: Path, todo: list[tuple[Case, list[Arm]]]) -> None:
        kind, seed = key
        foreign = kind == "frozen" and self.plan.foreign is not None
        load = self.engines.open_segmenter if foreign else self.engines.load_segmenter
        segmenter = load(model, self.plan.threads)
        steps = sum(len(arms) for _, arms in todo)
        bar = progress(range(steps), desc=f"segmenting ({kind}, seed {seed})", unit="volume")
        for case, arms in todo:
            first = read(case.images[MODALITIES[0]])
            real = {name: read(case.images[name]).data for name in MODALITIES}
            for arm in arms:
                next(bar)
                channels = {
                    name: np.zeros_like(real[name]) if volume is None else volume
                    for name, volume in (real | self.builder.read(arm, case)).items()
                }
                try:
                    labels = segmenter.predict(channels, first.spacing_mm)
                except InputError as error:
                    raise InputError(f"arm {arm.name}, case {case.name}: {error}") from error
                labels = from_brats_2023(labels, self.plan.cohort.scheme)
                assert case.label is not None  # the cohort's check has seen to it
                mark = f"PREDICTION arm {arm.name} by seg_eval"
                path = self.prediction(arm, case, seed)
                write_like(case.label, labels, path, description=mark)
        list(bar)

    def _score_arm(self, arm: Arm, seed: int) -> None:
        cases = self.plan.cohort.test
        absent = [c.name for c in cases if not self.prediction(arm, c, seed).is_file()]
        if absent:
            raise InputError(f"arm {arm.name} has no prediction for {', '.join(absent)}")
        rows: list[dict[str, Any]] = []
        for case in progress(cases, desc=f"scoring {arm.name}, seed {seed}", unit="case"):
            assert case.label is not None
            scheme = self.plan.cohort.scheme
            label = read_label(case.label)
            truth = region_masks(label.data, scheme)
            found = region_masks(read_label(self.prediction(arm, case, seed)).data, scheme)
            scores = score_case(
                case.name, case.patient, arm.name, seed, truth, found, label.spacing_mm
            )
            rows += [asdict(score) for score in scores]
        write_json(self.score_file(arm, seed), rows)

    def _read_image_scores(self, arm: Arm) -> list[dict[str, Any]]:
        if not self._has_image_scores(arm):
            return []
        path = self.image_file(arm)
        return read_image_scores(path, arm.name, self.plan.tested, self.plan.missing)

    def _score_images(self, arm: Arm) -> None:
        """Scores of the arm's channels against the real ones."""
        rows: list[dict[str, Any]] = []
        for case in progress(self.plan.cohort.test, desc=f"images of {arm.name}", unit="case"):
            assert case.label is not None
            brain = self.builder.brain(case)
            tumour = region_masks(read_label(case.label).data, self.plan.cohort.scheme)["WT"]
            for modality, made in self.builder.read(arm, case).items():
                assert made is not None  # the arm has files
                real = read(case.images[modality]).data
                scores = channel_scores(real, made, brain, tumour)
                about = {"case": case.name, "patient": case.patient, "arm": arm.name}
                rows.append({**about, "modality": modality, **scores})
        write_json(self.image_file(arm), rows)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Note the seconds that a stage took, in ``times.json``, and the memory so far."""
        path = self.folder / "times.json"
        read_times(self.folder)  # a damaged file is told before the stage, not after hours
        started = time.monotonic()
        yield
        times = read_times(self.folder)
        before = times.seconds.get(stage, 0)
        seconds = times.seconds | {stage: round(before + time.monotonic() - started, 2)}
        peak = max(
            resource.getrusage(who).ru_maxrss // 1024
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        write_json(path, asdict(Times(seconds, max(peak, times.peak_memory_mb))))
