"""Image scores of the channel that was filled in, beside the Dice that it wins back.

Ours are taken inside the brain and inside the tumour, each volume on its own in-brain intensity
scale, because that is how the segmenter sees it (nnU-Net normalises each channel by itself). The
``@brasyn`` scores are the official ones of the BraSyn challenge: everything outside the tumour (or,
for healthy tissue, inside it) is set to 0 and SSIM is averaged over the whole volume, mostly
zeros. How little of the tumour that sees is shown by its control, ``ssim_tumour_blanked@brasyn``:
the same score for the same channel with its tumour set to 0.
"""

import numpy as np

from synth3d.images import Scale
from synth3d.scoring import image_scores, score_case

IMAGE_SCORES: dict[str, tuple[str, str, str]] = {
    "psnr_brain": ("PSNR brain, dB", ".2f", "higher"),
    "ssim_brain": ("SSIM brain", ".3f", "higher"),
    "mae_brain": ("MAE brain", ".4f", "lower"),
    "psnr_tumour": ("PSNR tumour, dB", ".2f", "higher"),
    "ssim_tumour": ("SSIM tumour", ".3f", "higher"),
    "mae_tumour": ("MAE tumour", ".4f", "lower"),
    "ssim_tumour@brasyn": ("SSIM tumour, BraSyn", ".4f", "higher"),
    "ssim_tumour_blanked@brasyn": ("the same, tumour blanked", ".4f", "control"),
    "ssim_rest@brasyn": ("SSIM healthy, BraSyn", ".4f", "higher"),
}
"""Name to (heading, format, which way is better), in the order of the report.

``control`` is no property of the channel: the nearer it is to the score before it, the less that
score sees of the tumour.
"""


def channel_scores(
    real: np.ndarray, synthetic: np.ndarray, brain: np.ndarray, tumour: np.ndarray
) -> dict[str, float | None]:
    """All of :data:`IMAGE_SCORES` for one channel of one case.

    A score is None where it is not defined (no tumour, no brain) or not finite (the PSNR of equal
    volumes). Our own take the part of the whole tumour that is inside the brain.

    Args:
        real: (D, H, W) in scanner units, 0 outside the head.
        synthetic: The same shape, in any units: each volume is brought to range by itself.
        brain: (D, H, W) bool.
        tumour: (D, H, W) bool.

    Raises:
        ValueError: The shapes differ, a mask is not bool, or a volume has voxels that are not
            finite.
    """
    official = score_case(real, synthetic, brain, tumour, "brasyn")
    pair = [Scale.fit(volume, brain).apply(volume, brain) for volume in (real, synthetic)]
    scores = image_scores(pair[0], pair[1], brain, tumour & brain) | official
    return {
        name: float(scores[name]) if np.isfinite(scores[name]) else None for name in IMAGE_SCORES
    }
