"""The segmenters of an experiment: which are trained, on what, and where they are kept.

All are trained on the same cases with the plans of the frozen one (network, patch, spacing,
normalisation, schedule), so they differ in their input alone. The frozen one does not depend on
what is missing and is shared by all experiments of a cohort.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seg_eval.arms import RETRAINED_KINDS
from seg_eval.cohort import Cohort
from seg_eval.records import digest
from synth3d.cohort import MODALITIES, Modality
from synth3d.files import sha256

DROPOUT = 0.5
"""Probability that a training patch of the ``dropout`` rival loses one of its channels."""


@dataclass(frozen=True)
class Training:
    """One segmenter to be trained.

    Attributes:
        cohort: Its training cases are learned from.
        folder: Of all segmenters of the cohort.
        preset: A name in ``nnunet_plans.presets``.
        seed: Of its weights and patches.
        threads: Of torch.
        kind: ``frozen``, ``specialist``, ``dropout`` or ``retrained``.
        missing: What a specialist never sees, or what is synthetic for a retrained one.
        replace: For ``retrained``: synthetic files by training case and modality.
    """

    cohort: Cohort
    folder: Path
    preset: str
    seed: int
    threads: int
    kind: str = "frozen"
    missing: tuple[Modality, ...] = ()
    replace: Mapping[str, Mapping[Modality, Path]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.kind not in ("frozen", *RETRAINED_KINDS):
            raise ValueError(f"expected frozen or one of {RETRAINED_KINDS}, got {self.kind!r}")

    @property
    def channels(self) -> tuple[Modality, ...]:
        """What the network sees."""
        if self.kind != "specialist":
            return MODALITIES
        return tuple(name for name in MODALITIES if name not in self.missing)

    @property
    def own_folder(self) -> Path:
        """Where its dataset lies: the frozen one's, or a folder inside it."""
        missing = "-".join(self.missing)
        if self.kind == "specialist":
            return self.folder / f"without-{missing}"
        if self.kind == "retrained":
            files = {
                f"{case} {modality}": sha256(path)
                for case, images in self.replace.items()
                for modality, path in images.items()
            }
            return self.folder / f"synthetic-{missing}-{digest(files)[:8]}"
        return self.folder


def train(task: Training, device: str) -> Path:
    """Train what ``task`` asks for, go on with a killed training, or find it done.

    Returns:
        The model folder.

    Raises:
        InputError: The data cannot be used, or another process works in the folder.
    """
    from seg_eval.segmenter.nnunet import PRESETS, prepare, train_segmenter
    from seg_eval.segmenter.raw_dataset import write_raw_dataset

    cases, scheme, threads = task.cohort.train, task.cohort.scheme, task.threads
    preset = PRESETS[task.preset]
    raw = write_raw_dataset(task.folder / "raw", cases, 501, "Cohort", scheme=scheme)
    prepared = prepare(raw, task.folder, preset, cases, threads=threads)
    own = task.own_folder
    if own != task.folder:
        raw = write_raw_dataset(
            own / "raw",
            cases,
            501,
            "Cohort",
            channels=task.channels,
            replace=task.replace,
            scheme=scheme,
        )
        prepared = prepare(raw, own, preset, cases, threads=threads, plans_of=prepared)
    dropout = DROPOUT if task.kind == "dropout" else 0.0
    return train_segmenter(
        prepared, seed=task.seed, threads=threads, device=device, channel_dropout=dropout
    )


def segmenters_folder(work: Path, cohort: Cohort) -> Path:
    """Where a cohort's segmenters are; its name says what they learned from."""
    identity = json.dumps([str(cohort.folder.resolve()), [case.name for case in cohort.train]])
    name = f"{cohort.folder.resolve().name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    return work / "segmenters" / name
