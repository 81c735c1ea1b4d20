"""Files of two patients that were exchanged: the head in a file is another case's."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from synth3d.images import foreground, read

ANOTHERS, LEAD = 0.98, 0.015
"""Overlap (Dice) of the head in a file with another case's, from which it is that case's, if it
overlaps by so much less with its own. Of 30 real cases on one atlas two heads overlap by 0.94 to
0.95, and two sequences of one patient by 0.99 and more; a tool that peels or pads each head by
4 mm has 0.90 to 0.93 with its own and never 0.97 with another's."""


def exchanged(
    files: Sequence[tuple[str, Path]],
    names: Sequence[str],
    head_of: Callable[[str], np.ndarray],
) -> dict[Path, str]:
    """The files that show the head of another case than theirs, and whose it is.

    Args:
        files: A case and a file that is said to be of it.
        names: The cases that may have been taken for one another; others' files are not looked at.
        head_of: Bool (D, H, W): the head of a case, from what was acquired.

    Files of a tool that draws heads of its own, as wide ones, are not told apart; nor is a file
    without an even background, which shows no head.

    Raises:
        InputError: A file is unreadable.
    """
    heads = {name: _Head(head_of(name)) for name in names}
    found = {}
    for name, path in files:
        if name not in heads:
            continue
        head = _Head(foreground(read(path).data))
        own = head.overlap(heads[name])
        if own > 1 - LEAD:
            continue
        fits = {other: head.overlap(heads[other]) for other in names}
        best = max(names, key=lambda other: fits[other])
        if fits[best] >= ANOTHERS and fits[best] > own + LEAD:
            found[path] = best
    return found


class _Head:
    """A mask, packed to an eighth: a cohort of them has to fit in memory."""

    def __init__(self, mask: np.ndarray):
        self.shape, self.voxels = mask.shape, int(np.count_nonzero(mask))
        self.bits = np.packbits(mask)

    def overlap(self, other: "_Head") -> float:
        """The Dice of both; 0 on grids of another shape and where both are empty."""
        if self.shape != other.shape or not self.voxels + other.voxels:
            return 0.0
        both = int(np.bitwise_count(self.bits & other.bits).sum())
        return 2 * both / (self.voxels + other.voxels)
