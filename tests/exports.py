"""An exported segmenter that nobody has trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from synth3d.losses import Architecture, network_of, save_segmenter
from synth3d.losses.exported import NORMALISATION
from synth3d.settings import parse


def write_export(folder: Path, dim: int = 3, shape: Mapping[str, Any] = {}, **said: Any) -> Path:
    """Of a plain U-Net of two stages; ``shape`` changes it, ``said`` what is told of it."""
    architecture = {
        "network": "PlainConvUNet", "features": [4, 6], "kernels": [[3] * dim] * 2,
        "strides": [[1] * dim, [2] * dim], "blocks": [1, 1], "decoder": [1], "bias": True,
        "epsilon": 1e-5, "affine": True, "activation": "LeakyReLU",
    }  # fmt: skip
    about = {
        "format": 1, "architecture": architecture | dict(shape),
        "channels": ["t1n", "t1c", "t2w", "t2f"], "masked": True, "spacing_mm": [1.0] * dim,
        "patch": [16] * dim, "regions": True, "heads": [[1, 2, 3], [1, 3], [3]],
        "checkpoint_sha256": "0" * 64, "seed": 0, "cases": None, "origin": "T__P__3d_fullres",
    } | said  # fmt: skip
    about["normalisation"] = [NORMALISATION] * len(about["channels"])
    torch.manual_seed(0)
    sizes = len(about["channels"]), len(about["heads"])
    network = network_of(parse(Architecture, about["architecture"]), *sizes)
    folder.mkdir(parents=True, exist_ok=True)
    save_segmenter(folder, about, network)
    return folder
