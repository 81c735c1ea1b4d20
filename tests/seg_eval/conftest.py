"""A toy cohort and stand-ins for the heavy machines, so that a whole experiment takes seconds."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from seg_eval.cli import build_parser, main, request_of
from seg_eval.evaluation import evaluate
from seg_eval.experiment.engines import Engines, Predict
from seg_eval.experiment.request import RunRequest
from seg_eval.segmenter.cost import SegmenterCost
from seg_eval.segmenter.training import Training
from synth3d.images import read, resample_within, write_like, write_new

SHAPE = (14, 20, 18)
AFFINE = np.array([[-1.5, 0, 0, 9], [0, -1, 0, 11], [0, 0, 2, -7], [0, 0, 0, 1.0]])
SUFFIX = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}


def write_case(folder: Path, name: str, seed: int) -> None:
    """A BraTS-2018-named case whose FLAIR is linear in the others inside an ellipsoid brain."""
    generator = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    brain = z**2 + y**2 + x**2 < 0.8
    at = generator.uniform(-0.25, 0.25, 3)
    distance = np.sqrt((z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2)
    labels = np.select([distance < 0.2, distance < 0.32, distance < 0.48], [1, 4, 2], 0) * brain
    t1 = 300 + 60 * generator.standard_normal(SHAPE)
    t1c = t1 + 250 * (labels == 4) + 20 * generator.standard_normal(SHAPE)
    t2 = 200 + 40 * generator.standard_normal(SHAPE) + 300 * (labels > 0)
    flair = 60 + 0.9 * t2 + 0.1 * t1 + 0.05 * t1c
    case = folder / name
    case.mkdir(parents=True)
    gain = generator.uniform(0.8, 1.2)  # scanners do not agree on a unit
    for modality, volume in {"t1n": t1, "t1c": t1c, "t2w": t2, "t2f": flair}.items():
        content = np.where(brain, np.maximum(volume * gain, 1), 0)
        write_new(case / f"{name}_{SUFFIX[modality]}.nii.gz", content, AFFINE, np.int16)
    write_new(case / f"{name}_seg.nii.gz", labels, AFFINE, np.uint8)


NAMES = tuple(f"Brats18_TOY_{letter}_1" for letter in "ABCDEFGH")
SPLIT = {"train": NAMES[:4], "val": NAMES[4:5], "test": NAMES[5:]}


def _write_cohort(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        write_case(folder, name, seed)


@pytest.fixture(scope="session")
def toy_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight cases, labels 0, 1, 2 and 4; treat the folder as read-only."""
    folder = tmp_path_factory.mktemp("toy") / "cohort"
    _write_cohort(folder)
    return folder


@pytest.fixture
def own_cohort(toy_cohort: Path, tmp_path: Path) -> Path:
    """A copy of the toy cohort that may be changed."""
    return Path(shutil.copytree(toy_cohort, tmp_path / "cohort"))


@pytest.fixture
def theirs(toy_cohort: Path, tmp_path: Path) -> Callable[..., Path]:
    """Another tool's FLAIR of the toy cases with these letters, in the folder ``theirs``.

    Floats from 0 to 1 with a background of -1, which means nothing to a segmenter once mended.
    """

    def write(letters: str = "ABCDEFGH") -> Path:
        for name in (name for name in NAMES if name[-3] in letters):
            real = read(toy_cohort / name / f"{name}_flair.nii.gz")
            volume = np.where(real.data > 0, real.data / real.data.max(), -1)
            write_new(tmp_path / "theirs" / real.path.name, volume, real.affine, np.float32)
        return tmp_path / "theirs"

    return write


@pytest.fixture
def toy_splits(tmp_path: Path) -> Path:
    """4 training, 1 validation, 3 test cases."""
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(SPLIT))
    return path


def _write_run(folder: Path, data: Path, *targets: str, **more: Any) -> Path:
    """A finished run folder, which makes FLAIR unless told otherwise."""
    folder.mkdir(parents=True)
    split = more.pop("split", SPLIT)
    done = {"targets": targets or ["t2f"], "data_folder": str(data.resolve()), **more}
    (folder / "config.json").write_text("{}")
    (folder / "cohort.json").write_text(json.dumps(split))
    (folder / "done.json").write_text(json.dumps({"weights_sha256": "0" * 64} | done))
    return folder


def restores(run: Path, ratio: Sequence[int], profile: str = "kspace") -> Path:
    """Makes a finished run of FLAIR one that restores it from thick slices."""
    degrade = {"source": "t2f", "ratio": list(ratio), "profile": profile}
    (run / "config.json").write_text(json.dumps({"degrade": degrade}))
    done = json.loads((run / "done.json").read_text())
    sources = {"sources": ["t1n", "t1c", "t2w", "t2f"]}
    (run / "done.json").write_text(json.dumps(done | sources))
    return run


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """Writes a finished run folder: (folder, data, *targets), with the toy split."""
    return _write_run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one sentence with which a command is refused."""

    def sentence(command: str, *flags: str) -> str:
        missing = ["--missing", "flair"] if command == "run" else []
        assert main([command, *missing, *flags]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        last = error.strip().splitlines()[-1]
        assert last.startswith("error: ")
        return last

    return sentence


def request(*flags: str, **changes: Any) -> RunRequest:
    """What ``seg_eval run FLAGS`` asks for, and then some attributes set otherwise."""
    return replace(request_of(build_parser().parse_args(["run", *flags])), **changes)


@pytest.fixture
def toy_request(
    toy_cohort: Path, toy_splits: Path, write_run: Callable[..., Path], tmp_path: Path
) -> Callable[..., RunRequest]:
    """`seg_eval run` on the toy cohort with a finished run; further flags may be added."""
    run = write_run(tmp_path / "work" / "runs" / "agi", toy_cohort)
    fixed = ["--missing", "flair", "--data", str(toy_cohort), "--splits", str(toy_splits)]
    fixed += ["--run", str(run), "--work", str(tmp_path / "work"), "--threads", "1"]
    return lambda *more, **changes: request(*fixed, "--name", "toy", *more, **changes)


@pytest.fixture
def run_toy(toy_request: Callable[..., RunRequest], machines: "FakeMachines") -> Callable[..., int]:
    """Does what ``toy_request`` asks for, with stand-ins for the heavy work; the exit code."""

    def run(*more: str, engines: Engines | None = None, **changes: Any) -> int:
        return evaluate(toy_request(*more, **changes), engines or machines.engines()).code

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where that experiment is written."""
    return tmp_path / "work" / "eval" / "toy"


class ThresholdSegmenter:
    """Bright FLAIR is tumour, or bright T2 for want of it; T1c tells its parts.

    Attributes:
        takes: Its channels; what else is offered is not looked at.
    """

    def __init__(self, log: list[str], takes: Sequence[str] = ("t1n", "t1c", "t2w", "t2f")) -> None:
        self.log, self.takes = log, tuple(takes)

    def predict(
        self, channels: Mapping[str, np.ndarray], spacing_mm: Sequence[float]
    ) -> np.ndarray:
        """Labels in BraTS 2023 coding."""
        assert set(channels) == {"t1n", "t1c", "t2w", "t2f"}
        assert {volume.shape for volume in channels.values()} == {SHAPE}
        assert {volume.dtype for volume in channels.values()} == {np.dtype(np.float32)}
        np.testing.assert_allclose(spacing_mm, (2, 1, 1.5))
        self.log.append("predict")
        t1, t1c = channels["t1n"], channels["t1c"]
        bright = channels["t2f" if "t2f" in self.takes else "t2w"]
        brain = np.any([volume > 0 for volume in channels.values()], axis=0)
        tumour = brain & (bright > 1.5 * np.median(bright[brain]))
        ring = t1c > t1 + 0.4 * np.median(t1[brain])
        return np.where(tumour, np.where(ring, 3, 2), 0).astype(np.uint8)


def nearest(scan: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A scan (D, H, W) in another shape of the same field of view: each voxel the nearest of it."""
    zoom = np.divide(shape, scan.shape)
    return np.asarray(ndimage.zoom(scan, zoom, order=0, mode="nearest", grid_mode=True))


class FakeMachines:
    """Engines that note what they are asked for; ``log`` is the list of requests."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.tasks: list[Training] = []
        self.commands: list[list[str]] = []
        self.forecasts: list[list[str]] = []
        self.spoil_plumbing = False
        self.forget: str | None = None

    def engines(self) -> Engines:
        """As the experiment takes them."""
        judges = self.train_segmenter, self.load_segmenter, self.open_segmenter
        way = lambda scan, mm, shape: nearest(scan, shape)  # noqa: E731
        costs = self.forecast, self.segmenter_cost
        return Engines(self.synth3d, *judges, way, self.export_segmenter, *costs)

    def forecast(self, arguments: Sequence[str]) -> dict[str, Any]:
        """A training of two hours."""
        self.forecasts.append(list(arguments))
        size = {"memory_bytes": 10**9, "disk_bytes": 10**8}
        return {"event": "plan", "seconds": 7200.0, "recipe": "cpu", **size}

    def segmenter_cost(self, preset: str, *about: Any) -> SegmenterCost:
        """Three minutes."""
        return SegmenterCost(180.0, 1000, (32, 32, 32), 2, 10**9)

    def load_segmenter(self, model: Path, threads: int) -> Predict:
        """One that sees what it was trained on."""
        takes = (model / "channels").read_text().split()
        return ThresholdSegmenter(self.log, takes).predict

    def open_segmenter(self, model: Path, threads: int) -> Predict:
        """One that the user brought."""
        self.log.append("open foreign")
        return ThresholdSegmenter(self.log).predict

    def train_segmenter(self, task: Training) -> Path:
        """Leaves a model folder that holds the names of the channels."""
        kind = task.kind.name if task.kind else "frozen"
        self.log.append(f"train segmenter {kind} {task.seed}")
        self.tasks.append(task)
        model = task.own_folder / f"model-{kind}-{task.seed}"
        model.mkdir(parents=True, exist_ok=True)
        (model / "channels").write_text(" ".join(task.channels))
        return model

    def export_segmenter(self, model: Path, out: Path) -> Path:
        """Leaves what tells a run whom it learns from."""
        self.log.append(f"export {model.name}")
        seed = int(model.name.rsplit("-", 1)[1])
        name = f"ScheduledTrainer__cpu-small-seed{seed}__3d_fullres"
        said = {"seed": seed, "origin": name, "cases": None}
        said["cases"] = sorted(case.name for case in self.tasks[-1].cohort.train)
        weights = hashlib.sha256(repr((seed, said["cases"])).encode()).hexdigest()
        said |= {"weights_sha256": weights, "checkpoint_sha256": weights[::-1]}
        out.mkdir(exist_ok=True)
        (out / "about.json").write_text(json.dumps(said))
        return out

    def synth3d(self, arguments: Sequence[str]) -> None:
        """``phantom`` writes the toy cohort, ``train`` a run, ``complete`` FLAIR.

        Filled in it is dull, restored it is what was given, resampled by the affines.
        """
        command, *rest = arguments
        self.log.append(command)
        self.commands.append(list(arguments))
        options = dict(zip(rest[::2], rest[1::2], strict=False))
        if command == "phantom":
            if not Path(rest[0]).exists():
                _write_cohort(Path(rest[0]))
        elif command == "train" and "--dry-run" not in rest:
            work = Path(options["--work"])
            run = work / "runs" / options.get("--name", "fresh")
            split = (
                json.loads(Path(options.get("--splits", "")).read_text())
                if ("--splits" in options)
                else SPLIT
            )
            key = "train.coupling.segmenter="
            taught = [Path(w.removeprefix(key)) / "about.json" for w in rest if w.startswith(key)]
            if taught:
                split = split | {"coupled": [json.loads(path.read_text()) for path in taught]}
            data = Path(options.get("--data", work / "phantom"))
            weights = hashlib.sha256(run.name.encode()).hexdigest()
            made = _write_run(run, data, split=split, weights_sha256=weights)
            for path in taught:
                sha = json.loads(path.read_text())["weights_sha256"]
                settings = json.loads((made / "config.json").read_text())
                about = {"segmenter": str(path.parent), "segmenter_sha256": sha}
                settings["train"] = settings.get("train", {}) | {"coupling": about}
                (made / "config.json").write_text(json.dumps(settings))
            if how := options.get("--degraded"):
                restores(made, [int(by) for by in how.split("=")[1].split(",")])
        elif command == "complete":
            self._complete(list(arguments))

    def _complete(self, arguments: list[str]) -> None:
        data, out = (Path(arguments[arguments.index(flag) + 1]) for flag in ("--data", "--out"))
        in_table = data.is_file()  # beside its files; what is made for it has official names
        asked = ("--missing", "--restore")
        missing = [arguments[i + 1] for i, word in enumerate(arguments) if word in asked]
        for name in arguments[arguments.index("--cases") + 1 :]:
            if name == self.forget:
                continue
            for modality in missing:
                where = (data.parent if in_table else data) / name
                real = where / f"{name}_{SUFFIX[modality]}.nii.gz"
                made = out / name / (f"{name}-{modality}.nii.gz" if in_table else real.name)
                if made.is_file():
                    continue
                volume = read(real).data
                like = real
                if "--restore" in arguments:
                    like = where / f"{name}_t2.nii.gz"
                    volume = np.maximum(resample_within(read(real), read(like).grid).data, 0)
                    volume = np.where(read(like).data > 0, volume, 0)
                elif "--plumbing" not in arguments:
                    volume = np.where(volume > 0, 0.7 * volume + 40, 0)
                elif self.spoil_plumbing:
                    volume = np.roll(volume, 2, axis=2)
                write_like(like, volume, made, dtype=np.float32)


@pytest.fixture
def plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is tested elsewhere; here it would take most of the time."""
    for name in ("draw_dice", "draw_panel", "draw_scatter", "draw_volumes"):
        monkeypatch.setattr(f"seg_eval.report.outputs.{name}", lambda *given: given[-1].touch())
    monkeypatch.setattr("seg_eval.report.outputs.page", lambda *given, **named: "")


@pytest.fixture
def machines() -> FakeMachines:
    """Fakes for ``synth3d`` and nnU-Net."""
    return FakeMachines()
