"""What training a segmenter takes, told before it: by nnU-Net's own plan and a few timed steps."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_plans.presets import PRESETS, Preset
from seg_eval.segmenter.environment import nnunet_environment, pick_device
from seg_eval.segmenter.nnunet import step_seconds
from seg_eval.segmenter.preprocessing import CONFIGURATION, Prepared
from seg_eval.segmenter.raw_dataset import RawRequest, write_raw_dataset
from synth3d.cohort import MODALITIES, Case, Reading
from synth3d.files import make_folder, read_object, write_json
from synth3d.images import read

STOCK_EPOCHS, STOCK_ITERATIONS = 1000, 250
"""nnU-Net's default schedule, of presets that say nothing else."""
STOCK_TOTAL = STOCK_EPOCHS * STOCK_ITERATIONS
TIMED_ON_A_CPU = 2 * 64**3
"""Voxels of a step; a larger one is timed with a smaller patch and counted by voxels."""


@dataclass(frozen=True)
class SegmenterCost:
    """What one training takes.

    Attributes:
        seconds: Of all iterations, without preprocessing the cohort.
        patch: Voxels (z, y, x), and ``batch`` of them an iteration.
        memory_bytes: The most that the timed steps had; None where a smaller patch was timed.
    """

    seconds: float
    iterations: int
    patch: tuple[int, ...]
    batch: int
    memory_bytes: int | None


def iterations_of(preset: str) -> int:
    """Of a training of this preset."""
    schedule = PRESETS[preset].schedule
    epochs = schedule.get("epochs", STOCK_EPOCHS)
    return int(epochs * schedule.get("iterations", STOCK_ITERATIONS))


def cost_of(
    preset: str, case: Case, reading: Reading | None, threads: int, device: str
) -> SegmenterCost:
    """Plan as nnU-Net would for a cohort of cases like ``case``, and time a few steps of that.

    The voxels are random; nothing is kept on disk.

    Raises:
        InputError: The device or the case cannot be used, or memory gives out.
    """
    chosen, about = pick_device(device), PRESETS[preset]
    with tempfile.TemporaryDirectory() as folder:
        readings = None if reading is None else {case.name: reading}
        request = RawRequest(Path(folder) / "raw", [case], 501, "Cost", readings=readings)
        prepared = Prepared(write_raw_dataset(request), Path(folder) / preset, about, "")
        with nnunet_environment(threads, None, prepared.folders):
            _planned(prepared, case, about)
        plans = read_object(prepared.plans)
        plan = plans["configurations"][CONFIGURATION]
        patch, batch = tuple(plan["patch_size"]), plan["batch_size"]
        timed = _timed_patch(plan, chosen)
        share = np.prod(timed[0]) * timed[1] / (np.prod(patch) * batch)
        plan |= {"patch_size": list(timed[0]), "batch_size": timed[1]}
        write_json(prepared.plans, plans)
        cases = make_folder(prepared.folder / plan["data_identifier"])
        (cases / "none.b2nd").touch()  # by whose ending nnU-Net knows the format
        seconds, memory = step_seconds(prepared, threads, chosen)
    iterations = iterations_of(preset)
    kept = memory if share == 1 else None
    return SegmenterCost(float(seconds / share * iterations), iterations, patch, batch, kept)


def _planned(prepared: Prepared, case: Case, preset: Preset) -> None:
    """Write the plans for a cohort whose cases all have the head and the voxels of ``case``."""
    from nnunet_plans.planners import plan, summarise

    scan = read(case.images[MODALITIES[0]])
    inside = np.nonzero(scan.data)
    head = [int(axis.max() - axis.min()) + 1 if axis.size else 1 for axis in inside]
    share = float(np.prod(head) / scan.data.size)
    about = head, list(scan.spacing_mm), np.ones((len(MODALITIES), 1)), [], share
    write_json(prepared.folder / "dataset_fingerprint.json", summarise([about], len(MODALITIES)))
    write_json(prepared.folder / "dataset.json", read_object(prepared.raw.folder / "dataset.json"))
    plan(prepared.raw.folder.name, preset)


def _timed_patch(plan: Mapping[str, Any], device: str) -> tuple[tuple[int, ...], int]:
    """Patch and batch of ``plan``; on a CPU one patch, halved until a step of it takes seconds.

    Its sides stay multiples of what the network divides them by, at the coarsest level two voxels.
    """
    patch, batch = np.array(plan["patch_size"]), plan["batch_size"]
    if device == "cpu" and patch.prod() * batch > TIMED_ON_A_CPU:
        batch, before = 1, None
        factor = np.prod(plan["architecture"]["arch_kwargs"]["strides"], axis=0)
        while patch.prod() > TIMED_ON_A_CPU and before != patch.tolist():
            before = patch.tolist()
            patch = factor * np.minimum(np.maximum(-(-patch // factor // 2), 2), patch // factor)
    return tuple(map(int, patch)), batch
