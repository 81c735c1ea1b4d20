"""Features of VGG that pictures are compared by; torchvision's weights, never downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth3d.errors import InputError

RELU2_2 = 9
"""So many layers of torchvision's ``vgg16().features`` end with relu2_2 (Dar et al. 2019)."""
RELU5_1 = 30
"""So many of ``vgg19().features`` end with relu5_1 (the reference code of TSF-Seq2Seq)."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of red, green and blue in [0, 1]."""


@dataclass(frozen=True)
class _Known:
    """A network of torchvision: its name, its leading layers, where its weights are, who asks."""

    name: str
    layers: int
    url: str
    megabytes: int
    framework: str


_VGG16 = _Known("vgg16", RELU2_2, "https://download.pytorch.org/models/vgg16-397923af.pth", 528,
                "pgan")  # fmt: skip
_VGG19 = _Known("vgg19", RELU5_1, "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", 548,
                "tsf")  # fmt: skip


def load_vgg16(path: Path | None = None) -> nn.Module:
    """VGG16 up to relu2_2, frozen, on the CPU: (N, 3, H, W) → (N, 128, H/2, W/2).

    Args:
        path: torchvision's weights; None is where torch.hub keeps them on this machine.

    Raises:
        InputError: torchvision or the file is not there, or the file is something else.
    """
    return _load(_VGG16, path)


def load_vgg19(path: Path | None = None) -> "ReluMaps":
    """VGG19 up to relu5_1, frozen, on the CPU, with mean pools: pictures → 13 maps.

    Arguments and errors as :func:`load_vgg16`.
    """
    return ReluMaps(_load(_VGG19, path)).requires_grad_(False).eval()


class ReluMaps(nn.Module):
    """What every ReLU of a VGG gives for a picture, its max-pools being mean-pools.

    Pools that would leave less than a pixel end it: small pictures have fewer maps.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers.children())

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Grey pictures (N, H, W) in [0, 1] → maps (N, F, h, w), the first ReLU's first."""
        mean, deviation = (pictures.new_tensor(v).view(3, 1, 1) for v in IMAGENET)
        x, maps = (pictures[:, None] - mean) / deviation, []
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                if min(x.shape[-2:]) < 2:
                    break
                x = F.avg_pool2d(x, 2)
            elif isinstance(layer, nn.ReLU):
                x = x.relu()
                maps.append(x)
            else:
                x = layer(x)
        return maps


def _load(known: _Known, path: Path | None) -> nn.Module:
    """The leading layers of a network with the weights of a file; frozen, on the CPU."""
    framework, title = known.framework, known.name.upper()
    try:
        from torchvision import models
    except ImportError as error:
        raise InputError(
            f"{framework} needs torchvision ({error}); pip install torchvision, or use another "
            "framework"
        ) from error
    url = known.url
    file: Path = path or Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not file.is_file():
        raise InputError(
            f"{framework} compares pictures by {title} and its weights {file} are not there; get "
            f"them from {url} ({known.megabytes} MB), put them there or say where with "
            f"train.{framework}.perceptual_weights, or do without: "
            f"train.{framework}.perceptual_weight=0"
        )
    with torch.device("meta"):
        network = getattr(models, known.name)(weights=None)
        features = nn.Sequential(*list(network.features.children())[: known.layers])
    features.load_state_dict(_read_features(file, features, title), assign=True)
    return features.requires_grad_(False).eval()


def _read_features(path: Path, features: nn.Module, title: str) -> dict[str, Tensor]:
    """The entries of the file that ``features`` needs, copied out of it."""
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"{path} is damaged ({type(error).__name__}); get it anew") from error
    found = {}
    for name, expected in features.state_dict().items():
        value = state.get(f"features.{name}") if isinstance(state, dict) else None
        if not isinstance(value, Tensor) or value.shape != expected.shape:
            shape = tuple(value.shape) if isinstance(value, Tensor) else "nothing"
            raise InputError(
                f"{path} does not hold torchvision's {title}: features.{name} is {shape}, expected "
                f"{tuple(expected.shape)}"
            )
        found[name] = value.to("cpu", torch.float32, copy=True)
    return found


def feature_distance(features: nn.Module, made: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of ``features`` over all pictures; 0 when there are none.

    Grey pictures are repeated to three channels and, as in pGAN's own code, not brought to
    ImageNet's mean and deviation.

    Args:
        features: (N, 3, H, W) → (N, F, h, w), frozen.
        made: Stacks of pictures (N, H, W), each stack of one size, in [−1, 1] or so.
        real: The same of what they should be; no gradient reaches them.
    """
    total, count = torch.zeros((), device=made[0].device if made else None), 0
    for one, other in zip(made, real, strict=True):
        if not len(one):
            continue
        with torch.no_grad():
            goal = features(other[:, None].expand(-1, 3, -1, -1))
        found = features(one[:, None].expand(-1, 3, -1, -1))
        total = total + (found.float() - goal.float()).abs().sum()
        count += goal.numel()
    return total / max(count, 1)


def squared_distance(features: ReluMaps, made: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """The mean squared difference of each of the ``features``' maps over all pictures, summed.

    Arguments as of :func:`feature_distance`, pictures being in [0, 1]; 0 when there are none.
    """
    sums, numbers = [torch.zeros((), device=made[0].device if made else None)], [1]
    for one, other in zip(made, real, strict=True):
        if not len(one):
            continue
        with torch.no_grad():
            goals = features(other)
        for index, (found, goal) in enumerate(zip(features(one), goals, strict=True), 1):
            error = (found.float() - goal.float()).square().sum()
            if index == len(sums):
                sums, numbers = [*sums, error], [*numbers, goal.numel()]
            else:
                sums[index], numbers[index] = sums[index] + error, numbers[index] + goal.numel()
    return torch.stack([total / n for total, n in zip(sums, numbers, strict=True)]).sum()


def orthogonal_slices(volumes: Tensor, count: int, draws: torch.Generator) -> list[Tensor]:
    """``count`` slices across each axis, at random places, as stacks of pictures.

    Of volumes (N, D, H, W) there are three: across z (count · N, H, W), y (count · N, D, W) and x;
    (N, H, W) are pictures already. ``draws`` is on the CPU: its state gives the places.
    """
    if volumes.ndim == 3:
        return [volumes]
    stacks = []
    for axis in (1, 2, 3):
        places = torch.randint(volumes.shape[axis], (count,), generator=draws)
        slices = volumes.index_select(axis, places.to(volumes.device, non_blocking=True))
        stacks.append(slices.movedim(axis, 0).flatten(0, 1))
    return stacks
