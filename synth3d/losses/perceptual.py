"""Features of VGG16 that pictures are compared by; torchvision's weights, never downloaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synth3d.errors import InputError

RELU2_2 = 9
"""So many layers of torchvision's ``vgg16().features`` end with relu2_2 (Dar et al. 2019)."""


def load_vgg16(path: Path | None = None) -> nn.Module:
    """VGG16 up to relu2_2, frozen, on the CPU: (N, 3, H, W) → (N, 128, H/2, W/2).

    Args:
        path: torchvision's weights; None is where torch.hub keeps them on this machine.

    Raises:
        InputError: torchvision or the file is not there, or the file is something else.
    """
    try:
        from torchvision.models import VGG16_Weights, vgg16
    except ImportError as error:
        raise InputError(
            f"pgan needs torchvision ({error}); pip install torchvision, or use another framework"
        ) from error
    url = VGG16_Weights.IMAGENET1K_V1.url
    file: Path = path or Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not file.is_file():
        raise InputError(
            f"pgan compares pictures by VGG16 and its weights {file} are not there; get them from "
            f"{url} (528 MB), put them there or say where with train.pgan.perceptual_weights, or "
            "do without: train.pgan.perceptual_weight=0"
        )
    with torch.device("meta"):
        features = nn.Sequential(*list(vgg16(weights=None).features.children())[:RELU2_2])
    features.load_state_dict(_read_features(file, features), assign=True)
    return features.requires_grad_(False).eval()


def _read_features(path: Path, features: nn.Module) -> dict[str, Tensor]:
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
                f"{path} does not hold torchvision's VGG16: features.{name} is {shape}, expected "
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
