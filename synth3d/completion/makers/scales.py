"""The way from the network's scale back to scanner units, and to what a file can hold."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from synth3d.cohort import Modality
from synth3d.completion.made import Made, Pictures
from synth3d.data import Prepared
from synth3d.errors import InputError
from synth3d.images import Scale, value_limits

FEWEST_LEVELS = 64
"""An integer file whose brain would span fewer grey levels than this takes its siblings' scale."""


MOST_APART = 2.0
"""Runs whose scales of one sequence differ by more than this factor are not of one unit."""


def fitted(parts: Sequence[Pictures], like: Path) -> Made:
    """The mean of all pictures, of one run or of several, darker where ``like`` would clamp it.

    Each run has come back to scanner units by its own scale. A scale of its ``own`` stays.

    Raises:
        InputError: The runs' scales are ``MOST_APART``: the mean would be the brightest one's.
    """
    scale, origin = _mean_scale(parts), parts[0].scale_from
    data, spread = _mean_and_spread([volume for one in parts for volume in one.volumes])
    spread = total_spread(spread, [one.deviation for one in parts])
    most = value_limits(like)[1]
    most = np.inf if origin == "own" else most  # it is written as numbers that hold anything
    zero = scale.background
    if (peak := float(data.max())) > most:
        factor = (most - zero) / (peak - zero)
        low, high = (zero + (end - zero) * factor for end in (scale.low, scale.high))
        scale = replace(scale, low=low, high=high)
        data, spread = zero + (data - zero) * factor, None if spread is None else spread * factor
    one = parts[0]
    return Made(data, like, scale, origin, spread=spread, restored=one.restored, brain=one.brain)


def total_spread(
    between: np.ndarray | None, within: Sequence[np.ndarray | None]
) -> np.ndarray | None:
    """√(between² + mean of within²), float32: the law of total variance; None of nothing.

    ``between`` is the standard deviation over pictures, ``within`` what each run expects itself;
    one that says nothing expects nothing.
    """
    told = [deviation.astype(np.float64) ** 2 for deviation in within if deviation is not None]
    if not told:
        return between
    total = np.sum(told, axis=0) / len(within)
    total = total if between is None else total + between.astype(np.float64) ** 2
    return np.sqrt(total).astype(np.float32)


def deviation_in_scanner_units(
    picture: np.ndarray, deviation: np.ndarray, brain: np.ndarray, scale: Scale
) -> np.ndarray:
    """Half of what lies between ``picture`` ± ``deviation``: (D, H, W) float32, 0 out of the brain.

    Both come in the network's scale, which bends above 1, so that bright tissue is as uncertain as
    it is in the file.
    """
    high, low = (scale.invert(picture + side * deviation, brain) for side in (1, -1))
    return np.where(brain, np.maximum(high - low, 0) / 2, 0).astype(np.float32)


def _mean_and_spread(volumes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """float32 mean, and standard deviation of several; summed in float64, one by one."""
    mean = np.zeros(volumes[0].shape, np.float64)
    for volume in volumes:
        mean += volume
    mean /= len(volumes)
    if len(volumes) == 1:
        return mean.astype(np.float32), None
    squares = np.zeros_like(mean)
    for volume in volumes:
        squares += (volume - mean) ** 2
    return mean.astype(np.float32), np.sqrt(squares / (len(volumes) - 1)).astype(np.float32)


def _mean_scale(parts: Sequence[Pictures]) -> Scale:
    """Over all pictures; a single one's is itself."""
    scales, counts = [one.scale for one in parts], [len(one.volumes) for one in parts]
    widths = [scale.width for scale in scales]
    if max(widths) > MOST_APART * min(widths):
        told = " and ".join(f"{width:.6g}" for width in widths)
        raise InputError(
            f"the runs predict scales of other units (0 to 1 spans {told}); average runs that were "
            "trained on one cohort"
        )
    if len(scales) == 1:
        return scales[0]
    low, high, background = (
        float(np.average([getattr(scale, name) for scale in scales], weights=counts))
        for name in ("low", "high", "background")
    )
    return Scale(low, high, scales[0].clips, background)


def in_scanner_units(network: np.ndarray, prepared: Prepared, scale: Scale) -> np.ndarray:
    """(D, H, W) float32; darker than the background only where a source is."""
    data = scale.invert(network, prepared.brain)
    if any(_reaches_below_background(prepared, name) for name in prepared.scales):
        return data
    return np.maximum(data, np.float32(scale.background))


def storable_scale(
    scale: Scale, siblings: Sequence[Scale], limits: tuple[float, float]
) -> tuple[Scale, str]:
    """``scale``, or the siblings' when a file with ``limits`` cannot hold it.

    A run trained on images in [0, 1] predicts a scale that an integer file would round away;
    one trained on 16-bit images predicts one that an 8-bit file would clamp.

    The siblings are the case's own sequences, at least one, and their scale is the geometric mean.
    Infinite limits hold anything. Beside the scale stands ``training`` or ``siblings``.
    """
    integers = bool(np.isfinite(limits).all())
    if not integers or (scale.width >= FEWEST_LEVELS and scale.high <= limits[1]):
        return scale, "training"
    zero = scale.background
    over = [max(each.high - each.background, 1e-6) for each in siblings]
    high = float(np.exp(np.mean(np.log(over))))
    shares = [(s.low - s.background) / o for s, o in zip(siblings, over, strict=True)]
    low = high * float(np.median(shares))
    return replace(scale, low=zero + min(low, 0.5 * high), high=zero + high), "siblings"


def _reaches_below_background(prepared: Prepared, name: Modality) -> bool:
    """Whether a source is clearly darker than its background, so that its siblings may as well."""
    scale, lowest = prepared.scales[name], float({**prepared.volumes, **prepared.poor}[name].min())
    darkest = scale.low + lowest * scale.width - scale.background
    return darkest < -1e-3 * abs(scale.high - scale.background)
