"""From scanner units to the network's scale inside the brain, and back.

The network's scale is linear: 0 at a low percentile of the brain and 1/2 at its median, which is
healthy tissue. Above 1 it bends into a logarithmic shoulder, so that bright tissue (enhancing
tumour in T1c, oedema in FLAIR) is compressed but never clipped. Background is 0 in the network's
scale, and in the file's whatever fills the border there: 0, -1024, or what z-scoring made of 0.

Why the median and not a high percentile: p99.5 lies in the tumour where there is one, so the
same healthy tissue comes out at different levels in different patients, and no network can
know at which. On 24 real cases healthy FLAIR then varies by 0.12 (standard deviation) between
patients while the tumour stands out by 0.33; with the median it varies by 0.01.

The paper's own convention, :meth:`Scale.papers`, exists to reproduce its tables; what it clips (on
skull-stripped BraTS about half of the enhancing tumour in T1c) no inverse brings back.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

SHOULDER = 0.25
"""Softness of the bend above 1: the slope falls to one half at 1 + SHOULDER."""

CEILING = 2.0
"""Network values above this are treated as this when inverted; 1 + ln(…) rarely exceeds 1.6."""

FOREIGN = float(np.log(4))
"""A case four times beyond the training cases' levels is in other units."""

LEAST_FOREIGN = float(np.log(1.5))
"""Where training cases hardly differ, as after z-scoring, so much beyond them is foreign, too."""

ODD = float(np.log(30))
"""A sequence this many times brighter beside its siblings than in training is in other units."""

FEWEST_ALIKE = 3
"""Of so many training cases a relation between sequences is learnt, where there are so many."""

OFFSET = 0.2
"""The darkest brain may lie this many widths beyond the training cases' before it is strange."""

MOST_HEAD = 0.8
"""No head fills more of its volume than this; stripped brains fill 0.14 to 0.3."""


def background_of(volume: np.ndarray) -> float:
    """The value that stands for nothing in ``volume`` (D, H, W): what fills most of its six faces.

    0 where no value does, as around an unstripped head, and for an empty volume.
    """
    if volume.ndim != 3 or not volume.size:
        return 0.0
    faces = [np.take(volume, end, axis).ravel() for axis in range(3) for end in (0, -1)]
    border = np.concatenate(faces)
    middle = np.partition(border, border.size // 2)[border.size // 2]  # the majority's, if any
    return float(middle) if np.count_nonzero(border == middle) > border.size / 2 else 0.0


def differs(volume: np.ndarray, background: float) -> np.ndarray:
    """Where ``volume`` is not ``background``, bool; but for rounding, unless that is 0."""
    if background == 0:
        return volume != 0
    return np.abs(volume - background) > 1e-5 * abs(background)


def foreground(volume: np.ndarray) -> np.ndarray:
    """Where ``volume`` (D, H, W) holds the head, as a bool mask of the same shape.

    Skull-stripped images have a constant background, see :func:`background_of`: the mask is what
    is not that. Where it would be more than ``MOST_HEAD`` of the volume, the background is noise
    (with a few zeros among it or at padded edges), and Otsu's threshold on the logarithm splits it
    off. An all-zero volume gives an empty mask.
    """
    mask = differs(volume, background_of(volume))
    if mask.mean() <= MOST_HEAD:
        return mask
    from skimage.filters import threshold_otsu

    level = np.log1p(np.maximum(volume - volume.min(), 0))
    return level > threshold_otsu(level)


@dataclass(frozen=True)
class Scale:
    """One volume's intensity scale: ``low`` maps to 0 and ``high`` to 1, in scanner units.

    With ``clips``, what is darker or brighter becomes 0 or 1, and no shoulder follows.
    ``background`` is what stands outside the brain, in scanner units.
    """

    low: float
    high: float
    clips: bool = False
    background: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a scale needs finite low < high, got {self.low} and {self.high}")

    @property
    def width(self) -> float:
        """``high`` − ``low``, positive."""
        return self.high - self.low

    @property
    def above(self) -> float:
        """How far ``low`` is over the background, in widths; < 0 if z-scored in the brain."""
        return (self.low - self.background) / self.width

    @classmethod
    def fit(cls, volume: np.ndarray, mask: np.ndarray, lower: float | None = 0.5) -> "Scale":
        """The scale of ``volume`` (any shape) from its percentiles inside ``mask`` (bool).

        0 is the percentile ``lower``, or the background where that is None; 1/2 is the median. A
        constant or empty brain gives a scale of unit width, so nothing divides by 0.
        """
        inside, background = volume[mask], background_of(volume)
        if inside.size == 0:
            return cls(background, background + 1.0, background=background)
        low = background if lower is None else float(np.percentile(inside, lower))
        high = low + 2 * (float(np.median(inside)) - low)
        if high <= low:  # more than half of the brain is at its minimum
            high = float(np.percentile(inside, 99.5))
        return cls(low, high if high > low else low + 1.0, background=background)

    @classmethod
    def papers(cls, volume: np.ndarray) -> "Scale":
        """The published convention: 0 at the background, 1 at p99.5 of all of ``volume``, clipped.

        The paper prints the minimum (0) and the percentile. That it is taken over the whole volume,
        background included, and that what exceeds it is clipped, is the reading adopted here;
        neither is printed. On a skull-stripped brain that fills a sixth of its volume
        p99.5 is p97 of the brain. An empty or dark volume gives unit width.
        """
        low = background_of(volume)
        high = float(np.percentile(volume, 99.5)) if volume.size else low
        if high <= low and volume.size:
            high = float(volume.max())
        return cls(low, high if high > low else low + 1.0, clips=True, background=low)

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
        """The network's scale to scanner units; float32, exactly the background outside ``mask``.

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
        return _placed(self.low + x * self.width, inside, self.background)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``clips`` only where it does, ``background`` where it is not 0."""
        always = ("low", "high")
        return {key: value for key, value in asdict(self).items() if value or key in always}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Scale":
        """The scale written by :meth:`to_dict`."""
        clips, background = bool(value.get("clips", False)), float(value.get("background", 0.0))
        return cls(float(value["low"]), float(value["high"]), clips, background)


class ScalePrior:
    """What scale a sequence is likely to have, learned from the training cases.

    A missing sequence has no percentiles of its own. Its width (``high`` − ``low``) is predicted
    either as the training median or, where scanners scale their sequences together, from the
    geometric mean of the sources' widths; the choice is whichever was the more exact on the
    training cases; where fewer than ``FEWEST_ALIKE`` of them have all of the sources, most of these
    are looked at that so many have. A case in other units than all of them (a [0, 1] cohort, say)
    always gets the second. Background and offset follow the case's own sequences wherever those of
    the training cases were of another kind.
    """

    def __init__(self, cases: Sequence[Mapping[str, Scale]]) -> None:
        self.cases = [dict(case) for case in cases]

    def estimate(self, target: str, sources: Mapping[str, Scale]) -> Scale:
        """The likely scale of ``target``, given the scales of the case's own sequences."""
        known = [case for case in self.cases if target in case]
        if not known:
            raise ValueError(f"no training case has {target}, its intensity scale is unknown")
        sources = _best_known(known, sources)
        alike = [case for case in known if sources and all(name in case for name in sources)]
        widths = np.array([np.log(case[target].width) for case in known])
        above = float(np.median([case[target].above for case in known]))
        background = float(np.median([case[target].background for case in known]))
        predicted, follows = float(np.median(widths)), False
        if alike:
            predicted, follows = _predicted(target, sources, alike, widths)
            background = float(np.mean([scale.background for scale in sources.values()]))
        width = float(np.exp(predicted))
        low = background + width * above
        if follows:
            low = float(np.mean([(s.low + s.high) / 2 for s in sources.values()])) - width / 2
        return Scale(low, low + width, known[0][target].clips, background)

    def odd_ones(self, sources: Mapping[str, Scale]) -> list[str]:
        """A sentence for each sequence far brighter or darker beside its siblings than ever.

        Pair by pair, so that no training case need have all of ``sources``: a sequence is as far
        off as it is beside most of those, itself among them, that some case has with it.
        """
        mine = {name: np.log(scale.width) for name, scale in sources.items()}
        found = []
        for name in mine:
            beside = [0.0]
            for other in mine.keys() - {name}:
                both = [case for case in self.cases if name in case and other in case]
                usual = [np.log(case[name].width / case[other].width) for case in both]
                if both:
                    beside.append(float(mine[name] - mine[other] - np.median(usual)))
            if abs(off := float(np.median(beside))) > ODD:
                found.append(
                    f"{name} is {np.exp(abs(off)):.3g} times as {'bright' if off > 0 else 'dark'} "
                    "beside the others as in training"
                )
        return found

    def to_list(self) -> list[dict[str, dict[str, Any]]]:
        """Plain values for JSON, one mapping per training case."""
        return [{name: scale.to_dict() for name, scale in case.items()} for case in self.cases]

    @classmethod
    def from_list(cls, value: Sequence[Mapping[str, Mapping[str, Any]]]) -> "ScalePrior":
        """The prior written by :meth:`to_list`."""
        return cls([{name: Scale.from_dict(s) for name, s in case.items()} for case in value])


def _best_known(
    cases: Sequence[Mapping[str, Scale]], sources: Mapping[str, Scale]
) -> Mapping[str, Scale]:
    """As many of ``sources`` as ``FEWEST_ALIKE`` cases have together, and the commonest such set.

    Fewer cases do where none of ``sources`` is in so many.
    """
    held = [{*case} for case in cases]
    counts = {
        names: sum(one.issuperset(names) for one in held)
        for size in range(1, len(sources) + 1)
        for names in combinations(sources, size)
    }
    enough = min(FEWEST_ALIKE, max(counts.values(), default=0))
    sets = [names for names, count in counts.items() if count >= max(enough, 1)]
    best = max(sets, key=lambda names: (len(names), counts[names]), default=())
    return {name: sources[name] for name in best}


def _predicted(
    target: str,
    sources: Mapping[str, Scale],
    alike: Sequence[Mapping[str, Scale]],
    all_: np.ndarray,
) -> tuple[float, bool]:
    """The log width of ``target``, and whether its offset has to follow the sources.

    ``alike`` are the training cases with all of ``sources`` and the target; ``all_`` the log
    widths of the target in every training case that has it.
    """
    mine = _log_widths(sources, sources)
    theirs = np.stack([_log_widths(case, sources) for case in alike])
    own, levels = float(mine.mean()), theirs.mean(1)
    ratios = np.array([np.log(case[target].width) for case in alike]) - levels
    offsets = [np.mean([case[name].above for name in sources]) for case in alike]
    offset = np.mean([scale.above for scale in sources.values()])
    strange = not min(offsets) - OFFSET <= offset <= max(offsets) + OFFSET
    margin = min(FOREIGN, max(3 * float(np.std(levels)), LEAST_FOREIGN))
    if strange or not levels.min() - margin <= own <= levels.max() + margin:
        # Other units leave the sequences' relation as it was; scaling each by itself ends it.
        relation = np.median(theirs - levels[:, None], axis=0)
        kept = np.abs(mine - own - relation).sum() <= np.abs(mine - own).sum()
        return own + (float(np.median(ratios)) if kept else 0.0), strange
    if len(ratios) >= FEWEST_ALIKE and float(np.std(ratios)) < float(np.std(all_)):
        return own + float(np.median(ratios)), False
    return float(np.median(all_)), False


def _log_widths(case: Mapping[str, Scale], names: Iterable[str]) -> np.ndarray:
    return np.array([np.log(case[name].width) for name in names])


def _placed(values: np.ndarray, inside: np.ndarray, outside: float = 0.0) -> np.ndarray:
    """``values`` where ``inside``, in its order, as float32; ``outside`` elsewhere."""
    volume = np.full(inside.shape, outside, np.float32)
    volume[inside] = values
    return volume
