"""A preset whose training takes under a second, and what tests look at in a case and a model."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_plans.presets import PRESETS, Network, Preset
from seg_eval.segmenter.nnunet import train_segmenter
from seg_eval.segmenter.preprocessing import Prepared, prepare
from seg_eval.segmenter.raw_dataset import RawRequest, write_raw_dataset
from synth3d.cohort import MODALITIES, Case, find_cases
from synth3d.images.volumes import read

Weights = Mapping[str, torch.Tensor]


@pytest.fixture(scope="session")
def toy() -> Preset:
    """Three epochs of four iterations."""
    return replace(
        PRESETS["cpu-mini"],
        name="toy",
        network=Network((16, 16, 16), 2, (4, 8, 8), (1, 1)),
        schedule={"epochs": 3, "iterations": 4, "validation_iterations": 1, "save_every": 1},
    )


@pytest.fixture(scope="session")
def cases(phantom_cohort: Path) -> list[Case]:
    """Six phantoms; three of them are trained on."""
    return find_cases(phantom_cohort)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the segmenters of the phantoms are."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="session")
def frozen(cases: list[Case], work: Path, toy: Preset) -> Prepared:
    """The phantoms, prepared for the frozen segmenter."""
    raw = write_raw_dataset(RawRequest(work / "raw", cases[:3], 501, "Cohort"))
    return prepare(raw, work, toy, cases[:3])


@pytest.fixture(scope="session")
def ours(frozen: Prepared) -> Path:
    """The frozen segmenter."""
    return train_segmenter(frozen)


@pytest.fixture(scope="session")
def volumes_of() -> Callable[[Case], dict[str, np.ndarray]]:
    """All sequences of a case."""
    return lambda case: {name: read(case.images[name]).data for name in MODALITIES}


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Path], Weights]:
    """The weights of a trained model folder."""

    def load(model: Path) -> Weights:
        path = model / "fold_0" / "checkpoint_final.pth"
        return torch.load(path, weights_only=False)["network_weights"]

    return load
