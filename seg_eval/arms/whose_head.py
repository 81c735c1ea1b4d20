"""Files of two patients that were exchanged: the head in a file is another case's."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from synth3d.images import foreground, read

ANOTHERS, LEAD = 0.98, 0.015
"""Overlap (Dice) of the head in a file with another case's, from which it is that case's, if it
overlaps by so much less with its own. Of 31 real cases on one atlas two heads overlap by 0.95 at
most, and two sequences of one patient by 0.99 and more; a tool that peels or pads each head by
4 mm has 0.90 to 0.93 with its own and never 0.97 with another's."""


def exchanged(
    files: Sequence[tuple[str, Path]],
    names: Sequence[str],
    head_of: Callable[[str], np.ndarray],
) -> dict[Path, str]:
    """The files that show the head of another case than theirs, and whose it is.

    Args:
        files: A case and a file that is said to be of it.
        names: The cases that may have been taken for one another, those of ``files`` among them.
        head_of: Bool (D, H, W): the head of a case, from what was acquired; asked for others
            than those of ``files`` only where a file does not show its own.

    Files of a tool that draws heads of its own, as wide ones, are not told apart; nor is a file
    without an even background, which shows no head.

    Raises:
        InputError: A file is unreadable.
    """
    odd: list[tuple[Path, _Head, float]] = []
    heads: dict[str, _Head] = {}
    for name, path in files:
        if name not in heads:
            heads[name] = _Head(head_of(name))
        head = _Head(foreground(read(path).data))
        own = head.overlap(heads[name])
        if own <= 1 - LEAD:
            odd.append((path, head, own))
    found: dict[Path, tuple[float, str]] = {}
    for name in names if odd else ():  # one after the other: a cohort may be large
        theirs = heads.get(name) or _Head(head_of(name))
        for path, head, own in odd:
            fit = head.overlap(theirs)
            if fit >= ANOTHERS and fit > own + LEAD:
                found[path] = max(found.get(path, (0.0, "")), (fit, name))
    return {path: name for path, (_, name) in found.items()}


class _Head:
    """A mask, packed to an eighth: many of them have to fit in memory."""

    def __init__(self, mask: np.ndarray):
        self.shape, self.voxels = mask.shape, int(np.count_nonzero(mask))
        self.bits = np.packbits(mask)

    def overlap(self, other: "_Head") -> float:
        """The Dice of both; 0 on grids of another shape and where both are empty."""
        if self.shape != other.shape or not self.voxels + other.voxels:
            return 0.0
        both = int(np.bitwise_count(self.bits & other.bits).sum())
        return 2 * both / (self.voxels + other.voxels)
