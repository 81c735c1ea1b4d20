"""Where patches are centred: drawn by the weights of a case, of which none is kept.

A voxel of the brain has one weight, one of the tumour another; so weights are counts, and the
place that a random number falls on is found slab by slab, row by row. The order in which places are
counted is TorchIO's, as are the random numbers: they mean the very patches that its
``WeightedSampler`` draws from the same weights, without going through all voxels for each.
"""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np

from synth3d.data.cache import BRAIN, TUMOUR, Packed

LEAST = float(np.finfo(np.float32).tiny)
"""Chances of 0 fall on nothing; TorchIO has the same."""


@dataclass(frozen=True, eq=False)
class Centres:
    """The places where a patch may be centred, of one case as it is flipped.

    Attributes:
        marks: (x, y, z) uint8 of those places, of which some are out of the brain.
        first: (x, y, z), of the first of them in the padded and flipped box.
        counts: (X, 2), how many places of brain and of tumour each slab has.
        weights: Of a place of brain and of one of tumour.
    """

    marks: np.ndarray
    first: tuple[int, ...]
    counts: np.ndarray
    weights: tuple[float, float]

    @property
    def total(self) -> float:
        """0 where no patch can be centred."""
        return float(self._weigh(self.counts.sum(0)))

    def draw(self, chance: float) -> tuple[int, int, int]:
        """(x, y, z) in the padded and flipped box of the place that ``chance`` in [0, 1) means."""
        wanted = max(LEAST, chance) * self.total
        x, before = self._find(self.counts, np.zeros(2, np.int64), wanted)
        slab = self.marks[x]
        y, before = self._find(counted(slab, axis=1), before, wanted)
        z, _ = self._find(counted(slab[y][:, None], axis=1), before, wanted)
        return x + self.first[0], y + self.first[1], z + self.first[2]

    def _find(
        self, counts: np.ndarray, before: np.ndarray, wanted: float
    ) -> tuple[int, np.ndarray]:
        """The first of ``counts`` (N, 2) to reach ``wanted``, and what lies before it."""
        reached = self._weigh(before + counts.cumsum(0))
        found = int(np.searchsorted(reached, wanted))
        if found == len(counts):  # by rounding
            found = int(np.flatnonzero(self._weigh(counts))[-1])
        return found, before + counts[:found].sum(0)

    def _weigh(self, counts: np.ndarray) -> np.ndarray:
        return counts[..., 0] * self.weights[0] + counts[..., 1] * self.weights[1]


def centres_of(
    packed: Packed,
    frame: "Frame3d",
    flips: Sequence[bool],
    chance: float,
    known: MutableMapping[object, np.ndarray],
) -> Centres:
    """Where patches of ``frame`` are centred when axes (x, y, z) are flipped by ``flips``.

    Of all weight ``chance`` is spread over the tumour. ``known`` keeps the counts of the slabs by
    flips, a few numbers a slab: all voxels are counted once.
    """
    parts, first = zip(*(frame.places(a, f) for a, f in enumerate(flips)), strict=True)
    marks = packed.marks[parts][tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    key = tuple(flips)
    if key not in known:
        known[key] = counted(marks, axis=(1, 2))
    return Centres(marks, first, known[key], weights_of(packed, chance, known))


def weights_of(
    packed: Packed, chance: float, known: MutableMapping[object, np.ndarray]
) -> tuple[float, float]:
    """Of a voxel of brain and of one of tumour, rounded as :func:`.patches.patch_centres` does."""
    if "all" not in known:
        known["all"] = counted(packed.marks, axis=(0, 1, 2))
    plain, tumour = (int(n) for n in known["all"])
    even = 1 / max(1, plain + tumour)
    both = (1 - chance) * even, (1 - chance) * even + chance / max(1, tumour)
    plain_weight, tumour_weight = both if chance > 0 and tumour else (even, even)
    return float(np.float32(plain_weight)), float(np.float32(tumour_weight))


def counted(marks: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """How many voxels along ``axis`` are brain without tumour, and with; (..., 2)."""
    kinds = marks & (BRAIN | TUMOUR)
    both = [np.count_nonzero(kinds == kind, axis) for kind in (BRAIN, BRAIN | TUMOUR)]
    return np.stack(both, -1)


@dataclass(frozen=True)
class Frame3d:
    """The box of a case with the zeros around it, from which patches are cut.

    Around the brain lie a quarter patch of zeros, and at least enough for one patch.

    Attributes:
        sides: Of the box, (x, y, z).
        patch: (x, y, z).
    """

    sides: tuple[int, ...]
    patch: tuple[int, ...]

    def margin(self, axis: int) -> tuple[int, int]:
        """Zeros before and after the box."""
        side, patch = self.sides[axis], self.patch[axis]
        total = max(2 * (patch // 4), patch - side)
        return total // 2, total - total // 2

    def places(self, axis: int, flip: bool) -> tuple[slice, int]:
        """Of the box where a centre may lie, and where that begins in the flipped frame."""
        side, patch = self.sides[axis], self.patch[axis]
        before, after = self.margin(axis)
        low, high = patch // 2, (patch - 1) // 2  # what a patch has on either side of its centre
        if flip:
            low, high = high, low
        start, stop = max(0, low - before), min(side, side + after - high)
        whole = before + side + after
        first = whole - (before + stop) if flip else before + start
        return slice(start, max(start, stop)), first

    def window(self, axis: int, centre: int, flip: bool) -> tuple[slice, slice]:
        """Of the box what a patch covers, and where in the patch that lies before it is flipped."""
        side, patch = self.sides[axis], self.patch[axis]
        before, after = self.margin(axis)
        start = centre - patch // 2
        if flip:
            start = before + side + after - start - patch
        start -= before  # in the box
        inner = slice(max(0, start), min(side, start + patch))
        return inner, slice(inner.start - start, inner.stop - start)
