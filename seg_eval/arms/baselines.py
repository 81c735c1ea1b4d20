"""The cheap rivals: what simple rules make of the other sequences, without any network.

``ridge`` and ``boosted`` predict each brain voxel of the missing sequence from the same voxel of
the available ones, in the normalised intensity scale, and of a degraded sequence also from its
thick slices, interpolated linearly; ``copy`` takes the most similar sequence,
``template`` the mean of the training cases. A synthesiser that does not beat these has not
earned its keep. :data:`FILLINGS` names them by kind of arm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synth3d.cohort import Case, Modality
from synth3d.errors import InputError
from synth3d.files import progress
from synth3d.images import Scale, ScalePrior, check_same_grid, foreground, grid, read

VOXELS_PER_CASE = 20_000
"""Voxels drawn from each training case; 21 cases give 420 000 rows of three numbers."""


POOR = "its thick slices"
"""Stands for a degraded sequence, as it is seen, among the sources of itself."""

Poor = Callable[[Case], np.ndarray]
"""A case to its degraded sequence on the case's own grid, (D, H, W) float32 in scanner units."""


@dataclass(frozen=True)
class Channels:
    """Some sequences of one case on one grid.

    Attributes:
        volumes: (D, H, W) float32 per modality or ``POOR``, in scanner units.
        brain: Bool (D, H, W), where any of the *source* sequences holds the head.
        scales: Each source's own intensity scale inside ``brain``.
    """

    volumes: dict[str, np.ndarray]
    brain: np.ndarray
    scales: Mapping[str, Scale]

    def normalised(self, modality: str) -> np.ndarray:
        """The volume on its own scale: 0 outside the brain and in dark tissue."""
        scale = self.scales.get(modality) or Scale.fit(self.volumes[modality], self.brain)
        return scale.apply(self.volumes[modality], self.brain)

    def columns(self, modalities: Sequence[str]) -> np.ndarray:
        """(voxels of the brain, modalities) of normalised intensities."""
        return np.stack([self.normalised(name)[self.brain] for name in modalities], axis=1)


def read_channels(
    case: Case,
    sources: Sequence[Modality],
    target: Modality | None = None,
    poor: Poor | None = None,
) -> Channels:
    """The source sequences of ``case`` (and its target), with the brain of the sources alone.

    With ``poor`` the degraded sequence is among them, as ``POOR``; it tells of no brain.
    """
    wanted: list[Modality] = [*sources, target] if target else list(sources)
    volumes: dict[str, np.ndarray] = {name: read(case.images[name]).data for name in wanted}
    brain = np.any([foreground(volumes[name]) for name in sources], axis=0)
    seen: list[str] = list(sources)
    if poor is not None:
        volumes[POOR] = poor(case)
        seen.append(POOR)
    return Channels(volumes, brain, {name: Scale.fit(volumes[name], brain) for name in seen})


@dataclass(frozen=True)
class TrainingSample:
    """What the training cases teach about one missing sequence.

    Attributes:
        sources: The available sequences.
        inputs: (voxels, columns) normalised intensities.
        output: (voxels,) the target's normalised intensity.
        prior: Intensity scales of the training cases, to give a prediction scanner units.
        correlations: Mean absolute in-brain Pearson r of each column with the target.
    """

    cases: Sequence[Case]
    sources: Sequence[Modality]
    target: Modality
    seed: int
    inputs: np.ndarray
    output: np.ndarray
    prior: ScalePrior
    correlations: dict[str, float]

    @property
    def columns(self) -> tuple[str, ...]:
        """What the columns of ``inputs`` are of."""
        return tuple(self.correlations)

    @property
    def most_alike(self) -> Modality:
        """The source with the largest mean absolute correlation; the first one of equals."""
        return max(self.sources, key=lambda name: self.correlations[name])

    @property
    def note(self) -> str:
        """The correlations in words."""
        told = ", ".join(f"{name} {r:.2f}" for name, r in self.correlations.items())
        return f"mean |r| with {self.target}: {told}"

    def in_scanner_units(self, normalised: np.ndarray, channels: Channels) -> np.ndarray:
        """(D, H, W) normalised intensities of the target as a scanner might give them.

        A degraded target's thick slices tell its scale themselves.
        """
        own = channels.scales.get(POOR) or self.prior.estimate(self.target, channels.scales)
        return own.invert(normalised, channels.brain)


def sample_training(
    cases: Sequence[Case],
    sources: Sequence[Modality],
    target: Modality,
    seed: int = 0,
    poor: Poor | None = None,
) -> TrainingSample:
    """Draw brain voxels of the training cases; the same seed draws the same voxels.

    ``poor`` as :func:`read_channels` takes it.
    """
    names: tuple[str, ...] = (*sources, POOR) if poor else tuple(sources)
    inputs, outputs, scales, correlations = [], [], [], []
    for number, case in enumerate(progress(cases, desc="sampling training voxels", unit="case")):
        channels = read_channels(case, sources, target, poor)
        brain = channels.brain
        own = Scale.fit(channels.volumes[target], brain)
        columns = channels.columns(names)
        output = own.apply(channels.volumes[target], brain)[brain]
        correlations.append([pearson(column, output) for column in columns.T])
        rows = np.random.default_rng([seed, number]).permutation(len(output))[:VOXELS_PER_CASE]
        inputs.append(columns[rows])
        outputs.append(output[rows])
        scales.append({**channels.scales, target: own})
    means = np.abs(correlations).mean(axis=0).tolist()
    columns, output = np.concatenate(inputs), np.concatenate(outputs)
    alike: dict[str, float] = dict(zip(names, means, strict=True))
    return TrainingSample(cases, sources, target, seed, columns, output, ScalePrior(scales), alike)


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r of two 1-D arrays; 0 where either is constant or empty."""
    if x.size < 2:
        return 0.0
    x, y = x - x.mean(dtype=np.float64), y - y.mean(dtype=np.float64)
    power = float((x * x).sum() * (y * y).sum())
    return float((x * y).sum()) / power**0.5 if power > 0 else 0.0


Fill = Callable[[Case, Channels], np.ndarray]
"""A case and its available channels to the missing one, (D, H, W) in scanner units; whatever it
says outside the brain is set to 0 afterwards."""

Filling = Callable[[TrainingSample], tuple[Fill, str]]
"""What a kind of arm learns from the training cases, and a note on it for the report."""


def copy(sample: TrainingSample) -> tuple[Fill, str]:
    """The sequence most like the missing one, as it is."""
    like = sample.most_alike
    return lambda case, channels: channels.volumes[like], f"copies {like} ({sample.note})"


def template(sample: TrainingSample) -> tuple[Fill, str]:
    """The mean of the missing sequence over the training cases, voxel by voxel.

    Sensible where the cases lie in one space, as BraTS cases do (SRI24); it has no tumour. The
    mean is over the training brains that cover a voxel, of normalised intensities; where none
    does, it is the template's median. One training case is in memory at a time.

    Raises:
        InputError: The training cases or, from the filling, a test case lie on another grid.
    """
    target, cases = sample.target, sample.cases
    space = check_same_grid([case.images[target] for case in cases])
    total = np.zeros(space.shape_zyx, np.float64)
    count = np.zeros(space.shape_zyx, np.int32)
    for case in progress(cases, desc=f"averaging {target}", unit="case"):
        seen = read_channels(case, sample.sources, target)
        total += np.where(seen.brain, seen.normalised(target), 0)
        count += seen.brain
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0).astype(np.float32)
    median = np.median(mean[count > 0]) if count.any() else 0
    everywhere = np.where(count > 0, mean, median).astype(np.float32)

    def fill(case: Case, channels: Channels) -> np.ndarray:
        if other := space.difference(grid(next(iter(case.images.values())))):
            raise InputError(
                f"arm template: case {case.name} lies on another grid than the training cases "
                f"({other}); leave the arm out with --arms, or resample the cohort to one space"
            )
        return sample.in_scanner_units(np.where(channels.brain, everywhere, 0), channels)

    return fill, f"mean {target} of {len(cases)} training cases, in their space"


def ridge(sample: TrainingSample) -> tuple[Fill, str]:
    """Linear regression, voxel by voxel."""
    from sklearn.linear_model import Ridge

    return regression(Ridge(alpha=1.0), sample)


def boosted(sample: TrainingSample) -> tuple[Fill, str]:
    """Gradient-boosted trees, voxel by voxel."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    options: dict[str, Any] = {"max_iter": 200, "early_stopping": False}
    boosting = HistGradientBoostingRegressor(**options, random_state=sample.seed)
    return regression(boosting, sample)


def regression(model: Any, sample: TrainingSample) -> tuple[Fill, str]:
    """The target as scikit-learn's ``model`` sees it once it is fitted; an empty brain is zeros."""
    model.fit(sample.inputs, sample.output)

    def fill(case: Case, channels: Channels) -> np.ndarray:
        predicted = np.zeros(channels.brain.shape, np.float32)
        if channels.brain.any():
            predicted[channels.brain] = model.predict(channels.columns(sample.columns))
        return sample.in_scanner_units(predicted, channels)

    return fill, sample.note


FILLINGS: dict[str, Filling] = {
    "copy": copy,
    "template": template,
    "ridge": ridge,
    "boosted": boosted,
}
"""Kind of arm to what makes its channels, for kinds that are made from the training cases."""


def share_one_grid(cases: Sequence[Case], modality: Modality) -> bool:
    """Whether all ``cases`` lie on one grid, so that a template means something."""
    first, *others = [grid(case.images[modality]) for case in cases]
    return all(first.difference(other) is None for other in others)
