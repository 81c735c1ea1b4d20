"""One experiment: a missing sequence, a cohort, arms, one frozen segmenter, scores.

The stages run in order and leave files; what is there is not made again, so a killed
experiment goes on where it was. The folder remembers what it is about (``config.json``) and
refuses to become another experiment.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from seg_eval.arms import Arm, ArmBuilder
from seg_eval.cohort import Cohort
from seg_eval.digests import marks
from seg_eval.regions import from_brats_2023, region_masks
from seg_eval.scores import Score, score_case
from seg_eval.synthesisers import Program
from synth3d.cases import MODALITIES, Case, Modality
from synth3d.files import InputError, progress, read_json, sha256, write_json
from synth3d.intensity import Scale, foreground
from synth3d.metrics import image_scores
from synth3d.volumes import read, read_label, write_like


class Segmenter(Protocol):
    """A frozen segmenter of the four sequences."""

    def predict(self, channels: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
        """(4, D, H, W) float32 in BraTS order to (D, H, W) labels in BraTS 2023 coding."""
        ...


@dataclass(frozen=True)
class Engines:
    """The heavy machines, given from outside so that tests can replace them.

    Attributes:
        synth3d: Runs the ``synth3d`` program.
        train_segmenter: (cohort, folder, preset, seed, threads) to the model folder; goes on
            with what is there, and returns at once when it is finished.
        load_segmenter: (model folder, threads) to a segmenter.
    """

    synth3d: Program
    train_segmenter: Callable[[Cohort, Path, str, int, int], Path]
    load_segmenter: Callable[[Path, int], Segmenter]


@dataclass(frozen=True)
class Plan:
    """What an experiment is.

    Attributes:
        missing: The sequence that is taken away.
        cohort: The checked cases.
        arms: What takes its place; ``full`` and ``zero`` among them.
        preset: Of the segmenter, a name in ``seg_eval.nnunet``.
        seed: Of the segmenter, the voxel draws and the bootstrap.
        threads: For everything that computes.
        empty: Rule for regions that a case does not have, see ``scores.EMPTY_RULES``.
    """

    missing: Modality
    cohort: Cohort
    arms: tuple[Arm, ...]
    preset: str
    seed: int
    threads: int
    empty: str

    def describe(self) -> dict[str, Any]:
        """Plain values for ``config.json``; equal values mean the same experiment."""
        arms = {
            arm.name: {
                "kind": arm.kind,
                "run": str(arm.run.folder) if arm.run else None,
                "weights_sha256": arm.run.weights_sha256 if arm.run else None,
            }
            for arm in self.arms
        }
        return {
            "missing": self.missing,
            "data": str(self.cohort.folder.resolve()),
            "train": [case.name for case in self.cohort.train],
            "test": [case.name for case in self.cohort.test],
            "preset": self.preset,
            "seed": self.seed,
            "threads": self.threads,
            "empty": self.empty,
            "arms": arms,
        }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What keeps two descriptions from sharing a folder, one phrase each; [] when nothing.

    Arms may come and go, the rule for empty regions and the threads may change; an arm of one
    name must stay the same thing.
    """
    found = [
        f"{key} is {_short(new[key])}, was {_short(old.get(key))}"
        for key in ("missing", "data", "train", "test", "preset", "seed")
        if old.get(key) != new[key]
    ]
    before = old.get("arms", {})
    for name in sorted(new["arms"].keys() & before.keys()):
        if new["arms"][name] != before[name]:
            found.append(f"arm {name} comes from other weights than before")
    return found


def remembered(folder: Path, described: dict[str, Any]) -> dict[str, Any]:
    """``described`` with the arms that ``folder`` holds from before, so none changes unseen."""
    path = folder / "config.json"
    before = read_json(path).get("arms", {}) if path.is_file() else {}
    return described | {"arms": before | described["arms"]}


def _short(value: Any) -> str:
    return f"a list of {len(value)} cases" if isinstance(value, list) else repr(value)


def choose_folder(parent: Path, name: str | None, plan: Plan) -> Path:
    """The folder of the experiment: the one that holds it already, or a free one.

    Args:
        parent: Folder of all experiments.
        name: The user's choice; None picks ``<missing>-<cohort>``, with a number if need be.
        plan: What the experiment is.

    Raises:
        InputError: The named folder holds another experiment.
    """
    described = plan.describe()
    if name is not None:
        folder = parent / name
        if found := _conflicts(folder, described):
            raise InputError(
                f"{folder} holds another experiment ({'; '.join(found)}); give another --name"
            )
        return folder
    stem = f"{plan.missing}-{plan.cohort.folder.resolve().name}"
    number, folder = 1, parent / stem
    while _conflicts(folder, described):
        number, folder = number + 1, parent / f"{stem}-{number + 1}"
    return folder


def _conflicts(folder: Path, described: dict[str, Any]) -> list[str]:
    path = folder / "config.json"
    return differences(read_json(path), described) if path.is_file() else []


class Experiment:
    """A plan in its folder. Call the stages in order, or :meth:`score` for all of them."""

    def __init__(self, plan: Plan, folder: Path, models: Path, engines: Engines) -> None:
        """Set up without touching the disk.

        Args:
            plan: What to do.
            folder: Where it is written.
            models: Where the frozen segmenter is, or will be.
            engines: What does the heavy work.
        """
        self.plan, self.folder, self.models, self.engines = plan, folder, models, engines
        self.builder = ArmBuilder(
            folder / "arms", plan.cohort, plan.missing, engines.synth3d, plan.seed, plan.threads
        )

    def score(self) -> tuple[list[Score], list[dict[str, Any]]]:
        """Do whatever is not yet done; the Dice rows and the image-score rows of all arms.

        Raises:
            InputError: A file is missing or bad, or the folder cannot be written.
            StageFailedError: A program that was called failed.
        """
        plan = self.plan
        self._pin_test_files()
        with self._timed("segmenter"):
            model = self.engines.train_segmenter(
                plan.cohort, self.models, plan.preset, plan.seed, plan.threads
            )
        self._pin(model)
        for arm in plan.arms:
            if not self.builder.is_finished(arm):
                with self._timed(f"arm {arm.name}"):
                    self.builder.build(arm)
        if todo := self.missing_predictions():
            with self._timed("predictions"):
                self._predict(model, todo)
        for arm in plan.arms:
            if not self.score_file(arm).is_file():
                with self._timed(f"scores {arm.name}"):
                    self._score_arm(arm)
        tables = [read_json(self.score_file(arm)) for arm in plan.arms]
        rows = [Score(**row) for table in tables for row in table["dice"]]
        return rows, [row for table in tables for row in table["images"]]

    def _pin(self, model: Path) -> None:
        """Remember which segmenter this is, and refuse another: all arms are seen by one."""
        receipt, pin = model / "model.json", self.folder / "segmenter.json"
        now = {"model": str(model), "receipt": sha256(receipt) if receipt.is_file() else None}
        if not pin.is_file():
            write_json(pin, now)
        elif read_json(pin)["receipt"] != now["receipt"]:
            raise InputError(
                f"the segmenter {model} was trained anew since {self.folder} was begun; give "
                "another --name or remove that folder"
            )

    def _pin_test_files(self) -> None:
        """Remember the test cases' files, and refuse changed ones: finished arms saw the old."""
        pin = self.folder / "test_files.json"
        before = read_json(pin) if pin.is_file() else {}
        paths = {
            path.absolute(): case.name
            for case in self.plan.cohort.test
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
        if now != before:
            write_json(pin, now)

    def prediction(self, arm: Arm, case: Case) -> Path:
        """The predicted labels of ``case`` for ``arm``, in the cohort's own scheme."""
        return self.folder / "predictions" / arm.name / f"{case.name}.nii.gz"

    def score_file(self, arm: Arm) -> Path:
        """All scores of ``arm``."""
        return self.folder / "scores" / f"{arm.name}.json"

    def missing_predictions(self) -> list[tuple[Case, list[Arm]]]:
        """Per test case, the arms that the segmenter has not seen yet."""
        todo = []
        for case in self.plan.cohort.test:
            arms = [arm for arm in self.plan.arms if not self._is_predicted(arm, case)]
            if arms:
                todo.append((case, arms))
        return todo

    def _is_predicted(self, arm: Arm, case: Case) -> bool:
        return self.score_file(arm).is_file() or self.prediction(arm, case).is_file()

    def _predict(self, model: Path, todo: Sequence[tuple[Case, list[Arm]]]) -> None:
        segmenter = self.engines.load_segmenter(model, self.plan.threads)
        slot = MODALITIES.index(self.plan.missing)
        steps = sum(len(arms) for _, arms in todo)
        bar = progress(range(steps), desc="segmenting", unit="volume")
        for case, arms in todo:
            first = read(case.images[MODALITIES[0]])
            channels = np.stack([read(case.images[name]).data for name in MODALITIES])
            for arm in arms:
                next(bar)
                content = self.builder.read(arm, case)
                channels[slot] = 0 if content is None else content
                labels = segmenter.predict(channels.copy(), first.spacing_mm)
                labels = from_brats_2023(labels, self.plan.cohort.scheme)
                assert case.label is not None  # the cohort's check has seen to it
                mark = f"PREDICTION arm {arm.name} by seg_eval"
                write_like(case.label, labels, self.prediction(arm, case), description=mark)
        list(bar)

    def _score_arm(self, arm: Arm) -> None:
        cases = self.plan.cohort.test
        absent = [case.name for case in cases if not self.prediction(arm, case).is_file()]
        if absent:
            raise InputError(f"arm {arm.name} has no prediction for {', '.join(absent)}")
        dice: list[dict[str, Any]] = []
        images: list[dict[str, Any]] = []
        for case in progress(cases, desc=f"scoring {arm.name}", unit="case"):
            assert case.label is not None
            scheme = self.plan.cohort.scheme
            truth = region_masks(read_label(case.label).data, scheme)
            found = region_masks(read_label(self.prediction(arm, case)).data, scheme)
            rows = score_case(case.name, case.patient, arm.name, truth, found)
            dice += [asdict(row) for row in rows]
            if arm.has_files:
                scores = self._image_scores(arm, case, truth["WT"])
                images.append(
                    {"case": case.name, "patient": case.patient, "arm": arm.name, **scores}
                )
        write_json(self.score_file(arm), {"dice": dice, "images": images})

    def _image_scores(self, arm: Arm, case: Case, tumour: np.ndarray) -> dict[str, float | None]:
        """Scores of the arm's channel against the real one, each on its own in-brain scale."""
        missing: Modality = self.plan.missing
        brain = np.any(
            [foreground(read(case.images[name]).data) for name in self.builder.sources], axis=0
        )
        pair = []
        for volume in (read(case.images[missing]).data, self.builder.read(arm, case)):
            assert volume is not None  # the zero arm has no files
            pair.append(Scale.fit(volume, brain).apply(volume, brain))
        scores = image_scores(pair[0], pair[1], brain, tumour & brain)
        return {name: value if np.isfinite(value) else None for name, value in scores.items()}

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Note the seconds that a stage took, in ``times.json``."""
        path = self.folder / "times.json"
        started = time.monotonic()
        yield
        times = read_json(path) if path.is_file() else {}
        times[stage] = round(times.get(stage, 0) + time.monotonic() - started, 2)
        write_json(path, times)
