"""The cheap rivals: what voxel-wise regression makes of the other sequences.

Each brain voxel of the missing sequence is predicted from the same voxel of the available
ones, in the normalised intensity scale, by a model fitted on the training cases. No context,
no network: a synthesiser that does not beat these has not earned its keep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from synth3d.cases import Case, Modality
from synth3d.files import progress
from synth3d.intensity import Scale, ScalePrior, foreground
from synth3d.volumes import read

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
