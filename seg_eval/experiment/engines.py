"""The heavy machines of an experiment, in one place so that tests can replace them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from seg_eval.arms import Program, Resample, forecast_of, run_synth3d
from seg_eval.cohort import LabelledCase
from seg_eval.segmenter import (
    ExportRequest,
    Segmenter,
    SegmenterCost,
    Training,
    cost_of,
    export_segmenter,
    open_model_folder,
    resample,
    train,
)
from synth3d.cohort import Reading

Predict = Callable[[Mapping[str, np.ndarray], tuple[float, float, float]], np.ndarray]
"""A frozen segmenter: (D, H, W) float32 by modality, more than it takes if need be, and voxel
sides (z, y, x) in mm to (D, H, W) labels in BraTS 2023 coding."""


@dataclass(frozen=True)
class Engines:
    """What does the heavy work.

    Attributes:
        train_segmenter: Gives the model folder of a training; goes on with what is there, and
            returns at once when it is finished.
        load_segmenter: (model folder, threads) to a segmenter that was trained here.
        open_segmenter: (model folder, threads) to a segmenter that the user brought.
        resample: nnU-Net's way from one grid to another.
        export_segmenter: (model folder, folder) to the export that a synthesiser learns from.
        forecast: What ``synth3d`` with these arguments would do and what it takes, as its dry run
            says it: the event ``plan`` of docs/events.md.
        segmenter_cost: (preset, a case, how its label is read, threads) to what training takes on
            a cohort of such cases.
    """

    synth3d: Program
    train_segmenter: Callable[[Training], Path]
    load_segmenter: Callable[[Path, int], Predict]
    open_segmenter: Callable[[Path, int], Predict]
    resample: Resample
    export_segmenter: Callable[[Path, Path], Path]
    forecast: Callable[[Sequence[str]], dict[str, Any]]
    segmenter_cost: Callable[[str, LabelledCase, Reading, int], SegmenterCost]


def real_engines(device: str, trust: bool, own: Path) -> Engines:
    """The `synth3d` program and nnU-Net; ``trust`` and ``own`` as in :func:`open_model_folder`."""
    return Engines(
        synth3d=partial(run_synth3d, device=device),
        train_segmenter=partial(train, device=device, trust=trust),
        load_segmenter=lambda model, threads: Segmenter(model, threads, device).predict,
        open_segmenter=lambda model, threads: (
            open_model_folder(model, trust, threads, device, own).predict
        ),
        resample=resample,
        export_segmenter=lambda model, out: export_segmenter(
            ExportRequest(model, out, trust=trust, work=own)
        ),
        forecast=partial(forecast_of, device=device),
        segmenter_cost=partial(cost_of, device=device),
    )
