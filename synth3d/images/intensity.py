"""From scanner units to the network's scale inside the brain, and back.

The network's scale is linear: 0 at a low percentile of the brain and 1/2 at its median, which is
healthy tissue. Above 1 it bends into a logarithmic shoulder, so that bright tissue (enhancing
tumour in T1c, oedema in FLAIR) is compressed but never clipped. Background is 0 in both scales.

Why the median and not a high percentile: p99.5 lies in the tumour where there is one, so the
same healthy tissue comes out at different levels in different patients, and no network can
know at which. On 24 real cases healthy FLAIR then varies by 0.12 (standard deviation) between
patients while the tumour stands out by 0.33; with the median it varies by 0.01.

The paper's own convention, :meth:`Scale.papers`, exists to reproduce its tables; what it clips (on
skull-stripped BraTS about half of the enhancing tumour in T1c) no inverse brings back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SHOULDER = 0.25
"""Softness of the bend above 1: the slope falls to one half at 1 + SHOULDER."""

CEILING = 2.0
"""Network values above this are treated as this when inverted; 1 + ln(…) rarely exceeds 1.6."""

FOREIGN = float(np.log(4))
"""A case four times beyond the training cases' levels is in other units."""

MOST_HEAD = 0.8
"""No head fills more of its volume than this; stripped brains fill 0.14 to 0.3."""


def foreground(volume: np.ndarray) -> np.ndarray:
    """Where ``volume`` (D, H, W) holds the head, as a bool mask of the same shape.

    Skull-stripped images have an exactly zero background: the mask is what is not zero. Where
    that would be more than ``MOST_HEAD`` of the volume, the background is noise (with a few
    zeros among it or at padded edges), and Otsu's threshold on the logarithm splits it off. An
    all-zero volume gives an empty mask.
    """
    mask = volume != 0
    if mask.mean() <= MOST_HEAD:
        return mask
    from skimage.filters import threshold_otsu

    level = np.log1p(np.maximum(volume - volume.min(), 0))
    return level > threshold_otsu(level)


@dataclass(frozen=True)
class Scale:
    """One volume's intensity scale: ``low`` maps to 0 and ``high`` to 1, in scanner units.

    With ``clips``, what is darker or brighter becomes 0 or 1, and no shoulder follows.
    """

    low: float
    high: float
    clips: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a scale needs finite low < high, got {self.low} and {self.high}")

    @property
    def width(self) -> float:
        """``high`` − ``low``, positive."""
        return self.high - self.low

    @classmethod
    def fit(cls, volume: np.ndarray, mask: np.ndarray, lower: float | None = 0.5) -> "Scale":
        """The scale of ``volume`` (any shape) from its percentiles inside ``mask`` (bool).

        0 is the percentile ``lower``, or intensity 0 where that is None; 1/2 is the median. A
        constant or empty brain gives a scale of unit width, so nothing divides by 0.
        """
        inside = volume[mask]
        if inside.size == 0:
            return cls(0.0, 1.0)
        low = 0.0 if lower is None else float(np.percentile(inside, lower))
        high = low + 2 * (float(np.median(inside)) - low)
        if high <= low:  # more than half of the brain is at its minimum
            high = float(np.percentile(inside, 99.5))
        return cls(low, high if high > low else low + 1.0)

    @classmethod
    def papers(cls, volume: np.ndarray) -> "Scale":
        """The published convention: 0 at 0, 1 at p99.5 of all of ``volume``, clipped.

        The paper prints the minimum (0) and the percentile. That it is taken over the whole volume,
        background included, and that what exceeds it is clipped, is the reading adopted here;
        neither is printed. On a skull-stripped brain that fills a sixth of its volume
        p99.5 is p97 of the brain. An empty or dark volume gives unit width.
        """
        high = float(np.percentile(volume, 99.5)) if volume.size else 0.0
        if high <= 0 and volume.size:
            high = float(volume.max())
        return cls(0.0, high if high > 0 else 1.0, clips=True)

    def apply(self, volume: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Scanner units to the network's scale; float32, exactly 0 outside ``mask``."""
        inside = np.broadcast_to(mask, volume.shape)
        x = (volume[inside].astype(np.float64) - self.low) / self.width
        if self.clips:
            x = x.clip(0, 1)
        bright = x > 1
        x[bright] = 1 + SHOULDER * np.log1p((x[bright] - 1) / SHOULDER)
        return _placed(x, inside)

    def invert(self, network: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The network's scale to scanner units; float32, exactly 0 outside ``mask``.

        Inverse of :meth:`apply` up to ``CEILING``; beyond it the value is held, because the
        shoulder's inverse is exponential and one wild voxel would set the image's maximum. A scale
        that ``clips`` holds it at 0 and 1: nothing was learnt from anything beyond.
        """
        inside = np.broadcast_to(mask, network.shape)
        x = np.minimum(network[inside].astype(np.float64), CEILING)
        if self.clips:
            x = x.clip(0, 1)
        bright = x > 1
        x[bright] = 1 + SHOULDER * np.expm1((x[bright] - 1) / SHOULDER)
        return _placed(self.low + x * self.width, inside)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``clips`` only where it does."""
        return {key: value for key, value in asdict(self).items() if value is not False}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Scale":
        """The scale written by :meth:`to_dict`."""
        return cls(float(value["low"]), float(value["high"]), bool(value.get("clips", False)))


class ScalePrior:
    """What scale a sequence is likely to have, learned from the training cases.

    A missing sequence has no percentiles of its own. Its width (``high`` − ``low``) is predicted
    either as the training median or, where scanners scale their sequences together, from the
    geometric mean of the sources' widths; the choice is whichever was the more exact on the
    training cases. A case in other units than all of them (a [0, 1] cohort, say) always gets
    the second.
    """

    def __init__(self, cases: Sequence[Mapping[str, Scale]]) -> None:
        self.cases = [dict(case) for case in cases]

    def estimate(self, target: str, sources: Mapping[str, Scale]) -> Scale:
        """The likely scale of ``target``, given the scales of the case's own sequences."""
        known = [case for case in self.cases if target in case]
        if not known:
            raise ValueError(f"no training case has {target}, its intensity scale is unknown")
        widths = np.array([float(np.log(case[target].width)) for case in known])
        pairs = [(w, _log_level(c, sources)) for w, c in zip(widths, known, strict=True)]
        levels = np.array([level for _, level in pairs if level is not None])
        ratios = np.array([width - level for width, level in pairs if level is not None])
        own = _log_level(sources, sources)
        predicted = float(np.median(widths))
        if own is not None and len(ratios):
            steadier = len(ratios) >= 3 and float(np.std(ratios)) < float(np.std(widths))
            foreign = own < levels.min() - FOREIGN or own > levels.max() + FOREIGN
            if steadier or foreign:
                predicted = own + float(np.median(ratios))
        width = float(np.exp(predicted))
        low = width * float(np.median([c[target].low / c[target].width for c in known]))
        return Scale(low, low + width, known[0][target].clips)

    def to_list(self) -> list[dict[str, dict[str, Any]]]:
        """Plain values for JSON, one mapping per training case."""
        return [{name: scale.to_dict() for name, scale in case.items()} for case in self.cases]

    @classmethod
    def from_list(cls, value: Sequence[Mapping[str, Mapping[str, Any]]]) -> "ScalePrior":
        """The prior written by :meth:`to_list`."""
        return cls([{name: Scale.from_dict(s) for name, s in case.items()} for case in value])


def _log_level(case: Mapping[str, Scale], sources: Mapping[str, Scale]) -> float | None:
    """Mean log width of the sequences named in ``sources``; None if the case lacks one."""
    if not sources or any(name not in case for name in sources):
        return None
    return float(np.mean([float(np.log(case[name].width)) for name in sources]))


def _placed(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """``values`` where ``inside``, in its order, as float32; 0 elsewhere."""
    volume = np.zeros(inside.shape, np.float32)
    volume[inside] = values
    return volume
