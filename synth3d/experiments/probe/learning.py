"""One row trained on slices without end, and how well it does at each shift."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synth3d.experiments.probe.networks import Probed, Row
from synth3d.files import progress
from synth3d.phantom import draw_slices
from synth3d.settings import require

LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
"""Shifts in pixels at which each network is tested: whole ones and halves, along an axis."""
TEST_SLICES = 64
"""At each level, the same heads at all of them and for all networks; a multiple of 4."""
TRACED_SLICES = 256
"""By which offsets are compared with the true shift."""
TEST_SEED = 20_000
"""Apart from the seeds of trainings, which are small numbers."""
CHECKS = 8
"""How often the curve is taken."""
STILL = 1e-6
"""An offset that spreads less, in taps, does not change."""
WARM_UP, FALLING, CLIP = 50, 0.4, 5.0
"""Steps in which the rate rises, the share of the last ones in which it falls to 0, and the
gradient's largest norm."""


@dataclass(frozen=True)
class Settings:
    """Of all rows alike.

    Args:
        steps: Each on a fresh batch of ``batch`` slices.
        longest: Shifts in training are drawn evenly from 0 to so many pixels, in all directions.
        side: Of the slices, in pixels.
        rate: Of Adam.
    """

    steps: int = 1500
    batch: int = 8
    longest: float = 3.0
    side: int = 64
    rate: float = 2e-3

    def __post_init__(self) -> None:
        require(self.steps >= CHECKS, "steps", f"{CHECKS} or more", self.steps)
        require(self.batch >= 1, "batch", "1 or more", self.batch)
        require(self.longest >= 0, "longest", "0 or more", self.longest)
        require(self.side % 2 == 0 and self.side >= 32, "side", "even, 32 or more", self.side)
        require(self.rate > 0, "rate", "above 0", self.rate)

    def rate_at(self, step: int) -> float:
        """Of step 1 to ``steps``: it rises, stays, and falls to 0 in the last part."""
        left = (self.steps + 1 - step) / (FALLING * self.steps)
        return self.rate * min(step / WARM_UP, left, 1.0)


def learn(row: Row, seed: int, settings: Settings, device: torch.device) -> dict[str, Any]:
    """Train a row and test it.

    Rows of one seed see the same heads in the same order; another seed draws others, and weights.

    Returns:
        ``levels``: shift → PSNR in dB of each test slice; ``heard``: the correlation of the
        offsets with the true shift (:func:`correlation`) and ``slope`` how far they follow it
        (:func:`slope`), None where there are none; ``curve``: pairs of steps and mean PSNR over
        shifts as in training; ``parameters``; and ``seconds`` of the training.
    """
    torch.manual_seed(seed)
    show = _Show(Probed(row).to(device), settings, device)
    weights = list(show.network.parameters())
    adam = torch.optim.Adam(weights, settings.rate)
    curve: list[tuple[int, float]] = []
    seconds, began = 0.0, time.perf_counter()
    rng = np.random.default_rng([seed, 0])
    for step in progress(range(1, settings.steps + 1), f"seed {seed}", unit="step"):
        adam.param_groups[0]["lr"] = settings.rate_at(step)
        adam.zero_grad()
        made, _, target, shift = show(rng, even_shifts(rng, settings.batch, settings.longest))
        loss = _mean_in_head((made - target).abs(), target).mean()
        if row.taught:
            loss = loss + row.taught * show.network.error_of_offsets(shift)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP)
        adam.step()
        if step * CHECKS // settings.steps > (step - 1) * CHECKS // settings.steps:
            seconds += time.perf_counter() - began
            curve.append((step, float(show.evenly(TEST_SLICES)[0].mean())))
            began = time.perf_counter()
    _, offsets, shifts = show.evenly(TRACED_SLICES)
    lengths = [length for length in LEVELS if length <= settings.longest]
    return {
        "levels": {f"{length:g}": show.along(length).tolist() for length in lengths},
        "heard": correlation(offsets, shifts),
        "slope": slope(offsets, shifts),
        "curve": curve,
        "parameters": sum(weight.numel() for weight in weights),
        "seconds": seconds,
    }


def slope(offsets: np.ndarray, shift: np.ndarray) -> float | None:
    """How far the offset that follows the shift most goes with it, in taps a pixel.

    1 reads a moved source in its place, if a full-resolution convolution rolls that source alone;
    offsets may tell the shift very well and follow it hardly at all.

    Args:
        offsets: (N, F), pairs (y, x).
        shift: (N, 2) pixels (y, x).

    Returns:
        The slope, averaged over y and x, of the pair where it is farthest from 0; None for F = 0.
    """
    if not offsets.shape[1]:
        return None
    pairs = offsets.reshape(len(offsets), -1, 2)
    away = (shift - shift.mean(0))[:, None]
    slopes = ((pairs - pairs.mean(0)) * away).sum(0) / np.square(away).sum(0)
    each = slopes.mean(1)
    return float(each[np.abs(each).argmax()])


class _Show:
    """Slices are drawn and shown to a network, as its row has them."""

    def __init__(self, network: Probed, settings: Settings, device: torch.device) -> None:
        self.network, self.settings, self.device = network, settings, device

    def __call__(
        self, rng: np.random.Generator, shift: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is made, the offsets, the target and the shift, of as many fresh heads."""
        place = self.network.row.place
        drawn = draw_slices(rng, 0 * shift if place == "aligned" else shift, self.settings.side)
        arrays = drawn.sources, drawn.target, drawn.shift
        sources, target, moved = (torch.from_numpy(each).to(self.device) for each in arrays)
        if place == "blank":
            sources[:, 1] = 0
        return *self.network(sources, moved), target, moved

    @torch.no_grad()
    def _tested(
        self, rng: np.random.Generator, shifts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """PSNR in the head (N,), offsets (N, F) and shifts (N, 2)."""
        found = []
        for start in range(0, len(shifts), self.settings.batch):
            made, offsets, target, _ = self(rng, shifts[start : start + self.settings.batch])
            error = _mean_in_head((made - target).square(), target)
            found.append((-10 * torch.log10(error), offsets))
        psnr, offsets = (torch.cat(each).cpu().numpy() for each in zip(*found, strict=True))
        return psnr, offsets.astype(float), shifts

    def evenly(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Test heads at shifts drawn as in training."""
        rng = np.random.default_rng([TEST_SEED, count])
        return self._tested(rng, even_shifts(rng, count, self.settings.longest))

    def along(self, length: float) -> np.ndarray:
        """PSNR of test heads moved downwards, upwards, to the right and to the left in turn."""
        ways = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)] * (TEST_SLICES // 4))
        return self._tested(np.random.default_rng(TEST_SEED), length * ways)[0]


def correlation(offsets: np.ndarray, shift: np.ndarray) -> float | None:
    """How well offsets tell the shift, linearly: from 0, not at all, to 1.

    A linear map from all offsets of a slice to its shift is fitted on the first half of the slices;
    on the other half what it gives is correlated with the truth, and averaged over y and x.
    Offsets that never change tell nothing.

    Args:
        offsets: (N, F).
        shift: (N, 2).

    Returns:
        None for F = 0. It may be below 0, by chance.
    """
    if not offsets.shape[1]:
        return None
    half = len(offsets) // 2
    middle, spread = offsets[:half].mean(0), offsets[:half].std(0)
    changing = spread > STILL
    if not changing.any():
        return 0.0
    known = ((offsets - middle) / np.maximum(spread, STILL))[:, changing]
    known = np.concatenate([known, np.ones((len(known), 1))], axis=1)
    weights = np.linalg.lstsq(known[:half], shift[:half], rcond=1e-4)[0]
    found, truth = known[half:] @ weights, shift[half:]
    found, truth = found - found.mean(0), truth - truth.mean(0)
    norms = np.linalg.norm(found, axis=0) * np.linalg.norm(truth, axis=0)
    return float(np.mean((found * truth).sum(0) / np.maximum(norms, 1e-12)))


def even_shifts(rng: np.random.Generator, count: int, longest: float) -> np.ndarray:
    """(count, 2) pixels (y, x): lengths evenly from 0 to ``longest``, in all directions."""
    length, turn = rng.uniform(0, longest, count), rng.uniform(0, 2 * np.pi, count)
    return np.stack([length * np.sin(turn), length * np.cos(turn)], axis=1)


def _mean_in_head(error: Tensor, target: Tensor) -> Tensor:
    """(B,)"""
    head = (target > 0).to(error.dtype)
    return (error * head).sum((1, 2, 3)) / head.sum((1, 2, 3))
