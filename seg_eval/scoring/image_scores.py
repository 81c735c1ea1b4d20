"""Image scores of the channel that was filled in, beside the Dice that it wins back.

Every name says on which scale it was taken, as in ``synth3d score``: one name is one number.
``@own-scale`` has each volume on the scale of its own brain, which is how the segmenter sees it
(nnU-Net normalises each channel by itself) and is blind to a wrong gain; ``@real-scale`` has both
on that of the real one, so brightness counts. The ``@brasyn`` scores are the official ones of the
BraSyn challenge: everything outside the tumour (or, for healthy tissue, inside it) is set to 0 and
SSIM is averaged over the whole volume, mostly zeros. How little of the tumour that sees is shown
by its control, ``ssim_tumour_blanked@brasyn``: the same score for the same channel with its tumour
set to 0.
"""

import numpy as np

from synth3d.scoring import score_case

OURS = {"own-scale": "own scale", "real-scale": "real scale"}
"""Our own conventions, and what a heading calls them; the first is what the segmenter sees."""


def _ours(convention: str) -> dict[str, tuple[str, str, str]]:
    kinds = {"psnr": (", dB", ".2f", "higher"), "ssim": ("", ".3f", "higher"),
             "mae": ("", ".4f", "lower")}  # fmt: skip
    return {
        f"{kind}_{region}@{convention}": (
            f"{kind.upper()} {region}{unit} ({OURS[convention]})", form, better
        )
        for region in ("brain", "tumour")
        for kind, (unit, form, better) in kinds.items()
    }  # fmt: skip


IMAGE_SCORES: dict[str, tuple[str, str, str]] = {
    **_ours("own-scale"),
    **_ours("real-scale"),
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
        synthetic: The same shape and units.
        brain: (D, H, W) bool.
        tumour: (D, H, W) bool.

    Raises:
        ValueError: The shapes differ, a mask is not bool, or a volume has voxels that are not
            finite.
    """
    scores = score_case(real, synthetic, brain, tumour, "brasyn")
    for convention in OURS:
        scores |= score_case(real, synthetic, brain, tumour & brain, convention, blanked=False)
    return {
        name: float(scores[name]) if np.isfinite(scores[name]) else None for name in IMAGE_SCORES
    }
