"""Slices of any plane: which way a volume must be turned so that its slices lie first.

A turn is a permutation and reversal of axes and nothing else, so it loses nothing and has an
exact inverse. Where axial, coronal and sagittal are is read from the affine, never assumed: one
volume gives the same pictures whether its file is LPS, RAS or stored with its axes permuted.
Oblique files go by the body axis nearest to each of theirs.
"""

from dataclasses import dataclass

import numpy as np

from synth3d.images.grids import Grid

PLANES: dict[str, str] = {"axial": "SPL", "coronal": "AIL", "sagittal": "LIP"}
"""Per plane, where (slice, row, column) numbers grow to: pictures hang as in radiology.

Axial rows run from anterior to posterior, coronal and sagittal ones from superior to inferior;
columns from the patient's right to left, in the sagittal plane from anterior to posterior.
"""

MIRRORS = ("x", "xyz")
"""Mirror images of which a mean may be taken: left and right swapped, or all eight reflections."""

_AXIS = {letter: axis for axis, pair in enumerate(("RL", "AP", "SI")) for letter in pair}


@dataclass(frozen=True)
class Turn:
    """How (z, y, x) becomes (slice, row, column).

    Attributes:
        axes: For slice, row and column, the axis of the volume it comes from.
        flips: Whether that axis is then reversed.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """(..., D, H, W) to (..., slices, rows, columns); a view."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        return turned[self._reversal]

    def undo(self, array: np.ndarray) -> np.ndarray:
        """(..., slices, rows, columns) to (..., D, H, W); a view."""
        lead = array.ndim - 3
        back = (lead + self.axes.index(axis) for axis in range(3))
        return array[self._reversal].transpose(*range(lead), *back)

    def affine(self, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The affine of the turned volume: voxel (column, row, slice) → mm.

        ``affine`` and ``shape`` (D, H, W) are the volume's before the turn.
        """
        to_old = np.zeros((4, 4))
        to_old[3, 3] = 1
        for new, (old, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            to_old[2 - old, 2 - new] = -1 if flip else 1
            to_old[2 - old, 3] = shape[old] - 1 if flip else 0
        return affine @ to_old

    @property
    def _reversal(self) -> tuple:
        return (..., *(slice(None, None, -1 if flip else None) for flip in self.flips))


def body_axis(name: str, affine: np.ndarray) -> int:
    """Which axis of a volume (z, y, x) lies nearest to one of the body, by its ``affine``.

    ``name`` is x (left-right), y (front-back) or z (head-foot).
    """
    letters = Grid((1, 1, 1), affine).orientation[::-1]  # of z, y, x
    return [_AXIS[letter] for letter in letters].index("xyz".index(name))


def turn_to(plane: str, affine: np.ndarray) -> Turn:
    """The turn that brings the slices of ``plane``, a name in ``PLANES``, to the front."""
    letters = Grid((1, 1, 1), affine).orientation[::-1]  # of z, y, x
    body = [_AXIS[letter] for letter in letters]
    axes = [body.index(_AXIS[letter]) for letter in PLANES[plane]]
    flips = [letters[axis] != letter for axis, letter in zip(axes, PLANES[plane], strict=True)]
    return Turn((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))
