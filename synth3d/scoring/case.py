"""The scores of one case under one convention, each under its full name.

Names are ``<score>_<region>@<convention>``, with ``_blanked`` before the ``@`` for the control
without a tumour: see :mod:`synth3d.scoring.conventions`. Values are plain fractions and decibels;
the factors with which a paper prints them are in ``Convention.printed``.
"""

import math
from collections.abc import Sequence

import numpy as np

from synth3d.scoring.conventions import CONVENTIONS, Convention, Perceptual
from synth3d.scoring.formulas import decibels
from synth3d.scoring.similarity import similarity_map


def score_case(
    real: np.ndarray,
    synthetic: np.ndarray,
    brain: np.ndarray,
    tumour: np.ndarray | None,
    convention: Convention | str,
    perceptual: Perceptual | None = None,
    blanked: bool = True,
) -> dict[str, float]:
    """All scores of ``convention``, by full name.

    PSNR is infinite for equal volumes; an empty region gives NaN.

    Args:
        real: (D, H, W) in scanner units, axial slices along the first axis.
        synthetic: The same shape and units.
        brain: (D, H, W) bool.
        tumour: (D, H, W) bool; None leaves out everything that needs it.
        convention: One of ``CONVENTIONS``, or its name.
        perceptual: Distance between slices, for LPIPS; None leaves LPIPS out.
        blanked: With a tumour, also score the synthetic volume with its tumour set to 0.

    Raises:
        ValueError: Shapes differ, a mask is not bool, voxels are not finite, or there is no such
            convention.
    """
    if isinstance(convention, str):
        if convention not in CONVENTIONS:
            raise ValueError(f"{convention!r} is no convention; known are {', '.join(CONVENTIONS)}")
        convention = CONVENTIONS[convention]
    _check(real, synthetic, brain, tumour)
    ends = convention.ends(real, brain)
    ruler = _Ruler(convention.apply(real, ends, brain), brain, tumour, convention, perceptual)

    def measure(volume: np.ndarray, control: bool) -> dict[str, float]:
        own = convention.ends(volume, brain) if convention.own_scale else ends
        return ruler.scores(convention.apply(volume, own, brain), control)

    scores = measure(synthetic, control=False)
    if tumour is None or not blanked:
        return scores
    empty = np.where(tumour, np.zeros((), synthetic.dtype), synthetic)
    controls = measure(empty, control=True) if tumour.any() else {}
    found = {}
    for name, value in scores.items():
        found[name] = value
        if "_rest@" not in name:
            found[name.replace("@", "_blanked@")] = controls.get(name, math.nan)
    return found


class _Ruler:
    """Measures volumes in a convention's range against one real volume."""

    def __init__(
        self,
        real: np.ndarray,
        brain: np.ndarray,
        tumour: np.ndarray | None,
        convention: Convention,
        perceptual: Perceptual | None,
    ) -> None:
        self.convention, self.perceptual = convention, perceptual
        self.box = convention.box(brain)
        held = brain[self.box].any(axis=(1, 2))
        self.kept = held if convention.slicewise else slice(None)
        self.brain = self._part(brain)
        self.tumour = None if tumour is None else self._part(tumour)
        self.real = self._part(real)
        self.axes = (1, 2) if convention.slicewise else (0, 1, 2)
        self.known: tuple[np.ndarray, np.ndarray] | None = None

    def _part(self, volume: np.ndarray) -> np.ndarray:
        """What of a whole volume is scored."""
        return volume[self.box][self.kept]

    def scores(self, synthetic: np.ndarray, control: bool) -> dict[str, float]:
        """Scores of a whole volume; a ``control`` leaves out what lies outside the tumour."""
        synthetic = self._part(synthetic)
        if self.convention.zeroed:
            found = self._zeroed(synthetic, control)
        else:
            found = self._inside(synthetic)
        if self.perceptual is not None and self.convention.lpips is not None:
            found[f"lpips_{self.convention.region}"] = self._lpips(synthetic, self.perceptual)
        return {f"{name}@{self.convention.name}": value for name, value in found.items()}

    def _inside(self, synthetic: np.ndarray) -> dict[str, float]:
        """``<score>_<region>`` of both regions, from one SSIM map."""
        convention = self.convention
        similarity = similarity_map(
            self.real, synthetic, convention.data_range, convention.window, self.axes, self.known
        )
        self.known = (synthetic, similarity)
        found = {}
        for region in convention.regions:
            mask = {"volume": None, "brain": self.brain, "tumour": self.tumour}[region]
            if region == "tumour" and mask is None:
                continue
            difference = synthetic - self.real
            errors = [difference] if mask is None else [difference[mask]]
            if mask is None and convention.slicewise:
                errors = list(difference)  # which are averaged one by one
            values = {
                "psnr": _mean([decibels(_mean(e**2), convention.data_range) for e in errors]),
                "ssim": _mean(self._averaged(similarity, mask)),
                "mae": _mean([_mean(np.abs(e)) for e in errors]),
                "nmse": self._nmse(mask, errors),
            }
            found |= {f"{score}_{region}": values[score] for score in convention.scores}
        return found

    def _averaged(self, similarity: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """The part of an SSIM map that is averaged."""
        if mask is not None:
            return similarity[mask]
        margin, part = self.convention.window.radius, [slice(None)] * similarity.ndim
        for axis in self.axes:
            side = similarity.shape[axis]
            if side > 2 * margin:
                part[axis] = slice(margin, side - margin)
        return similarity[tuple(part)]

    def _nmse(self, mask: np.ndarray | None, errors: list[np.ndarray]) -> float:
        """Squared error over squared signal above the range's lower end; pooled."""
        signal = (self.real if mask is None else self.real[mask]) - self.convention.span[0]
        energy = float(np.sum(signal**2))
        return sum(float(np.sum(e**2)) for e in errors) / energy if energy else math.nan

    def _zeroed(self, synthetic: np.ndarray, control: bool) -> dict[str, float]:
        """SSIM of volumes that are 0 outside the tumour, and of volumes that are 0 inside it."""
        if self.tumour is None:
            return {}
        found, window = {}, self.convention.window
        masks = {"tumour": self.tumour} | ({} if control else {"rest": ~self.tumour})
        for region, mask in masks.items():
            x, y = (np.where(mask, volume, 0.0) for volume in (self.real, synthetic))
            similarity = np.full(x.shape, math.nan)
            if mask.any() and (data_range := float(max(np.ptp(x), np.ptp(y)))) > 0:
                similarity = similarity_map(x, y, data_range, window)
            found[f"ssim_{region}"] = _mean(similarity)
            if region == "tumour":
                found["ssim_tumour_inside"] = _mean(similarity[mask])
        return found

    def _lpips(self, synthetic: np.ndarray, perceptual: Perceptual) -> float:
        """LPIPS in [-1, 1]: mean over the slices with brain, or sum over all that are scored."""
        pair = [self.real, synthetic]
        if self.convention.lpips == "mean":
            kept = self.brain.any(axis=(1, 2))
            pair = [volume[kept] for volume in pair]
        low, width = self.convention.span[0], self.convention.data_range
        slices = [(2 * (volume - low) / width - 1).astype(np.float32) for volume in pair]
        distances = perceptual(*slices) if len(slices[0]) else np.zeros(0)
        return float(np.sum(distances)) if self.convention.lpips == "sum" else _mean(distances)


def _mean(values: np.ndarray | Sequence[float]) -> float:
    """The mean; NaN where there is nothing."""
    return float(np.mean(values)) if np.size(values) else math.nan


def _check(
    real: np.ndarray, synthetic: np.ndarray, brain: np.ndarray, tumour: np.ndarray | None
) -> None:
    if real.ndim != 3:
        raise ValueError(f"expected (D, H, W), got {real.shape}")
    masks = {"brain": brain} | ({} if tumour is None else {"tumour": tumour})
    for name, volume in {"synthetic": synthetic, **masks}.items():
        if volume.shape != real.shape:
            raise ValueError(f"{name} is {volume.shape} and the real volume {real.shape}")
        if name in masks and volume.dtype != bool:
            raise ValueError(f"the {name} mask must be bool, got {volume.dtype}")
    for name, volume in (("real", real), ("synthetic", synthetic)):
        if bad := int(np.count_nonzero(~np.isfinite(volume))):
            raise ValueError(f"the {name} volume has {bad} NaN or infinite voxels")
