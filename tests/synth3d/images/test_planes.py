"""Slices of a plane are the same pictures however the file stores the volume."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth3d.images.grids import Grid
from synth3d.images.planes import PLANES, Turn, turn_to

RAS = np.diag([1.5, 2.0, 3.0, 1.0])
STORED = st.tuples(st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))


def volume_of(shape=(4, 5, 6)):
    return np.random.default_rng(0).random(shape)


def stored_otherwise(volume, affine, order, flips):
    """The same body with its array axes permuted and reversed, and the affine that says so."""
    turn = Turn(tuple(order), tuple(flips))
    return turn.apply(volume), turn.affine(affine, volume.shape)


@pytest.mark.parametrize("plane", PLANES)
@given(stored=STORED)
def test_however_it_is_stored_the_slices_are_the_same_pictures(plane, stored):
    volume = volume_of()
    expected = turn_to(plane, RAS).apply(volume)
    other, affine = stored_otherwise(volume, RAS, *stored)
    np.testing.assert_array_equal(turn_to(plane, affine).apply(other), expected)


@pytest.mark.parametrize("plane", PLANES)
@given(stored=STORED)
def test_a_turn_is_undone_bit_for_bit_with_channels_in_front(plane, stored):
    other, affine = stored_otherwise(volume_of(), RAS, *stored)
    turn = turn_to(plane, affine)
    channels = np.stack([other, -other])
    np.testing.assert_array_equal(turn.undo(turn.apply(channels)), channels)
    np.testing.assert_array_equal(turn.undo(turn.apply(other)), other)


@pytest.mark.parametrize("plane", PLANES)
def test_a_turned_affine_puts_every_voxel_where_it_was(plane):
    oblique = np.array([[-0.9, 0.1, 0, 9], [0.1, 1.1, 0.3, -7], [0, -0.2, 2.4, 3], [0, 0, 0, 1.0]])
    shape = (4, 5, 6)
    z, y, x = np.indices(shape)
    mm = np.stack([x, y, z, np.ones(shape)], -1) @ oblique.T
    turn = turn_to(plane, oblique)
    turned = np.stack([turn.apply(part) for part in np.moveaxis(mm, -1, 0)], -1)
    slices, rows, columns = np.indices(turned.shape[:3])
    new = np.stack([columns, rows, slices, np.ones(turned.shape[:3])], -1)
    found = new @ turn.affine(oblique, shape).T
    np.testing.assert_allclose(found, turned, atol=1e-12)


@pytest.mark.parametrize(("plane", "orientation"), [("axial", "LPS"), ("coronal", "LIA"),
                                                    ("sagittal", "PIL")])  # fmt: skip
def test_pictures_hang_as_in_radiology(plane, orientation):
    for order, flips in product(permutations(range(3)), product([False, True], repeat=3)):
        volume, affine = stored_otherwise(volume_of(), RAS, order, flips)
        turn = turn_to(plane, affine)
        shape = turn.apply(volume).shape
        assert Grid(shape, turn.affine(affine, volume.shape)).orientation == orientation


@pytest.mark.parametrize("plane", PLANES)
@given(stored=STORED, degrees=st.floats(-40, 40), about=st.integers(0, 2))
def test_oblique_files_go_by_the_nearest_axis(plane, stored, degrees, about):
    _, affine = stored_otherwise(volume_of(), RAS, *stored)
    first, second = (axis for axis in range(3) if axis != about)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    tilt = np.eye(4)
    tilt[[first, first, second, second], [first, second, first, second]] = c, -s, s, c
    assert turn_to(plane, tilt @ affine) == turn_to(plane, affine)
