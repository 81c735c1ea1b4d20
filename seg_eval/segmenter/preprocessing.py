"""From a raw dataset to what nnU-Net trains on: fingerprint, plans, preprocessed cases.

Runs in this process without worker pools. A receipt holds a digest of the inputs: what is done is
not done again, a killed stage goes on, changed inputs start it anew.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_plans.presets import Preset
from seg_eval.records import CaseMarks, digest, marks
from seg_eval.segmenter.environment import nnunet_environment, shown, told_plainly
from seg_eval.segmenter.raw_dataset import RawPlan
from seg_eval.segmenter.trust import is_ours, sealed
from synth3d.cohort import Case
from synth3d.errors import InputError
from synth3d.files import lock, read_object, sha256, write_json
from synth3d.images import read
from synth3d.settings import parse

CONFIGURATION = "3d_fullres"


@dataclass(frozen=True)
class Prepared:
    """A dataset that nnU-Net can train on.

    Attributes:
        root: ``work/<preset>``.
        digest: Changes with the voxels, the split and the network.
    """

    raw: RawPlan
    root: Path
    preset: Preset
    digest: str

    @property
    def folder(self) -> Path:
        """nnU-Net's preprocessed folder of the dataset."""
        return self.root / "preprocessed" / self.raw.folder.name

    @property
    def plans(self) -> Path:
        """The plans file that all trainings of this preset start from."""
        return self.folder / f"{self.preset.name}.json"

    @property
    def folders(self) -> dict[str, Path]:
        """nnU-Net's three roots."""
        return {
            "raw": self.raw.folder.parent,
            "preprocessed": self.root / "preprocessed",
            "results": self.root / "results",
        }


def prepare(
    raw: RawPlan,
    work: Path,
    preset: Preset,
    cases: Sequence[Case],
    threads: int = 1,
    plans_of: Prepared | None = None,
) -> Prepared:
    """Fingerprint, plan and preprocess the training cases.

    Other cases of ``raw`` are not looked at. nnU-Net cannot train without validation cases,
    although it learns nothing from them, so the curve in its log is drawn on the training cases.
    A work folder holds one dataset per preset: give each segmenter with other data or channels a
    folder of its own.

    Args:
        raw: The dataset.
        work: Everything goes to ``work/<preset>``.
        preset: The network and its schedule.
        cases: Cases of ``raw`` to train on.
        threads: Of torch.
        plans_of: A dataset of the same preset with at least the channels of this one, whose plans
            are taken instead of planning anew: patch, network, spacing and normalisation are then
            the same, and only the number of input channels differs.
    """
    names, root = [case.name for case in cases], work / preset.name
    receipt = root / "prepared.json"
    before = read_object(receipt) if receipt.is_file() else {}
    if not is_ours(before):  # nnU-Net unpickles what it has preprocessed
        before = {}
    files = {name: raw.files[name] for name in names}
    found = marks((path for paths in files.values() for path in paths), _seen(before))
    planned = [preset.planner] if preset.planner != "ExperimentPlanner" else []
    planned += [sha256(plans_of.plans)] if plans_of else []
    inputs = digest(
        {case: [found[str(path)][2] for path in paths] for case, paths in files.items()},
        raw.channels,
        asdict(preset.network) if preset.network else None,
        [names, []],
        version("nnunetv2"),
        *planned,
    )
    prepared = Prepared(raw, root, preset, inputs)
    if finished(before, inputs):  # without a lock: trainings of other seeds may be running
        return prepared
    with lock(root):
        state = {"digest": inputs, "finished": True, "marks": found}
        if before.get("digest") != inputs:
            shutil.rmtree(prepared.folder, ignore_errors=True)
        write_json(receipt, sealed(state | {"finished": False}))
        write_json(prepared.folder / "splits_final.json", [{"train": names, "val": names}])
        log = root / "nnunet.log"
        with (
            told_plainly("preparing the data for nnU-Net", log),
            nnunet_environment(threads, log, prepared.folders),
        ):
            _fingerprint(prepared, names)
            _plan(prepared, plans_of)
            _preprocess(prepared, names)
        state["plans_sha256"] = sha256(prepared.plans)
        state["plans_of"] = sha256(plans_of.plans) if plans_of else None
        write_json(receipt, sealed(state))
    return prepared


def finished(receipt: dict[str, Any], inputs: str) -> bool:
    """Whether the receipt of a stage says that it is done for these inputs."""
    return receipt.get("digest") == inputs and receipt.get("finished") is True


def network_digest(plans: dict[str, Any]) -> str:
    """SHA-256 over all that plans say of patch, network, spacing and resampling, not channels."""
    from nnunet_plans.planners import PER_CHANNEL

    configuration = plans["configurations"][CONFIGURATION]
    return digest({key: configuration[key] for key in configuration if key not in PER_CHANNEL})


def _fingerprint(prepared: Prepared, cases: Sequence[str]) -> None:
    from nnunet_plans.planners import SmallFPE

    extractor = SmallFPE(prepared.raw.folder.name)
    extractor.dataset = {case: extractor.dataset[case] for case in cases}
    extractor.track = lambda names: _readable(prepared.raw, names)
    try:
        extractor.run()
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"nnU-Net cannot use the dataset: {error}") from error


def _readable(raw: RawPlan, cases: Sequence[str]) -> Iterator[str]:
    """The cases one by one, each with sound images; SimpleITK would read NaN voxels as 0."""
    for case in shown(cases, "nnU-Net fingerprint", unit="case"):
        for path in raw.files[case][:-1]:
            read(path)
        yield case


def _plan(prepared: Prepared, frozen: Prepared | None) -> None:
    """Write the plans; always anew, because nnU-Net does not write them in one piece."""
    from nnunet_plans.planners import frozen_plans, plan

    name = prepared.raw.folder.name
    prepared.plans.unlink(missing_ok=True)
    if frozen is None:
        plan(name, prepared.preset)
        return
    raw = read_object(prepared.raw.folder / "dataset.json")
    kept = frozen_plans(read_object(frozen.plans), frozen.raw.channels, name, prepared.raw.channels)
    write_json(prepared.folder / "dataset.json", raw)  # nnU-Net's planners leave a copy there
    write_json(prepared.plans, kept)


def _seen(receipt: dict[str, Any]) -> CaseMarks:
    """The marks of files that were read before; damaged ones only cost reading them again."""
    with contextlib.suppress(InputError):
        found: CaseMarks = parse(CaseMarks, receipt.get("marks", {}))
        return found
    return {}


def _preprocess(prepared: Prepared, cases: Sequence[str]) -> None:
    """Preprocess case by case; a case is finished when its ``.pkl``, moved last, is there."""
    from nnunet_plans.planners import run_preprocessing

    dataset = read_object(prepared.folder / "dataset.json")
    identifier, run = run_preprocessing(prepared.plans, CONFIGURATION, dataset)
    target, partial = prepared.folder / identifier, prepared.folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    for folder in (target, partial):
        folder.mkdir(parents=True, exist_ok=True)
    for case in shown(list(cases), "nnU-Net preprocessing", unit="case"):
        if (target / f"{case}.pkl").is_file():
            continue
        run(partial / case, prepared.raw.files[case])
        for ending in (".b2nd", "_seg.b2nd", ".pkl"):
            (partial / f"{case}{ending}").replace(target / f"{case}{ending}")
    partial.rmdir()
