"""A frozen nnU-Net that a generator learns from: what it sees, what it finds, how far that is off.

The one door of nnU-Net's networks (``dynamic_network_architectures``), and only where they are
used. Around them stands what nnU-Net does to a case before its network: z-scores inside the head,
and nothing outside (:func:`standardised`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth3d.errors import InputError
from synth3d.files import atomic_file, sha256, write_json
from synth3d.images import CEILING, SHOULDER
from synth3d.losses.exported import (
    BLOCKS,
    CLASSES,
    DESCRIPTION,
    REMEDY,
    WEIGHTS,
    Architecture,
    Exported,
    read_exported,
)

EPSILON = 1e-8
"""Under the root of a feature's length, which may be 0."""
SMOOTH = 1.0
"""Voxels that both sides of an overlap have in common for free: empty on empty is a whole one."""
MISFITS = (RuntimeError, ValueError, TypeError, AssertionError, IndexError, KeyError)
"""What the network library dies of at sizes that do not fit each other."""


class FrozenSegmenter(nn.Module):
    """nnU-Net's network on patches of z-scores; it never learns, and is always in evaluation.

    Attributes:
        about: What its export says.
    """

    def __init__(self, about: Exported, network: nn.Module) -> None:
        super().__init__()
        self.about, self.network = about, network
        self.requires_grad_(False).train()

    def train(self, mode: bool = True) -> "FrozenSegmenter":
        """Evaluation, whatever is asked."""
        return super().train(False)

    def encode(self, seen: Tensor) -> list[Tensor]:
        """Maps of the encoder's stages, the finest first, of z-scores (B, C, \\*S).

        Sides that are no multiple of ``about.architecture.divisor`` get background around them.

        Raises:
            InputError: The patch is so small that the coarsest stage is a single voxel.
        """
        network: Any = self.network
        return network.encoder(self._padded(seen))

    def decode(self, maps: Sequence[Tensor], sides: Sequence[int]) -> Tensor:
        """Logits (B, H, \\*S), float32, of :meth:`encode`'s maps of what had those ``sides``."""
        network: Any = self.network
        pairs = zip(self._lacking(sides), sides, strict=True)
        inside = (slice(low, low + side) for (low, _), side in pairs)
        return network.decoder(list(maps)).float()[(..., *inside)]

    def forward(self, seen: Tensor) -> Tensor:
        """Logits (B, H, \\*S), float32, one channel for each of ``about.heads``."""
        return self.decode(self.encode(seen), seen.shape[2:])

    def _padded(self, seen: Tensor) -> Tensor:
        self.check_patch(seen.shape[2:])
        return F.pad(seen, [n for pair in self._lacking(seen.shape[2:])[::-1] for n in pair])

    def _lacking(self, sides: Sequence[int]) -> list[tuple[int, int]]:
        """Voxels before and after, as nnU-Net's predictor lays a small image in its tile."""
        by = self.about.architecture.divisor
        short = [-side % step for side, step in zip(sides, by, strict=True)]
        return [(n // 2, n - n // 2) for n in short]

    def check_patch(self, patch: Sequence[int]) -> None:
        """Refuse a patch, ([z,] y, x), of which the coarsest stage has but one voxel."""
        divisor = self.about.architecture.divisor
        if all(side <= by for side, by in zip(patch, divisor, strict=True)):
            raise InputError(
                f"data.patch {tuple(patch)} is too small for the segmenter {self.about.origin}, "
                f"which halves it down to one voxel; give more than {divisor}"
            )

    def odds(self, logits: Tensor) -> Tensor:
        """Log-probabilities of classes (B, 4, \\*S) of a softmax; of regions the logits as is.

        Heads of one class, as a cavity and background, count together.
        """
        if self.about.regions:
            return logits
        logs = logits.log_softmax(1)
        heads = [head[0] for head in self.about.heads]
        parts = [[i for i, held in enumerate(heads) if held == one] for one in range(CLASSES)]
        return torch.stack([logs[:, part].logsumexp(1) for part in parts], 1)

    def answer(self, logits: Tensor) -> Tensor:
        """What it finds, as :meth:`truth`: probabilities, which no gradient reaches."""
        odds = self.odds(logits.detach())
        return odds.sigmoid() if self.about.regions else odds.exp()

    def truth(self, label: Tensor) -> Tensor:
        """The label (B, 1, \\*S) as probabilities (B, H, \\*S) of regions, or of the classes."""
        sets = self.about.heads if self.about.regions else [(one,) for one in range(CLASSES)]
        masks = [torch.isin(label[:, 0], label.new_tensor(held)) for held in sets]
        return torch.stack(masks, 1).float()

    def error(self, logits: Tensor, truth: Tensor) -> Tensor:
        """(B,), cross-entropy plus 1 − soft Dice of each sample; least where both are the same.

        Dice has squares below (Milletari et al. 2016), so that it is best at ``truth`` itself,
        certain or not; it is the mean over regions, or over the tumour classes.
        """
        odds, regions = self.odds(logits), self.about.regions
        if regions:
            entropy = F.binary_cross_entropy_with_logits(odds, truth, reduction="none")
            found, goal = odds.sigmoid(), truth
        else:
            entropy = -(truth * odds).sum(1)
            found, goal = odds[:, 1:].exp(), truth[:, 1:]
        both = (found * goal).flatten(2).sum(2)
        either = (found.square() + goal.square()).flatten(2).sum(2)
        dice = (2 * both + SMOOTH) / (either + SMOOTH)
        return entropy.flatten(1).mean(1) + (1 - dice).mean(1)


def standardised(volumes: Tensor, there: Tensor, levels: Tensor, region: Tensor) -> Tensor:
    """What nnU-Net makes of volumes before its network: z-scores of scanner units.

    The way back from the network's scale is that of :meth:`synth3d.images.Scale.invert`.

    Args:
        volumes: (B, C, \\*S) in the network's scale.
        there: Bool, broadcast to them: elsewhere the file has its background of 0.
        levels: (B, C, 3), see :class:`synth3d.data.Batch`.
        region: (B, 1, \\*S) bool; outside of it nnU-Net shows its network 0.
    """
    slope, offset, zero = levels.view(*levels.shape, *[1] * (volumes.ndim - 2)).unbind(2)
    volumes = volumes.float()
    bright = volumes.clamp(1, CEILING)
    bright = 1 + SHOULDER * torch.expm1((bright - 1) / SHOULDER)
    scores = slope * torch.where(volumes > 1, bright, volumes) + offset
    return torch.where(region, torch.where(there, scores, zero), 0)


def feature_error(found: Sequence[Tensor], goals: Sequence[Tensor]) -> Tensor:
    """Mean |difference| of two lists of maps (B, F, \\*s), of unit length along F, summed."""
    errors = [(_unit(a) - _unit(b)).abs().mean() for a, b in zip(found, goals, strict=True)]
    return torch.stack(errors).sum()


def _unit(maps: Tensor) -> Tensor:
    """``maps`` of length 1 along the channels, or 0 where they are; float32."""
    maps = maps.float()
    return maps / (maps.square().sum(1, keepdim=True) + EPSILON).sqrt()


def load_segmenter(folder: Path) -> FrozenSegmenter:
    """The export in ``folder``, on the CPU; no pickle is read.

    Raises:
        InputError: As :func:`synth3d.losses.exported.read_exported`, the network library is not
            installed, or the weights are none of the network's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    about = read_exported(folder)
    path = folder / WEIGHTS
    try:
        with torch.device("meta"):
            network = network_of(about.architecture, len(about.channels), len(about.heads))
        state: Any = {name: value.float() for name, value in load_file(path).items()}
        strange = network.load_state_dict(state, strict=False, assign=True).unexpected_keys
        strange += [name for name, value in network.named_parameters() if value.is_meta]
        if strange:
            raise ValueError(f"{strange[0]} is in one of them alone")
    except (SafetensorError, *MISFITS) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[-1].strip()
        raise InputError(
            f"the weights {path} are damaged, or of another network than its description: "
            f"{reason}; {REMEDY}"
        ) from error
    return FrozenSegmenter(about, network)


def save_segmenter(folder: Path, said: Mapping[str, Any], network: nn.Module) -> None:
    """Write an export to ``folder``: what is ``said`` of it, and each weight of ``network`` once.

    nnU-Net's decoder holds the encoder a second time. ``said`` is all but the hash of the weights.
    """
    from safetensors.torch import save

    weights = {name: value.detach().contiguous() for name, value in network.named_parameters()}
    with atomic_file(folder / WEIGHTS) as file:
        file.write(save(weights))
    write_json(folder / DESCRIPTION, {**said, "weights_sha256": sha256(folder / WEIGHTS)})


def network_of(shape: Architecture, channels: int, heads: int) -> nn.Module:
    """nnU-Net's network of that shape, as nobody has trained it.

    Raises:
        InputError: The network library is not installed.
    """
    try:
        from dynamic_network_architectures.architectures import unet
    except ImportError as error:
        raise InputError(
            f"a coupled segmenter needs nnU-Net's networks ({error}); pip install nnunetv2"
        ) from error
    two = shape.dim == 2
    known: dict[str, Any] = {
        "PlainConvUNet": unet.PlainConvUNet, "ResidualEncoderUNet": unet.ResidualEncoderUNet
    }  # fmt: skip
    activation = {"LeakyReLU": nn.LeakyReLU, "ReLU": nn.ReLU}[shape.activation]
    return known[shape.network](
        input_channels=channels,
        num_classes=heads,
        n_stages=len(shape.features),
        features_per_stage=shape.features,
        conv_op=nn.Conv2d if two else nn.Conv3d,
        kernel_sizes=[list(row) for row in shape.kernels],
        strides=[list(row) for row in shape.strides],
        n_conv_per_stage_decoder=list(shape.decoder),
        conv_bias=shape.bias,
        norm_op=nn.InstanceNorm2d if two else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": shape.epsilon, "affine": shape.affine},
        nonlin=activation,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
        **{BLOCKS[shape.network]: list(shape.blocks)},
    )
