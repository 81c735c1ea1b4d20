"""Image quality of a synthetic volume, as formulas; the ready-made scores are our convention.

``psnr_brain`` and its family are measured in network intensity space
(:mod:`synth3d.images.intensity`: 0 = background and the darkest tissue, 1/2 = the brain's median),
over one whole volume, inside a mask: 1 is the data range of every formula, although bright tumour
lies above it. SSIM is the 3-D map of whole images *averaged inside* the mask, so a blanked tumour
scores near 0 (the official BraSyn score of the same picture is above 0.98 because it averages the
empty space around the tumour too). Other papers measure otherwise:
:mod:`synth3d.scoring.conventions`.
"""

import math

import numpy as np

from synth3d.scoring.similarity import SCIKIT_IMAGE, box_around, similarity_map


def decibels(squared_error: float, data_range: float = 1.0) -> float:
    """PSNR of a mean squared error: 10 log10(range^2 / error); infinite for 0, NaN stays NaN."""
    if math.isnan(squared_error):
        return math.nan
    if squared_error == 0:
        return math.inf
    return 10 * math.log10(data_range**2 / squared_error)


def psnr_brain(real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB inside ``mask``: -10 log10(MSE), peak 1.

    All are (D, H, W), the volumes in network intensity space. Infinite for equal volumes, NaN for
    an empty mask.

    Raises:
        ValueError: The shapes differ.
    """
    difference = _inside(real, synthetic, mask)
    return decibels(float(np.mean(difference**2))) if difference.size else math.nan


def mae_brain(real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray) -> float:
    """Mean absolute error inside ``mask``; arguments and errors as of :func:`psnr_brain`."""
    difference = _inside(real, synthetic, mask)
    return float(np.mean(np.abs(difference))) if difference.size else math.nan


def ssim_brain(real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray) -> float:
    """Structural similarity, the 3-D map averaged inside ``mask``; 1 for equal volumes.

    Wang et al. 2004, eq. 13, as scikit-image computes it: a uniform 7x7x7 window, sample
    covariance, data range 1. The map sees the whole volumes, so windows at the rim of the mask
    look across it. Volumes are mirrored at their faces, also where a side is shorter than the
    window. Arguments and errors as of :func:`psnr_brain`.
    """
    _check_shapes(real, synthetic, mask)
    if not mask.any():
        return math.nan
    box = box_around(mask, SCIKIT_IMAGE.radius)
    pictures = [volume[box].astype(np.float64) for volume in (real, synthetic)]
    return float(similarity_map(*pictures, data_range=1.0)[mask[box]].mean())


def _inside(real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray) -> np.ndarray:
    _check_shapes(real, synthetic, mask)
    return synthetic[mask].astype(np.float64) - real[mask].astype(np.float64)


def _check_shapes(*volumes: np.ndarray) -> None:
    if len(shapes := dict.fromkeys(volume.shape for volume in volumes)) > 1:
        raise ValueError(f"volumes of one case must agree: {' and '.join(map(str, shapes))}")
    if volumes[-1].dtype != bool:
        raise ValueError(f"the mask must be bool, got {volumes[-1].dtype}")
