"""Does each sequence look like what its name says? Learnt from cases that are named rightly.

For every pair of sequences, how cases look in which the two are exchanged is known: a linear
discriminant between the right order and that one, on grey levels of each sequence and on how
sequences go together. Grey levels are in the network's scale, so no unit and gain counts. A run
learns it from its training cases (:class:`Roles`), an audit from the cohort's other cases
(:mod:`synth3d.cohort.audit.exchanges`). Where a sequence is absent a run has for each pair that is
left another one, on that pair alone. T1 and T1ce
are not among the pairs: grey levels tell them badly, and contrast agent tells them in any single
case (:func:`synth3d.cohort.findings`).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from synth3d.errors import InputError
from synth3d.files import read_json

PERCENTS = (2, 10, 25, 75, 90, 98, 99.5)
"""Of the brain; the median is 1/2 by definition of the scale."""

TOGETHER = 5
"""Features of how a pair goes together."""

MOST_VOXELS = 20_000
"""So many of the brain are looked at, evenly spread."""

FEWEST_CASES = 8
"""With fewer training cases nothing is learnt: an alarm would be chance."""

SHRINKAGE = 0.3
"""Weight of the identity beside the correlations of few cases."""

CLEARLY_EXCHANGED = -0.1
"""1/2 is right on average, -1/2 exchanged; cases under this are named."""

BY_AGENT = {"t1n", "t1c"}
"""The pair that is told otherwise; runs of before have learnt it, which is passed over."""

Plane: TypeAlias = tuple[np.ndarray, float, float]
"""Weights, offset and limit of a discriminant."""


class Roles:
    """What exchanged sequences look like to a run.

    Attributes:
        sources: The sequences, in order.
        planes: Per pair of sources the weights, the offset and the limit of its discriminant, for
            cases that have all.
        alone: The same on what the pair itself looks like, for cases that lack others.
    """

    def __init__(
        self,
        sources: Sequence[str],
        planes: Mapping[tuple[str, str], Plane],
        alone: Mapping[tuple[str, str], Plane] | None = None,
    ) -> None:
        self.sources, self.planes, self.alone = tuple(sources), dict(planes), dict(alone or {})

    @classmethod
    def learn(cls, found: Iterable[np.ndarray | None], sources: Sequence[str]) -> "Roles":
        """From the :func:`looks` of cases, None where one told nothing; of too few nothing."""
        known = [rows for rows in found if rows is not None]
        planes: dict[tuple[str, str], Plane] = {}
        alone: dict[tuple[str, str], Plane] = {}
        everywhere = np.arange(_length(len(sources)))
        for number, pair in enumerate(combinations(sources, 2)):
            own = parts(sources, pair)
            if {*pair} == BY_AGENT:
                continue
            for fitted, where, names in ((planes, everywhere, sources), (alone, own, pair)):
                taught = [r[[0, 1 + number]][:, where] for r in known if _has(r[0], sources, names)]
                if len(taught) >= FEWEST_CASES:
                    fitted[pair] = _plane(*np.stack(taught, axis=1))
        return cls(sources, planes, alone)

    def exchanged(self, volumes: Mapping[str, np.ndarray], brain: np.ndarray) -> list[str]:
        """A sentence for each pair of sequences that look exchanged.

        Args:
            volumes: Per sequence (D, H, W) in the network's scale.
            brain: (D, H, W) bool.
        """
        sample = _sample(volumes, brain, self.sources)
        if sample is None:
            return []
        features, found = _features(sample), []
        whole = bool(self.planes) and all(name in volumes for name in self.sources)
        for pair in combinations(self.sources, 2):
            plane = (self.planes if whole else self.alone).get(pair)
            if plane is None or {*pair} == BY_AGENT or not {*pair} <= volumes.keys():
                continue
            (weights, offset, limit), (one, other) = plane, pair
            seen = features if whole else features[parts(self.sources, pair)]
            if float(seen @ weights - offset) < limit:
                found.append(f"{one} and {other} look exchanged: each looks like the other")
        return found

    @property
    def silent(self) -> bool:
        """Whether there are pairs to be told apart, and too few cases had them."""
        pairs = [pair for pair in combinations(self.sources, 2) if {*pair} != BY_AGENT]
        return bool(pairs) and not (self.planes or self.alone)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        planes = {"pairs": self.planes, "alone": self.alone}
        return {"sources": list(self.sources)} | {key: _plain(one) for key, one in planes.items()}

    @classmethod
    def read(cls, path: Path) -> "Roles | None":
        """What :meth:`to_dict` gave and a run keeps; None where a run of before has no such file.

        Raises:
            InputError: The file is damaged.
        """
        if not path.is_file():
            return None
        try:
            value = read_json(path)
            sources = [str(name) for name in value["sources"]]
            planes = _parsed(value["pairs"], _length(len(sources)))
            alone = _parsed(value.get("alone", []), _length(2))  # runs of before have none
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is damaged: {error}") from error
        return cls(sources, planes, alone)


def _plain(planes: Mapping[tuple[str, str], Plane]) -> list[dict[str, Any]]:
    return [
        {"pair": list(pair), "weights": weights.tolist(), "offset": offset, "limit": limit}
        for pair, (weights, offset, limit) in planes.items()
    ]


def _parsed(values: Iterable[Mapping[str, Any]], length: int) -> dict[tuple[str, str], Plane]:
    planes: dict[tuple[str, str], Plane] = {}
    for each in values:
        weights = np.asarray(each["weights"], dtype=np.float64)
        one, other = each["pair"]
        if weights.shape != (length,) or not np.isfinite(weights).all():
            raise ValueError(f"{length} finite weights are needed")
        planes[str(one), str(other)] = weights, float(each["offset"]), float(each["limit"])
    return planes


def looks(
    volumes: Mapping[str, np.ndarray], brain: np.ndarray, sources: Sequence[str]
) -> np.ndarray | None:
    """How a case looks, and how it would with each pair of ``sources`` exchanged, (1 + pairs, F).

    Args:
        volumes: Per sequence (D, H, W) in the network's scale; what lacks looks like 0 everywhere.
        brain: (D, H, W) bool.
        sources: The sequences, in order.

    Returns:
        None where the case has fewer than two of them, or hardly any brain.
    """
    sample = _sample(volumes, brain, sources)
    if sample is None:
        return None
    features = _features(sample)
    return np.stack([features, *(features[where] for where in exchanges(len(sources)))])


def exchanges(count: int) -> list[np.ndarray]:
    """Where the features of so many sequences come from with a pair of them exchanged, by pair.

    (F,) integers each: ``features[where]`` are those of the exchanged order.
    """
    pairs, size = list(combinations(range(count), 2)), len(PERCENTS)
    found = []
    for one, other in pairs:
        order = np.arange(count)
        order[[one, other]] = other, one
        where = [np.arange(size) + size * place for place in order]
        for a, b in order[np.array(pairs)]:
            mirrored = [0, 2, 1, 4, 3] if a > b else list(range(TOGETHER))
            start = size * count + TOGETHER * pairs.index((min(a, b), max(a, b)))
            where.append(start + np.array(mirrored))
        found.append(np.concatenate(where))
    return found


def parts(sources: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Where among the features of ``sources`` those of ``names`` are, some of them in order."""
    places, size = [sources.index(name) for name in names], len(PERCENTS)
    pairs = list(combinations(range(len(sources)), 2))
    levels = [np.arange(size) + size * place for place in places]
    together = [
        np.arange(TOGETHER) + size * len(sources) + TOGETHER * pairs.index(pair)
        for pair in combinations(places, 2)
    ]
    return np.concatenate([*levels, *together])


def _sample(
    volumes: Mapping[str, np.ndarray], brain: np.ndarray, sources: Sequence[str]
) -> np.ndarray | None:
    """(S, N) values of ``sources`` at voxels of the brain, 0 of what lacks; None as above."""
    if sum(name in volumes for name in sources) < 2:
        return None
    where = np.flatnonzero(brain)
    if len(where) < 100:
        return None
    where = where[:: max(1, len(where) // MOST_VOXELS)]
    absent = np.zeros(len(where), np.float32)
    return np.stack([volumes[n].ravel()[where] if n in volumes else absent for n in sources])


def _features(sample: np.ndarray) -> np.ndarray:
    """Percentiles of each sequence, then of each pair what one is where the other is extreme."""
    count = sample.shape[1]
    ranks = sample.argsort(1, kind="stable").argsort(1) / count
    found = [np.percentile(sample, PERCENTS, axis=1).T.ravel()]
    for a, b in combinations(ranks, 2):
        together = [float(np.mean((a - a.mean()) * (b - b.mean()))) * 12]
        ends = [(b, a > 0.98), (a, b > 0.98), (b, a < 0.05), (a, b < 0.05)]
        found.append(np.array(together + [float(x[m].mean()) if m.any() else 0.5 for x, m in ends]))
    return np.concatenate(found)


def _length(count: int) -> int:
    """How many features so many sequences have."""
    return len(PERCENTS) * count + TOGETHER * (count * (count - 1) // 2)


def _has(features: np.ndarray, sources: Sequence[str], names: Sequence[str]) -> bool:
    """Whether none of ``names`` is 0 everywhere, as what a case lacks is."""
    levels = features[: len(PERCENTS) * len(sources)].reshape(len(sources), -1)
    return all(levels[sources.index(name)].any() for name in names)


def _plane(right: np.ndarray, wrong: np.ndarray) -> Plane:
    """Weights and offset by which the means of ``right`` and ``wrong`` give 1/2 and -1/2.

    The limit is such that none of ``right``, left out of the fit, would have been named.
    """
    kept = np.arange(len(right))
    scores = []
    for one in kept:
        weights, offset = discriminant(right[kept != one], wrong[kept != one])
        scores.append(float(right[one] @ weights - offset))
    weights, offset = discriminant(right, wrong)
    return weights, offset, min(CLEARLY_EXCHANGED, *scores)


def discriminant(right: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, float]:
    """The weights (F,) and offset that give ``right`` (N, F) 1/2 on average and ``wrong`` -1/2."""
    apart, middle = right.mean(0) - wrong.mean(0), (right.mean(0) + wrong.mean(0)) / 2
    within = np.concatenate([right - right.mean(0), wrong - wrong.mean(0)])
    spread = within.std(0) + 1e-3
    unit = within / spread
    together = (1 - SHRINKAGE) * (unit.T @ unit) / len(unit) + SHRINKAGE * np.eye(unit.shape[1])
    weights = np.linalg.solve(together, apart / spread) / spread
    weights = weights / max(float(weights @ apart), 1e-12)
    return weights, float(weights @ middle)
