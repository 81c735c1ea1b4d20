"""Whether a map that explains a synthetic picture finds where the picture is wrong.

TSEM and a spread over draws are no measured errors. Whether they tell of them is asked of cases
that have the truth, beside two rivals that cost nothing: the gradient of the picture, since errors
like edges, and chance, of which both figures are known (0 and 1/2).
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

WORST = 0.01
"""The share of the voxels of a region that count as wrong: those with the largest error."""

CHANCE = {"correlation": 0.0, "auc": 0.5}
"""What a map that knows nothing has on average."""


def find_errors(
    maps: Mapping[str, np.ndarray],
    real: np.ndarray,
    synthetic: np.ndarray,
    brain: np.ndarray,
    tumour: np.ndarray | None = None,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> dict[str, float]:
    """How well each map, and the gradient of ``synthetic``, finds |synthetic − real|.

    Keys are ``<figure>_<region>@<map>``: the figures ``correlation`` (Pearson's, with the absolute
    error) and ``auc`` (the area under the ROC of the worst 1 % of the region's voxels, ties counted
    as halves), the regions ``brain`` and, with a tumour, ``tumour``, the maps those given and
    ``gradient``; ``CHANCE`` has the figures of a map that knows nothing. A figure is NaN where it
    is not defined: a region of fewer than two voxels, or a map, or an error, that is the same
    everywhere.

    Args:
        maps: By name, (D, H, W), larger where the picture should be less trusted.
        real: (D, H, W) in the units of ``synthetic``, best the network's scale.
        synthetic: (D, H, W).
        brain: (D, H, W) bool.
        tumour: The same; None leaves out its region.
        spacing_mm: Of the axes (z, y, x), for the gradient.

    Raises:
        ValueError: Shapes differ, a mask is not bool, or a map is called ``gradient``.
    """
    if "gradient" in maps:
        raise ValueError("a map is called gradient, which is the picture's own")
    regions = {"brain": brain} | ({} if tumour is None else {"tumour": tumour})
    for name, volume in {"real": real, **regions, **maps}.items():
        if volume.shape != synthetic.shape:
            raise ValueError(f"{name} is {volume.shape}, the synthetic volume {synthetic.shape}")
        if name in regions and volume.dtype != bool:
            raise ValueError(f"the {name} mask must be bool, got {volume.dtype}")
    error = np.abs(synthetic.astype(np.float64) - real)
    told = {**maps, "gradient": gradient_magnitude(synthetic, brain, spacing_mm)}
    found = {}
    for region, mask in regions.items():
        for name, volume in told.items():
            pair = volume[mask].astype(np.float64), error[mask]
            found[f"correlation_{region}@{name}"] = correlation(*pair)
            found[f"auc_{region}@{name}"] = area_under_roc(pair[0], worst(pair[1]))
    return found


def gradient_magnitude(
    volume: np.ndarray, brain: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """|∇ volume| per mm, (D, H, W): central differences between voxels of the brain alone.

    At the rim the brain's edge does not count: what lies outside is taken for what lies within.
    """
    total = np.zeros(volume.shape)
    values = volume.astype(np.float64)
    for axis, step in enumerate(spacing_mm):
        sides = []
        for shift in (1, -1):
            moved, there = (np.roll(array, -shift, axis) for array in (values, brain))
            edge: list[slice | int] = [slice(None)] * 3
            edge[axis] = -1 if shift == 1 else 0
            there[tuple(edge)] = False
            sides.append((np.where(there, moved, values), there))
        (after, has_after), (before, has_before) = sides
        reach = np.maximum(has_after.astype(float) + has_before, 1)
        total += ((after - before) / (reach * step)) ** 2
    return np.where(brain, np.sqrt(total), 0)


def correlation(values: np.ndarray, others: np.ndarray) -> float:
    """Pearson's, of two lists of one length; NaN where one of them does not vary."""
    if values.size < 2 or not np.ptp(values) or not np.ptp(others):
        return math.nan
    return float(np.corrcoef(values, others)[0, 1])


def worst(error: np.ndarray, share: float = WORST) -> np.ndarray:
    """Bool, of a list of errors: the largest ``share``, one at the least; equal ones count alike.

    None where all errors are equal.
    """
    if not error.size:
        return np.zeros(0, bool)
    count = max(1, round(share * error.size))
    limit = np.partition(error, error.size - count)[error.size - count]
    return (error >= limit) & (error > error.min())


def area_under_roc(values: np.ndarray, positive: np.ndarray) -> float:
    """How often a positive has a larger value than a negative, ties counted as halves.

    NaN where there are none of either, or all values are the same.
    """
    count = int(np.count_nonzero(positive))
    if not 0 < count < positive.size or not np.ptp(values):
        return math.nan
    ranks = rankdata(values)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (positive.size - count)))
