"""The cheap rivals: what voxel-wise regression makes of the other sequences.

Each brain voxel of the missing sequence is predicted from the same voxel of the available
ones, in the normalised intensity scale, by a model fitted on the training cases. No context,
no network: a synthesiser that does not beat these has not earned its keep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from synth3d.cohort import Case, Modality
from synth3d.errors import InputError
from synth3d.files import progress
from synth3d.images import Grid, Scale, ScalePrior, check_same_grid, foreground, grid, read

VOXELS_PER_CASE = 20_000
"""Voxels drawn from each training case; 21 cases give 420 000 rows of three numbers."""


class Regressor(Protocol):
    """A fitted scikit-learn regressor."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """(rows, sources) to (rows,)."""
        ...


@dataclass(frozen=True)
class Channels:
    """Some sequences of one case on one grid.

    Attributes:
        volumes: (D, H, W) float32 per modality, in scanner units.
        brain: Bool (D, H, W), where any of the *source* sequences holds the head.
        scales: Each source's own intensity scale inside ``brain``.
    """

    volumes: dict[Modality, np.ndarray]
    brain: np.ndarray
    scales: Mapping[str, Scale]

    def normalised(self, modality: Modality) -> np.ndarray:
        """The volume on its own scale: 0 outside the brain and in dark tissue."""
        scale = self.scales.get(modality) or Scale.fit(self.volumes[modality], self.brain)
        return scale.apply(self.volumes[modality], self.brain)


def read_channels(
    case: Case, sources: Sequence[Modality], target: Modality | None = None
) -> Channels:
    """The source sequences of ``case`` (and its target), with the brain of the sources alone.

    Raises:
        InputError: A file cannot be read.
        KeyError: The case lacks one of them.
    """
    wanted: list[Modality] = [*sources, target] if target else list(sources)
    volumes: dict[Modality, np.ndarray] = {name: read(case.images[name]).data for name in wanted}
    brain = np.any([foreground(volumes[name]) for name in sources], axis=0)
    return Channels(volumes, brain, {name: Scale.fit(volumes[name], brain) for name in sources})


@dataclass(frozen=True)
class TrainingSample:
    """What the training cases teach about one missing sequence.

    Attributes:
        inputs: (voxels, sources) normalised intensities.
        output: (voxels,) the target's normalised intensity.
        prior: Intensity scales of the training cases, to give a prediction scanner units.
        correlations: Mean absolute in-brain Pearson r of each source with the target.
    """

    inputs: np.ndarray
    output: np.ndarray
    prior: ScalePrior
    correlations: dict[Modality, float]

    @property
    def most_alike(self) -> Modality:
        """The source with the largest mean absolute correlation; the first one of equals."""
        return max(self.correlations, key=lambda name: self.correlations[name])


def sample_training(
    cases: Sequence[Case],
    sources: Sequence[Modality],
    target: Modality,
    seed: int = 0,
    voxels_per_case: int = VOXELS_PER_CASE,
) -> TrainingSample:
    """Draw brain voxels of the training cases; the same seed draws the same voxels.

    Raises:
        ValueError: No cases.
        InputError: A file cannot be read.
    """
    if not cases:
        raise ValueError("expected at least one training case, got none")
    inputs, outputs, scales, correlations = [], [], [], []
    for number, case in enumerate(progress(cases, desc="sampling training voxels", unit="case")):
        channels = read_channels(case, sources, target)
        brain = channels.brain
        own = Scale.fit(channels.volumes[target], brain)
        columns = np.stack([channels.normalised(name)[brain] for name in sources], axis=1)
        output = own.apply(channels.volumes[target], brain)[brain]
        correlations.append([pearson(column, output) for column in columns.T])
        generator = np.random.default_rng([seed, number])
        rows = generator.permutation(len(output))[:voxels_per_case]
        inputs.append(columns[rows])
        outputs.append(output[rows])
        scales.append({**channels.scales, target: own})
    means = np.abs(correlations).mean(axis=0).tolist()
    return TrainingSample(
        np.concatenate(inputs),
        np.concatenate(outputs),
        ScalePrior(scales),
        dict(zip(sources, means, strict=True)),
    )


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r of two 1-D arrays; 0 where either is constant or empty."""
    if x.size < 2:
        return 0.0
    x, y = x - x.mean(dtype=np.float64), y - y.mean(dtype=np.float64)
    power = float((x * x).sum() * (y * y).sum())
    return float((x * y).sum()) / power**0.5 if power > 0 else 0.0


def fit(name: str, sample: TrainingSample, seed: int = 0) -> Regressor:
    """A voxel-wise model of ``sample``: "ridge" (linear) or "boosted" (gradient-boosted trees).

    Raises:
        ValueError: Unknown name.
    """
    if name == "ridge":
        from sklearn.linear_model import Ridge

        return Ridge(alpha=1.0).fit(sample.inputs, sample.output)
    if name == "boosted":
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(max_iter=200, early_stopping=False, random_state=seed)
        return model.fit(sample.inputs, sample.output)
    raise ValueError(f"expected 'ridge' or 'boosted', got {name!r}")


def regress(
    model: Regressor,
    channels: Channels,
    sources: Sequence[Modality],
    target: Modality,
    prior: ScalePrior,
) -> np.ndarray:
    """The target as ``model`` sees it: (D, H, W) float32 in scanner units, 0 outside the brain.

    ``sources`` must be in the order of the training sample. An empty brain gives zeros.
    """
    scale = prior.estimate(target, channels.scales)
    brain = channels.brain
    predicted = np.zeros(brain.shape, np.float32)
    if brain.any():
        rows = np.stack([channels.normalised(name)[brain] for name in sources], axis=1)
        predicted[brain] = model.predict(rows)
    return scale.invert(predicted, brain)


@dataclass(frozen=True)
class Template:
    """The mean of the missing sequence over the training cases, voxel by voxel.

    Sensible where the cases lie in one space, as BraTS cases do (SRI24); it has no tumour.

    Attributes:
        target: The missing sequence.
        mean: (D, H, W) float32 mean of the normalised intensity, over the training brains that
            cover the voxel; NaN where none does.
        space: The grid that the training cases share.
    """

    target: Modality
    mean: np.ndarray
    space: Grid

    @classmethod
    def of(cls, cases: Sequence[Case], sources: Sequence[Modality], target: Modality) -> "Template":
        """Average the training ``cases``; one case is in memory at a time.

        Raises:
            InputError: The cases do not share one grid, or a file cannot be read.
            ValueError: No cases.
        """
        if not cases:
            raise ValueError("expected at least one training case, got none")
        space = check_same_grid([case.images[target] for case in cases])
        total = np.zeros(space.shape_zyx, np.float64)
        count = np.zeros(space.shape_zyx, np.int32)
        for case in progress(cases, desc=f"averaging {target}", unit="case"):
            channels = read_channels(case, sources, target)
            total += np.where(channels.brain, channels.normalised(target), 0)
            count += channels.brain
        mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        return cls(target, mean.astype(np.float32), space)

    def volume(self, case: Case, channels: Channels, prior: ScalePrior) -> np.ndarray:
        """The template inside the brain of ``case``: (D, H, W) float32 in scanner units.

        Where no training brain reaches, the template's median is taken.

        Raises:
            InputError: The case lies on another grid than the training cases.
        """
        brain = channels.brain
        if other := self.space.difference(grid(next(iter(case.images.values())))):
            raise InputError(
                f"arm template: case {case.name} lies on another grid than the training cases "
                f"({other}); leave the arm out with --arms, or resample the cohort to one space"
            )
        known = np.isfinite(self.mean)
        median = np.median(self.mean[known]) if known.any() else 0
        seen = np.where(brain, np.where(known, self.mean, median), 0).astype(np.float32)
        return prior.estimate(self.target, channels.scales).invert(seen, brain)


def share_one_grid(cases: Sequence[Case], modality: Modality) -> bool:
    """Whether all ``cases`` lie on one grid, so that a template means something.

    Raises:
        InputError: A header cannot be read.
    """
    grids = [grid(case.images[modality]) for case in cases]
    return all(grids[0].difference(other) is None for other in grids)
