"""Image scores under the named conventions of papers and of the BraSyn challenge.

The same picture scores 24 dB in one paper and 30 dB in the next, because range, mask, window and
averaging differ. A :class:`Convention` says all of them; every score's name carries its name:
``psnr_volume@paper-agi``, ``ssim_tumour@real-scale``. Scores of different conventions are never
comparable.

``_tumour`` scores take the convention's range and window, and average inside the tumour over the
whole case. ``_blanked`` is the control: the same score when the synthetic volume has no tumour at
all (0 where the label is). A convention whose score hardly moves does not see the tumour.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from synth3d.images import Scale
from synth3d.scoring.similarity import SCIKIT_IMAGE, TORCHMETRICS, Window

Region = Literal["volume", "brain", "tumour", "rest"]
Perceptual = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Distances (N,) between slices (N, H, W) and (N, H, W) in [-1, 1]."""


@dataclass(frozen=True)
class Convention:
    """How volumes are brought to a range, where and how scores are taken.

    Attributes:
        name: What score names carry.
        scores: Which of ``psnr``, ``ssim``, ``mae``, ``nmse`` its source reports.
        region: ``volume``, or ``brain``; the tumour is always added.
        low: Percentile of the whole array (in our own scale, of the brain) that becomes the lower
            end; None is intensity 0.
        high: Percentile of the whole array that becomes the upper end, times ``stretch``; None is
            our own scale (:class:`synth3d.images.intensity.Scale`), 0 outside the brain.
        stretch: Factor on the upper end.
        span: What lower and upper end become; beyond them values are clipped (not in our scale).
        own_scale: The synthetic volume is brought to range by its own percentiles, not the real
            one's.
        crop: Central voxels (z, y, x) that are scored; all where there are fewer.
        middle: Share of the axial slices, around the middle, that is scored.
        slicewise: Slices are scored one by one in 2-D and averaged; slices without brain are left
            out. Else the volume is scored in 3-D as one.
        window: Of SSIM, whose mean over a ``volume`` leaves out what is nearer to a face than the
            window's radius, as scikit-image does; not where ``zeroed``.
        zeroed: SSIM of the tumour is that of two volumes that are 0 outside it, averaged over the
            whole volume, with the data range of those volumes (the BraSyn challenge).
        lpips: Over slices, ``sum`` or ``mean``; None where the source has no LPIPS.
        printed: Factors with which the source prints its scores.
        source: Where the choices come from.
        left_open: What the source does not say, and what was chosen.
    """

    name: str
    scores: tuple[str, ...]
    region: Region
    low: float | None = None
    high: float | None = None
    stretch: float = 1.0
    span: tuple[float, float] = (0.0, 1.0)
    own_scale: bool = False
    crop: tuple[int, int, int] | None = None
    middle: float = 1.0
    slicewise: bool = False
    window: Window = SCIKIT_IMAGE
    zeroed: bool = False
    lpips: Literal["sum", "mean"] | None = None
    printed: Mapping[str, float] = field(default_factory=dict, hash=False)
    source: str = ""
    left_open: str = ""

    @property
    def data_range(self) -> float:
        """Width of the range, the L of PSNR and SSIM."""
        return self.span[1] - self.span[0]

    @property
    def regions(self) -> tuple[Region, ...]:
        """Where scores are taken when there is a tumour mask."""
        return ("tumour", "rest") if self.zeroed else (self.region, "tumour")

    def ends(self, volume: np.ndarray, brain: np.ndarray) -> tuple[float, float]:
        """The intensities of ``volume`` (D, H, W) that become the ends of the range; low < high."""
        if self.high is None:
            scale = Scale.fit(volume, brain, lower=self.low)
            return scale.low, scale.high
        low = 0.0 if self.low is None else max(0.0, float(np.percentile(volume, self.low)))
        high = self.stretch * float(np.percentile(volume, self.high))
        if high <= low:  # the head is smaller than the percentile leaves room for
            high = self.stretch * float(volume.max())
        return low, high if high > low else low + 1.0

    def apply(self, volume: np.ndarray, ends: tuple[float, float], brain: np.ndarray) -> np.ndarray:
        """``volume`` in the convention's range, float64, given :meth:`ends`; nothing is cropped."""
        low, high = ends
        if self.high is None:
            return Scale(low, high).apply(volume, brain).astype(np.float64)
        unit = (volume.astype(np.float64).clip(low, high) - low) / (high - low)
        return self.span[0] + unit * self.data_range

    def box(self, brain: np.ndarray) -> tuple[slice, ...]:
        """The part of the volume that is scored, given its ``brain`` mask (D, H, W)."""
        sides = (max(1, round(self.middle * brain.shape[0])), *brain.shape[1:])
        wanted = [min(pair) for pair in zip(sides, self.crop or sides, strict=True)]
        starts = [(side - want) // 2 for side, want in zip(brain.shape, wanted, strict=True)]
        return tuple(slice(a, a + want) for a, want in zip(starts, wanted, strict=True))


def _shipped() -> dict[str, Convention]:
    windows = {"scikit-image": SCIKIT_IMAGE, "torchmetrics": TORCHMETRICS}
    text = Path(__file__).with_suffix(".toml").read_text("utf-8")
    found = {}
    for name, values in tomllib.loads(text).items():
        plain: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in values.items()
        }
        plain["window"] = windows[plain.get("window", "scikit-image")]
        found[name] = Convention(name, **plain)
    return found


CONVENTIONS = _shipped()
"""Those of ``conventions.toml``, by name."""
