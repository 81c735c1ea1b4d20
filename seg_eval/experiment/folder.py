"""An experiment's folder: where everything of it lies.

The stages run in order and leave files; what is there is not made again, so a killed experiment
goes on where it was. The folder remembers what it is about (``config.json``) and refuses to
become another experiment.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from seg_eval.arms import Arm, ArmBuilder, PoorScans
from seg_eval.experiment.engines import Engines
from seg_eval.experiment.plan import Plan
from synth3d.cohort import Case
from synth3d.console import named, nearest
from synth3d.errors import InputError
from synth3d.files import place, write_json
from synth3d.settings import read_as

Key = tuple[str, int]
"""Kind of segmenter and seed."""


def find_experiment(given: str | Path, work: Path = Path("work")) -> Path:
    """The experiment's folder that ``given`` means.

    A folder that is there stays what it is, whoever reads it says whether it is an experiment; a
    bare name is first of all that of one in ``work/eval``.

    Raises:
        InputError: There is no such folder; the sentence names the experiments that there are.
    """
    path, parent = Path(given), work / "eval"
    if len(path.parts) == 1 and path.name != ".." and (parent / path).is_dir():
        return parent / path
    if path.is_dir():
        return path
    finished = sorted(parent.glob("*/summary.json"), key=lambda file: -file.stat().st_mtime)
    names = [file.parent.name for file in finished]
    holds = f"{parent} holds {named(names)}{nearest(path.name, names)}"
    none = f"{parent} holds no finished one (seg_eval run makes one; --work says where to look)"
    raise InputError(
        f"no experiment {given}: there is no such folder, and {holds if names else none}"
    )


class Experiment:
    """A plan in its folder."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        models: Path,
        engines: Engines,
        arms_in: Path | None = None,
    ) -> None:
        """Set up without touching the disk; ``models`` is where the cohort's segmenters belong.

        ``arms_in`` is the folder of another experiment with the same arms, which are not made anew.
        """
        self.plan, self.folder, self.models, self.engines = plan, folder, models, engines
        self._arms_in = arms_in or folder
        how, resample = plan.degraded, engines.resample
        self.poor = None if how is None else PoorScans(self._arms_in / "degraded", how, resample)
        work = plan.cohort, plan.gaps, self.synth3d, plan.seed, plan.threads
        self.builder = ArmBuilder(self._arms_in / "arms", *work, self.poor)

    @property
    def fills_in(self) -> bool:
        """Whether its channels are made for it, rather than those of another one looked at."""
        return self._arms_in == self.folder

    def note_command(self, words: str) -> None:
        """Remember a command that the experiment was made with, in ``commands.json``."""
        if words not in (known := self.commands()):
            write_json(self.folder / "commands.json", [*known, words])

    def commands(self) -> list[str]:
        """All that were remembered, the first one first."""
        path = self.folder / "commands.json"
        return list(read_as(tuple[str, ...], path)) if path.is_file() else []

    def synth3d(self, arguments: Sequence[str]) -> None:
        """Run ``synth3d`` and remember with which arguments."""
        self.note_command(shlex.join(["synth3d", *arguments]))
        self.engines.synth3d(arguments)

    def segmenters(self) -> list[Key]:
        """Kind and seed of each segmenter that looks at an arm."""
        kinds = dict.fromkeys(arm.segmenter for arm in self.plan.arms)
        return [(kind, seed) for kind in kinds for seed in self.plan.seeds]

    def prediction(self, arm: Arm, case: Case, seed: int) -> Path:
        """The predicted labels of ``case`` for ``arm``, in the case's own scheme."""
        names = "predictions", arm.name, f"seed{seed}", f"{case.name}.nii.gz"
        return place(self.folder, *names)

    def score_file(self, arm: Arm, seed: int) -> Path:
        """All scores of ``arm`` under the segmenter of one seed."""
        return place(self.folder, "scores", arm.name, f"seed{seed}.json")

    def image_file(self, arm: Arm) -> Path:
        """The image scores of ``arm``."""
        return place(self._arms_in, "scores", arm.name, "images.json")
