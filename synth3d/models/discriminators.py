"""Critics: networks that tell real images from made ones."""

from torch import Tensor, nn

from synth3d.models.blocks import CONV

NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class PatchCritic(nn.Module):
    """One score per overlapping patch (PatchGAN, Isola 2017): 70 voxels wide with 3 layers.

    Args:
        in_channels: Channels of what is judged; sources and target together if conditional.
        dim: 2 or 3.
        width: Channels of the first layer; doubled by each further one, up to 8 times.
        layers: Halvings.

    Raises:
        ValueError: ``dim`` is not 2 or 3, or a count is not positive.
    """

    def __init__(self, in_channels: int, dim: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        if dim not in CONV:
            raise ValueError(f"expected dim 2 or 3, got {dim}")
        if min(in_channels, width, layers) < 1:
            raise ValueError(
                "in_channels, width and layers must be positive, got "
                f"{in_channels}, {width} and {layers}"
            )
        self.dim, self.smallest = dim, 3 * 2**layers
        body: list[nn.Module] = [
            CONV[dim](in_channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for layer in range(1, layers + 1):
            inputs, outputs = (width * min(2**i, 8) for i in (layer - 1, layer))
            stride = 2 if layer < layers else 1
            body += [
                CONV[dim](inputs, outputs, 4, stride=stride, padding=1, bias=False),
                NORM[dim](outputs),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*body)
        self.score = CONV[dim](outputs, 1, 4, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Score ``x`` (B, C, \\*S).

        Returns:
            (B, 1, \\*s), unbounded; each score judges one patch.

        Raises:
            ValueError: A side too small for a single patch.
        """
        if x.ndim != self.dim + 2 or min(x.shape[2:]) < self.smallest:
            raise ValueError(
                f"expected (B, C, ...) with {self.dim} sides of at least {self.smallest}, got "
                f"{tuple(x.shape)}"
            )
        return self.score(self.body(x))
