"""The files of arms: one folder per arm, one file per test case and missing sequence.

What is made from the training cases, or by interpolation of thick slices, is made here, the files
of other tools are taken over here;
our own synthesis and the check of the export path are made by ``synth3d complete``. Whatever is
made is exactly 0 outside the brain of the real channels: nnU-Net crops and normalises by what is
not zero, and a channel that breaks this spoils all.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from seg_eval.arms.baselines import FILLINGS, TrainingSample, read_channels, sample_training
from seg_eval.arms.completed import Completed, brain_without
from seg_eval.arms.gaps import Gaps
from seg_eval.arms.kinds import Arm
from seg_eval.arms.poor import INTERPOLATIONS, PoorScans
from seg_eval.arms.program import Program
from seg_eval.arms.synthesisers import (
    SynthesisRun,
    completed_file,
    completion,
    taught_words,
)
from seg_eval.cohort import Cohort
from synth3d.cohort import Case, Modality
from synth3d.completion import maps_of
from synth3d.errors import InputError
from synth3d.files import place, progress, read_object, write_json
from synth3d.images import read, write_like
from synth3d.runs import trial_words


class ArmBuilder:
    """Makes files of arms of ``cohort``'s test cases, what each lacks replaced, in ``folder``.

    An arm that is finished is not made again. With ``poor``, the one that is missing is there, but
    with thick slices.
    """

    def __init__(
        self,
        folder: Path,
        cohort: Cohort,
        gaps: Gaps,
        synth3d: Program,
        seed: int = 0,
        threads: int = 1,
        poor: PoorScans | None = None,
    ) -> None:
        self.folder, self.cohort, self.gaps, self.poor = folder, cohort, gaps, poor
        self.synth3d, self.seed, self.threads = synth3d, seed, threads
        self._samples: dict[Modality, TrainingSample] = {}

    def path(self, arm: Arm, case: Case, modality: Modality) -> Path:
        """Where a missing channel of ``case`` is for ``arm``."""
        if arm.about.is_real:
            return case.images[modality]
        return completed_file(place(self.folder, arm.content), case, self.gaps.of(case), modality)

    def maps(self, arm: Arm, case: Case, modality: Modality) -> dict[str, Path]:
        """Name → file of the maps that ``synth3d complete`` wrote beside a channel; or none."""
        if not arm.has_files:
            return {}
        source = arm.source.folder if isinstance(arm.source, Completed) else None
        return maps_of(source or place(self.folder, arm.content), case.name, modality)

    def receipt(self, arm: Arm) -> Path:
        """The file that says the arm is finished."""
        return place(self.folder, arm.content, "arm.json")

    def is_finished(self, arm: Arm) -> bool:
        """Whether every test case has its files."""
        return not arm.has_files or (self.receipt(arm).is_file() and not any(self._gaps(arm)))

    def build(self, arm: Arm) -> None:
        """Make what ``arm`` lacks.

        Raises:
            InputError: Another tool's file cannot be used, or ``synth3d complete`` left a case out.
            StageFailedError: ``synth3d complete`` failed.
            ValueError: Nothing is known that makes this kind of arm.
        """
        if self.is_finished(arm):
            return
        started = time.monotonic()
        note = self._make(arm)
        for modality in self.gaps.names:
            if cases := [case for name, case in self._gaps(arm) if name == modality]:
                raise InputError(f"arm {arm.name} has no {modality} for {', '.join(cases)}")
        source = arm.source
        record = {
            "arm": arm.name,
            "kind": arm.kind,
            "missing": list(self.gaps.names),
            "run": self._told(source) if isinstance(source, SynthesisRun) else None,
            "completed": str(source.folder) if isinstance(source, Completed) else None,
            "cases": [case.name for case in self.cohort.test],
            "note": note,
            "seconds": round(time.monotonic() - started, 2),
        }
        write_json(self.receipt(arm), record)

    def _told(self, run: SynthesisRun) -> dict[str, Any]:
        """``run`` as it was used: what is missing is no source, whatever else it could make."""
        gone = () if self.gaps.drawn else self.gaps.names
        used = [n for n in run.sources if run.restores or n not in gone]
        return asdict(run) | {"sources": used}

    def _gaps(self, arm: Arm) -> Iterator[tuple[Modality, str]]:
        """Missing sequences and names of test cases for which there is no file."""
        for case in self.cohort.test:
            for modality in self.gaps.of(case):
                if not self.path(arm, case, modality).is_file():
                    yield modality, case.name

    def _make(self, arm: Arm) -> str:
        """Make the files; what is worth knowing about how."""
        if arm.kind in FILLINGS:
            with threadpool_limits(self.threads):
                return "; ".join(self._fill(arm, modality) for modality in self.gaps.names)
        if arm.kind in INTERPOLATIONS:
            return self._interpolate(arm)
        if isinstance(arm.source, Completed):
            return self._take_over(arm, arm.source)
        if arm.source is None and not arm.about.is_check:
            raise ValueError(f"FILLINGS has no function for the arm {arm.name}")
        source, data, how = arm.source, self.cohort.folder, "fill"
        if source is not None and source.explains:
            how = "explain"
        if source is not None and source.uncertain:
            how = "uncertain"
        if source is not None and source.restores and self.poor is not None:
            data, how = self.poor.cohort(self.cohort.test), "restore"
        out, by = place(self.folder, arm.name), source.flags if source else ("--plumbing",)
        for missing, cases in self.gaps.sets(self.cohort.test).items():
            named = [case.name for case in cases]
            self.synth3d(completion(by, data, out, missing, named, self.threads, how))
        if source is None:
            return ""
        told = taught_words(source.teachers), trial_words([source.folder, *source.others])
        return "; ".join(filter(None, told))

    def note(self, arm: Arm) -> str:
        """What is worth knowing about how a finished arm was made; may be empty."""
        if arm.of or not self.receipt(arm).is_file():
            return ""
        return str(read_object(self.receipt(arm), "note")["note"])

    def read(self, arm: Arm, case: Case) -> dict[Modality, np.ndarray | None]:
        """The missing channels (D, H, W) float32 in scanner units; None for exact zeros."""
        if not arm.has_files and not arm.about.is_real:
            return dict.fromkeys(self.gaps.of(case))
        return {name: read(self.path(arm, case, name)).data for name in self.gaps.of(case)}

    def brain(self, case: Case) -> np.ndarray:
        """Bool (D, H, W): where any of the sequences that are *not* missing shows the head."""
        return brain_without(case, self.gaps.of(case))

    def _take_over(self, arm: Arm, source: Completed) -> str:
        source.require(self.cohort.test, self.gaps)
        everyone = (*self.cohort.train, *self.cohort.test)
        source.require_own(self.cohort.test, self.gaps, everyone)
        for case in progress(self.cohort.test, desc=f"arm {arm.name}", unit="case"):
            missing = self.gaps.of(case)
            for modality in missing:
                source.write(case, modality, missing, self.path(arm, case, modality))
        note = f"files of {source.folder}, set to 0 outside the brain of the real channels"
        if source.unsaid(self.cohort.test, self.gaps):
            note += "; their names say no sequence, and they are taken for the one that is missing"
        taught = taught_words(source.teachers(self.cohort.test))
        return "; ".join(filter(None, (note, taught)))

    def _interpolate(self, arm: Arm) -> str:
        assert self.poor is not None
        modality = self.poor.degradation.modality
        mark = f"THICK SLICES {modality}: {arm.name} by seg_eval"
        for case in progress(self.cohort.test, desc=f"arm {arm.name}", unit="case"):
            path = self.path(arm, case, modality)
            if not path.is_file():
                fine = np.where(self.brain(case), self.poor.on_grid(case, arm.kind), 0)
                like = case.images[self.gaps.others(modality)[0]]
                write_like(like, fine.astype(np.float32), path, description=mark, dtype=np.float32)
        return f"scans of {self.poor.degradation.text} ({self.poor.degradation.profile})"

    def _fill(self, arm: Arm, modality: Modality) -> str:
        poor, sources = self.poor.trilinear if self.poor else None, self.gaps.others(modality)
        if modality not in self._samples:
            train = self.cohort.train
            found = sample_training(train, sources, modality, self.seed, poor)
            self._samples[modality] = found
        sample = self._samples[modality]
        fill, note = FILLINGS[arm.kind](sample)
        mark = f"SYNTHETIC {modality}: {arm.name} by seg_eval"
        lacking = [case for case in self.cohort.test if modality in self.gaps.of(case)]
        for case in progress(lacking, desc=f"arm {arm.name}", unit="case"):
            path = self.path(arm, case, modality)
            if not path.is_file():
                channels = read_channels(case, sources, poor=poor)
                made = np.where(channels.brain, fill(case, channels), 0).astype(np.float32)
                # In the target's units: the integers of another sequence would round or clip them.
                like = case.images[sample.most_alike]
                write_like(like, made, path, description=mark, dtype=np.float32)
        return note
