"""The files of arms: one folder per arm, one file per test case and missing sequence.

``copy``, ``template``, ``ridge`` and ``boosted`` are made here, the files of other tools are taken
over here; our own synthesis and ``plumbing`` are made by ``synth3d complete``. Whatever is made
is exactly 0 outside the brain of the real channels: nnU-Net crops and normalises by what is not
zero, and a channel that breaks this spoils all.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from seg_eval.arms.baselines import (
    Regressor,
    Template,
    TrainingSample,
    fit,
    read_channels,
    regress,
    sample_training,
)
from seg_eval.arms.completed import Completed, brain_without
from seg_eval.arms.kinds import PLUMBING, RIVALS, Arm
from seg_eval.arms.synthesisers import Program, SynthesisRun, completed_file, completion
from seg_eval.cohort import Cohort
from synth3d.cohort import MODALITIES, Case, Modality
from synth3d.errors import InputError
from synth3d.files import progress, read_object, write_json
from synth3d.images import read, write_like


class ArmBuilder:
    """Makes the files of arms under ``folder``; an arm that is finished is not made again."""

    def __init__(
        self,
        folder: Path,
        cohort: Cohort,
        missing: Sequence[Modality],
        synth3d: Program,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        """Make arms of ``cohort``'s test cases with all of ``missing`` replaced."""
        self.folder, self.cohort = folder, cohort
        self.missing: tuple[Modality, ...] = tuple(missing)
        self.synth3d, self.seed, self.threads = synth3d, seed, threads
        self.sources: tuple[Modality, ...] = tuple(
            name for name in MODALITIES if name not in self.missing
        )
        self._samples: dict[Modality, TrainingSample] = {}

    def path(self, arm: Arm, case: Case, modality: Modality) -> Path:
        """Where a missing channel of ``case`` is for ``arm``."""
        if arm.kind == "full":
            return case.images[modality]
        return completed_file(self.folder / arm.content, case, self.missing, modality)

    def receipt(self, arm: Arm) -> Path:
        """The file that says the arm is finished."""
        return self.folder / arm.content / "arm.json"

    def is_finished(self, arm: Arm) -> bool:
        """Whether every test case has its files."""
        return not arm.has_files or (self.receipt(arm).is_file() and not any(self._gaps(arm)))

    def build(self, arm: Arm) -> None:
        """Make what ``arm`` lacks.

        Raises:
            InputError: A file cannot be read or written, or another tool's file cannot be used.
            StageFailedError: ``synth3d complete`` failed, or left a case out.
        """
        if self.is_finished(arm):
            return
        started = time.monotonic()
        if arm.kind in RIVALS:
            with threadpool_limits(self.threads):
                note = "; ".join(self._rival(arm, modality) for modality in self.missing)
        elif isinstance(arm.source, Completed):
            note = self._take_over(arm, arm.source)
        else:
            note = ""
            self._complete(arm)
        self._refuse_gaps(arm)
        record: dict[str, Any] = {
            "arm": arm.name,
            "kind": arm.kind,
            "missing": list(self.missing),
            "run": asdict(arm.source) if isinstance(arm.source, SynthesisRun) else None,
            "completed": str(arm.source.folder) if isinstance(arm.source, Completed) else None,
            "cases": [case.name for case in self.cohort.test],
            "note": note,
            "seconds": round(time.monotonic() - started, 2),
        }
        write_json(self.receipt(arm), record)

    def _gaps(self, arm: Arm) -> Iterator[tuple[Modality, str]]:
        """Missing sequences and names of test cases for which there is no file."""
        for modality in self.missing:
            for case in self.cohort.test:
                if not self.path(arm, case, modality).is_file():
                    yield modality, case.name

    def _refuse_gaps(self, arm: Arm) -> None:
        lacking: dict[Modality, list[str]] = {}
        for modality, case in self._gaps(arm):
            lacking.setdefault(modality, []).append(case)
        for modality, cases in lacking.items():
            raise InputError(f"arm {arm.name} has no {modality} for {', '.join(cases)}")

    def note(self, arm: Arm) -> str:
        """What is worth knowing about how a finished arm was made; may be empty."""
        if arm.of or not self.receipt(arm).is_file():
            return ""
        return str(read_object(self.receipt(arm), "note")["note"])

    def read(self, arm: Arm, case: Case) -> dict[Modality, np.ndarray | None]:
        """The missing channels (D, H, W) float32 in scanner units; None for exact zeros.

        Raises:
            InputError: A file is missing or cannot be read.
        """
        if arm.kind != "full" and not arm.has_files:
            return dict.fromkeys(self.missing)
        return {name: read(self.path(arm, case, name)).data for name in self.missing}

    def brain(self, case: Case) -> np.ndarray:
        """Bool (D, H, W): where any of the sequences that are *not* missing shows the head."""
        return brain_without(case, self.missing)

    def _sample(self, modality: Modality) -> TrainingSample:
        if modality not in self._samples:
            train = self.cohort.train
            self._samples[modality] = sample_training(train, self.sources, modality, self.seed)
        return self._samples[modality]

    def _complete(self, arm: Arm) -> None:
        run = arm.source.folder if arm.source and arm.kind != PLUMBING else None
        cases = [case.name for case in self.cohort.test]
        out = self.folder / arm.name
        data = self.cohort.folder
        self.synth3d(completion(run, data, out, self.missing, cases, self.threads))

    def _take_over(self, arm: Arm, source: Completed) -> str:
        source.require(self.cohort.test, self.missing)
        for case in progress(self.cohort.test, desc=f"arm {arm.name}", unit="case"):
            for modality in self.missing:
                source.write(case, modality, self.missing, self.path(arm, case, modality))
        return f"files of {source.folder}, set to 0 outside the brain of the real channels"

    def _rival(self, arm: Arm, modality: Modality) -> str:
        sample = self._sample(modality)
        note = "mean |r| with {}: {}".format(
            modality, ", ".join(f"{m} {r:.2f}" for m, r in sample.correlations.items())
        )
        model: Regressor | Template | None = None
        if arm.kind == "copy":
            note = f"copies {sample.most_alike} ({note})"
        elif arm.kind == "template":
            model = Template.of(self.cohort.train, self.sources, modality)
            note = f"mean {modality} of {len(self.cohort.train)} training cases, in their space"
        else:
            model = fit(arm.kind, sample, self.seed)
        for case in progress(self.cohort.test, desc=f"arm {arm.name}", unit="case"):
            if not self.path(arm, case, modality).is_file():
                self._write_rival(arm, case, modality, model)
        return note

    def _write_rival(
        self, arm: Arm, case: Case, modality: Modality, model: Regressor | Template | None
    ) -> None:
        channels = read_channels(case, self.sources)
        sample = self._sample(modality)
        like = sample.most_alike
        if model is None:
            volume = np.where(channels.brain, channels.volumes[like], 0).astype(np.float32)
        elif isinstance(model, Template):
            volume = model.volume(case, channels, sample.prior)
        else:
            volume = regress(model, channels, self.sources, modality, sample.prior)
        mark = f"SYNTHETIC {modality}: {arm.name} by seg_eval"
        path = self.path(arm, case, modality)
        # In the target's units: the integers of another sequence could round or clip them.
        write_like(case.images[like], volume, path, description=mark, dtype=np.float32)
