"""How a target has to be moved to lie as the sources do: FGDL's label correction, 2-D and 3-D.

The registration network of FGDL (Feng et al. 2024), after NeMAR (Arar et al. 2020). It speaks of
voxels in our axis order; displacements start as nothing and never exceed a cap.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth3d.models.blocks import CONV
from synth3d.models.moving.warping import sample_at, voxel_positions

NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
LINEAR = {2: "bilinear", 3: "trilinear"}
MOST_LEVELS, LEAST_SIDE = {2: 7, 3: 5}, 4
"""Halvings at most, and voxels that they leave along each side at least."""
START = 1e-5
"""Standard deviation of the last convolution's weights: displacements begin far under a voxel."""


class _Residual(nn.Module):
    """x + two convolutions at mirrored borders, each normalised, with a ReLU between them."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()

        def half() -> list[nn.Module]:
            reflected = {"padding": 1, "padding_mode": "reflect", "bias": False}
            return [CONV[dim](width, width, 3, **reflected), NORM[dim](width)]  # pyright: ignore[reportArgumentType]

        self.body = nn.Sequential(*half(), nn.ReLU(), *half())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _leaky(dim: int, inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(CONV[dim](inputs, outputs, 3, padding=1), nn.LeakyReLU(0.2))


class Registration(nn.Module):
    """A U-shaped network from images that should lie alike to a displacement of the first.

    With 2 channels, 7 levels and width 32 in 2-D it is the published one of 2.06 M parameters,
    without the biases that its normalisation undoes.

    Args:
        in_channels: What moves, and what it is moved to.
        dim: 2 or 3.
        patch: Sides of what it will see, ([z,] y, x): it halves as often as leaves 4 voxels, 7
            times at most in 2-D and 5 in 3-D. Empty for anything, with all halvings.
        width: Channels at full resolution; twice as many below, four times at the bottom.
        cap: No component of a displacement exceeds so many voxels.

    Raises:
        ValueError: ``dim`` is neither, or a count or the cap is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch: Sequence[int] = (),
        width: int = 32,
        cap: float = 8.0,
    ) -> None:
        super().__init__()
        if dim not in CONV:
            raise ValueError(f"expected dim 2 or 3, got {dim}")
        if min(in_channels, width) < 1 or cap <= 0:
            raise ValueError(
                f"in_channels, width and cap must be positive, got {in_channels}, {width}, {cap}"
            )
        fitting = (min(patch) // LEAST_SIDE).bit_length() - 1 if patch else MOST_LEVELS[dim]
        levels = max(1, min(fitting, MOST_LEVELS[dim]))
        self.dim, self.cap = dim, cap
        wide = 2 * width
        widths = [width, *[wide] * (levels - 1)]
        self.downs = nn.ModuleList(
            nn.Sequential(_leaky(dim, a, b), _Residual(dim, b))
            for a, b in zip([in_channels, *widths], widths, strict=False)
        )
        below = [CONV[dim](widths[-1], 2 * wide, 1), *[_Residual(dim, 2 * wide) for _ in range(3)]]
        self.bottom = nn.Sequential(*below, CONV[dim](2 * wide, wide, 1))
        inner = [wide, *reversed(widths[1:])]
        self.ups = nn.ModuleList(
            _leaky(dim, a + skip, skip) for a, skip in zip(inner, reversed(widths), strict=True)
        )
        self.refine = nn.Sequential(_Residual(dim, width), CONV[dim](width, width, 1))
        self.out = CONV[dim](width, dim, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let it begin as the identity."""
        nn.init.normal_(self.out.weight, 0.0, START)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) → displacements (B, d, \\*S) in voxels ([z,] y, x), float32."""
        skips = []
        for down in self.downs:
            skips.append(down(x))
            x = F.max_pool2d(skips[-1], 2) if self.dim == 2 else F.max_pool3d(skips[-1], 2)
        x = self.bottom(x)
        for up in self.ups:
            skip = skips.pop()
            wider = F.interpolate(x, skip.shape[2:], mode=LINEAR[self.dim], align_corners=False)
            x = up(torch.cat([wider, skip], dim=1))
        raw = self.out(self.refine(x)).float()
        return self.cap * torch.tanh(raw / self.cap)


def warp(x: Tensor, displacement: Tensor) -> Tensor:
    """``x`` (B, C, \\*S) read at each voxel plus its displacement (B, d, \\*S), linearly.

    Displacements are voxels ([z,] y, x); beyond the edge its value goes on. Float32 at least.
    """
    sides = torch.tensor(x.shape[2:], device=x.device, dtype=displacement.dtype)
    most = (sides - 1).view(-1, *[1] * len(sides))
    where = voxel_positions(tuple(x.shape[2:]), displacement) + displacement
    return sample_at(x, torch.minimum(where.clamp(min=0), most))


def roughness(displacement: Tensor, spacing: Sequence[float]) -> Tensor:
    """(B,): the mean squared slope of displacements (B, d, \\*S), mm per mm, summed over axes.

    ``spacing`` is the voxel edges ([z,] y, x) in mm or any unit.
    """
    edges = torch.tensor(tuple(spacing), device=displacement.device)
    mm = displacement * edges.view(-1, *[1] * len(edges))
    slopes = [mm.diff(dim=axis + 2) / edge for axis, edge in enumerate(edges)]
    return torch.stack([slope.square().flatten(1).mean(1) for slope in slopes]).sum(0)


@torch.no_grad()
def folded(displacement: Tensor) -> Tensor:
    """(B,): the share of voxels at which x + u(x), with u (B, d, \\*S), turns space inside out."""
    dim, sides = displacement.shape[1], displacement.shape[2:]
    # Forward differences along each axis, where all of them are.
    inner = (..., *[slice(side - 1) for side in sides])
    slopes = [displacement.diff(dim=axis + 2)[inner] for axis in range(dim)]
    jacobian = torch.stack(slopes, -1).movedim(1, -2).float()
    turned = torch.linalg.det(jacobian + torch.eye(dim, device=displacement.device)) <= 0
    return turned.flatten(1).float().mean(1)
