"""The segmenters of an experiment: which are trained, on what, and where they are kept.

All are trained on the same cases with the plans of the frozen one (network, patch, spacing,
normalisation, schedule), so they differ in their input alone. The frozen one does not depend on
what is missing and is shared by all experiments of a cohort.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_plans.presets import PRESETS
from seg_eval.arms import ArmKind
from seg_eval.cohort import Cohort
from seg_eval.records import digest
from seg_eval.segmenter.nnunet import train_segmenter
from seg_eval.segmenter.preprocessing import CONFIGURATION, prepare
from seg_eval.segmenter.raw_dataset import RawRequest, write_raw_dataset
from synth3d.cohort import MODALITIES, Modality
from synth3d.files import place, plain, read_object, sha256


@dataclass(frozen=True)
class Training:
    """One segmenter to be trained.

    Attributes:
        folder: Of all segmenters of the cohort.
        preset: A name in ``nnunet_plans.presets``.
        kind: Whose own segmenter it is; None for the frozen one.
        replace: Synthetic files by training case and modality, where it learns from such.
    """

    cohort: Cohort
    folder: Path
    preset: str
    seed: int
    threads: int
    kind: ArmKind | None = None
    missing: tuple[Modality, ...] = ()
    replace: Mapping[str, Mapping[Modality, Path]] = field(default_factory=dict, hash=False)

    @property
    def channels(self) -> tuple[Modality, ...]:
        """What the network sees."""
        unseen = self.missing if self.kind and self.kind.without_missing else ()
        return tuple(name for name in MODALITIES if name not in unseen)

    @property
    def own_folder(self) -> Path:
        """Where its dataset lies: the frozen one's, or a folder inside it."""
        missing = "-".join(self.missing)
        if self.channels != MODALITIES:
            return self.folder / f"without-{missing}"
        if not self.replace:
            return self.folder
        files = {
            f"{case} {modality}": sha256(path)
            for case, images in self.replace.items()
            for modality, path in images.items()
        }
        return self.folder / f"synthetic-{missing}-{digest(files)[:8]}"


def seems_trained(task: Training) -> bool:
    """Whether a training like ``task`` is there and finished; :func:`train` looks more closely."""
    dropout = "-dropout" if task.kind and task.kind.channel_dropout else ""
    name = f"*__{task.preset}-seed{task.seed}{dropout}*__{CONFIGURATION}/model.json"
    found = task.own_folder.glob(f"{task.preset}/results/*/{name}")
    return any(read_object(receipt).get("finished") is True for receipt in found)


def train(task: Training, device: str, trust: bool = False) -> Path:
    """The model folder of what ``task`` asks for, trained now, gone on with, or found done.

    ``trust`` as :func:`seg_eval.segmenter.nnunet.train_segmenter` has it.
    """
    cases, own = task.cohort.train, task.own_folder
    preset, threads = PRESETS[task.preset], task.threads
    readings = task.cohort.readings
    request = RawRequest(task.folder / "raw", cases, 501, "Cohort", readings=readings)
    prepared = prepare(write_raw_dataset(request), task.folder, preset, cases, threads)
    if own != task.folder:
        channels, files = task.channels, task.replace
        request = replace(request, folder=own / "raw", channels=channels, replace=files)
        raw = write_raw_dataset(request)
        prepared = prepare(raw, own, preset, cases, threads, plans_of=prepared)
    dropout = task.kind.channel_dropout if task.kind else 0.0
    return train_segmenter(prepared, task.seed, threads, device, dropout, trust)


def segmenters_folder(work: Path, cohort: Cohort) -> Path:
    """Where a cohort's segmenters are; its name says what they learned from."""
    folder = cohort.folder.resolve()
    identity = digest(str(folder), [case.name for case in cohort.train])
    return place(work / "segmenters", f"{plain(folder.name)}-{identity[:8]}")
