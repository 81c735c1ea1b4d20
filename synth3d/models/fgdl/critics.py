"""FGDL's critics: one that is told how synthesis and truth differ, and one that looks at realism.

Feng et al. 2024; the first is a projection discriminator (Miyato and Koyama 2018) on a feature
pyramid (Lin et al. 2017) of spectrally normalised convolutions (Miyato et al. 2018).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from cuda_ops import full_precision
from synth3d.models.blocks import CONV
from synth3d.models.critics import NORM, check_seen, check_sizes
from synth3d.models.fgdl.registration import LINEAR

POOL = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
JUDGED = range(2, 5)
"""Levels, of strides 4, 8 and 16, that give scores."""
WARM_UP = 15
"""Steps of the power iteration with which a kernel's norm begins."""


class SpectralNorm(nn.Module):
    """A kernel over its largest singular value as a matrix (C_out, the rest).

    Each reading in training takes one step of the power iteration from where the last one ended.
    """

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.left: Tensor
        self.register_buffer("left", F.normalize(kernel.new_empty(len(kernel)).normal_(), dim=0))
        for _ in range(WARM_UP):
            self(kernel.detach())

    def forward(self, kernel: Tensor) -> Tensor:
        """The kernel, of norm 1 once the iteration has converged, in its own precision."""
        with full_precision(kernel.device.type):
            matrix = kernel.flatten(1)
            with torch.no_grad():
                right = F.normalize(self.left @ matrix, dim=0)
                left = F.normalize(matrix @ right, dim=0)
                if self.training:
                    self.left.copy_(left)
            return kernel / (left @ matrix @ right)


def halving(dim: int, inputs: int, outputs: int) -> nn.Sequential:
    """A convolution of side 3 and stride 2 under its spectral norm, normalised, a leaky ReLU."""
    convolution = CONV[dim](inputs, outputs, 3, stride=2, padding=1, bias=False)
    register_parametrization(convolution, "weight", SpectralNorm(convolution.weight))
    return nn.Sequential(convolution, NORM[dim](outputs), nn.LeakyReLU(0.2))


class DifferenceCritic(nn.Module):
    """Scores at three scales of an image, given where synthesis and truth differ.

    Each score is how real the features look plus how well they go with the difference, a scalar
    product of 128 channels. Halvings are 64, 128, 256, 512 and 512 wide; in 2-D with one channel it
    has FGDL's 5.17 million parameters.

    Args:
        in_channels: Channels of the image.
        dim: 2 or 3.
        width: Channels of the first halving; all others follow from it.
        layers: Halvings, at least 2; with fewer than 4 there are fewer scales.

    Raises:
        ValueError: ``dim`` is neither, or a count is too small.
    """

    def __init__(self, in_channels: int, dim: int, width: int = 64, layers: int = 5) -> None:
        super().__init__()
        check_sizes(dim, in_channels, width, layers - 1)
        self.dim, self.smallest = dim, 2**layers + 1
        widths = [width * min(2**i, 8) for i in range(layers)]
        pairs = zip([in_channels, *widths], widths, strict=False)
        self.halvings = nn.ModuleList(halving(dim, a, b) for a, b in pairs)
        inner, outer = 4 * width, 2 * width
        self.laterals = nn.ModuleList(CONV[dim](each, inner, 1) for each in widths[1:])
        self.scales = nn.ModuleList(
            CONV[dim](inner, outer, 3, padding=1) for level in JUDGED if level <= layers
        )
        self.realness = CONV[dim](outer, 1, 1)
        self.projection = CONV[dim](outer, outer, 1)
        self.embedding = CONV[dim](1, outer, 1)

    def forward(self, image: Tensor, difference: Tensor) -> list[Tensor]:
        """Score maps (B, 1, \\*s) of strides 4, 8 and 16, unbounded.

        ``image`` (B, C, \\*S) is judged, given ``difference`` (B, 1, \\*S).
        """
        return self.scores(self.features(image), difference)

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, C, \\*S) → the halvings' features (B, c, \\*s) from stride 4 on."""
        check_seen(image, self.dim, self.smallest)
        found = []
        for layer in self.halvings:
            image = layer(image)
            found.append(image)
        return found[1:]

    def scores(self, features: Sequence[Tensor], difference: Tensor) -> list[Tensor]:
        """As :meth:`forward`, of an image's :meth:`features`."""
        merged = [lateral(each) for lateral, each in zip(self.laterals, features, strict=True)]
        for level in reversed(range(len(merged) - 1)):
            sides, mode = merged[level].shape[2:], LINEAR[self.dim]
            wider = F.interpolate(merged[level + 1], sides, mode=mode, align_corners=False)
            merged[level] = merged[level] + wider
        made = []
        for scale, each in zip(self.scales, merged, strict=False):
            seen = scale(each)
            told = self.embedding(POOL[self.dim](difference, each.shape[2:]))
            made.append(self.realness(seen) + (told * self.projection(seen)).sum(1, keepdim=True))
        return made


class PlainCritic(nn.Module):
    """One score per overlapping patch, of the image alone.

    Each of the ``layers`` doubles the width, up to 8 times, and halves the sides in the second of
    its two convolutions. With 64, 128, 256 and 512 channels in 2-D it has FGDL's 4.69 million
    parameters. Theirs has batch normalisation, which batches of one image make a trap: here it is
    that of each image, with as many parameters.

    The arguments are :class:`DifferenceCritic`'s.
    """

    def __init__(self, in_channels: int, dim: int, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        check_sizes(dim, in_channels, width, layers)
        self.dim, self.smallest = dim, 2**layers + 1
        body: list[nn.Module] = []
        for outputs in (width * min(2**i, 8) for i in range(layers)):
            for inputs, stride in ((in_channels, 1), (outputs, 2)):
                body += [
                    CONV[dim](inputs, outputs, 3, stride=stride, padding=1, bias=False),
                    NORM[dim](outputs, affine=True),
                    nn.LeakyReLU(0.2),
                ]
            in_channels = outputs
        self.body = nn.Sequential(*body)
        self.score = CONV[dim](in_channels, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, \\*S) → (B, 1, \\*s), unbounded."""
        return self.scores(self.features(image))[0]

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, C, \\*S) → what the scores are read from, (B, c, \\*s)."""
        check_seen(image, self.dim, self.smallest)
        return [self.body(image)]

    def scores(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The score map of an image's :meth:`features`."""
        return [self.score(features[-1])]
