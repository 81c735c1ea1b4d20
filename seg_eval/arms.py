"""Arms: what stands in the missing channel, as files, one folder per arm.

``full`` is the real file and ``zero`` is exact zeros, so neither needs a file. ``copy``,
``ridge`` and ``boosted`` are made here; synthetic arms and ``plumbing`` are made by
``synth3d complete``. Whatever is made is exactly 0 outside the brain of the real channels:
nnU-Net crops and normalises by what is not zero, and a channel that breaks this spoils all.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from seg_eval.baselines import (
    Regressor,
    TrainingSample,
    fit,
    read_channels,
    regress,
    sample_training,
)
from seg_eval.cohort import Cohort
from seg_eval.synthesisers import Program, SynthesisRun, completion
from synth3d.cases import MODALITIES, Case, Modality
from synth3d.files import InputError, progress, read_json, write_json
from synth3d.volumes import read, write_like

FIXED = ("full", "zero")
RIVALS = ("copy", "ridge", "boosted")
SYNTHETIC = "synthetic"
PLUMBING = "plumbing"
KINDS = (*FIXED, *RIVALS, SYNTHETIC, PLUMBING)


@dataclass(frozen=True)
class Arm:
    """One content of the missing channel.

    Attributes:
        name: Unique in the experiment; a synthetic arm has its run's name.
        kind: One of :data:`KINDS`.
        run: Of a synthetic arm.
    """

    name: str
    kind: str
    run: SynthesisRun | None = None

    @property
    def has_files(self) -> bool:
        """Whether the channel is read from the arm's folder."""
        return self.kind not in FIXED


def name_arms(kinds: Sequence[str], runs: Sequence[SynthesisRun]) -> list[Arm]:
    """The arms of an experiment, in a fixed order: one for each run instead of ``synthetic``.

    ``full`` and ``zero`` are always there, since nothing can be said without them.

    Raises:
        InputError: Unknown kind, or two runs of one name, or a run named as a fixed arm.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise InputError(f"unknown arm(s) {', '.join(unknown)}; known: {', '.join(KINDS)}")
    wanted = set(kinds) | set(FIXED)
    arms = [Arm(kind, kind) for kind in (*FIXED, *RIVALS) if kind in wanted]
    if SYNTHETIC in wanted:
        arms += [Arm(run.name, SYNTHETIC, run) for run in runs]
    arms += [Arm(PLUMBING, PLUMBING)] if PLUMBING in wanted else []
    names = [arm.name for arm in arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two arms would be named {', '.join(twice)}; rename the run folder")
    return arms


class ArmBuilder:
    """Makes the files of arms under ``folder``; an arm that is finished is not made again."""

    def __init__(
        self,
        folder: Path,
        cohort: Cohort,
        missing: Modality,
        synth3d: Program,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        """Make arms of ``cohort``'s test cases with ``missing`` replaced."""
        self.folder, self.cohort = folder, cohort
        self.missing: Modality = missing
        self.synth3d, self.seed, self.threads = synth3d, seed, threads
        self.sources: tuple[Modality, ...] = tuple(name for name in MODALITIES if name != missing)

    def path(self, arm: Arm, case: Case) -> Path:
        """Where the missing channel of ``case`` is for ``arm``."""
        if arm.kind == "full":
            return case.images[self.missing]
        return self.folder / arm.name / case.name / case.file_name(self.missing)

    def receipt(self, arm: Arm) -> Path:
        """The file that says the arm is finished."""
        return self.folder / arm.name / "arm.json"

    def is_finished(self, arm: Arm) -> bool:
        """Whether every test case has its file."""
        return not arm.has_files or self.receipt(arm).is_file()

    def build(self, arm: Arm) -> None:
        """Make what ``arm`` lacks.

        Raises:
            InputError: A file cannot be read or written.
            StageFailedError: ``synth3d complete`` failed, or left a case out.
        """
        if self.is_finished(arm):
            return
        started = time.monotonic()
        if arm.kind in RIVALS:
            with threadpool_limits(self.threads):
                note = self._rival(arm)
        else:
            note = ""
            self._complete(arm)
        if lacking := [c.name for c in self.cohort.test if not self.path(arm, c).is_file()]:
            raise InputError(f"arm {arm.name} has no {self.missing} for {', '.join(lacking)}")
        record = {
            "arm": arm.name,
            "kind": arm.kind,
            "missing": self.missing,
            "run": asdict(arm.run) if arm.run else None,
            "cases": [case.name for case in self.cohort.test],
            "note": note,
            "seconds": round(time.monotonic() - started, 2),
        }
        write_json(self.receipt(arm), record)

    def note(self, arm: Arm) -> str:
        """What is worth knowing about how a finished arm was made; may be empty."""
        return read_json(self.receipt(arm))["note"] if self.receipt(arm).is_file() else ""

    def read(self, arm: Arm, case: Case) -> np.ndarray | None:
        """The missing channel (D, H, W) float32 in scanner units; None for exact zeros.

        Raises:
            InputError: The file is missing or cannot be read.
        """
        return None if arm.kind == "zero" else read(self.path(arm, case)).data

    @cached_property
    def _sample(self) -> TrainingSample:
        return sample_training(self.cohort.train, self.sources, self.missing, self.seed)

    def _complete(self, arm: Arm) -> None:
        run = arm.run.folder if arm.run else None
        cases = [case.name for case in self.cohort.test]
        out = self.folder / arm.name
        data = self.cohort.folder
        self.synth3d(completion(run, data, out, self.missing, cases, self.threads))

    def _rival(self, arm: Arm) -> str:
        sample, model = self._sample, None
        note = "mean |r| with {}: {}".format(
            self.missing, ", ".join(f"{m} {r:.2f}" for m, r in sample.correlations.items())
        )
        if arm.kind == "copy":
            note = f"copies {sample.most_alike} ({note})"
        else:
            model = fit(arm.kind, sample, self.seed)
        for case in progress(self.cohort.test, desc=f"arm {arm.name}", unit="case"):
            if not self.path(arm, case).is_file():
                self._write_rival(arm, case, model)
        return note

    def _write_rival(self, arm: Arm, case: Case, model: Regressor | None) -> None:
        channels = read_channels(case, self.sources)
        like = self._sample.most_alike
        if model is None:
            volume = np.where(channels.brain, channels.volumes[like], 0).astype(np.float32)
        else:
            prior = self._sample.prior
            volume = regress(model, channels, self.sources, self.missing, prior)
        mark = f"SYNTHETIC {self.missing}: {arm.name} by seg_eval"
        write_like(case.images[like], volume, self.path(arm, case), description=mark)
