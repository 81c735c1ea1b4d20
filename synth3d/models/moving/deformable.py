"""Convolutions that move their taps position by position, for the comparison with rolling ones.

Modulated deformable convolution (DCNv2, Zhu et al. 2019, eq. 1): tap t of the kernel reads the
input at p + t + o_t(p), weighted by m_t(p); a convolution of the same input predicts offsets o and
masks m. Offsets start at 0 and masks at 1: as the plain convolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cuda_ops import full_precision
from synth3d.models.blocks import check_option, conv
from synth3d.models.moving.warping import displace, sample_at, voxel_positions
from synth3d.models.resunet import StagedOptions, StagedUNet

DEFORMS = ("auto", "dcn", "warp", "exact")


class DisplacementMap(nn.Module):
    """(B, C, \\*S) -> offsets (B, taps, d, \\*S) in voxels (z, y, x), masks (B, taps, \\*S).

    A 3x3(x3) convolution whose weights start at 0: offsets 0, masks 2 sigmoid(0) = 1; they are
    bare parameters, which initialisers that walk over convolutions leave alone.
    """

    def __init__(self, channels: int, dim: int, taps: int) -> None:
        super().__init__()
        self.dim, self.taps = dim, taps
        outputs = taps * (dim + 1)
        self.weight = nn.Parameter(torch.empty(outputs, channels, *[3] * dim))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets and masks, in float32 or more also under autocast."""
        convolve = F.conv3d if self.dim == 3 else F.conv2d
        with full_precision(x.device.type):
            y = convolve(x.to(self.weight.dtype), self.weight, self.bias, padding=1)
        offsets, masks = y.split((self.taps * self.dim, self.taps), dim=1)
        return offsets.unflatten(1, (self.taps, self.dim)), 2 * masks.sigmoid()


class DeformableConv(nn.Module):
    """A bias-free 3x3(x3) convolution, C -> C_out, with displaced taps.

    Args:
        channels: C.
        dim: 2 or 3.
        mode: ``"dcn"``: torchvision's operator, 2-D only; ``"exact"``: the same sum tap by tap in
            plain torch, 2-D and 3-D, slow; ``"warp"``: one offset and mask per position for all
            taps, so that the input is displaced once and then convolved; ``"auto"``: ``dcn`` in
            2-D and ``warp`` in 3-D.
        outputs: C_out; None for C.
        guide: Channels of what tells how taps move; None where the input itself does.
        groups: In how many parts of the channels, each by itself, ``warp`` displaces; of the
            other modes 1.

    Raises:
        ValueError: ``dcn`` in 3-D or without torchvision, an unknown mode, or groups that do not
            divide the channels or are not for the mode.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        mode: str = "auto",
        outputs: int | None = None,
        guide: int | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        check_option("deform", mode, DEFORMS)
        self.dim = dim
        self.mode = mode if mode != "auto" else ("dcn" if dim == 2 else "warp")
        if self.mode == "dcn":
            if dim != 2:
                raise ValueError("deform 'dcn' is 2-D only; use 'warp' or 'exact' with dim 3")
            _torchvision_operator()
        if groups < 1 or channels % groups or (groups > 1 and self.mode != "warp"):
            raise ValueError(
                f"expected groups that divide {channels} channels, and 1 but for 'warp', got "
                f"{groups} for {self.mode!r}"
            )
        self.conv = conv(dim, channels, channels if outputs is None else outputs, 3)
        moved = groups if self.mode == "warp" else 3**dim
        self.displacements = DisplacementMap(channels if guide is None else guide, dim, moved)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """(B, C, \\*S), and what guides the taps (B, G, \\*S), -> (B, C_out, \\*S)."""
        offsets, masks = self.displacements(x if guide is None else guide)
        if self.mode == "warp":
            groups = offsets.shape[1]
            parts = x.unflatten(1, (groups, -1)).flatten(0, 1)
            moved = displace(parts, offsets.flatten(0, 1)) * masks.flatten(0, 1)[:, None].to(
                x.dtype
            )
            return self.conv(moved.unflatten(0, (-1, groups)).flatten(1, 2))
        weight = self.conv.weight
        with full_precision(x.device.type):
            exact = x.to(weight.dtype)
            if self.mode == "exact":
                return deformable_conv(exact, weight, offsets, masks).to(x.dtype)
            flat = offsets.flatten(1, 2)
            return _torchvision_operator()(exact, flat, weight, padding=1, mask=masks).to(x.dtype)


def deformable_conv(x: Tensor, weight: Tensor, offsets: Tensor, masks: Tensor) -> Tensor:
    """Modulated deformable convolution, size-preserving, one tap after the other.

    What one tap reads is not kept for the backward but read again: kept, it would be 27 times
    the input in 3-D. The result (B, C_out, \\*S) is ``torchvision.ops.deform_conv2d``'s in 2-D.

    Args:
        x: (B, C_in, \\*S), 0 outside.
        weight: (C_out, C_in, \\*k), odd k.
        offsets: (B, taps, d, \\*S) in voxels (z, y, x), taps in the order of the flattened kernel.
        masks: (B, taps, \\*S).
    """
    axes = x.ndim - 2
    convolve = F.conv3d if axes == 3 else F.conv2d
    middle = torch.tensor([(k - 1) // 2 for k in weight.shape[2:]], device=x.device)
    places = voxel_positions(tuple(weight.shape[2:]), offsets).flatten(1).T - middle
    base = voxel_positions(tuple(x.shape[2:]), offsets)

    def one_tap(x: Tensor, kernel: Tensor, offset: Tensor, mask: Tensor, place: Tensor) -> Tensor:
        read = sample_at(x, base + place.reshape(-1, *[1] * axes) + offset)
        return convolve(read * mask[:, None], kernel)

    kernels = weight.flatten(2).unbind(2)
    y = x.new_zeros(x.shape[0], weight.shape[0], *x.shape[2:])
    for tap, kernel in enumerate(kernels):
        pointwise = kernel.reshape(*kernel.shape, *[1] * axes)
        args = (x, pointwise, offsets[:, tap], masks[:, tap], places[tap])
        if torch.is_grad_enabled():
            y = y + checkpoint(one_tap, *args, use_reentrant=False, preserve_rng_state=False)
        else:
            y = y + one_tap(*args)
    return y


def _torchvision_operator() -> Callable[..., Tensor]:
    try:
        from torchvision.ops import deform_conv2d
    except ImportError as error:
        raise ValueError(
            "deformable convolution in 2-D is torchvision's, which cannot be imported; install it, "
            "or set deform to 'exact' or 'warp'"
        ) from error
    return deform_conv2d


@dataclass(frozen=True)
class DeformOptions(StagedOptions):
    """What makes a ResUNet deformable.

    Args:
        deform: See :class:`DeformableConv`.
    """

    deform: str = "auto"


class DeformResUNet(StagedUNet):
    """ResUNet with deformable convolutions where AGI-Net has its rolling ones."""

    Options = DeformOptions
    keywords: ClassVar[frozenset[str]] = frozenset(DeformOptions.__dataclass_fields__)
    options: DeformOptions

    def _special_convolution(self, channels: int) -> nn.Module:
        return DeformableConv(channels, self.dim, self.options.deform)
