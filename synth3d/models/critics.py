"""Critics: networks that tell real images from made ones."""

from torch import Tensor, nn

from synth3d.models.blocks import CONV

NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class PatchCritic(nn.Module):
    """One score per overlapping patch (PatchGAN, Isola 2017): 70 voxels wide with 3 layers.

    Args:
        in_channels: Channels of what is judged; sources and target together if conditional.
        dim: 2 or 3.
        width: Channels of the first layer; doubled by each further one, up to 8 times.
        layers: Halvings.
        out_channels: Score maps, as many as things are judged apart.
    """

    def __init__(
        self, in_channels: int, dim: int, width: int = 64, layers: int = 3, out_channels: int = 1
    ) -> None:
        super().__init__()
        check_sizes(dim, in_channels, width, layers, out_channels)
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
        self.score = CONV[dim](outputs, out_channels, 4, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) -> (B, ``out_channels``, \\*s), unbounded; each score judges one patch."""
        check_seen(x, self.dim, self.smallest)
        return self.score(self.body(x))


class ScalarCritic(nn.Module):
    """One score for a whole patch, after the small network of MedSynth (Nie 2018).

    Convolutions of side 5, each with a ReLU and a pooling by 2, then two linear layers. Theirs
    flatten a patch of one fixed size; here features are averaged over space, so that any size
    fits. The normalisation is over all channels together: per channel it would leave nothing
    that an average could tell. The arguments are :class:`PatchCritic`'s.
    """

    def __init__(self, in_channels: int, dim: int, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        check_sizes(dim, in_channels, width, layers)
        self.dim, self.smallest = dim, 2**layers
        body: list[nn.Module] = []
        inputs = in_channels
        for layer in range(layers):
            outputs = width * min(2**layer, 8)
            norm = [nn.GroupNorm(1, outputs)] if layer else []
            body += [CONV[dim](inputs, outputs, 5, padding=2), *norm, nn.ReLU(), POOL[dim](2)]
            inputs = outputs
        self.body = nn.Sequential(*body)
        self.head = nn.Sequential(nn.Linear(inputs, 8 * width), nn.ReLU(), nn.Linear(8 * width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, \\*S) -> (B, 1), unbounded: a logit."""
        check_seen(x, self.dim, self.smallest)
        return self.head(self.body(x).flatten(2).mean(2))


def check_sizes(dim: int, *counts: int) -> None:
    """Refuse another ``dim`` than 2 and 3, and counts that are not positive; a ValueError."""
    if dim not in CONV:
        raise ValueError(f"expected dim 2 or 3, got {dim}")
    if min(counts) < 1:
        raise ValueError(f"channels, width and layers must be positive, got {counts}")


def check_seen(x: Tensor, dim: int, smallest: int) -> None:
    """Refuse what lacks ``dim`` sides of at least ``smallest`` voxels, with a ValueError."""
    if x.ndim != dim + 2 or min(x.shape[2:]) < smallest:
        raise ValueError(
            f"expected (B, C, ...) with {dim} sides of at least {smallest}, got {tuple(x.shape)}"
        )
