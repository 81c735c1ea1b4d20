"""``--coupled``: a segmenter that judges nothing teaches a synthesiser, which others then judge.

A segmenter of a seed of its own is trained on the training cases, exported, and looks at the
images of a synthesiser's training. What was done before is found done; a killed one goes on.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_eval.arms import SynthesisRun, read_run, threads_begun
from seg_eval.cohort import choose_splits
from seg_eval.experiment.ahead import seconds_ahead
from seg_eval.experiment.engines import Engines
from seg_eval.experiment.pins import checkpoints
from seg_eval.experiment.plan import Plan
from seg_eval.experiment.request import RunRequest
from seg_eval.records import digest
from seg_eval.segmenter import Training, segmenters_folder
from synth3d.cohort import Modality, Splits, find_cases, write_splits
from synth3d.console import Steps
from synth3d.errors import InputError
from synth3d.files import make_folder, place
from synth3d.runs import coupled_name

COUPLING = "train.coupling"
USUAL = (f"{COUPLING}.label=1", f"{COUPLING}.balance=true")
"""Unless the user says otherwise: as much by the label as by L1, as gradients on the image go."""


@dataclass(frozen=True)
class CoupledRun:
    """A synthesiser that is to be coupled to a segmenter.

    Attributes:
        folder: Of the run; its name says all that decides it.
        splits: Who it learns from, is chosen on, and never sees; its teacher sees the first alone.
        asked: Arguments of ``synth3d`` but for split and teacher.
        settings: Its ``--set``.
    """

    folder: Path
    splits: Splits
    asked: tuple[str, ...]
    settings: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether it is there."""
        return (self.folder / "done.json").is_file()

    def training(self, splits: Path, export: Path, threads: int) -> list[str]:
        """Arguments of ``synth3d`` that train it, or go on with what a killed one left."""
        taught = (f"{COUPLING}.segmenter={export.resolve()}", *self.settings)
        count = str(threads_begun(self.folder, threads))
        return self._asked(taught, "--splits", str(splits), "--threads", count)

    def trial(self, *split: str) -> list[str]:
        """Arguments of the same training with a term that needs no teacher.

        What is wrong with it is told before the teacher is trained; what it takes is told without
        what its teacher looks at. ``split``: ``--splits`` and the file, once there is one.
        """
        others = [one for one in self.settings if not one.startswith(f"{COUPLING}.")]
        return self._asked((f"{COUPLING}.tumour=1", *others), *split)

    def ahead(self) -> dict[str, Sequence[str]]:
        """The command as one reads it before, with SPLIT and EXPORT for what is not there yet →
        arguments that take as long.
        """
        taught = (f"{COUPLING}.segmenter=EXPORT", *self.settings)
        return {as_typed(self._asked(taught, "--splits", "SPLIT")): self.trial()}

    def _asked(self, settings: Sequence[str], *more: str) -> list[str]:
        work = ["--work", str(self.folder.parents[1]), "--name", self.folder.name]
        named = [word for one in settings for word in ("--set", one)]
        return [*self.asked, *work, *more, *named]


def as_typed(arguments: Sequence[str]) -> str:
    """A command of ``synth3d`` as one would type it."""
    return shlex.join(["synth3d", *arguments])


def coupled_run(
    request: RunRequest,
    missing: tuple[Modality, ...],
    asked: Sequence[str],
    joined: SynthesisRun | None,
) -> CoupledRun:
    """The run that ``--coupled`` asks for, whether it is there or not.

    Args:
        request: With the seed of its teacher.
        missing: What it makes.
        asked: The arguments of ``synth3d`` that train such a run, without split and threads.
        joined: The first named run, whose experiment it joins, and whose split it takes.
    """
    of_run, whose = (joined.splits, joined.whose_split) if joined else (None, "")
    splits = choose_splits(find_cases(request.cohort), request.splits, of_run, whose)
    own = Path(request.recipe) if request.recipe and Path(request.recipe).is_file() else None
    told = own is not None or any(one.startswith(f"{COUPLING}.") for one in request.settings)
    settings = (*(() if told else USUAL), *request.settings)
    sides = [list(side) for side in (splits.train, splits.val, splits.test)]
    about = [missing, request.degraded, request.profile, str(request.cohort.resolve()), sides]
    about += [
        request.labels,
        request.held_recipes,
        settings,
        request.segmenter_preset,
        request.coupled,
    ]
    stem = request.degradation.stem if request.degradation else "-".join(missing)
    folder = place(request.work / "runs", coupled_name(stem, digest(*about)))
    return CoupledRun(folder, splits, tuple(asked), settings)


def train_coupled(
    run: CoupledRun, request: RunRequest, plan: Plan, engines: Engines, steps: Steps
) -> SynthesisRun:
    """The run, with its teacher trained and exported first, unless it is there.

    Raises:
        InputError: The model of ``--segmenter`` would be both its teacher and its judge.
        StageFailedError: ``synth3d train`` failed.
    """
    if not run.finished:
        task = teacher_of(request, plan)
        splits = request.splits or teaching_split(run, task.folder)
        if request.splits is None:
            make_folder(splits.parent)
            write_splits(splits, run.splits)
        engines.forecast(run.trial("--splits", str(splits)))
        steps.begin(
            f"training a segmenter of seed {task.seed}, which judges nothing, to teach "
            f"{run.folder.name}",
            lambda: seconds_ahead(task, plan, engines),
        )
        model = engines.train_segmenter(task)
        if plan.foreign is not None and checkpoints(plan.foreign) & checkpoints(model):
            raise InputError(
                f"--segmenter {plan.foreign} would teach the coupled run and judge it; give the "
                f"teacher another seed, as in --coupled {task.seed + 1}"
            )
        export = engines.export_segmenter(model, model / "export")
        steps.begin(f"training the synthesiser {run.folder.name}, coupled to it")
        engines.synth3d(run.training(splits, export, plan.threads))
    if not run.finished:
        raise InputError(f"training left no finished run in {run.folder}")
    return read_run(run.folder)


def teacher_of(request: RunRequest, plan: Plan) -> Training:
    """The training of the segmenter that teaches and never judges."""
    assert request.coupled is not None
    models = segmenters_folder(request.work, plan.cohort)
    return Training(plan.cohort, models, plan.preset, request.coupled, plan.threads)


def teaching_split(run: CoupledRun, models: Path) -> Path:
    """Where the split of ``run`` is written, if the user gave none."""
    return place(models, "coupled", f"{run.folder.name}.json")
