"""Structural similarity at several scales (MS-SSIM, Wang et al. 2003), as a term to learn from."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the published scales, finest first."""
SIGMA, WINDOWS = 1.5, (11, 7)
"""Of the Gaussian window, in voxels: its deviation and its sides; the smaller for small images."""
K1, K2 = 0.01, 0.03


def scales_of(sides: Sequence[int]) -> tuple[int, int]:
    """How many scales images of these sides have, and the side of the window.

    All five with a window of 11 where 161 voxels allow it; else as many as a window of 7 fits into,
    one at least.
    """
    least, (large, small) = min(sides), WINDOWS
    if least > (large - 1) * 2 ** (len(SCALES) - 1):
        return len(SCALES), large
    count = sum(least // 2**scale >= small for scale in range(len(SCALES)))
    return max(count, 1), min(small, (least - 1) // 2 * 2 + 1)


def multiscale_similarity(made: Tensor, real: Tensor, data_range: float = 1.0) -> Tensor:
    """MS-SSIM of images (N, \\*S), of two or three axes: (N,), 1 where they are equal.

    Windows stay inside the image. Of scales that do not fit (:func:`scales_of`) the weights are
    shared by the others. Contrast and structure that disagree count as nothing.
    """
    dim, (count, side) = made.ndim - 1, scales_of(made.shape[1:])
    pool = F.avg_pool2d if dim == 2 else F.avg_pool3d
    weights = torch.tensor(SCALES[:count], device=made.device)
    pair = torch.stack([made, real], dim=1).float()
    found = []
    for scale in range(count):
        luminance, contrast = _compared(pair, side, data_range)
        last = scale == count - 1
        found.append((luminance * contrast if last else contrast).flatten(1).mean(1))
        pair = pair if last else pool(pair, 2)
    # 0 has no slope under a fractional power.
    return (torch.stack(found, 1).clamp(min=1e-4) ** (weights / weights.sum())).prod(1)


def _compared(pair: Tensor, side: int, data_range: float) -> tuple[Tensor, Tensor]:
    """How alike luminance, and contrast and structure, are around each place; (N, \\*s) both."""
    (a, b), c1, c2 = pair.unbind(1), (K1 * data_range) ** 2, (K2 * data_range) ** 2
    blurred = _blur(torch.stack([a, b, a * a, b * b, a * b], 1), side)
    mean_a, mean_b, square_a, square_b, product = blurred.unbind(1)
    both = mean_a * mean_b
    luminance = (2 * both + c1) / (mean_a**2 + mean_b**2 + c1)
    variances = (square_a - mean_a**2) + (square_b - mean_b**2)
    return luminance, (2 * (product - both) + c2) / (variances + c2)


def _blur(images: Tensor, side: int) -> Tensor:
    """Gaussian means over windows that lie inside (N, C, \\*S), axis by axis."""
    at = torch.arange(side, device=images.device, dtype=images.dtype) - (side - 1) / 2
    window = torch.exp(-(at**2) / (2 * SIGMA**2))
    window = window / window.sum()
    for axis in range(2, images.ndim):
        images = images.unfold(axis, side, 1) @ window
    return images
