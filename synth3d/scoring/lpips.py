"""LPIPS between slices, with the ``lpips`` package and AlexNet's weights from the disk.

Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric", version
0.1. The package brings its own linear weights; torchvision's AlexNet must already lie on the disk:
nothing is ever downloaded.
"""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from synth3d.errors import InputError
from synth3d.files import sha256

FILE_NAME = "alexnet-owt-7be5be79.pth"
"""What torchvision calls AlexNet's ImageNet weights; the digits begin their SHA-256."""

REMEDY = "or name it with --lpips-weights"

SMALLEST = 32
"""Slices with a shorter side are mirrored up to this: AlexNet sees nothing smaller."""


def weights_on_disk() -> Path:
    """Where torchvision keeps AlexNet's weights once it has fetched them."""
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME


class PerceptualDistance:
    """LPIPS (AlexNet) of pairs of slices.

    Attributes:
        weights: The file of AlexNet's weights.
        published: Whether they are torchvision's, by their SHA-256.
    """

    def __init__(self, weights: Path | None = None, batch: int = 16, remedy: str = REMEDY) -> None:
        """Read AlexNet's weights, as torchvision saves them; None looks in its own folder.

        ``remedy`` ends the sentence of an error: what else can be done.

        Raises:
            InputError: The package or the weights are missing, or the file holds something else.
        """
        self.weights = weights_on_disk() if weights is None else Path(weights)
        self.batch = batch
        if importlib.util.find_spec("lpips") is None:
            other = "" if remedy == REMEDY else f", {remedy}"
            raise InputError(f"LPIPS needs the package lpips: pip install 'synth3d[score]'{other}")
        if not self.weights.is_file():
            raise InputError(
                f"LPIPS needs AlexNet's weights, and there is no {self.weights}: fetch {FILE_NAME} "
                "from download.pytorch.org/models on a machine with internet and put it there, "
                f"{remedy}"
            )
        self.published = sha256(self.weights).startswith(FILE_NAME.split("-")[-1].split(".")[0])
        self.network = _network(self.weights)

    def __call__(self, real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
        """Distances (N,) float64 of slices (N, H, W) in [-1, 1]; 0 for equal ones.

        Raises:
            ValueError: The shapes differ or are not (N, H, W).
        """
        if real.ndim != 3 or real.shape != synthetic.shape:
            raise ValueError(f"expected two (N, H, W), got {real.shape} and {synthetic.shape}")
        found = []
        for start in range(0, len(real), self.batch):
            part = slice(start, start + self.batch)
            with torch.inference_mode():
                found.append(self.of(*(torch.from_numpy(v[part]) for v in (real, synthetic))))
        return torch.cat(found).double().numpy() if found else np.zeros(0)

    def of(self, real: Tensor, synthetic: Tensor) -> Tensor:
        """Distances (N,) of slices (N, H, W) in [-1, 1], with a gradient, where the slices are."""
        network = self.network.to(real.device)
        total = torch.zeros(len(real), device=real.device)
        pair = (_mirrored(slices.float())[:, None] for slices in (real, synthetic))
        maps = [network.net(network.scaling_layer(slices)) for slices in pair]
        for layer, one, other in zip(network.lins, *maps, strict=True):
            # The package's own norm has no slope where all features are 0.
            units = [F.normalize(features, dim=1, eps=1e-10) for features in (one, other)]
            total = total + layer((units[0] - units[1]).square()).mean((1, 2, 3))
        return total


def _mirrored(slices: Tensor) -> Tensor:
    """Slices (N, H, W), continued by their mirror image as far as AlexNet needs."""
    for axis in (1, 2):
        side = slices.shape[axis]
        at = torch.arange(max(side, SMALLEST), device=slices.device) % (2 * side)
        slices = slices.index_select(axis, torch.minimum(at, 2 * side - 1 - at))
    return slices


def _network(weights: Path) -> Any:
    """LPIPS with AlexNet's ``weights``; the package itself would go and fetch them."""
    import lpips

    # Also where a network is planned without memory; torchvision deprecates what lpips calls.
    with torch.device("cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    network.net.load_state_dict(_trunk(weights, network.net.state_dict()))
    return network.requires_grad_(False).eval()


def _trunk(weights: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """AlexNet's convolutions under the names that lpips gives them."""
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        found = {name: state["features." + name.split(".", 1)[1]] for name in expected}
        if any(found[name].shape != expected[name].shape for name in expected):
            raise ValueError("the shapes differ")
    except Exception as error:  # torch.load raises whatever the bytes make it raise
        raise InputError(f"{weights} does not hold torchvision's AlexNet: {error}") from error
    return found
